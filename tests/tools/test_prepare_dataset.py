"""The program: what it says and how it ends. What it writes is tested in tests/data/test_preparation.py."""

import json
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.data.conftest import encoded, photo, write_folder
from tests.data.test_preparation import GOOD, files_of, pictures
from tests.tools.conftest import load_tool

ROOT = Path(__file__).parents[2]


def run(*arguments):
    command = [sys.executable, "tools/prepare_dataset.py", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    write_folder(root / "train", pictures("train", 6) | {"newt/text.jpg": b"no image"})
    write_folder(root / "val", pictures("val", 3))
    return root


def test_a_folder_from_the_first_run_to_training(folder, tmp_path):
    out = tmp_path / "out"
    arguments = ("--source=folder", f"--data_dir={folder}", f"--out={out}", "--shard_images=4", "--quality=85")
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    said = done.stdout
    assert re.search(r"train: +6 images of 3 classes, 2 shards, 0\.\d MB; 1 files left out", said)
    assert "newt/text.jpg: not a JPEG or PNG file" in said
    assert re.search(r"validation: +3 images of 3 classes, 1 shards, .* 0 files left out", said)
    assert re.search(r"this run: +10 images in \d+\.\d s, \d+ images/s", said)
    assert f"train with: --dataset=records --data_dir={out}" in said
    before = files_of(out)
    done = run(*arguments)
    assert done.returncode == 0 and "was prepared already; nothing was left to do" in done.stdout
    assert run("--check", f"--out={out}").stdout == f"{out}: every file is as it was prepared\n"
    assert files_of(out) == before

    model_dir = tmp_path / "run"
    command = [sys.executable, "-m", "keras_alexnet.train", "--dataset=records", f"--data_dir={out}"]
    command += ["--variant=release2012", "--width=0.0625", "--epochs=1", "--batch_size=4", "--noexport"]
    trained = subprocess.run([*command, f"--model_dir={model_dir}"], capture_output=True, text=True, cwd=ROOT)
    assert trained.returncode == 0, trained.stderr
    assert "training:   6 images of 3 classes, 2 steps an epoch" in trained.stdout
    assert (model_dir / "statistics.npz").exists()
    assert (model_dir / "class_names.txt").read_text().split() == ["cat", "newt", "wolf"]
    # No pass over the images before training: what it would find out is known.
    assert json.loads((model_dir / "validation.json").read_text())["label_counts"] == [1, 1, 1]


def add(tar, name, data):
    import io

    info = tarfile.TarInfo(name)
    info.size = len(data)
    tar.addfile(info, io.BytesIO(data))


def archives(root, classes):
    """The two official archives in small, with labels of validation images as TensorFlow Datasets has them."""
    import io

    with tarfile.open(root / "ILSVRC2012_img_train.tar", "w") as outer:
        for wordnet_id in classes:
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as tar:
                for index in range(2):
                    add(tar, f"{wordnet_id}_{index}.JPEG", encoded(photo(270 + index, 260, seed=len(wordnet_id))))
            add(outer, f"{wordnet_id}.tar", inner.getvalue())
    with tarfile.open(root / "ILSVRC2012_img_val.tar", "w") as outer:
        add(outer, "ILSVRC2012_val_00000001.JPEG", GOOD)  # n01751748, sea snake


def test_the_official_archives(tmp_path):
    archives(tmp_path, ("n02012849", "n01751748", "n03126707"))
    out = tmp_path / "out"
    done = run("--source=ilsvrc2012", f"--data_dir={tmp_path}", f"--out={out}")
    assert done.returncode == 0, done.stderr
    assert "the official archives hold 1,281,167 training images in 1,000 classes" in done.stderr
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["wordnet_ids"] == ["n01751748", "n02012849", "n03126707"]
    assert manifest["class_names"] == ["sea_snake", "crane (n02012849)", "crane (n03126707)"]
    assert manifest["splits"]["train"]["label_counts"] == [2, 2, 2]
    assert manifest["splits"]["validation"]["label_counts"] == [1, 0, 0]
    assert "index.npz" not in os.listdir(out)


WRONG = {
    "no_out": ([], "--out is missing"),
    "no_source": (["--out=OUT"], "--source is missing: give ilsvrc2012, folder"),
    "no_data_dir": (["--out=OUT", "--source=folder"], "--data_dir is missing: --source=folder is read from there"),
    "no_folder": (["--out=OUT", "--source=folder", "--data_dir=/nowhere"], "--data_dir=/nowhere: there is no folder"),
    "no_archive": (["--out=OUT", "--source=ilsvrc2012", "--data_dir=IN"], "there is no ILSVRC2012_img_train.tar"),
    "unknown": (["--out=OUT", "--source=folder", "--data_dir=IN", "--sise=3"], "--sise=3: there is no such option"),
    "size": (["--out=OUT", "--source=folder", "--data_dir=IN", "--size=0"], "--size=0: give a number from 8 to 4096"),
    "split": (["--out=OUT", "--source=folder", "--data_dir=IN", "--val_split=test"], "--val_split=test: "),
    "threads": (["--out=OUT", "--source=folder", "--data_dir=IN", "--threads=-1"], "--threads=-1: give a number"),
    "check": (["--out=IN", "--check"], "IN: holds no prepared images"),
    "out_is_in": (["--out=IN", "--source=folder", "--data_dir=IN"], r"holds something else already \(train, val\)"),
}


@pytest.mark.parametrize("arguments, words", WRONG.values(), ids=WRONG)
def test_wrong_usage_is_one_line(folder, tmp_path, arguments, words, monkeypatch, capsys):
    from keras_alexnet.cli import run_command

    program = load_tool("prepare_dataset")
    filled = [text.replace("IN", str(folder)).replace("OUT", str(tmp_path / "out")) for text in arguments]
    before = files_of(folder)
    assert run_command("prepare_dataset", program.main, filled) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and re.search(words.replace("IN", str(folder)), said), said
    assert files_of(folder) == before
    assert not (tmp_path / "out" / "manifest.json").exists()
