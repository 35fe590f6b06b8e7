"""TFRecord files as a source: orders, places, and what is read of them."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from keras_alexnet.data import records
from keras_alexnet.data.records import RecordSource, of_builder
from tests.data.conftest import operations, refusal

LENGTHS = (7, 1, 40, 12)  # records of the files
COUNT = sum(LENGTHS)


def example(number):
    features = {
        "photo": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"image %d" % number])),
        "kind": tf.train.Feature(int64_list=tf.train.Int64List(value=[number % 3])),
        "more": tf.train.Feature(bytes_list=tf.train.BytesList(value=[b"not asked for"])),
    }
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder, numbers = tmp_path_factory.mktemp("records"), iter(range(COUNT))
    paths = []
    for file, length in enumerate(LENGTHS):
        paths.append(str(folder / f"set-train.tfrecord-{file:05d}-of-00004"))
        with tf.io.TFRecordWriter(paths[-1]) as writer:
            for _ in range(length):
                writer.write(example(next(numbers)))
    return RecordSource(
        name="set train",
        identity="set/1.0.0 train",
        paths=tuple(paths),
        first=(0,) * len(LENGTHS),
        ends=LENGTHS,
        image_key="photo",
        label_key="kind",
        class_names=("a", "b", "c"),
        shuffle_buffer=16,
    )


@pytest.fixture(autouse=True)
def short_stretches(monkeypatch):
    """So that files of forty records are long."""
    monkeypatch.setattr(records, "_STRETCH", 6)


def numbers_of(source, **options):
    """The numbers of the images, in the order in which they come."""
    found = []
    for name, image, label in source.items(**options).map(source.loader()).as_numpy_iterator():
        number = int(image.split()[1])
        assert label == number % 3
        file = int(np.searchsorted(np.cumsum(LENGTHS), number, side="right"))
        assert name.decode() == f"set-train.tfrecord-{file:05d}-of-00004__{number - sum(LENGTHS[:file])}"
        found.append(number)
    return found


def test_in_the_order_of_the_files(source):
    assert numbers_of(source) == list(range(COUNT))
    assert [source.name_of(*item) for item in source.items()] == list(source.names())
    for start in (1, 7, 8, 30, COUNT - 1, COUNT):
        assert numbers_of(source, start=start) == list(range(start, COUNT))


@pytest.mark.parametrize("buffer", [1, 5, 16, 59, 1000])
def test_mixed_orders(source, buffer):
    source = dataclasses.replace(source, shuffle_buffer=buffer)
    one, again, later, other = (numbers_of(source, order=order) for order in ((1, 2), (1, 2), (1, 3), (2, 2)))
    assert one == again
    for order in (one, later, other):
        assert sorted(order) == list(range(COUNT))
    assert one != later and one != other and later != other
    # An epoch is mixed by file too: the records of the long one are spread.
    assert np.ptp([place for place, number in enumerate(one) if 8 <= number < 48]) > 45
    # Around where windows and stretches begin, inside them, at the end, and beyond it.
    for start in (1, 5, 15, 16, 17, 32, 60, 61) if buffer in (5, 16) else (4, 33):
        assert numbers_of(source, order=(1, 2), start=start) == one[start:]


def test_a_window_is_mixed_as_a_whole(source):
    # There are 12 stretches to begin with; mixed as a whole, a window can begin with any of its records.
    firsts = [int(next(iter(source.items(order=(1, epoch))))[0]) for epoch in range(16)]
    assert len(set(firsts)) > 12


def test_every_window_is_mixed_in_its_own_way(source, monkeypatch):
    # One stretch, whose windows of 8 are one after the other.
    monkeypatch.setattr(records, "_STRETCH", 1000)
    source = dataclasses.replace(source, first=(0, 0, 0, 0), ends=(0, 0, 40, 0), shuffle_buffer=8)
    windows = np.reshape(numbers_of(source, order=(1, 2)), (5, 8)) - 8
    assert [sorted(window) for window in windows] == np.arange(40).reshape(5, 8).tolist()
    assert len({tuple(window % 8) for window in windows}) == 5


def test_a_dataset_repeats_itself(source):
    dataset = source.items(order=(1, 2))
    one, again = ([int(place) for place, _ in dataset] for _ in range(2))
    assert one == again


WITHOUT = {"in_order": (None, 16), "mixed": ((4, 5), 16), "small_windows": ((4, 5), 5), "one_window": ((4, 5), 1000)}


@pytest.mark.parametrize("order, buffer", WITHOUT.values(), ids=WITHOUT)
def test_without_some(source, order, buffer):
    source = dataclasses.replace(source, shuffle_buffer=buffer)
    out = [source.names()[index] for index in (0, 7, 8, 20, 21, 22, 59)]
    rest = source.without(out[:3]).without(out[3:])
    kept = [number for number in range(COUNT) if number not in (0, 7, 8, 20, 21, 22, 59)]
    whole = numbers_of(rest, order=order)
    assert sorted(whole) == kept and rest.count == len(kept)
    assert len(rest.names()) == rest.count and not set(rest.names()) & set(out)
    assert rest.fingerprint() != source.fingerprint()
    for start in (1, 13, 14, 27, 53):
        assert numbers_of(rest, order=order, start=start) == whole[start:]


def test_without_a_whole_window(source):
    whole = numbers_of(source, order=(1, 2))
    names = dict(enumerate(source.names()))
    rest = source.without(names[number] for number in whole[16:32])
    for start in (0, 15, 16, 17):
        assert numbers_of(rest, order=(1, 2), start=start) == [*whole[:16], *whole[32:]][start:]
    nothing = source.without(source.names())
    assert nothing.count == 0 and numbers_of(nothing) == numbers_of(nothing, order=(1, 2), start=1) == []


def test_parts_of_files(source):
    part = dataclasses.replace(source, first=(3, 0, 10, 12), ends=(5, 1, 20, 12))
    expected = [3, 4, 7, *range(18, 28)]
    assert numbers_of(part) == expected and part.count == len(part.names()) == 13
    mixed = numbers_of(part, order=(1, 1))
    assert sorted(mixed) == expected
    assert numbers_of(part, order=(1, 1), start=4) == mixed[4:]


@pytest.mark.parametrize("order", [None, (1, 2)], ids=["in_order", "mixed"])
def test_without_some_of_a_file_that_is_there_twice(source, order):
    # As of train[:5]+train[6:20] of one file.
    path = source.paths[2]
    twice = dataclasses.replace(source, paths=(path, path), first=(0, 6), ends=(5, 20))
    rest = twice.without([twice.names()[2], twice.names()[7]])
    kept = [0, 1, 3, 4, 6, 7, *range(9, 20)]
    assert sorted(int(place) % 2**32 for place, _ in rest.items(order=order)) == kept
    assert rest.count == len(rest.names()) == len(kept)


def test_nothing_before_the_window_is_read(source, tmp_path):
    order, start = (1, 2), 40
    whole = numbers_of(source, order=order)
    # Damage every record of the windows before the one that the place is in (16 records each).
    before = set(whole[: start // 16 * 16])
    paths = []
    for file, path in enumerate(source.paths):
        with open(path, "rb") as opened:
            content = bytearray(opened.read())
        place = 0
        for number in range(sum(LENGTHS[:file]), sum(LENGTHS[: file + 1])):
            length = int.from_bytes(content[place : place + 8], "little")
            if number in before:
                content[place + 12] ^= 255
            place += 12 + length + 4
        paths.append(str(tmp_path / path.rpartition("/")[2]))
        (tmp_path / paths[-1]).write_bytes(content)
    damaged = dataclasses.replace(source, paths=tuple(paths))
    assert numbers_of(damaged, order=order, start=start) == whole[start:]
    with pytest.raises(tf.errors.DataLossError):
        numbers_of(damaged, order=order)


def test_files_before_the_window_need_not_be_there(source, tmp_path):
    gone = [str(tmp_path / path.rpartition("/")[2]) for path in source.paths[:2]]
    rest = dataclasses.replace(source, paths=(*gone, *source.paths[2:]))
    assert numbers_of(rest, start=16) == list(range(16, COUNT))
    with pytest.raises(tf.errors.NotFoundError):
        numbers_of(rest, start=15)


def test_no_python_in_the_graph(source):
    dataset = source.items(order=(1, 2)).map(source.loader())
    assert not {name for name in operations(dataset) if "pyfunc" in name.lower()}


def test_other_formats_are_refused(capsys):
    info = SimpleNamespace(
        splits={"train": SimpleNamespace(file_instructions=[])}, file_format=SimpleNamespace(value="array_record")
    )
    line = refusal(capsys, lambda: of_builder(SimpleNamespace(info=info), "mine", "train", "image", "label", 10))
    assert line.startswith("train: --dataset=mine: is stored as array_record, and only tfrecord is read; ")


@pytest.mark.parametrize("parts", [2, 3, 5])
@pytest.mark.parametrize("order", [None, (3, 1)])
def test_parts_are_the_whole_and_share_nothing(source, order, parts):
    whole = source.without([source.names()[5], source.names()[30]])
    found = [numbers_of(whole, order=order, part=(part, parts)) for part in range(parts)]
    assert sorted(sum(found, [])) == sorted(numbers_of(whole))
    assert [len(each) for each in found] == [whole.part_count(order, (part, parts)) for part in range(parts)]
    assert max(map(len, found)) - min(map(len, found)) <= 6  # a stretch
    # Each goes on at a place of its own.
    for part, each in enumerate(found):
        assert numbers_of(whole, order=order, part=(part, parts), start=4) == each[4:]


def test_parts_change_from_epoch_to_epoch(source):
    first, second = (set(numbers_of(source, order=(3, epoch), part=(0, 2))) for epoch in (0, 1))
    assert first != second
