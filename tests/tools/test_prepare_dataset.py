"""The program: what it says and how it ends. What it writes is tested in tests/data/test_prepare.py."""

import json
import re

import pytest

from keras_alexnet import train
from keras_alexnet.cli import run_command
from tests.data.conftest import files_of, write_folder
from tests.data.test_prepare import images
from tests.runs import TINY_RUN
from tests.tools.conftest import load_tool


def run(*arguments):
    return run_command("prepare_dataset", load_tool("prepare_dataset").main, [str(each) for each in arguments])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("images")
    write_folder(root / "train", images("train", 6) | {"newt/text.jpg": b"no image"})
    write_folder(root / "val", images("val", 3))
    return root


def test_a_folder_from_the_first_run_to_training(folder, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ("--source=folder", f"--data_dir={folder}", f"--out={out}", "--shard_images=4", "--quality=85")
    assert run(*arguments) == 0
    said = capsys.readouterr().out
    assert re.search(r"train: +6 images of 3 classes, 2 shards, 0\.\d MB; 1 files left out", said)
    assert "newt/text.jpg: not a JPEG or PNG file" in said
    assert re.search(r"validation: +3 images of 3 classes, 1 shards, .* 0 files left out", said)
    assert re.search(r"this run: +10 images in \d+\.\d s, \d+ images/s", said)
    assert f"train with: --dataset=records --data_dir={out}" in said
    before = files_of(out)
    assert run(*arguments) == 0 and "was prepared already; nothing was left to do" in capsys.readouterr().out
    assert run("--check", f"--out={out}") == 0
    assert capsys.readouterr().out == f"{out}: every file is as it was prepared\n" and files_of(out) == before

    argv = [*TINY_RUN, "--dataset=records", f"--data_dir={out}", "--epochs=1", "--noexport"]
    assert run_command("train", train.main, [*argv, f"--model_dir={tmp_path / 'run'}"]) == 0
    assert "training:   6 images of 3 classes, 1 steps an epoch" in capsys.readouterr().out
    assert (tmp_path / "run" / "class_names.txt").read_text().split() == ["cat", "newt", "wolf"]
    # No pass over the images before training: what it would find is known.
    assert json.loads((tmp_path / "run" / "validation.json").read_text())["label_counts"] == [1, 1, 1]


WRONG = {
    "no_out": ([], "--out is missing"),
    "no_source": (["--out=OUT"], "--source is missing: give ilsvrc2012, folder"),
    "no_data_dir": (["--out=OUT", "--source=folder"], "--data_dir is missing"),
    "no_folder": (["--out=OUT", "--source=folder", "--data_dir=/nowhere"], "--data_dir=/nowhere: the folder"),
    "no_archive": (["--out=OUT", "--source=ilsvrc2012", "--data_dir=IN"], "ILSVRC2012_img_train.tar is missing"),
    "unknown": (["--out=OUT", "--source=folder", "--data_dir=IN", "--sise=3"], "--sise=3: is not a flag"),
    "size": (
        ["--out=OUT", "--source=folder", "--data_dir=IN", "--size=0"],
        "--size=0: 0 is not an integer in the range",
    ),
    "split": (["--out=OUT", "--source=folder", "--data_dir=IN", "--val_split=test"], "--val_split=test: "),
    "threads": (["--out=OUT", "--source=folder", "--data_dir=IN", "--threads=-1"], "--threads=-1: -1 is not"),
    "check": (["--out=IN", "--check"], "IN: holds no prepared images"),
    "out_is_in": (["--out=IN", "--source=folder", "--data_dir=IN"], r"holds something else already \(train, val\)"),
}


@pytest.mark.parametrize("arguments, words", WRONG.values(), ids=WRONG)
def test_wrong_usage_is_one_line(folder, tmp_path, arguments, words, capsys):
    filled = [text.replace("IN", str(folder)).replace("OUT", str(tmp_path / "out")) for text in arguments]
    before = files_of(folder)
    assert run(*filled) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and re.search(words.replace("IN", str(folder)), said), said
    assert files_of(folder) == before
    assert not (tmp_path / "out" / "manifest.json").exists()
