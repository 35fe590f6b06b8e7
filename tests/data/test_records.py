import dataclasses
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_alexnet.data import pipeline, records
from keras_alexnet.data.augmentation import Augmentation, draws
from keras_alexnet.data.decoding import to_yuv420
from keras_alexnet.data.records import RawSource, RecordSource, YuvSource
from keras_alexnet.data.statistics import Statistics, compute
from keras_alexnet.errors import RunError
from tests.data.conftest import items_of, operations, preprocessed

LENGTHS = (7, 1, 40, 12)  # records of the files
COUNT = sum(LENGTHS)
STARTS = np.cumsum([0, *LENGTHS])


def example(number):
    features = {
        "photo": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"image %d" % number])),
        "kind": tf.train.Feature(int64_list=tf.train.Int64List(value=[number % 3])),
        "more": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"not asked for"])),
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder, numbers, paths = tmp_path_factory.mktemp("records"), iter(range(COUNT)), []
    for file, length in enumerate(LENGTHS):
        paths.append(str(folder / f"set-train.tfrecord-{file:05d}-of-00004"))
        with tf.io.TFRecordWriter(paths[-1]) as writer:
            for _ in range(length):
                writer.write(example(next(numbers)))
    ranges, classes = ((0,) * len(LENGTHS), LENGTHS), ("a", "b", "c")
    return RecordSource(
        "set/1.0.0 train", tuple(paths), *ranges, "photo", "kind", 16, name="set train", class_names=classes
    )


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch):
    """So that files of forty records are long."""
    monkeypatch.setattr(records, "_CHUNK", 6)


