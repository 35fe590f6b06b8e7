"""Raw images read at their places, against NumPy slices of the same numbers."""

import os

import numpy as np
import pytest
import tensorflow as tf

from keras_alexnet.data import pipeline
from keras_alexnet.data.augmentation import Augmentation, draws
from keras_alexnet.data.raw import RawSource
from keras_alexnet.data.statistics import Statistics, compute, summarize

COUNT = 23
JUNK = b"something else than pixels"


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (COUNT, 256, 256, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def source(images, tmp_path_factory):
    """Two files with other bytes between the images."""
    folder = tmp_path_factory.mktemp("raw")
    files, offsets = [], []
    for file, name in enumerate(("a", "b")):
        with open(folder / name, "wb") as written:
            for image in images[file::2]:
                written.write(JUNK)
                files.append(file)
                offsets.append(written.tell())
                written.write(image.tobytes())
    return RawSource(
        name="records train",
        identity="a hash",
        paths=(str(folder / "a"), str(folder / "b")),
        files=np.array(files, np.int32),
        offsets=np.array(offsets, np.int64),
        labels=(np.arange(COUNT) % 3).astype(np.int32),
        class_names=("x", "y", "z"),
        label_counts=(8, 8, 7),
    )


@pytest.fixture(scope="module")
def stored(images):
    """The images in the order of the source."""
    return np.concatenate([images[0::2], images[1::2]])


def items_of(source, **options):
    return list(source.items(**options).map(source.loader()).as_numpy_iterator())


def test_images_names_and_labels(source, stored):
    items = items_of(source)
    assert [label for _, _, label in items] == source.labels.tolist()
    assert tuple(name.decode() for name, _, _ in items) == source.names()
    assert source.names()[:2] == (f"a@{len(JUNK)}", f"a@{2 * len(JUNK) + 196608}")
    np.testing.assert_array_equal(np.stack([image for _, image, _ in items]), stored)
    assert [source.name_of(*item) for item in source.items()] == list(source.names())


def test_orders(source):
    plain, one, again, other = (
        [name for name, _, _ in items_of(source, order=order)] for order in (None, (1, 2), (1, 2), (1, 3))
    )
    assert one == again and one != plain and one != other
    assert sorted(one) == sorted(plain) == sorted(other)
    for start in (1, 10, COUNT):
        assert [name for name, _, _ in items_of(source, order=(1, 2), start=start)] == one[start:]


def test_windows(source, stored):
    rng = np.random.default_rng(1)
    rows, columns = rng.integers(0, 33, (2, 40)).astype(np.int32)
    rows[:4], columns[:4] = (0, 0, 32, 32), (0, 32, 0, 32)
    indices, reflected = rng.integers(0, COUNT, 40), rng.integers(0, 2, 40).astype(np.int32)
    found = source.window_reader(224)(*map(tf.constant, (indices, rows, columns, reflected))).numpy()
    assert (found.shape, found.dtype) == ((40, 224, 224, 3), np.uint8)
    for image, index, row, column, turned in zip(found, indices, rows, columns, reflected, strict=True):
        expected = stored[index, row : row + 224, column : column + 224]
        np.testing.assert_array_equal(image, expected[:, ::-1] if turned else expected)


@pytest.mark.parametrize("aligned", [False, True], ids=["center", "aligned"])
def test_training_batches(source, stored, aligned):
    mean = np.random.default_rng(2).uniform(90, 160, (256, 256, 3)).astype(np.float32)
    statistics = Statistics(mean, np.zeros(3), np.eye(3), COUNT)
    augmentation = Augmentation(pca_color="none", aligned_mean=aligned)
    settings = {"size": 224, "batch_size": 10, "seed": 5, "epoch": 2}
    batches = list(pipeline.training(source, statistics, augmentation, **settings).as_numpy_iterator())
    assert [len(labels) for _, labels in batches] == [10, 10, 3]
    order = [int(index) for (index,) in source.items(order=(5, 2)).as_numpy_iterator()]
    views = draws(5, 2, 0, 32, 33).take(COUNT).as_numpy_iterator()
    found = [(image, label) for images, labels in batches for image, label in zip(images, labels, strict=True)]
    for (image, label), index, (row, column, turned, *_) in zip(found, order, views, strict=True):
        row, column = int(row), int(column)
        expected = stored[index, row : row + 224, column : column + 224].astype(np.float32)
        part = mean[row : row + 224, column : column + 224] if aligned else mean[16:240, 16:240]
        if turned:
            expected, part = expected[:, ::-1], part[:, ::-1] if aligned else part
        np.testing.assert_array_equal(image, expected - part)
        assert label == source.labels[index]
    for start in (3, 10):
        tail = list(pipeline.training(source, statistics, augmentation, **settings, start=start).as_numpy_iterator())
        np.testing.assert_array_equal(
            np.concatenate([images for images, _ in tail]), np.stack([image for image, _ in found[start:]])
        )


def test_center_view_and_statistics(source, stored):
    statistics = compute(source)
    np.testing.assert_allclose(statistics.mean_image, stored.mean(0), atol=1e-4)
    assert (statistics.count, statistics.label_counts, statistics.skipped) == (COUNT, (8, 8, 7), ())
    assert summarize(source).label_counts == (8, 8, 7)
    batches = list(pipeline.center_view(source, statistics, size=224, batch_size=9).as_numpy_iterator())
    found = np.concatenate([images for images, _ in batches])
    expected = stored[:, 16:240, 16:240] - statistics.mean_image[16:240, 16:240]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_without(source):
    out = source.names()[3:5]
    rest = source.without(out)
    assert (rest.count, rest.label_counts) == (COUNT - 2, ())
    assert rest.names() == tuple(name for name in source.names() if name not in out)
    assert source.without(()) is source
    assert rest.fingerprint() != source.fingerprint()


def test_a_file_that_is_too_short_or_gone(source, tmp_path):
    import dataclasses
    import shutil

    for path in source.paths:
        shutil.copy(path, tmp_path)
    copy = dataclasses.replace(source, paths=tuple(str(tmp_path / name) for name in ("a", "b")))
    with open(tmp_path / "b", "r+b") as file:
        file.truncate(100_000)
    with pytest.raises(tf.errors.OpError, match=r"b: ends before the image at byte \d+ does"):
        items_of(copy)
    # Whole rows of a window may still be there; what is not is never made up.
    zero, index = tf.zeros([1], tf.int32), tf.constant([12], tf.int64)
    np.testing.assert_array_equal(
        copy.window_reader(64)(index, zero, zero, zero), source.window_reader(64)(index, zero, zero, zero)
    )
    os.unlink(tmp_path / "b")
    with pytest.raises(tf.errors.OpError, match="No such file"):
        items_of(copy)
    with pytest.raises(OSError):
        copy.check_readable(copy.names()[-1])
    copy.check_readable(copy.names()[0])
