import importlib.util
import json
import math
import re
import subprocess
import sys

import numpy as np
import pytest

from keras_alexnet import AlexNet
from keras_alexnet.cli import run_command
from keras_alexnet.data import records
from tests.data.conftest import encoded, photo, write_folder
from tests.runs import ROOT
from tests.tools.conftest import load_tool

TINY = ["--width=0.0625", "--batch_size=2", "--rounds=2"]


def run(name, *argv, code=0):
    assert run_command(name, load_tool(name).main, list(map(str, argv))) == code


def test_step(in_process, tmp_path, capsys, monkeypatch):
    rows = load_tool("rows_training")
    monkeypatch.setattr(rows, "PRODUCT", 64)
    asked = ["keras", "pinned"]
    run("benchmark_step", *TINY, "--steps=1", f"--rows={','.join(asked)}", f"--json={tmp_path / 'step.json'}")
    report = json.loads((tmp_path / "step.json").read_text())
    assert list(report["rows"]) == asked
    pinned = report["rows"]["pinned"]
    shares = [turn["images_per_second"] / turn["product_gflops"] for turn in pinned["turns"]]
    assert pinned["of_limit"] == pytest.approx(np.median(shares) * report["gflop_per_image"])
    assert pinned["sum"] == pytest.approx(3 * pinned["weights"] + pinned["activations"])
    said = capsys.readouterr().out
    assert "AlexNet(devices=one), float32" in said and "of pinned" in said and "memory, MB" in said


def test_work_and_memory_of_the_network_of_the_paper():
    """Counted by hand: multiplications of each layer, and the numbers that each hands on."""
    rows, model = load_tool("rows_training"), AlexNet(1000, devices=())
    convolutions = [(55, 96, 11, 3), (27, 256, 5, 48), (13, 384, 3, 256), (13, 384, 3, 192), (13, 256, 3, 192)]
    products = [side**2 * units * kernel**2 * inputs for side, units, kernel, inputs in convolutions]
    products += [9216 * 4096, 4096 * 4096, 4096 * 1000]
    assert rows.flop_per_image(model) == 6 * sum(products) - 2 * products[0] == 4_135_610_496
    # Convolutions, normalizations and poolings; joined parts once for each tower.
    kept = [224 * 224 * 3, 2 * 55 * 55 * 96 + 27 * 27 * 96, 2 * 27 * 27 * 256 + 13 * 13 * 256, 2 * 13 * 13 * 256]
    kept += [2 * 13 * 13 * 384 + 13 * 13 * 256 + 6 * 6 * 256, 2 * 6 * 6 * 256 + 2 * 4096, 5 * 4096, 1000]
    paper = rows.on_paper(model, 128, 4)
    assert paper["activations"] == pytest.approx(128 * 4 * sum(kept) / 1e6)
    assert paper["weights"] == paper["momentum"] == paper["gradients"] == 4 * 60_965_224 / 1e6


def test_checkpoint(in_process, small_images, tmp_path, capsys):
    run("benchmark_checkpoint", *TINY, f"--data_dir={small_images}", f"--json={tmp_path / 'figures.json'}")
    said = capsys.readouterr().out
    assert len(re.findall(r" -?\d+\.\d{3}$", said, re.MULTILINE)) == 7 and re.search(r"15 minutes costs -?\d", said)
    megabytes = json.loads((tmp_path / "figures.json").read_text())["megabytes"]
    # Weights and velocities.
    assert megabytes == pytest.approx(8 * AlexNet(1000, devices=(), width=0.0625).count_params() / 1e6, abs=0.1)


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    files = {f"{('a/deep', 'b')[index % 2]}/{index}.jpg": encoded(photo(300, 280, seed=index)) for index in range(10)}
    files |= {"a/notes.txt": b"no image", "a/.hidden.jpg": files["a/deep/0.jpg"]}
    return write_folder(tmp_path_factory.mktemp("images") / "train", files).parent


def test_input(in_process, images, tmp_path, capsys, monkeypatch):
    tool = load_tool("benchmark_input")
    monkeypatch.setenv("TF_NUM_INTEROP_THREADS", "1")  # what the benchmark sets in its own process is undone
    monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", "1")
    rows = [row for row in tool.ROWS if not row.startswith(("torch", "ffcv"))]
    flags = ["--rounds=2", "--repeats=2", "--batch_size=4", "--threads=1", "--device_rate=5000", "--images=8"]
    work = tmp_path / "work"
    work.mkdir()
    flags += [f"--rows={','.join(rows)}", f"--work_dir={work}", f"--json={tmp_path / 'input.json'}"]
    run("benchmark_input", f"--data_dir={images}", *flags)
    report = json.loads((tmp_path / "input.json").read_text())
    assert list(report["rows"]) == rows and not list(work.iterdir())
    assert (report["images"], report["size"], report["raw_kb"]) == (8, "300x280", 196.608)
    for row, figures in report["rows"].items():
        compared = [name for name, other in tool.COMPARED.get(row, {}).items() if other in rows]
        assert [name for name in figures if name.startswith("of_")] == compared and len(figures["turns"]) == 2
    for row, kilobytes in tool.READ.items():
        need, speed = report["needed"][row], report["rows"][row]["images_per_second"]
        assert need == {"cores": math.ceil(5000 / speed), "megabytes_per_second": 5 * report[kilobytes]}
    assert "8 images of 300x280 (median)" in capsys.readouterr().out


