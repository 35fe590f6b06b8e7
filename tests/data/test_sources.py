"""Where images come from: class folders, and a small set of TensorFlow Datasets that is made here."""

import dataclasses
import os
from itertools import combinations
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow_datasets as tfds

from keras_alexnet.data import pipeline, records, shapes, sources
from keras_alexnet.data.augmentation import Augmentation
from keras_alexnet.data.statistics import Statistics, compute, summarize
from tests.data.conftest import encoded, items_of, names_of, photo, refusal, write_folder

IMAGE = encoded(photo(8, 8))


# Folders.


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three classes whose folders and files sort in another order than they are written."""
    files = {}
    for name, count in (("zebra", 7), ("Ant", 5), ("bee", 12)):
        for index in reversed(range(count)):
            files[f"train/{name}/{index:02d}.jpg"] = encoded(photo(8, 8, seed=len(files)))
        files[f"val/{name}/only.png"] = encoded(photo(8, 8, seed=len(files)), "PNG")
    return write_folder(tmp_path_factory.mktemp("folder"), files)


@pytest.fixture(scope="module")
def train(folder):
    return sources.open_folder(folder)[0]


def test_folder_labels_follow_the_names(folder):
    train, val = sources.open_folder(folder)
    assert (train.name, val.name) == ("train", "val")
    assert train.class_names == val.class_names == ("Ant", "bee", "zebra")
    assert (train.count, val.count) == (24, 3)
    assert train.labels == (0,) * 5 + (1,) * 12 + (2,) * 7
    assert train.sizes == tuple((folder / "train" / name).stat().st_size for name in train.files)
    assert train.files[:2] == (os.path.join("Ant", "00.jpg"), os.path.join("Ant", "01.jpg"))
    assert train.files == train.names() == tuple(sorted(train.files))
    assert val.files == tuple(os.path.join(name, "only.png") for name in ("Ant", "bee", "zebra"))


def test_folder_gives_the_bytes_of_its_files(folder, train):
    items = items_of(train)
    assert len(items) == train.count
    for (name, data, label), expected, number in zip(items, train.files, train.labels, strict=True):
        assert (name, label) == (expected, number)
        assert data == (folder / "train" / name).read_bytes()


def test_folder_element_types(train):
    name, data, label = train.items(order=(1, 2), start=3).map(train.loader()).element_spec
    assert [(spec.shape.rank, spec.dtype.name) for spec in (name, data, label)] == [
        (0, "string"),
        (0, "string"),
        (0, "int32"),
    ]


def test_suffixes_hidden_and_other_files(tmp_path):
    listed = ["a.JPG", "b.jpeg", "c.PNG", "d.JPEG", "e.png", "f.jpg", "ä b.jpg"]
    others = ["Thumbs.db", "g.gif", "h.jpg.txt", "jpg"]
    hidden = [".DS_Store", "._a.jpg"]
    files = {f"{split}/cat/{name}": IMAGE for split in ("train", "val") for name in listed + others + hidden}
    files |= {
        "train/.cache/x.jpg": IMAGE,
        "train/cat/nested/x.jpg": IMAGE,
        "train/readme.txt": b"",
        "train/loose.jpg": IMAGE,
    }
    source, _ = sources.open_folder(write_folder(tmp_path, files))
    assert source.class_names == ("cat",)
    assert source.files == tuple(os.path.join("cat", name) for name in listed)
    assert source.other_files == tuple(os.path.join("cat", name) for name in others)
    assert [data for _, data, _ in items_of(source)] == [IMAGE] * len(listed)


def test_linked_folders_and_files_count(tmp_path):
    write_folder(tmp_path, {"store/one.jpg": IMAGE, "train/a/x.jpg": IMAGE, "val/a/x.jpg": IMAGE})
    (tmp_path / "train" / "b").symlink_to(tmp_path / "store")
    (tmp_path / "val" / "b").symlink_to(tmp_path / "store")
    (tmp_path / "train" / "a" / "y.jpg").symlink_to(tmp_path / "store" / "one.jpg")
    source, _ = sources.open_folder(tmp_path)
    assert source.files == tuple(map(os.path.normpath, ("a/x.jpg", "a/y.jpg", "b/one.jpg")))


GOOD = {"train/a/1.jpg": IMAGE, "train/b/1.jpg": IMAGE, "val/a/1.jpg": IMAGE, "val/b/1.jpg": IMAGE}
# (What of GOOD is left out, what is added, where None is an empty folder; what the message has to say.)
WRONG_FOLDERS = {
    "nothing": (["train", "val"], {}, "there is no folder {root}/train; it is to hold one folder per class"),
    "no_val": (["val"], {}, "there is no folder {root}/val; it is to hold one folder per class"),
    "val_is_a_file": (
        ["val"],
        {"val": b""},
        "there is no folder {root}/val; it is to hold one folder per class",
    ),
    "empty_train": (["train"], {"train": None}, "{root}/train holds no class folders"),
    "only_files": (["val"], {"val/1.jpg": IMAGE}, "{root}/val holds no class folders"),
    "only_hidden": (["val"], {"val/.a/1.jpg": IMAGE}, "{root}/val holds no class folders"),
    "empty_class": ([], {"train/c": None}, "{root}/train/c holds no images (.jpg, .jpeg, .png)"),
    "no_images_in_class": ([], {"val/c/1.gif": b""}, "{root}/val/c holds no images (.jpg, .jpeg, .png)"),
    "more_in_train": (
        [],
        {"train/d/1.jpg": IMAGE, "train/c/1.jpg": IMAGE},
        "train and val hold different classes (only in train: c, d)",
    ),
    "both_differ": (
        ["val/b"],
        {"val/c/1.jpg": IMAGE},
        "train and val hold different classes (only in train: b; only in val: c)",
    ),
}


@pytest.mark.parametrize("left_out, added, expected", WRONG_FOLDERS.values(), ids=WRONG_FOLDERS)
def test_wrong_folders(tmp_path, capsys, left_out, added, expected):
    kept = [name for name in GOOD if not any(f"{name}/".startswith(f"{part}/") for part in left_out)]
    root = write_folder(tmp_path, dict.fromkeys(kept, IMAGE) | added)
    line = refusal(capsys, lambda: sources.open_folder(str(root)))
    # The folder and what is wrong with it, or what it has to look like.
    assert line == f"train: --data_dir={root}: {expected.format(root=root)}"


def test_folder_that_is_not_there(tmp_path, capsys):
    root = tmp_path / "nowhere"
    line = refusal(capsys, lambda: sources.open_folder(str(root)))
    assert f"there is no folder {root}" in line


def test_names_have_to_be_text(tmp_path, capsys):
    root = write_folder(tmp_path, GOOD)
    try:
        (root / "val" / "a" / os.fsdecode(b"caf\xe9.jpg")).write_bytes(IMAGE)
    except OSError:
        pytest.skip("this file system knows no such names")
    line = refusal(capsys, lambda: sources.open_folder(str(root)))
    assert line.startswith(f"train: --data_dir={root}: val/") and "not UTF-8; rename it" in line


ORDERS = {"seed": ((1, 0), (2, 0)), "epoch": ((1, 0), (1, 1)), "swapped": ((1, 2), (2, 1))}


@pytest.mark.parametrize("first, second", ORDERS.values(), ids=ORDERS)
def test_folder_permutations(train, first, second):
    one, again, other = (items_of(train, order=order) for order in (first, first, second))
    assert one == again
    assert sorted(one) == sorted(other) == items_of(train)
    # Of 24 names, two permutations have one in the same place on average; a swap of a few has many more.
    assert sum(a == b for a, b in zip(one, other, strict=True)) < 8
    assert sum(a == b for a, b in zip(one, items_of(train), strict=True)) < 8


@pytest.mark.parametrize("order", [None, (5, 3)], ids=["in_order", "permuted"])
@pytest.mark.parametrize("start", [1, 10, 24], ids=str)
def test_folder_start_gives_the_tail(train, order, start):
    assert items_of(train, order=order, start=start) == items_of(train, order=order)[start:]


def test_folder_reads_nothing_of_what_it_leaves_out(folder, train, tmp_path):
    # The files of the first 20 places are not there; the tail is given all the same.
    order = (5, 3)
    tail = names_of(train, order=order)[20:]
    write_folder(tmp_path, {name: (folder / "train" / name).read_bytes() for name in tail})
    assert names_of(dataclasses.replace(train, root=str(tmp_path)), order=order, start=20) == tail


def test_folder_without(train):
    out = (train.files[0], train.files[6], train.files[-1], "no/such.jpg")
    rest = train.without(out)
    assert rest.count == 21 and train.count == 24
    assert rest.class_names == train.class_names and rest.root == train.root
    assert rest.sizes == tuple(train.sizes[train.files.index(name)] for name in rest.files)
    assert items_of(rest) == [item for item in items_of(train) if item[0] not in out]
    assert sorted(names_of(rest, order=(1, 1))) == list(rest.files)
    assert train.without(()) == train


def test_folder_fingerprint_tells_lists_apart(train):
    renamed = dataclasses.replace(train, files=("Ant/x.jpg", *train.files[1:]))
    other_classes = dataclasses.replace(train, class_names=("Ant", "bee", "zoo"))
    changed = dataclasses.replace(train, sizes=(*train.sizes[:-1], train.sizes[-1] + 1))
    fewer = train.without(train.files[:1])
    assert len({source.fingerprint() for source in (train, fewer, renamed, other_classes, changed)}) == 5
    assert train.fingerprint() == dataclasses.replace(train, root="elsewhere").fingerprint()


def test_open_shapes_draws_once(tmp_path, capsys):
    root = tmp_path / "shapes"
    train, val = sources.open_shapes(root, 2, 1, 0)
    assert train.class_names == val.class_names == shapes.CLASS_NAMES
    assert (train.count, val.count) == (20, 10)
    assert sources.open_shapes(root, 2, 1, 0) == (train, val)
    line = refusal(capsys, lambda: sources.open_shapes(root, 3, 1, 0))
    assert f"--data_dir={root}" in line and "delete it or choose another folder" in line


# TensorFlow Datasets.

CLASSES = ["wolf", "cat", "newt"]  # not in alphabetical order, which would have to stay as it is
SETS = {
    "tiny_validated": {"train": 24, "validation": 5, "test": 4},
    "tiny_tested": {"train": 20, "test": 4},
    "tiny_alone": {"train": 20},
    "tiny_numbered": {"train": 2},
    "tiny_unlabeled": {"train": 2},
    "tiny_texts": {"train": 2},
}


def features_of(name):
    """Features and supervised keys. The keys are not image and label, which must make no difference."""
    picture = tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg")
    label = tfds.features.ClassLabel(names=CLASSES)
    if name == "tiny_unlabeled":
        return {"photo": picture, "kind": label}, None
    if name == "tiny_numbered":
        return {"photo": picture, "kind": np.int64}, ("photo", "kind")
    if name == "tiny_texts":
        return {"photo": tfds.features.Text(), "kind": label}, ("photo", "kind")
    return {"photo": picture, "kind": label}, ("photo", "kind")


def info_of(builder, features, keys):
    features = tfds.features.FeaturesDict(features)
    return tfds.core.DatasetInfo(builder=builder, features=features, supervised_keys=keys)


def example_of(name, split, index, folder):
    """One picture, or a text; the label is index % 3."""
    if name == "tiny_texts":
        return {"photo": f"text {index}", "kind": 0}
    path = folder / f"{name}-{split}-{index}.jpg"
    path.write_bytes(encoded(photo(24 + index, 20, seed=len(split)), quality=71))
    return {"photo": str(path), "kind": index % 3 if name == "tiny_numbered" else CLASSES[index % 3]}


def prepare(name, data_dir, folder):
    """Writes a prepared set to data_dir; its class is not registered: its files are read."""
    features, keys = features_of(name)

    def examples(_, split):
        for index in range(SETS[name][split]):
            yield index, example_of(name, split, index, folder)

    members = {
        "__module__": __name__,
        "VERSION": tfds.core.Version("1.0.0"),
        "_info": lambda self: info_of(self, features, keys),
        "_split_generators": lambda self, _: {split: self._generate_examples(split) for split in SETS[name]},
        "_generate_examples": examples,
    }
    with tfds.core.registered.skip_registration():
        builder = type(tfds.core.naming.snake_to_camelcase(name), (tfds.core.GeneratorBasedBuilder,), members)
    builder(data_dir=data_dir).download_and_prepare(
        download_config=tfds.download.DownloadConfig(num_shards=2, try_download_gcs=False)
    )


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """data_dir with all of SETS; files, where {name}-{split}-{index}.jpg are."""
    data_dir, files = tmp_path_factory.mktemp("tfds"), tmp_path_factory.mktemp("files")
    for name in SETS:
        prepare(name, data_dir, files)
    return SimpleNamespace(data_dir=str(data_dir), files=files)


def open_set(prepared, name="tiny_validated", train_split=None, val_split=None, shuffle_buffer=100):
    return sources.open_tfds(name, prepared.data_dir, train_split, val_split, shuffle_buffer)


def index_of(prepared, data, name="tiny_validated", split="train"):
    """Which of the files holds these bytes."""
    paths = [prepared.files / f"{name}-{split}-{index}.jpg" for index in range(SETS[name][split])]
    return [path.read_bytes() for path in paths].index(data)


def test_tfds_gives_the_bytes_that_went_in(prepared):
    for source, split in zip(open_set(prepared), ("train", "validation"), strict=True):
        items = items_of(source)
        indices = [index_of(prepared, data, split=split) for _, data, _ in items]
        assert source.count == len(items) == SETS["tiny_validated"][split]
        assert sorted(indices) == list(range(source.count))
        assert [label for _, _, label in items] == [index % 3 for index in indices]
        assert source.class_names == tuple(CLASSES)
        assert source.other_files == ()


def test_tfds_element_types(prepared):
    source = open_set(prepared)[0]
    specs = source.items(order=(1, 2), start=3).map(source.loader()).element_spec
    assert [(spec.shape.rank, spec.dtype.name) for spec in specs] == [
        (0, "string"),
        (0, "string"),
        (0, "int32"),
    ]


def test_tfds_names_are_those_of_the_images(prepared):
    train, val = open_set(prepared)
    assert list(train.names()) == names_of(train)
    assert len(set(train.names()) | set(val.names())) == train.count + val.count


SPLITS = {
    "validation_first": ("tiny_validated", None, None, ("train", 24), ("validation", 5)),
    "else_test": ("tiny_tested", None, None, ("train", 20), ("test", 4)),
    "else_a_fifth": ("tiny_alone", None, None, ("train[:80%]", 16), ("train[80%:]", 4)),
    "both_given": ("tiny_validated", "train[:50%]", "test", ("train[:50%]", 12), ("test", 4)),
    "only_train_given": ("tiny_validated", "train[4:]", None, ("train[4:]", 20), ("validation", 5)),
    "only_val_given": ("tiny_validated", None, "test", ("train", 24), ("test", 4)),
    "next_to_each_other": ("tiny_alone", "train[:11]", "train[11:]", ("train[:11]", 11), ("train[11:]", 9)),
    "sum": ("tiny_validated", "train+validation", "test", ("train+validation", 29), ("test", 4)),
}


@pytest.mark.parametrize("name, train_split, val_split, first, second", SPLITS.values(), ids=SPLITS)
def test_tfds_splits(prepared, name, train_split, val_split, first, second):
    opened = open_set(prepared, name, train_split, val_split)
    assert [(source.name.partition(" ")[2], source.count) for source in opened] == [first, second]
    names = [names_of(source) for source in opened]
    assert [len(part) for part in names] == [first[1], second[1]]
    assert not set(names[0]) & set(names[1])


def test_tfds_one_split_alone(prepared, capsys):
    source = sources.open_tfds_split("tiny_validated", prepared.data_dir, "train[:3]+test", 100)
    assert source.count == len(names_of(source)) == 7
    wrong = refusal(capsys, lambda: sources.open_tfds_split("tiny_validated", prepared.data_dir, "best", 100))
    assert wrong.startswith("train: --split=best: tiny_validated has the splits ")


PARTS = ("train", "train[3:17]", "train[9:11]", "train[10:]", "train[25%:75%]", "train[-4:]", "train[15:]+train[:5]")


@pytest.mark.parametrize("part", PARTS)
def test_tfds_parts_are_those_of_the_library(prepared, part):
    # Two files of ten images each.
    read = tfds.ReadConfig(interleave_cycle_length=1)
    skip = {"photo": tfds.decode.SkipDecoding()}
    builder = tfds.builder("tiny_alone", data_dir=prepared.data_dir)
    expected = builder.as_dataset(split=part, decoders=skip, read_config=read, as_supervised=True).as_numpy_iterator()
    source = records.of_builder(builder, "tiny_alone", part, "photo", "kind", 4)
    items = items_of(source)
    assert [(data, label) for _, data, label in items] == [(data, int(label)) for data, label in expected]
    assert source.count == len(items) and [name for name, _, _ in items] == list(source.names())
    assert sorted(items_of(source, order=(1, 2))) == sorted(items)
    assert items_of(source, start=2) == items[2:]


WRONG_SETS = {
    "unknown_set": (
        "no_such_set",
        None,
        None,
        "--dataset=no_such_set: ",
        "name of a TensorFlow Datasets set, folder, records or shapes",
    ),
    "no_name_at_all": ("not a name!", None, None, "--dataset=not a name!: ", "folder, records or shapes"),
    "unknown_version": ("tiny_alone:9.9.9", None, None, "--dataset=tiny_alone:9.9.9: ", ""),
    "unknown_version_of_a_known_set": ("mnist:9.9.9", None, None, "--dataset=mnist:9.9.9: ", "3.0.1"),
    "unknown_config": ("mnist/nothing", None, None, "--dataset=mnist/nothing: ", ""),
    "unknown_train_split": ("tiny_alone", "dev", "train", "--train_split=dev: ", "has the splits train "),
    "unknown_val_split": (
        "tiny_tested",
        None,
        "validation",
        "--val_split=validation: ",
        "has the splits train, test ",
    ),
    "no_split_notation": ("tiny_alone", "train[:", "train[:1]", "--train_split=train[:: ", ""),
    "too_much_of_a_split": ("tiny_alone", "train[:300%]", "train", "--train_split=train[:300%]: ", ""),
    "empty_split": ("tiny_tested", None, "train[:0]", "--val_split=train[:0]: ", "has no images there"),
    "one_split_and_only_train_given": (
        "tiny_alone",
        "train[:50%]",
        None,
        "--dataset=tiny_alone: ",
        "give both --train_split and --val_split",
    ),
    "one_split_and_only_val_given": (
        "tiny_alone",
        None,
        "train[:50%]",
        "--dataset=tiny_alone: ",
        "give both --train_split and --val_split",
    ),
    "same_split_twice": ("tiny_alone", "train", "train", "--val_split=train: ", "keep them apart"),
    "one_image_in_both": (
        "tiny_alone",
        "train[:11]",
        "train[10:]",
        "--val_split=train[10:]: ",
        "keep them apart",
    ),
    "part_of_a_sum": ("tiny_tested", "train+test", None, "--val_split=test: ", "keep them apart"),
    "no_labels": (
        "tiny_unlabeled",
        None,
        None,
        "--dataset=tiny_unlabeled: ",
        "not a set of images with one label each",
    ),
    "numbers_for_labels": (
        "tiny_numbered",
        None,
        None,
        "--dataset=tiny_numbered: ",
        "not a set of images with one label each",
    ),
    "texts_for_images": (
        "tiny_texts",
        None,
        None,
        "--dataset=tiny_texts: ",
        "not a set of images with one label each",
    ),
}


@pytest.mark.parametrize("name, train_split, val_split, start, part", WRONG_SETS.values(), ids=WRONG_SETS)
def test_wrong_sets(prepared, capsys, name, train_split, val_split, start, part):
    line = refusal(capsys, lambda: open_set(prepared, name, train_split, val_split))
    assert line.startswith(f"train: {start}") and part in line


class FailingBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """Stands for a set that is not on the disk yet, and cannot be had."""

    VERSION = tfds.core.Version("1.0.0")
    contents = "tiny_validated"
    error = None

    def _info(self):
        features, keys = features_of(self.contents)
        return info_of(self, features, keys)

    def _split_generators(self, _):
        raise self.error

    def _generate_examples(self):
        raise NotImplementedError


@pytest.fixture
def failing(tmp_path, monkeypatch):
    """Opens a FailingBuilder whose class attributes are set as given."""
    monkeypatch.setattr(tfds, "builder", lambda name, data_dir: FailingBuilder(data_dir=data_dir))

    def open_it(**attributes):
        for name, value in attributes.items():
            monkeypatch.setattr(FailingBuilder, name, value)
        return sources.open_tfds("some_set", str(tmp_path), None, None, 10)

    return open_it


PREPARATION = {
    "no_network": (OSError("no route\nto host"), "could not be downloaded and prepared: no route to host"),
    "by_hand": (
        AssertionError("Put the files\ninto manual/."),
        "must be fetched by hand: Put the files into manual/.",
    ),
}


@pytest.mark.parametrize("error, expected", PREPARATION.values(), ids=PREPARATION)
def test_set_that_cannot_be_prepared(failing, capsys, error, expected):
    line = refusal(capsys, lambda: failing(error=error))
    assert line.startswith("train: --dataset=some_set: ") and expected in line


def test_set_without_labels_is_refused_before_it_is_downloaded(failing, capsys):
    line = refusal(capsys, lambda: failing(error=OSError("downloaded"), contents="tiny_unlabeled"))
    assert "is not a set of images with one label each" in line


@pytest.mark.parametrize("shuffle_buffer", [5, 1000], ids=["some", "all"])
def test_tfds_shuffling_repeats_and_is_complete(prepared, shuffle_buffer):
    train, _ = open_set(prepared, shuffle_buffer=shuffle_buffer)
    one, again = (items_of(train, order=(1, 0)) for _ in range(2))
    assert one == again
    plain = items_of(train)
    assert sorted(one) == sorted(plain) and one != plain


def test_tfds_orders_differ(prepared):
    train, _ = open_set(prepared)
    orders = [names_of(train, order=order) for order in (None, (1, 0), (2, 0), (1, 1), (1, 2), (2, 1))]
    for one, other in combinations(orders, 2):
        assert sum(a == b for a, b in zip(one, other, strict=True)) < 8  # 1 of 24 on average


@pytest.mark.parametrize("order", [None, (5, 3)], ids=["in_order", "shuffled"])
def test_tfds_start_gives_the_tail(prepared, order):
    train, _ = open_set(prepared, shuffle_buffer=6)
    whole = items_of(train, order=order)
    for start in (1, 10, 24):
        assert items_of(train, order=order, start=start) == whole[start:]


def test_tfds_without(prepared):
    train, _ = open_set(prepared)
    out = train.names()[2:5]
    rest = train.without(out[:1]).without(out[1:])
    assert (rest.count, train.count) == (21, 24)
    assert items_of(rest) == [item for item in items_of(train) if item[0] not in out]
    assert sorted(names_of(rest, order=(1, 1))) == sorted(set(train.names()) - set(out))
    tail = names_of(rest, order=(1, 1))[4:]
    assert names_of(rest, order=(1, 1), start=4) == tail and len(tail) == 17


def test_tfds_fingerprint_names_set_version_and_split(prepared):
    train, val = open_set(prepared)
    half, _ = open_set(prepared, train_split="train[:50%]")
    other, _ = open_set(prepared, "tiny_tested")
    assert len({source.fingerprint() for source in (train, val, half, other)}) == 4
    assert train.fingerprint() == open_set(prepared)[0].fingerprint()
    assert "tiny_validated/1.0.0" in train.fingerprint()


def test_tfds_set_goes_through_the_data_graph(prepared):
    train, val = open_set(prepared)
    statistics = compute(train)
    assert (statistics.count, statistics.skipped) == (24, ())
    assert summarize(val).label_counts == (2, 2, 1)
    still = Statistics(np.zeros((256, 256, 3), np.float32), np.zeros(3), np.eye(3), 24)
    settings = {"size": 224, "batch_size": 10, "seed": 1, "epoch": 2}
    epochs = [pipeline.training(train, still, Augmentation(), **settings) for _ in range(2)]
    whole, again = (list(epoch.as_numpy_iterator()) for epoch in epochs)
    assert [len(labels) for _, labels in whole] == [10, 10, 4]
    for (images, labels), (same_images, same_labels) in zip(whole, again, strict=True):
        np.testing.assert_array_equal(images, same_images)
        np.testing.assert_array_equal(labels, same_labels)
