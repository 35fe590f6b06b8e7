import importlib.metadata
import importlib.util
import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from keras_alexnet.cli import run_command
from keras_alexnet.errors import UsageError
from tests.data.conftest import encoded, photo, write_folder
from tests.tools.conftest import load_tool

ROOT = Path(__file__).parents[2]
COUNT = 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    files = {f"{'ab'[index % 2]}/{index}.jpg": encoded(photo(300, 280, seed=index)) for index in range(COUNT)}
    return write_folder(tmp_path_factory.mktemp("photos") / "train", files | {"a/notes.txt": b"no image"}).parent


@pytest.fixture(scope="module")
def tool():
    return load_tool("benchmark_input")


LIMITS = dict.fromkeys(("direct", "keras", "torch", "preparation"), "decode")
LIMITS |= dict.fromkeys(("records", "torch_prepared", "raw"), "decode_prepared")
PEERS = {"direct": ("keras", "torch"), "records": ("torch_prepared",), "raw": ("records",)}
QUICK = ("decode", "direct", "decode_prepared", "records", "raw")


# Most of the time is TensorFlow's start, once for each row.
@pytest.mark.parametrize("asked", [QUICK, ()], ids=("ours", "all"))
def test_rows_take_turns_and_are_compared(folder, tmp_path, asked):
    flags = ["--rounds=2", "--repeats=2", "--batch_size=4", "--threads=1", "--device_rate=5000", "--images=8"]
    flags += [f"--rows={','.join(asked)}"] if asked else []
    command = [sys.executable, "tools/benchmark_input.py", f"--data_dir={folder}", *flags, f"--work_dir={tmp_path}"]
    done = subprocess.run([*command, f"--json={tmp_path / 'input.json'}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "input.json").read_text())
    rows = report["rows"]
    expected = set(asked) or {*LIMITS, *LIMITS.values()}
    if not asked and not importlib.util.find_spec("torch"):
        expected -= {"torch", "torch_prepared"}
        assert "not run: PyTorch is not installed" in done.stdout
    assert rows.keys() == expected
    assert (report["images"], report["size"], report["raw_kb"]) == (8, "300x280", 196.608)
    assert report["pillow"] == importlib.metadata.version("pillow")

    def ratio(row, other):
        pairs = zip(rows[row]["turns"], rows[other]["turns"], strict=True)
        return pytest.approx(statistics.median(a["images_per_second"] / b["images_per_second"] for a, b in pairs))

    for row, figures in rows.items():
        speeds = [turn["images_per_second"] for turn in figures["turns"]]
        assert len(speeds) == 2 and figures["images_per_second"] == pytest.approx(statistics.median(speeds))
        assert figures["peak_mb"] > 0
        compared = {"of_limit": LIMITS[row]} if row in LIMITS else {}
        compared |= {f"of_{peer}": peer for peer in PEERS.get(row, ()) if peer in rows}
        assert {name for name in figures if name.startswith("of_")} == compared.keys()
        for name, other in compared.items():
            assert figures[name] == ratio(row, other)
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


def test_what_training_does_not_see_is_not_chosen(tmp_path, tool):
    files = {f"a/{index}.jpg": encoded(photo(60, 50, seed=index)) for index in range(3)}
    others = {".hidden/1.jpg": files["a/0.jpg"], "a/._1.jpg": b"of macOS", "a/folder.jpg/1.txt": b"no image"}
    write_folder(tmp_path, files | others)
    chosen = tool.choose(tool.parse([f"--data_dir={tmp_path}", "--batch_size=1"]))
    assert chosen == [("a", str(tmp_path / name)) for name in files]


def test_peers_read_the_very_jpegs_of_the_records(folder, tool, tmp_path):
    from keras_alexnet.data import sources

    chosen = tool.choose(tool.parse([f"--data_dir={folder}", "--batch_size=4"]))
    sizes = tool.lay_out(chosen, str(tmp_path), 1)
    train, _ = sources.open_records(str(tmp_path / "jpeg"), 1)
    records = [(train.class_names[label], content) for _, content, label in _loaded(train)]
    files = [(path.parent.name, path.read_bytes()) for path in (tmp_path / "prepared").glob("*/*.jpg")]
    assert len(files) == COUNT and sorted(files) == sorted(records)
    assert sizes["prepared_kb"] == pytest.approx(sum(len(content) for _, content in files) / COUNT / 1e3)
    originals = [path.resolve().read_bytes() for path in (tmp_path / "originals").glob("*/*.jpg")]
    assert sorted(originals) == sorted(Path(path).read_bytes() for _, path in chosen)


def _loaded(source):
    return source.items().map(source.loader()).as_numpy_iterator()


def test_an_image_that_is_none_is_named(tmp_path, tool):
    """A file that is cut short has a good header, and preparation would leave either out without a word."""
    for name, content in (("none.jpg", b"no image"), ("cut.jpg", encoded(photo(300, 280))[:3000])):
        write_folder(tmp_path / name[:-4], {f"a/{name}": content})
        options = tool.parse([f"--data_dir={tmp_path / name[:-4]}", "--batch_size=1"])
        with pytest.raises(UsageError, match=f"a/{name}: cannot be decoded; leave it out of --data_dir"):
            tool.lay_out(tool.choose(options), str(tmp_path / f"out_{name}"), 1)


WRONG = {
    "no_folder": (["--data_dir=/nowhere"], "--data_dir=/nowhere: there is no such folder"),
    "none": ([], "--data_dir is missing"),
    "row": (["--data_dir=IN", "--rows=decode,fly"], "--rows=decode,fly: 'fly' is none of"),
    "twice": (["--data_dir=IN", "--rows=raw,raw"], "--rows=raw,raw: 'raw' is none of"),
    "rounds": (["--data_dir=IN", "--rounds=0"], "--rounds=0: give at least 1"),
    "json": (["--data_dir=IN", "--json=/nowhere/a.json"], "--json=/nowhere/a.json: there is no folder for it"),
    "json_folder": (["--data_dir=IN", "--json=IN"], ": is a folder; name a file"),
    "few": (["--data_dir=IN"], "10 JPEG files in class folders are fewer than --batch_size=128"),
    "rate": (["--data_dir=IN", "--device_rate=0"], "--device_rate=0.0: give images a second, above 0"),
    "empty": (["--data_dir=IN/train/a", "--batch_size=1"], "0 JPEG files in class folders are fewer than"),
    "work_dir": (["--data_dir=IN", "--work_dir=/nowhere"], "--work_dir=/nowhere: there is no such folder"),
}


@pytest.mark.parametrize("flags, words", WRONG.values(), ids=WRONG)
def test_wrong_usage_is_one_line(folder, tool, capsys, flags, words):
    filled = [flag.replace("IN", str(folder)) for flag in flags]
    assert run_command("benchmark_input", tool.main, filled) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and words in said, said


def test_a_result_that_could_not_be_written_is_refused_before_the_rounds(folder, tool, monkeypatch):
    # Root may write everywhere, so that a folder's mode would tell nothing here.
    monkeypatch.setattr(tool.os, "access", lambda *_: False)
    with pytest.raises(UsageError, match="input.json: its folder cannot be written to"):
        tool.parse([f"--data_dir={folder}", "--json=input.json"])