def numbers_of(source, **options):
    """The numbers of the images in order, by their places: tracing a loader takes time."""
    return [int(STARTS[place // 2**32] + place % 2**32) for place, _ in source.items(**options).as_numpy_iterator()]


def test_names_and_labels(source):
    for order in (None, (1, 2)):
        found = items_of(source, order=order)
        assert [int(image.split()[1]) for _, image, _ in found] == numbers_of(source, order=order)
        for name, image, label in found:
            number = int(image.split()[1])
            file = int(np.searchsorted(STARTS[1:], number, side="right"))
            assert name == f"set-train.tfrecord-{file:05d}-of-00004__{number - STARTS[file]}" and label == number % 3
    found = operations(source.items(order=(1, 2)).map(source.loader()))
    assert not [name for name in found if "pyfunc" in name.lower()]
    for start in (0, 8, COUNT):
        assert numbers_of(source, start=start) == list(range(start, COUNT))


@pytest.mark.parametrize("buffer", [1, 16])
def test_mixed_orders(source, buffer):
    source = dataclasses.replace(source, shuffle_buffer=buffer)
    dataset = source.items(order=(1, 2))
    one, again = ([int(STARTS[place // 2**32] + place % 2**32) for place, _ in dataset] for _ in range(2))
    later, other = (numbers_of(source, order=order) for order in ((1, 3), (2, 2)))
    assert one == again != later != other != one
    assert sorted(one) == sorted(later) == sorted(other) == list(range(COUNT))
    # The records of the long file are spread.
    assert np.ptp([place for place, number in enumerate(one) if 8 <= number < 48]) > 45
    # Around where windows and chunks begin, inside them, and beyond the end.
    for start in (1, 16, 17, 61) if buffer == 16 else (33,):
        assert numbers_of(source, order=(1, 2), start=start) == one[start:]


def test_a_window_is_shuffled_as_a_whole_and_in_its_own_way(source, monkeypatch):
    # One chunk, whose windows of 8 are one after the other.
    monkeypatch.setattr(records, "_CHUNK", 1000)
    source = dataclasses.replace(source, first=(0, 0, 0, 0), ends=(0, 0, 40, 0), shuffle_buffer=8)
    windows = np.reshape(numbers_of(source, order=(1, 2)), (5, 8)) - 8
    assert [sorted(window) for window in windows] == np.arange(40).reshape(5, 8).tolist()
    assert len({tuple(window % 8) for window in windows}) == 5


@pytest.mark.parametrize("order", [None, (4, 5)], ids=["in_order", "mixed"])
def test_without_some(source, order):
    source = dataclasses.replace(source, label_counts=(20, 20, 20))
    numbers = (0, 7, 8, 20, 21, 22, 59)
    out = [source.names()[index] for index in numbers]
    rest = source.without(out[:3]).without(out[3:])
    whole = numbers_of(rest, order=order)
    assert sorted(whole) == [number for number in range(COUNT) if number not in numbers] and rest.label_counts == ()
    assert len(rest.names()) == rest.count == len(whole) and not set(rest.names()) & set(out)
    assert rest.fingerprint() != source.fingerprint()
    for start in (13, 53):
        assert numbers_of(rest, order=order, start=start) == whole[start:]


def test_without_a_whole_window_and_some_of_parts_of_a_file(source):
    whole, names = numbers_of(source, order=(1, 2)), dict(enumerate(source.names()))
    rest = source.without(names[number] for number in whole[16:32])
    for start in (15, 16):
        assert numbers_of(rest, order=(1, 2), start=start) == [*whole[:16], *whole[32:]][start:]
    nothing = source.without(source.names())
    assert nothing.count == 0 and numbers_of(nothing) == numbers_of(nothing, order=(1, 2), start=1) == []
    # As of train[:5]+train[6:20] of one file.
    path = source.paths[2]
    twice = dataclasses.replace(source, paths=(path, path), first=(0, 6), ends=(5, 20))
    rest = twice.without([twice.names()[2], twice.names()[7]])
    kept = [0, 1, 3, 4, 6, 7, *range(9, 20)]
    assert sorted(int(place) % 2**32 for place, _ in rest.items(order=(1, 2))) == kept and rest.count == len(kept)


@pytest.mark.parametrize("order, parts", [(None, 2), ((3, 1), 3)])
def test_parts_are_the_whole_and_share_nothing(source, order, parts):
    whole = source.without([source.names()[5], source.names()[30]])
    found = [numbers_of(whole, order=order, part=(part, parts)) for part in range(parts)]
    assert sorted(sum(found, [])) == sorted(numbers_of(whole))
    assert [len(each) for each in found] == [whole.part_count(order, (part, parts)) for part in range(parts)]
    assert max(map(len, found)) - min(map(len, found)) <= 6  # a chunk
    assert numbers_of(whole, order=order, part=(1, parts), start=4) == found[1][4:]
    if order:
        assert set(found[0]) != set(numbers_of(whole, order=(3, 2), part=(0, parts)))  # others in another epoch


IMAGES = 13
JUNK = b"something else than pixels"


@pytest.fixture(scope="module")
def stored():
    return np.random.default_rng(0).integers(0, 256, (IMAGES, 256, 256, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def raw(stored, tmp_path_factory):
    """Two files with other bytes between the images, 7 in the first."""
    folder, offsets = tmp_path_factory.mktemp("raw"), []
    for name, images in (("a", stored[:7]), ("b", stored[7:])):
        with open(folder / name, "wb") as file:
            for image in images:
                file.write(JUNK)
                offsets.append(file.tell())
                file.write(image.tobytes())
    files, labels = np.array([0] * 7 + [1] * 6, np.int32), (np.arange(IMAGES) % 3).astype(np.int32)
    paths, places = (str(folder / "a"), str(folder / "b")), np.array(offsets, np.int64)
    return RawSource(
        "a hash",
        paths,
        files,
        places,
        labels,
        name="records train",
        class_names=("x", "y", "z"),
        label_counts=(5, 4, 4),
    )


def test_raw_training_batches(raw, stored):
    mean = np.random.default_rng(2).uniform(90, 160, (256, 256, 3)).astype(np.float32)
    statistics = Statistics(mean, np.zeros(3), np.eye(3), IMAGES)
    settings = {"augmentation": Augmentation(pca_color="none"), "size": 224, "batch_size": 5, "seed": 5, "epoch": 2}
    batches = list(preprocessed(pipeline.training(raw, statistics, **settings), mean).as_numpy_iterator())
    assert [len(labels) for _, labels in batches] == [5, 5, 3]
    order = [int(index) for (index,) in raw.items(order=(5, 2)).as_numpy_iterator()]
    views = draws(5, 2, 0, 32, 33).take(IMAGES).as_numpy_iterator()
    found = [(image, label) for images, labels in batches for image, label in zip(images, labels, strict=True)]
    for (image, label), index, (row, column, turned, *_) in zip(found, order, views, strict=True):
        expected = stored[index, int(row) : int(row) + 224, int(column) : int(column) + 224].astype(np.float32)
        np.testing.assert_array_equal(image, (expected[:, ::-1] if turned else expected) - mean[16:240, 16:240])
        assert label == raw.labels[index]
    tail = list(preprocessed(pipeline.training(raw, statistics, **settings, start=3), mean).as_numpy_iterator())
    expected = np.stack([image for image, _ in found[3:]])
    np.testing.assert_array_equal(np.concatenate([images for images, _ in tail]), expected)


def test_yuv_crops_are_those_of_the_whole_image_and_close_to_its_pixels(stored, tmp_path):
    """Pillow's own conversion, with each color the mean of 2x2 pixels and then as wide as those."""
    smooth = stored[:, ::32, ::32].repeat(32, 1).repeat(32, 2)[:3]  # colors that a mean of 2x2 keeps
    images = np.concatenate([smooth, stored[:2]])
    with open(tmp_path / "a", "wb") as file:
        for image in images:
            file.write(to_yuv420(image).numpy().tobytes())
    offsets, labels = np.arange(5, dtype=np.int64) * 98_304, np.zeros(5, np.int32)
    source = YuvSource("id", (str(tmp_path / "a"),), labels, offsets, labels, name="records train", class_names=("x",))
    whole = source.window_reader(256)(offsets // 98_304, labels, labels).numpy()
    assert np.abs(whole[:3].astype(int) - smooth).max() <= 2
    for image, found in zip(images[3:], whole[3:], strict=True):
        luma, *colors = Image.fromarray(image).convert("YCbCr").split()
        halves = [color.reduce(2).resize((256, 256), Image.Resampling.NEAREST) for color in colors]
        expected = np.asarray(Image.merge("YCbCr", [luma, *halves]).convert("RGB"))
        assert np.abs(found.astype(int) - expected).max() <= 5  # Pillow rounds before it takes the means
    places = np.array([[0, 1, 2, 31, 32], [1, 0, 31, 2, 32]], np.int32)
    crops = source.window_reader(224)(np.arange(5), *places).numpy()
    for crop, image, row, column in zip(crops, whole, *places, strict=True):
        np.testing.assert_array_equal(crop, image[row : row + 224, column : column + 224])


def test_a_raw_file_that_is_too_short_or_gone(raw, tmp_path):
    for path in raw.paths:
        shutil.copy(path, tmp_path)
    copy = dataclasses.replace(raw, paths=tuple(str(tmp_path / name) for name in ("a", "b")))
    os.truncate(tmp_path / "b", 100_000)
    with pytest.raises(tf.errors.OpError, match=r"it ends before the image at byte \d+ does: .*/b"):
        items_of(copy)
    os.unlink(tmp_path / "b")
    with pytest.raises(RunError, match=r"records train/b@\d+: cannot be read .No such file"):
        compute(copy)
