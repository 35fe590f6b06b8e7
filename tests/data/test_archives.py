"""The archives of ImageNet 2012 as sources: what is read of them, and what changes while they are in use."""

import dataclasses
import os
import pickle
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import tensorflow as tf

from keras_alexnet.data import archives
from keras_alexnet.data.statistics import compute, summary
from keras_alexnet.errors import RunError
from tests.data.conftest import flat_source, items_of, names_of, refusal
from tests.data.tiny_imagenet import FORMATS, IDS, NAMES, TRAIN, VAL, columns_of, tar, train_tar, write


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("archives"))


@pytest.fixture(scope="module")
def train(folder):
    return archives.open_ilsvrc2012(str(folder))[0]


@pytest.fixture(scope="module")
def long(tmp_path_factory):
    """A source of 300 images in 3 classes: several chunks, the last one in part."""
    classes = {
        name: {f"{name}_{number}.JPEG": f"{name} {number}".encode() * 40 for number in range(100)} for name in IDS
    }
    return archives.open_ilsvrc2012(str(write(tmp_path_factory.mktemp("long"), train_tar(classes))))[0]


# What is found, and what is read.


def test_labels_follow_the_ids(folder):
    train, val = archives.open_ilsvrc2012(str(folder))
    assert (train.name, val.name) == ("train", "val")
    assert train.path == str(folder / archives.TRAIN_ARCHIVE) and val.path == str(folder / archives.VAL_ARCHIVE)
    assert train.wordnet_ids == val.wordnet_ids == IDS
    assert train.class_names == val.class_names == NAMES
    assert (train.count, val.count) == (9, 3)
    assert train.files == tuple(f"{name}/{name}_{number}.JPEG" for name in IDS for number in (1, 10, 3))
    assert train.names() is train.files
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert val.files == tuple(sorted(VAL))
    assert val.labels.tolist() == [0, 2, 1]
    assert train.other_files == val.other_files == ()
    dtypes = [getattr(train, column).dtype for column in ("labels", "offsets", "sizes")]
    assert dtypes == [np.int32, np.int64, np.int64]


@pytest.mark.parametrize("kind", FORMATS.values(), ids=FORMATS)
def test_bytes_are_those_that_went_in(tmp_path, kind):
    # Long names take headers of their own in two of the formats, and a prefix in the third.
    folder = "f" * 110
    long_name = "é" * 45 if kind == tarfile.USTAR_FORMAT else "é" * 120
    classes = TRAIN | {IDS[0]: TRAIN[IDS[0]] | {f"{folder}/{long_name}.jpeg": b"no image\0\0"}}
    images = {f"{folder}/{name}": content for name, content in VAL.items()}
    source, val = archives.open_ilsvrc2012(str(write(tmp_path, train_tar(classes, kind), tar(images, kind))))
    expected = {f"{name}/{file}": content for name, files in TRAIN.items() for file, content in files.items()}
    expected[f"{IDS[0]}/{long_name}.jpeg"] = b"no image\0\0"
    items = items_of(source)
    assert {name: content for name, content, _ in items} == expected
    assert [(name, label) for name, _, label in items] == list(zip(source.files, source.labels.tolist(), strict=True))
    assert source.sizes.tolist() == [len(expected[name]) for name in source.files]
    assert [(name, content) for name, content, _ in items_of(val)] == sorted(VAL.items())
    with open(source.path, "rb") as file:
        file.seek(source.offsets[4])
        assert file.read(source.sizes[4]) == expected[source.files[4]]


def test_element_types(train):
    assert [
        (spec.shape.rank, spec.dtype.name)
        for spec in train.items(order=(1, 2), start=3).map(train.loader()).element_spec
    ] == [
        (0, "string"),
        (0, "string"),
        (0, "int32"),
    ]


def test_where_tensorflow_datasets_wants_them(tmp_path, folder, monkeypatch):
    write(tmp_path / "downloads" / "manual")
    inner, _ = archives.open_ilsvrc2012(str(tmp_path))
    assert inner.path == str(tmp_path / "downloads" / "manual" / archives.TRAIN_ARCHIVE)
    outer, _ = archives.open_ilsvrc2012(str(write(tmp_path)))
    assert outer.path == str(tmp_path / archives.TRAIN_ARCHIVE)
    assert columns_of(inner) == columns_of(outer)
    monkeypatch.setenv("HOME", str(folder))
    assert archives.open_ilsvrc2012("~")[0].path == str(folder / archives.TRAIN_ARCHIVE)


