import re
import time
from types import SimpleNamespace

import pytest
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import downloader

from keras_alexnet.data import records
from keras_alexnet.data.statistics import compute, summarize
from keras_alexnet.errors import UsageError
from tests.data.conftest import encoded, items_of, photo, refusal

CLASSES = ["wolf", "cat", "newt"]  # not in alphabetical order, which would have to stay as it is
SETS = {
    "tiny_validated": {"train": 24, "validation": 5, "test": 4},
    "tiny_tested": {"train": 20, "test": 4},
    "tiny_alone": {"train": 20},
    "tiny_texts": {"train": 2},
}


def features_of(name):
    image = tfds.features.Image(shape=(None, None, 3), encoding_format="jpeg")
    label = tfds.features.ClassLabel(names=["two\nlines"] if name == "tiny_broken" else CLASSES)
    return {"photo": tfds.features.Text() if name == "tiny_texts" else image, "kind": label}


def prepare(name, data_dir, folder):
    """Writes a prepared set; its class is not registered: its files are read."""

    def examples(_, split):
        for index in range(SETS[name][split]):
            path = folder / f"{name}-{split}-{index}.jpg"
            path.write_bytes(encoded(photo(24 + index, 20, seed=len(split)), quality=71))
            yield index, {"photo": str(path), "kind": CLASSES[index % 3]}

    def info(self):
        features = tfds.features.FeaturesDict(features_of(name))
        return tfds.core.DatasetInfo(builder=self, features=features, supervised_keys=("photo", "kind"))

    members = {
        "__module__": __name__,
        "VERSION": tfds.core.Version("1.0.0"),
        "_info": info,
        "_split_generators": lambda self, _: {split: self._generate_examples(split) for split in SETS[name]},
        "_generate_examples": examples,
    }
    with tfds.core.registered.skip_registration():
        builder = type(tfds.core.naming.snake_to_camelcase(name), (tfds.core.GeneratorBasedBuilder,), members)
    config = tfds.download.DownloadConfig(num_shards=2, try_download_gcs=False)
    builder(data_dir=data_dir).download_and_prepare(download_config=config)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """data_dir with all of SETS; files, where {name}-{split}-{index}.jpg are."""
    data_dir, files = tmp_path_factory.mktemp("tfds"), tmp_path_factory.mktemp("files")
    for name in SETS:
        prepare(name, data_dir, files)
    return SimpleNamespace(data_dir=str(data_dir), files=files)


def open_set(prepared, name="tiny_validated", train_split=None, val_split=None, shuffle_buffer=100):
    return records.open_tfds(name, prepared.data_dir, train_split, val_split, shuffle_buffer)


def test_bytes_labels_and_names(prepared):
    train, val = open_set(prepared)
    for source, split in ((train, "train"), (val, "validation")):
        items, paths = items_of(source), prepared.files.glob(f"tiny_validated-{split}-*.jpg")
        contents = [path.read_bytes() for path in sorted(paths, key=lambda path: int(path.stem.rpartition("-")[2]))]
        indices = [contents.index(data) for _, data, _ in items]
        assert source.count == len(items) == len(contents) and sorted(indices) == list(range(source.count))
        assert [label for _, _, label in items] == [index % 3 for index in indices]
        assert [name for name, _, _ in items] == list(source.names())
        assert (source.class_names, source.other_files, source.reason("x")) == (tuple(CLASSES), (), "")
    half, _ = open_set(prepared, train_split="train[:50%]")
    several = (train, val, half, open_set(prepared, "tiny_tested")[0])
    assert len({source.fingerprint() for source in several}) == 4 and "tiny_validated/1.0.0" in train.fingerprint()
    assert compute(train).label_counts == (8, 8, 8) and summarize(val).label_counts == (2, 2, 1)


SPLITS = {
    "else_test": ("tiny_tested", None, None, ("train", 20), ("test", 4)),
    "else_a_fifth": ("tiny_alone", None, None, ("train[:80%]", 16), ("train[80%:]", 4)),
    "next_to_each_other": ("tiny_alone", "train[:11]", "train[11:]", ("train[:11]", 11), ("train[11:]", 9)),
    "sum": ("tiny_validated", "train+validation", "test", ("train+validation", 29), ("test", 4)),
}


@pytest.mark.parametrize("name, train_split, val_split, first, second", SPLITS.values(), ids=SPLITS)
def test_splits(prepared, name, train_split, val_split, first, second):
    opened = open_set(prepared, name, train_split, val_split)
    assert [(source.name.partition(" ")[2], source.count) for source in opened] == [first, second]
    names = [source.names() for source in opened]
    assert not set(names[0]) & set(names[1])


