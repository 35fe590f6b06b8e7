"""The program: from a file to a run like any other. What it reads is tested in tests/model/."""

import os
import re
import zipfile

import numpy as np
import pytest

from keras_alexnet import AlexNet, rundir
from keras_alexnet.serving import signatures
from tests.model.test_caffe import CLASSES, blob_2014, blobs_of, caffemodel, converted, npy
from tests.reference import caffe_network
from tests.runs import call, refusal
from tests.tools.conftest import load_tool

NAMES = [f"class {index}" for index in range(CLASSES)]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "good.caffemodel").write_bytes(caffemodel(blobs_of(), blob_2014))
    (tmp_path / "names.txt").write_text("\n".join(NAMES) + "\n")
    return tmp_path


def test_an_imported_run_is_a_run(folder):
    mean = np.random.default_rng(3).uniform(90, 130, (3, 256, 256)).astype(np.float32)
    (folder / "mean.binaryproto").write_bytes(blob_2014(mean))
    out = folder / "run"
    flags = (f"--out={out}", f"--class_names={folder}/names.txt", f"--mean={folder}/mean.binaryproto")
    code, said, _ = call(load_tool("import_weights"), folder / "good.caffemodel", *flags)
    red, green, blue = mean.mean((1, 2), np.float64)[::-1]
    assert code == 0 and f"mean.binaryproto, red {red:.2f}, green {green:.2f}, blue {blue:.2f}" in said
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
    expected = caffe_network.forward(blobs_of(), caffes[None])
    assert expected.max() < 0.6 and expected.std() > 0.05
    served = signatures.of_run(opened)
    np.testing.assert_allclose(served.center_view(image[None, 14:241, 14:241]), expected, rtol=1e-3)

    # One stack takes the weights from the run of two towers.
    model = AlexNet(CLASSES, "caffe", towers=1, devices=(), width=1 / 16, weights=str(out))
    views = np.ascontiguousarray(caffes[::-1].transpose(1, 2, 0))[None].astype(np.float32)
    np.testing.assert_allclose(model(views), expected, rtol=1e-3)


def test_one_stack_from_the_converted_file_with_the_classes_of_imagenet(folder):
    (folder / "good.npy").write_bytes(npy(converted(blobs_of(classes=1000)), python2=True))
    out = folder / "run"
    assert call(load_tool("import_weights"), folder / "good.npy", f"--out={out}", "--towers=1")[0] == 0
    opened = rundir.open_run(str(out))
    assert (opened.config.network.towers, opened.config.network.groups) == (1, 2)
    np.testing.assert_allclose(opened.statistics.mean_image[3, 5], [122.67891434, 116.66876762, 104.00698793])
    names = opened.class_names
    assert names[134] == "crane (n02012849)" and names[517] == "crane (n03126707)" and names[65] == "sea_snake"


@pytest.mark.parametrize(
    "arguments, code, words",
    [
        ("", 2, "no weights given: name one file"),
        ("IN/good.caffemodel", 2, "--out is missing: give the run's folder"),
        ("IN/nowhere --out=OUT", 2, "IN/nowhere: there is no such file"),
        ("IN/good.caffemodel --out=IN", 2, "--out=IN: is not empty; name a new folder"),
        ("IN/good.caffemodel --out=OUT", 2, "--class_names is missing: .* has 7 classes, and ImageNet 1000"),
        ("IN/good.caffemodel --out=OUT --class_names=IN/nowhere", 2, "nowhere: cannot be read .*No such file"),
        ("IN/good.caffemodel --out=OUT --class_names=IN/same.txt", 2, "has 7 names, 1 of them different; .* has 7"),
        ("IN/damaged.pth --out=OUT", 1, "damaged.pth: cannot be read .Bad magic number"),
        ("IN/names.txt --out=OUT", 1, "names.txt: holds no weights, .caffemodel or .npy"),
        ("IN/odd --out=OUT --class_names=IN/names.txt", 1, "IN/odd: conv1 has 7 outputs, AlexNet 96; width must"),
        ("IN/no_groups --out=OUT --class_names=IN/names.txt", 1, r"conv4: the kernel, .* is float32 \(24, 24, 3"),
    ],
)
def test_what_cannot_be_done_is_one_line(folder, arguments, code, words):
    (folder / "same.txt").write_text("cat\n" * CLASSES)
    with zipfile.ZipFile(folder / "damaged.pth", "w") as file:
        file.writestr("archive/data.pkl", b"")
    content = (folder / "damaged.pth").read_bytes()
    (folder / "damaged.pth").write_bytes(content.replace(b"PK\1\2", b"PK\0\2"))  # its list of contents
    (folder / "odd").write_bytes(caffemodel(blobs_of(c1=7)))
    conv4 = {"conv4": [np.ones((24, 24, 3, 3)), np.ones(24)]}
    (folder / "no_groups").write_bytes(caffemodel(blobs_of() | conv4))
    before = sorted(os.listdir(folder))
    filled = arguments.replace("IN", str(folder)).replace("OUT", str(folder / "run")).split()
    assert re.search(words.replace("IN", str(folder)), refusal(load_tool("import_weights"), *filled, code=code))
    assert sorted(os.listdir(folder)) == before