def test_input_that_all_rows_read(images, tmp_path):
    """The images are spread over all, and peers read the very JPEGs of the records."""
    rows, settings = load_tool("rows_input"), load_tool("benchmark_input").Settings
    chosen = rows.choose(settings(data_dir=str(images), images=4, batch_size=4))
    assert [name for name, _ in chosen] == ["a", "a", "b", "b"] and all(path.endswith(".jpg") for _, path in chosen)
    options = settings(data_dir=str(images / "train"), batch_size=4, threads=1, work_dir=str(tmp_path))
    assert len(rows.choose(options)) == 10
    rows.lay_out("images", options)
    train, _ = records.open_prepared(str(tmp_path / "jpeg"), 1)
    items = train.items().map(train.loader()).as_numpy_iterator()
    stored = sorted((train.class_names[label], content) for content, label in items)
    files = sorted(tmp_path.glob("prepared/*/*.jpg"))
    assert sorted((path.parent.name, path.read_bytes()) for path in files) == stored and len(files) == 10


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("torch"), reason="torch is not installed (extra benchmark)")
def test_torch(images, tmp_path):
    """In processes of its own, since PyTorch and TensorFlow do not work in one."""
    rows = "--rows=torch,torch_prepared,raw"
    run("benchmark_input", f"--data_dir={images}", rows, "--batch_size=4", "--threads=1", "--rounds=1", "--repeats=1")
    run("benchmark_step", *TINY, "--rows=torch", f"--json={tmp_path / 'step.json'}")
    parameters = json.loads((tmp_path / "step.json").read_text())["parameters"]
    assert parameters == AlexNet(1000, width=1 / 16).count_params()


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("torchvision"), reason="torchvision is not installed (extra parity)")
def test_peer(tiny_run, small_images, tmp_path):
    """In a process of its own, as test_torch."""
    command = [sys.executable, ROOT / "tools" / "benchmark_peer.py", f"--model_dir={tiny_run}", "--batch_size=6"]
    command += [f"--data_dir={small_images}", "--workers=1", f"--json={tmp_path / 'peer.json'}"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = json.loads((tmp_path / "peer.json").read_text())
    rows = np.genfromtxt(tiny_run / "history.csv", delimiter=",", names=True)
    assert found["rows"]["keras_alexnet"]["error"] == rows["val_top1_error"][-1]
    errors = [error for error, _ in found["history"]["torchvision"]]
    assert len(errors) == 3 and all(round(error * 9 / 100, 6).is_integer() for error in errors)  # of nine images
    assert "after 3 epochs  top-1 error, %  minutes" in said


def test_input_that_is_no_image_is_named(in_process, tmp_path, capsys):
    write_folder(tmp_path / "in", {"a/cut.jpg": encoded(photo(300, 280))[:3000]})
    run("benchmark_input", f"--data_dir={tmp_path / 'in'}", "--batch_size=1", "--threads=1", code=2)
    assert "a/cut.jpg: cannot be decoded; leave it out of --data_dir" in capsys.readouterr().err
    run("benchmark_input", f"--data_dir={tmp_path / 'in'}", code=2)
    assert "1 JPEG files in class folders are fewer than --batch_size=128" in capsys.readouterr().err
    run("benchmark_input", "--data_dir=/nowhere", code=2)
    assert capsys.readouterr().err == "benchmark_input: --data_dir=/nowhere: there is no such folder\n"


def test_serving(in_process, folder, server, tmp_path, capsys, monkeypatch):
    rows, path = load_tool("rows_serving"), tmp_path / "figures.json"
    monkeypatch.setattr(rows, "VIEWS", 20)
    monkeypatch.setattr(rows, "LEAST_CALLS", 2)
    argv = [f"--model={folder}", f"--server={server.rest}", "--repeats=8", "--rounds=2", f"--json={path}"]
    run("benchmark_serving", *argv)
    report = json.loads(path.read_text())
    for row in ("batch 1", "batch 32"):
        calls = report["rows"][row]
        assert all(0 < calls[name]["p50"] <= calls[name]["p99"] for name in ("serving", "network", "decode"))
        assert calls["ratio"]["p50"] == calls["beyond"]["p50"] / calls["decode"]["p50"]
    assert report["rows"]["ten_views"]["times"]["p50"] > 1
    assert set(report["rows"]["loading"]) == {"import", "load", "first_answer"}
    assert "batch 32: beyond the network" in capsys.readouterr().out


def test_serving_wrong_usage(in_process, folder, tmp_path, capsys):
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    for argv, code, words in (
        ([], 2, "--model is missing"),
        ([f"--model={tmp_path}"], 2, "is no exported model"),
        ([f"--model={folder}", "nowhere.jpg"], 2, "nowhere.jpg: there is no such file"),
        ([f"--model={folder}", tmp_path / "bad.jpg"], 1, "not a JPEG or PNG file"),
    ):
        run("benchmark_serving", *argv, code=code)
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1
