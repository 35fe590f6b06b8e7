"""The program: what it says and how it ends. What it writes is tested in tests/data/test_prepare.py."""

import json
import re

import pytest

from keras_alexnet import train
from keras_alexnet.cli import run_command
from tests.data.conftest import files_of, write_folder
from tests.data.test_prepare import images
from tests.tools.conftest import load_tool

program = load_tool("prepare_dataset")


def run(capfd, *arguments):
    code = run_command("prepare_dataset", program.main, list(map(str, arguments)))
    return code, *capfd.readouterr()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    write_folder(root / "train", images("train", 6) | {"newt/te\x1bxt.jpg": b"no image", "newt/x/y.jpg": b""})
    write_folder(root / "val", images("val", 3))
    return root


def test_a_folder(folder, tmp_path, capfd):
    out = tmp_path / "out"
    arguments = ("--source=folder", f"--data_dir={folder}", f"--out={out}", "--shard_images=4", "--quality=85")
    code, said, _ = run(capfd, *arguments)
    assert code == 0
    assert re.search(r"train: +6 images of 3 classes, 2 shards, 0\.\d MB; 2 files left out", said)
    assert "newt/te\\x1bxt.jpg: not a JPEG or PNG file" in said
    assert "newt/x/y.jpg: not a JPEG or PNG file" in said
    assert re.search(r"validation: +3 images of 3 classes, 1 shards, .* 0 files left out", said)
    assert re.search(r"this run: +11 images in \d+\.\d s, \d+ images/s", said)
    assert f"train with: --dataset=records --data_dir={out}" in said
    before = files_of(out)
    code, said, _ = run(capfd, *arguments)
    assert code == 0 and "was prepared already; nothing was left to do" in said
    assert run(capfd, "--check", f"--out={out}")[1] == f"{out}: every file is as it was prepared\n"
    assert files_of(out) == before
    # No pass over the images before training: what it would find out is known.
    model = ["--variant=release2012", "--width=0.0625", "--epochs=1", "--batch_size=4", "--noexport"]
    argv = ["--dataset=records", f"--data_dir={out}", *model, f"--model_dir={tmp_path / 'run'}"]
    assert run_command("train", train.main, argv) == 0
    assert "training:   6 images of 3 classes, 2 steps an epoch" in capfd.readouterr().out
    assert json.loads((tmp_path / "run" / "validation.json").read_text())["label_counts"] == [1, 1, 1]


RIGHT = ["--out=OUT", "--source=folder", "--data_dir=IN"]
WRONG = {
    "no_out": ([], "--out is missing"),
    "no_source": (["--out=OUT"], "--source is missing: give ilsvrc2012, folder"),
    "no_data_dir": (["--out=OUT", "--source=folder"], "--data_dir is missing"),
    "unknown": ([*RIGHT, "--sise=3"], "--sise=3: is not a flag"),
    "split": ([*RIGHT, "--val_split=test"], "--val_split=test: "),
    "fraction": (["--out=OUT", "--source=tf_flowers", "--val_fraction=0.1"], "--val_fraction=0.1: is for --source=f"),
    "inside": (["--out=IN/train/new", "--source=folder", "--data_dir=IN"], "--out=IN/train/new: is inside the images"),
    "check": (["--out=IN", "--check"], "IN: holds no prepared images"),
}


@pytest.mark.parametrize("arguments, words", WRONG.values(), ids=WRONG)
def test_wrong_usage_is_one_line(folder, tmp_path, arguments, words, capfd):
    filled = [text.replace("IN", str(folder)).replace("OUT", str(tmp_path / "out")) for text in arguments]
    before = files_of(folder)
    code, _, error = run(capfd, *filled)
    assert code == 2 and error.count("\n") == 1 and re.search(words.replace("IN", str(folder)), error), error
    assert files_of(folder) == before and not (tmp_path / "out" / "manifest.json").exists()