def test_order_is_that_of_folders(tmp_path, long):
    files = {name.replace("/", "_"): b"" for name in long.files}
    folder_names = names_of(flat_source(tmp_path, files), order=(5, 3))
    assert [name.replace("/", "_") for name in names_of(long, order=(5, 3))] == folder_names
    items = items_of(long, order=(5, 3))
    assert sorted(items) == sorted(items_of(long)) and items != items_of(long)
    assert all(content == name[10:-5].replace("_", " ").encode() * 40 for name, content, _ in items)
    assert items_of(long, order=(5, 4)) != items


@pytest.mark.parametrize("order", [None, (5, 3)], ids=["in_order", "permuted"])
@pytest.mark.parametrize("start", [1, 64, 299, 300], ids=str)
def test_start_gives_the_tail(long, order, start):
    assert items_of(long, order=order, start=start) == items_of(long, order=order)[start:]


def test_nothing_is_read_of_what_is_left_out(long, monkeypatch):
    offsets = []
    pread = os.pread
    monkeypatch.setattr(os, "pread", lambda file, size, offset: offsets.append(offset) or pread(file, size, offset))
    tail = names_of(long, order=(5, 3), start=280)
    assert sorted(offsets) == sorted(long.offsets[long.files.index(name)] for name in tail)


def test_without(train):
    out = (train.files[0], train.files[4], "no/such.JPEG")
    rest = train.without(out)
    assert (rest.count, train.count) == (7, 9)
    assert (rest.class_names, rest.wordnet_ids, rest.path) == (train.class_names, train.wordnet_ids, train.path)
    assert items_of(rest) == [item for item in items_of(train) if item[0] not in out]
    assert sorted(names_of(rest, order=(1, 1))) == list(rest.files)
    assert columns_of(train.without(())) == columns_of(train)
    assert items_of(train.without(train.files)) == []


def test_fingerprint_tells_lists_apart(train):
    renamed = dataclasses.replace(train, files=("x.JPEG", *train.files[1:]))
    other_ids = dataclasses.replace(train, wordnet_ids=("n00000001", *IDS[1:]))
    changed = dataclasses.replace(train, sizes=train.sizes + 1)
    labeled = dataclasses.replace(train, labels=train.labels[::-1])
    sources = (train, renamed, other_ids, changed, labeled, train.without(train.files[:1]))
    assert len({source.fingerprint() for source in sources}) == 6
    elsewhere = dataclasses.replace(train, path="elsewhere", offsets=train.offsets + 512)
    assert elsewhere.fingerprint() == train.fingerprint()


def test_works_in_another_process(tmp_path, train):
    (tmp_path / "source.pickle").write_bytes(pickle.dumps(train))
    program = (
        "import pickle, sys; source = pickle.load(open(sys.argv[1], 'rb')); assert 'tensorflow' not in sys.modules;"
        "loaded = source.items(order=(1, 0)).map(source.loader());"
        "items = [(n.decode(), d, int(l)) for n, d, l in loaded.as_numpy_iterator()];"
        "pickle.dump((source.fingerprint(), items), open(sys.argv[2], 'wb'))"
    )
    paths = [str(tmp_path / name) for name in ("source.pickle", "items.pickle")]
    subprocess.run([sys.executable, "-c", program, *paths], check=True, capture_output=True, timeout=120)
    assert pickle.loads((tmp_path / "items.pickle").read_bytes()) == (
        train.fingerprint(),
        items_of(train, order=(1, 0)),
    )


