"""--orientation from the header of a file to batches, prepared folders and answers, beside what Pillow turns."""

import dataclasses
import io
import random
import struct

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image, ImageOps

from keras_alexnet import AlexNet
from keras_alexnet.config import DataConfig
from keras_alexnet.data import pipeline, prepare, records, sources, statistics
from keras_alexnet.data.augmentation import Augmentation
from keras_alexnet.data.decoding import decode_center, decode_window, exif_orientation
from keras_alexnet.serving.signatures import ServedModel
from tests.data.conftest import encoded, flat_source, photo, preprocessed, refusal, write_folder


def tiff(orientation, order="<", at=8, tag=0x0112, entries=2):
    """A TIFF structure whose first directory, `at` bytes from its beginning, has the tag as its last entry."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", at)
    other = struct.pack(order + "HHII", 0x010F, 2, 4, 0x41424344) * (entries - 1)
    entry = struct.pack(order + "HHIHH", tag, 3, 1, orientation, 0)
    return head.ljust(at, b"\0") + struct.pack(order + "H", entries) + other + entry + bytes(4)


def turned(image, orientation, order="<"):
    return encoded(image, quality=95, exif=b"Exif\0\0" + tiff(orientation, order))


def upright(data):
    return encoded(ImageOps.exif_transpose(Image.open(io.BytesIO(data))), "PNG")


@pytest.mark.parametrize("size", [(256, 301), (700, 431)])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_windows_of_all_orientations(orientation, size):
    data = turned(photo(*size), orientation, "<>"[orientation % 2])
    expected = upright(data)
    assert int(exif_orientation(tf.constant(data))) == sources.exif_orientation(data) == orientation
    np.testing.assert_array_equal(decode_center(data, orientation="apply"), decode_center(expected))
    np.testing.assert_array_equal(*(decode_center(each, 256, "stretch", "apply") for each in (data, expected)))
    window, whole = (decode_window(each, 3, 30, 224, orientation="apply") for each in (data, expected))
    # Only of a file of 256 pixels begins every window at a whole pixel.
    assert np.abs(window.numpy().astype(int) - whole).mean() <= (0 if min(size) == 256 else 6)


def test_headers_without_an_orientation_or_damaged():
    jpeg, seed = encoded(photo(8, 8)), random.Random(5)
    structures = {"zero": tiff(0), "nine": tiff(9), "other_tag": tiff(6, tag=0x0113), "cut": tiff(6)[:-8], "empty": b""}
    structures |= {"far": b"II*\0\xff\xff\xff\xff", "many": b"MM\0*\0\0\0\x08\xff\xff"}
    of = {name: b"\xff\xd8\xff\xe1\0\0Exif\0\0" + each for name, each in structures.items()}
    of |= {"plain": jpeg, "png": encoded(photo(8, 8), "PNG"), "none": b"", "not_jpeg": b"Exif\0\0" + tiff(6)}
    of["behind"] = jpeg[:2] + b"\xff\xe1" + bytes(sources.EXIF_BYTES) + b"Exif\0\0" + tiff(6)
    for name, data in of.items():
        assert (name, sources.exif_orientation(data[: sources.EXIF_BYTES])) == (name, 1)
        assert (name, int(exif_orientation(tf.constant(data)))) == (name, 1)
    good = b"\xff\xd8\xff\xe0" + b"x" * 50 + b"Exif\0\0" + tiff(6, ">", at=300, entries=30)
    found = {sources.exif_orientation(good)}
    for _ in range(150):  # what is damaged is read in one way only
        data = bytearray(good)
        for _ in range(3):
            data[seed.choice([*range(60, 70), *range(360, len(data))])] = seed.choice([0, 1, 2, 8, 18, 255])
        data = bytes(data[: seed.randrange(50, len(data) + 1)])
        found.add(sources.exif_orientation(data))
        assert int(exif_orientation(tf.constant(data))) == sources.exif_orientation(data), data
    assert {1, 6} <= found


FILES = {
    "a/1.jpg": turned(photo(400, 260), 6),
    "b/2.jpg": encoded(photo(300, 310)),
    "c/3.jpg": turned(photo(270, 300), 3),
}
UPRIGHT = np.stack([decode_center(upright(data)) for data in FILES.values()])


@pytest.fixture
def folder(tmp_path):
    for split in ("train", "val"):
        flat_source(tmp_path / "images" / split, FILES)
    return str(tmp_path / "images")


def test_all_ways_see_the_upright_image(folder):
    data = DataConfig(dataset="folder", data_dir=folder)
    train, val = sources.open_training(data)
    known = statistics.compute(train)
    np.testing.assert_allclose(known.mean_image, UPRIGHT.mean(0), rtol=1e-6)
    ((images,), _) = next(iter(pipeline.evaluation_batches(val, (256,), batch_size=3)))
    np.testing.assert_array_equal(images, UPRIGHT)
    augmentation = Augmentation(crop_positions=1, reflections=False, pca_color="none")
    batches = pipeline.training(train, known, augmentation, size=224, batch_size=3, seed=1, epoch=0)
    images, labels = next(iter(preprocessed(batches, known.mean_image)))
    centers = np.stack([decode_center(each, 224, orientation="apply") for each in FILES.values()])
    expected = centers - known.mean_image[16:240, 16:240]
    np.testing.assert_allclose(images, expected[labels.numpy()], atol=1e-4)
    model = AlexNet(3, "release2012", classifier_activation=None, width=1 / 16, devices=())
    served = ServedModel(model, [*"abc"], known.mean_image)
    for files in ([*FILES.values()], [FILES["a/1.jpg"]]):
        found = served.classify_files(tf.constant(files))["probabilities"]
        np.testing.assert_allclose(found, served.center_view(centers[: len(files)]), rtol=1e-4)
    # As they lie, statistics are of another set.
    plain, _ = sources.open_training(dataclasses.replace(data, orientation="ignore"))
    assert train.fingerprint() == f"{plain.fingerprint()} upright" and plain.orientation == "ignore"


def test_a_plain_graph_where_no_image_is_turned(tmp_path):
    files = {f"train/{name}/1.jpg": turned(photo(8, 8), 1) for name in ("n00000001", "n00000002")}
    files |= {name.replace("train", "val"): turned(photo(9, 8), 8) for name in files}
    data = DataConfig(dataset="folder", data_dir=str(write_folder(tmp_path / "imagenet", files)), orientation="apply")
    assert [source.orientation for source in sources.open_training(data)] == ["ignore", "apply"]
    # Classes of ImageNet are left as the authors had them.
    data = dataclasses.replace(data, orientation="auto")
    assert [source.orientation for source in sources.open_training(data)] == ["ignore", "ignore"]


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
def test_prepared_folders_say_how_they_were_turned(folder, tmp_path, capsys, encoding):
    out, data = str(tmp_path / "out"), DataConfig(dataset="folder", data_dir=folder)
    settings = prepare.Settings(encoding=encoding)
    prepare.prepare(*sources.open_training(data), out, settings)
    data = DataConfig(dataset="records", data_dir=out)
    train, val = sources.open_training(data)
    ((images,), _) = next(iter(pipeline.evaluation_batches(val, (256,), batch_size=3)))
    for expected in UPRIGHT.astype(int):
        differences = [np.abs(image - expected).mean() for image in images.numpy()]
        assert min(differences) <= (0 if encoding == "raw" else 8)
    assert statistics.load(f"{out}/{records.STATISTICS}").fingerprint == train.fingerprint()
    said = refusal(capsys, lambda: sources.open_training(dataclasses.replace(data, orientation="ignore")))
    assert said.startswith(
        f"train: --orientation=ignore: {out} was prepared with --orientation=apply; prepare the image"
    )
    with pytest.raises(prepare.UsageError, match="prepared with --orientation=apply; prepare into another"):
        prepare.prepare(*sources.open_folder(folder), out, settings)
