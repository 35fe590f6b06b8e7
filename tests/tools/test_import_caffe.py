"""The program: from a file of Caffe's to a run like any other. What it reads is tested in tests/model/test_caffe.py."""

import os
import re

import numpy as np
import pytest

from keras_alexnet import AlexNet, export, rundir
from keras_alexnet.cli import run_command
from tests.model.test_caffe import CLASSES, blob_2014, blobs_of, caffemodel, converted, npy
from tests.reference import caffe_network
from tests.tools.conftest import load_tool

NAMES = [f"class {index}" for index in range(CLASSES)]


def run(*arguments):
    return run_command("import_caffe", load_tool("import_caffe").main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def blobs():
    return blobs_of()


@pytest.fixture
def folder(blobs, tmp_path):
    (tmp_path / "good.caffemodel").write_bytes(caffemodel(blobs, blob_2014))
    (tmp_path / "names.txt").write_text("\n".join(NAMES) + "\n")
    return tmp_path


def test_an_imported_run_is_a_run(blobs, folder, capsys):
    mean = np.random.default_rng(3).uniform(90, 130, (3, 256, 256)).astype(np.float32)
    (folder / "mean.binaryproto").write_bytes(blob_2014(mean))
    out = folder / "run"
    arguments = (folder / "good.caffemodel", f"--out={out}", f"--class_names={folder}/names.txt")
    assert run(*arguments, f"--mean={folder}/mean.binaryproto") == 0
    said = capsys.readouterr().out
    parameters = sum(array.size for pair in blobs.values() for array in pair)
    assert f"8 layers, {parameters:,} parameters, in 2 tower(s)" in said
    assert "7, from class 0 to class 6" in said
    red, green, blue = mean.mean((1, 2), np.float64)[::-1]
    assert f"mean.binaryproto, red {red:.2f}, green {green:.2f}, blue {blue:.2f}" in said
    assert f"python -m keras_alexnet.evaluate --model_dir={out}\n" in said

    opened = rundir.open_run(str(out))
    assert opened.class_names == tuple(NAMES) and opened.history == ()
    network = opened.config.network
    assert (network.variant, network.towers, network.groups, network.width) == ("caffe", 2, 2, 1 / 16)
    assert (opened.config.data.mean_subtraction, opened.config.data.pca_color) == ("aligned", "none")
    np.testing.assert_allclose(opened.statistics.rgb_mean, [red, green, blue])
    assert opened.statistics.count == 0 and not opened.statistics.rgb_covariance.any()

    # What is served for an image of 256x256 is what Caffe makes of its center minus the center of the mean.
    image = np.random.default_rng(4).integers(0, 256, (256, 256, 3), np.uint8)
    caffes = (image[..., ::-1].transpose(2, 0, 1) - mean)[:, 14:241, 14:241]
    expected = caffe_network.forward(blobs, caffes[None])["prob"]
    served = export.served_model(opened)
    np.testing.assert_allclose(served.center_view(image[None, 14:241, 14:241]), expected, rtol=1e-3)

    # One stack takes the weights from the run of two towers.
    model = AlexNet(CLASSES, "caffe", towers=1, devices=(), width=1 / 16, weights=str(out))
    views = np.ascontiguousarray(caffes[::-1].transpose(1, 2, 0))[None].astype(np.float32)
    np.testing.assert_allclose(model(views), expected, rtol=1e-3)


def test_one_stack_from_the_converted_file_with_the_classes_of_imagenet(folder, capsys):
    (folder / "good.npy").write_bytes(npy(converted(blobs_of(classes=1000)), python2=True))
    out = folder / "run"
    assert run(folder / "good.npy", f"--out={out}", "--towers=1") == 0
    said = capsys.readouterr().out
    assert "one color, red 122.68, green 116.67, blue 104.01" in said and "1000, from tench to toilet_tissue" in said
    opened = rundir.open_run(str(out))
    assert (opened.config.network.towers, opened.config.network.groups) == (1, 2)
    np.testing.assert_allclose(opened.statistics.mean_image[3, 5], [122.67891434, 116.66876762, 104.00698793])
    names = opened.class_names
    assert len(set(names)) == 1000
    assert names[134] == "crane (n02012849)" and names[517] == "crane (n03126707)" and names[65] == "sea_snake"


GOOD = ["IN/good.caffemodel", "--out=OUT"]
BAD = {
    "nothing": ([], 2, "no weights given: name one .caffemodel"),
    "no_out": (GOOD[:1], 2, "--out is missing: give the run's folder"),
    "unknown": ([*GOOD, "--sise=3"], 2, "flag .sise."),
    "towers": ([*GOOD, "--towers=3"], 2, "--towers=3: value should be one of <1|2>"),
    "two_files": ([*GOOD, GOOD[0]], 2, "name one .caffemodel"),
    "no_file": (["IN/nowhere", "--out=OUT"], 2, "IN/nowhere: there is no such file"),
    "no_mean": ([*GOOD, "--mean=IN/nowhere"], 2, "IN/nowhere: there is no such file"),
    "full": ([GOOD[0], "--out=IN"], 2, "--out=IN: is not empty; name a new folder"),
    "classes": (GOOD, 2, "--class_names is missing: .* has 7 classes, and ImageNet 1000"),
    "no_names": ([*GOOD, "--class_names=IN/nowhere"], 2, "nowhere: there is no such file"),
    "few_names": ([*GOOD, "--class_names=IN/few.txt"], 2, "few.txt: 2 names; .* has 7"),
    "same_names": ([*GOOD, "--class_names=IN/same.txt"], 2, "two classes have the same"),
    "no_text": ([*GOOD, "--class_names=IN/good.caffemodel"], 2, "good.caffemodel: is no t"),
    "text": (["IN/names.txt", "--out=OUT"], 1, "names.txt: holds no weights, .caffemodel or .npy"),
    "mean": ([*GOOD, "--mean=IN/names.txt"], 1, "names.txt: holds no mean image"),
}


@pytest.mark.parametrize("arguments, code, words", BAD.values(), ids=BAD)
def test_what_cannot_be_done_is_one_line(folder, monkeypatch, capsys, arguments, code, words):
    (folder / "few.txt").write_text("cat\nnewt\n")
    (folder / "same.txt").write_text("cat\n" * CLASSES)
    monkeypatch.chdir(folder)
    before = sorted(os.listdir(folder))
    filled = [text.replace("IN", str(folder)).replace("OUT", str(folder / "run")) for text in arguments]
    assert run(*filled) == code
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and re.search(words.replace("IN", str(folder)), said), said
    assert sorted(os.listdir(folder)) == before