@pytest.mark.parametrize("part", ["train[25%:75%]", "train[15:]+train[:5]"])
def test_one_split_has_the_images_that_the_library_has(prepared, capsys, part):
    # Two files of ten images each.
    options = {"read_config": tfds.ReadConfig(interleave_cycle_length=1), "as_supervised": True}
    builder = tfds.builder("tiny_alone", data_dir=prepared.data_dir)
    expected = builder.as_dataset(split=part, decoders={"photo": tfds.decode.SkipDecoding()}, **options)
    source = records.open_tfds_split("tiny_alone", prepared.data_dir, part, 4)
    items = items_of(source)
    assert [each[1:] for each in items] == [(data, int(label)) for data, label in expected.as_numpy_iterator()]
    assert [name for name, _, _ in items] == list(source.names())
    assert sorted(items_of(source, order=(1, 2))) == sorted(items)
    wrong = refusal(capsys, lambda: records.open_tfds_split("tiny_alone", prepared.data_dir, "best", 100))
    assert wrong.startswith("train: --split=best: tiny_alone has the splits ")


# (Set, --train_split, --val_split, what the message has to say.)
WRONG_SETS = {
    "unknown_set": ("no_such_set", None, None, "--dataset=no_such_set: .* Datasets set, folder, records or shapes"),
    "unknown_version": ("mnist:9.9.9", None, None, "--dataset=mnist:9.9.9: .*3.0.1"),
    "unknown_train_split": ("tiny_alone", "dev", "train", "--train_split=dev: .* has the splits train "),
    "unknown_val_split": ("tiny_tested", None, "best", "--val_split=best: .* has the splits train, test "),
    "empty_split": ("tiny_tested", None, "train[:0]", r"--val_split=train\[:0\]: .* has no images there"),
    "only_train_given": ("tiny_alone", "train[:50%]", None, "--dataset=tiny_alone: .*give both --train_split and"),
    "one_image_in_both": ("tiny_alone", "train[:11]", "train[10:]", r"--val_split=train\[10:\]: .* keep them apart"),
    "texts_for_images": ("tiny_texts", None, None, "--dataset=tiny_texts: .* images with one label each"),
}


@pytest.mark.parametrize("name, train_split, val_split, words", WRONG_SETS.values(), ids=WRONG_SETS)
def test_wrong_sets(prepared, capsys, name, train_split, val_split, words):
    assert re.match(f"train: {words}", refusal(capsys, lambda: open_set(prepared, name, train_split, val_split)))


def open_missing(monkeypatch, download_and_prepare):
    """Opens a set that is not on the disk yet."""
    info = SimpleNamespace(supervised_keys=("photo", "kind"), features=features_of("some_set"))
    builder = SimpleNamespace(info=info, download_and_prepare=download_and_prepare)
    monkeypatch.setattr(tfds, "builder", lambda name, data_dir: builder)
    records.open_tfds("some_set", None, None, None, 10)


def failing(error):
    raise error


def test_set_that_cannot_be_prepared(capsys, monkeypatch):
    disk, by_hand = OSError("no room\nleft"), AssertionError("Put the files\ninto manual/.")
    line = refusal(capsys, lambda: open_missing(monkeypatch, lambda: failing(disk)))
    assert line == "train: --dataset=some_set: could not be downloaded and prepared: no room left"
    line = refusal(capsys, lambda: open_missing(monkeypatch, lambda: failing(by_hand)))
    assert "must be fetched by hand: Put the files into manual/." in line


def test_without_a_network_one_line_comes_soon(tmp_path, monkeypatch, capfd, caplog):
    started, manager = time.monotonic(), tfds.download.DownloadManager(download_dir=tmp_path)
    with pytest.raises(UsageError, match="some_set: could not be downloaded and prepared: .*download.tensorfl"):
        open_missing(monkeypatch, lambda: manager.download("http://download.tensorflow.org/some.tgz"))
    assert time.monotonic() - started < 10
    assert "Retrying" not in caplog.text and "urllib3" not in capfd.readouterr().err
    # A server that never answers takes three times five seconds.
    assert downloader.MAX_RETRIES == 2 and downloader._open_with_requests.keywords["timeout"][0] == 5


def test_class_names_with_line_breaks_and_other_formats(capsys):
    info = SimpleNamespace(
        splits={"train": SimpleNamespace(file_instructions=[])},
        file_format=SimpleNamespace(value="tfrecord"),
        features=features_of("tiny_broken"),
    )

    def open_it():
        return records.of_builder(SimpleNamespace(info=info), "mine", "train", "photo", "kind", 10)

    assert "the class name two\\nlines has a line break in it" in refusal(capsys, open_it)
    info.file_format.value = "array_record"
    line = refusal(capsys, open_it)
    assert line.startswith("train: --dataset=mine: is stored as array_record, and only tfrecord is read; ")
