import importlib.util
import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from keras_alexnet.errors import run_verb
from tests.data.conftest import encoded, photo, write_folder

ROOT = Path(__file__).parents[2]
COUNT = 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    files = {f"{'ab'[index % 2]}/{index}.jpg": encoded(photo(300, 280, seed=index)) for index in range(COUNT)}
    return write_folder(tmp_path_factory.mktemp("photos") / "train", files | {"a/notes.txt": b"no image"}).parent


@pytest.fixture(scope="module")
def tool():
    sys.path.insert(0, str(ROOT / "tools"))  # as Python does for a program, which imports its neighbors
    spec = importlib.util.spec_from_file_location("benchmark_input", ROOT / "tools" / "benchmark_input.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_rows_take_turns_and_are_compared(folder, tmp_path):
    flags = ["--rounds=2", "--repeats=2", "--batch_size=4", "--threads=1", "--device_rate=5000", "--images=8"]
    command = [sys.executable, "tools/benchmark_input.py", f"--data_dir={folder}", *flags, f"--work_dir={tmp_path}"]
    done = subprocess.run([*command, f"--json={tmp_path / 'input.json'}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "input.json").read_text())
    rows = report["rows"]
    expected = {"decode", "direct", "keras", "preparation", "decode_prepared", "records", "raw"}
    if importlib.util.find_spec("torch"):
        expected |= {"torch", "torch_prepared"}
    else:
        assert "not run: PyTorch is not installed" in done.stdout
    assert rows.keys() == expected
    assert (report["images"], report["size"], report["raw_kb"]) == (8, "300x280", 196.608)
    for row, figures in rows.items():
        speeds = [turn["images_per_second"] for turn in figures["turns"]]
        assert len(speeds) == 2 and figures["images_per_second"] == pytest.approx(statistics.median(speeds))
        assert figures["peak_mb"] > 0
        limit = {"decode": None, "decode_prepared": None, "records": "decode_prepared", "raw": "decode_prepared"}
        limit["torch_prepared"] = "decode_prepared"
        limit = limit.get(row, "decode")
        if limit:
            ratios = [a / b["images_per_second"] for a, b in zip(speeds, rows[limit]["turns"], strict=True)]
            assert figures["of_limit"] == pytest.approx(statistics.median(ratios))
        else:
            assert "of_limit" not in figures
    assert rows["direct"]["of_keras"] > 0 and rows["raw"]["of_records"] > 0
    for row, kilobytes in (("direct", "original_kb"), ("records", "prepared_kb"), ("raw", "raw_kb")):
        need = report["needed"][row]
        assert need["cores"] - 1 < 5000 / rows[row]["images_per_second"] <= need["cores"]
        assert need["megabytes_per_second"] == pytest.approx(5 * report[kilobytes])
    assert "8 images of 300x280 (median)" in done.stdout and "cores of this kind" in done.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["input.json"]  # nothing is left behind


def test_the_images_are_spread_over_all(folder, tool):
    options = tool.parse([f"--data_dir={folder}", "--images=4", "--batch_size=4"])
    chosen = tool.choose(options)
    assert [name for name, _ in chosen] == ["a", "a", "b", "b"]
    assert all(path.endswith(".jpg") for _, path in chosen)
    assert len(tool.choose(tool.parse([f"--data_dir={folder}/train", "--batch_size=4"]))) == COUNT


WRONG = {
    "no_folder": (["--data_dir=/nowhere"], "--data_dir=/nowhere: there is no such folder"),
    "none": ([], "--data_dir is missing"),
    "row": (["--data_dir=IN", "--rows=decode,fly"], "--rows=decode,fly: 'fly' is none of"),
    "twice": (["--data_dir=IN", "--rows=raw,raw"], "--rows=raw,raw: 'raw' is none of"),
    "rounds": (["--data_dir=IN", "--rounds=0"], "--rounds=0: give at least 1"),
    "json": (["--data_dir=IN", "--json=/nowhere/a.json"], "--json=/nowhere/a.json: there is no folder for it"),
    "few": (["--data_dir=IN"], "10 JPEG files in class folders are fewer than --batch_size=128"),
    "rate": (["--data_dir=IN", "--device_rate=0"], "--device_rate=0.0: give images a second, above 0"),
    "work_dir": (["--data_dir=IN", "--work_dir=/nowhere"], "--work_dir=/nowhere: there is no such folder"),
}


@pytest.mark.parametrize("flags, words", WRONG.values(), ids=WRONG)
def test_wrong_usage_is_one_line(folder, tool, capsys, flags, words):
    filled = [flag.replace("IN", str(folder)) for flag in flags]
    assert run_verb("benchmark_input", tool.main, filled) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and words in said, said