def descriptors_of(path):
    there = [os.path.join("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
    return sum(os.path.exists(link) and os.path.realpath(link) == os.path.realpath(path) for link in there)


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="needs /proc to see open files")
@pytest.mark.parametrize("taken", [1, 100, 300], ids=str)
def test_the_archive_is_closed_at_the_end(long, taken):
    with open(long.path, "rb"):
        assert descriptors_of(long.path) == 1
    iterator = iter(long.items())
    for _ in range(taken):
        next(iterator)
    if taken == 300:
        assert next(iterator, None) is None
    del iterator
    assert descriptors_of(long.path) == 0


# What changes while it is in use.


@pytest.fixture
def shortened(tmp_path):
    """A source whose archive has lost the second half of image 7 of 9, and those behind it."""
    source, _ = archives.open_ilsvrc2012(str(write(tmp_path)))
    last = sorted(source.offsets)[-3]
    size = source.sizes[source.offsets.tolist().index(last)]
    os.truncate(source.path, last + size // 2)
    return source


def test_an_archive_that_became_shorter(shortened):
    gone = [name for name, offset in zip(shortened.files, shortened.offsets, strict=True) if name.startswith(IDS[1])]
    for name in shortened.files:
        if name in gone:
            with pytest.raises(OSError, match="ends before this file does") as caught:
                shortened.check_readable(name)
            assert caught.value.filename == shortened.path
        else:
            shortened.check_readable(name)
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        items_of(shortened)
    assert f"{shortened.path}: {gone[0]} cannot be read (the archive has changed" in caught.value.message
    # An error is of one image only, so that a pass that goes on without it finds the others.
    rest = [name.decode() for name, *_ in shortened.items().map(shortened.loader()).ignore_errors().as_numpy_iterator()]
    assert rest == [name for name in shortened.files if name not in gone]


@pytest.mark.parametrize("pass_over", [compute, summary])
def test_passes_tell_bad_images_from_bad_archives(tmp_path, shortened, pass_over):
    with pytest.raises(RunError, match=f"train/{IDS[1]}.*cannot be read .*the archive has changed"):
        pass_over(shortened)
    classes = TRAIN | {IDS[0]: {"broken.JPEG": b"no image", **TRAIN[IDS[0]]}}
    source, _ = archives.open_ilsvrc2012(str(write(tmp_path / "other", train_tar(classes))))
    assert pass_over(source).skipped == (f"{IDS[0]}/broken.JPEG",)


def test_an_archive_that_is_gone(tmp_path):
    source, _ = archives.open_ilsvrc2012(str(write(tmp_path)))
    os.unlink(source.path)
    with pytest.raises(FileNotFoundError):
        source.check_readable(source.files[0])
    with pytest.raises(tf.errors.OpError, match=archives.TRAIN_ARCHIVE):
        items_of(source)


def test_unofficial(folder):
    train, val = archives.open_ilsvrc2012(str(folder))
    assert archives.unofficial(train, val) == (
        "the official archives hold 1,281,167 training images in 1,000 classes and 50,000 validation images; "
        "these hold 9 training images in 3 classes and 3 validation images"
    )
    images, classes, val_images = archives.OFFICIAL_COUNTS
    official = dataclasses.replace(train, files=range(images), wordnet_ids=range(classes))
    assert archives.unofficial(official, dataclasses.replace(val, files=range(val_images))) is None


MISSING = {
    "nothing": ((), "there is no ILSVRC2012_img_train.tar in it, nor in its downloads/manual"),
    "no_train": (("val",), "there is no ILSVRC2012_img_train.tar in it, nor in its downloads/manual"),
    "no_val": (("train",), "there is no ILSVRC2012_img_val.tar beside ILSVRC2012_img_train.tar"),
}


@pytest.mark.parametrize("there, expected", MISSING.values(), ids=MISSING)
def test_missing_archives(tmp_path, capsys, there, expected):
    for name in there:
        (tmp_path / f"ILSVRC2012_img_{name}.tar").write_bytes(b"")
    (tmp_path / "downloads" / "manual" / archives.TRAIN_ARCHIVE).mkdir(parents=True)
    line = refusal(capsys, lambda: archives.open_ilsvrc2012(str(tmp_path)))
    remedy = "fetch it from https://image-net.org/download-images and leave it unopened"
    assert line == f"train: --data_dir={tmp_path}: {expected}; {remedy}"


def test_errors_of_the_system_name_the_archive(folder, monkeypatch):
    def broken(*_):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "pread", broken)
    with pytest.raises(OSError, match="Input/output error") as caught:
        archives.open_ilsvrc2012(str(folder))
    assert caught.value.filename == str(folder / archives.TRAIN_ARCHIVE)
