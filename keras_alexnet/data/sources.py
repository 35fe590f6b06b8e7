"""Where images come from: folders of class folders, TensorFlow Datasets, prepared records, the built-in shapes.

A source gives undecoded files: (name, JPEG or PNG bytes, label). Folders are listed without TensorFlow, so that a
wrong path is answered at once.
"""

import dataclasses
import hashlib
import os
from pathlib import Path

import numpy as np

from keras_alexnet.data import orders, records, shapes
from keras_alexnet.errors import RunError, UsageError

SUFFIXES = (".jpg", ".jpeg", ".png")


@dataclasses.dataclass(frozen=True)
class FolderSource:
    """Image files of class folders.

    Attributes:
        name: str, for messages.
        root: str, the folder that holds the class folders.
        class_names: tuple of str, in the order of the labels.
        files: tuple of str, paths below root, in the order of the labels and then of the names.
        labels: tuple of int, one a file.
        sizes: tuple of int, bytes, one a file.
        other_files: tuple of str, files whose names are not those of images; not read.
        stored: "" for files of any kind and size; "jpeg" or "raw" (numbers alone) where all are known to be 256x256.
        label_counts: tuple of int, images of each class; empty, since nobody has looked whether they are images.
    """

    name: str
    root: str
    class_names: tuple[str, ...]
    files: tuple[str, ...]
    labels: tuple[int, ...]
    sizes: tuple[int, ...]
    other_files: tuple[str, ...] = ()
    stored: str = ""
    label_counts: tuple[int, ...] = ()

    @property
    def count(self):
        return len(self.files)

    def names(self):
        """The names of all files, in order."""
        return self.files

    def name_of(self, index):
        """The name of an item of `items`, str."""
        return self.files[int(index)]

    def fingerprint(self):
        """A hash of the names of all classes and of the names and sizes of all files, str."""
        files = [f"{file} {size}" for file, size in zip(self.files, self.sizes, strict=True)]
        return hashlib.sha256("\n".join([*self.class_names, "", *files]).encode()).hexdigest()

    def check_readable(self, name):
        """Reads a file's bytes, whatever they are. Raises OSError when that fails."""
        Path(self.root, name).read_bytes()

    def without(self, names):
        """The same source without these files."""
        names = frozenset(names)
        kept = [index for index, file in enumerate(self.files) if file not in names]
        columns = {name: tuple(getattr(self, name)[index] for index in kept) for name in ("files", "labels", "sizes")}
        return dataclasses.replace(self, **columns)

    def items(self, order=None, start=0, part=orders.WHOLE):
        """What `loader()` makes images of, so that a file is read by whoever decodes it.

        Args:
            order: None for the order of the names, or a sequence of int that seeds a permutation of all files.
            start: int, how many to leave out at the beginning: nothing of them is read.
            part: (which, of how many) that share the set; of what the others have nothing is read.

        Returns:
            tf.data.Dataset of (index,), an int64 scalar.
        """
        return orders.dataset(self.count, order, start, part)

    def part_count(self, order, part):
        """How many images `items` has for a part, int."""
        return orders.part_count(self.count, part)

    def loader(self):
        """A function of the parts of an item -> (name, bytes, label), scalars: string, string, int32; of the graph."""
        import tensorflow as tf

        files, labels = tf.constant(self.files), tf.constant(self.labels, tf.int32)
        paths = tf.constant([os.path.join(self.root, file) for file in self.files])
        return lambda index: (
            tf.gather(files, index),
            tf.io.read_file(tf.gather(paths, index)),
            tf.gather(labels, index),
        )


def open_training(data, progress_bar=None):
    """The training and the validation set that a config names.

    Args:
        data: config.DataConfig.
        bar: function of a label that makes a progress bar, or None.

    Returns:
        (training, validation): sources.

    Raises:
        UsageError: there is no such set, or it is not as it should be.
    """
    if data.dataset == "folder":
        return open_folder(data.data_dir)
    if data.dataset == "shapes":
        data_dir = data.data_dir or os.path.join("data", "shapes")
        progress = progress_bar and progress_bar(f"drawing shapes into {data_dir}")
        return open_shapes(data_dir, data.shapes_train, data.shapes_val, data.shapes_seed, progress)
    if data.dataset == "records":
        return open_records(data.data_dir, data.shuffle_buffer)
    return open_tfds(data.dataset, data.data_dir, data.train_split, data.val_split, data.shuffle_buffer)


def open_folder(data_dir):
    """The splits of `DATA_DIR/train/CLASS/*.jpg` and `DATA_DIR/val/CLASS/*.jpg`.

    Returns:
        (training, validation): FolderSource; labels in the alphabetical order of the class names.

    Raises:
        UsageError: a folder is missing or empty, a class has no image, the two splits have other classes.
    """
    train, val = (list_split(Path(data_dir), split) for split in ("train", "val"))
    if train.class_names != val.class_names:
        only = [
            f"only in {split.name}: {', '.join(sorted(names))}"
            for split, names in (
                (train, set(train.class_names) - set(val.class_names)),
                (val, set(val.class_names) - set(train.class_names)),
            )
            if names
        ]
        raise UsageError(f"--data_dir={data_dir}: train and val hold different classes ({'; '.join(only)})")
    return train, val


def open_shapes(data_dir, train_per_class, val_per_class, seed, progress=None):
    """The built-in shapes, drawn into `data_dir` if they are not there yet. Returns and raises as `open_folder`."""
    try:
        shapes.make(data_dir, train_per_class, val_per_class, seed, progress)
    except FileExistsError as error:
        raise UsageError(f"--data_dir={data_dir}: {error}") from None
    return open_folder(data_dir)


def open_tfds(name, data_dir, train_split, val_split, shuffle_buffer):
    """Two splits of any image classification set of TensorFlow Datasets, downloaded and prepared where needed.

    Args:
        name: str, such as "imagenet2012" or "tf_flowers".
        data_dir: str or None for the library's own folder.
        train_split, val_split: str in its notation, such as "train[:80%]", or None (see `--val_split`).
        shuffle_buffer: int, undecoded images that are mixed as a whole.

    Returns:
        (training, validation): RecordSource.

    Raises:
        UsageError: no such set or split, or it is not one of labeled images.
    """
    builder, keys = _open_builder(name, data_dir)
    if not {"validation", "test"} & set(builder.info.splits):
        if (train_split is None) != (val_split is None):
            raise UsageError(
                f"--dataset={name}: has one split only; give both --train_split and --val_split, or neither"
            )
        train_split, val_split = train_split or "train[:80%]", val_split or "train[80%:]"
    train_split = train_split or "train"
    val_split = val_split or ("validation" if "validation" in builder.info.splits else "test")
    sources = tuple(
        _split_of(builder, name, keys, flag, split, shuffle_buffer)
        for flag, split in (("train_split", train_split), ("val_split", val_split))
    )
    if _overlap(*sources):
        raise UsageError(f"--val_split={val_split}: has images of --train_split={train_split} in it; keep them apart")
    return sources


def open_tfds_split(name, data_dir, split, shuffle_buffer):
    """One split of a set of TensorFlow Datasets: RecordSource. Args, returns and raises as `open_tfds`."""
    builder, keys = _open_builder(name, data_dir)
    return _split_of(builder, name, keys, "split", split, shuffle_buffer)


def is_there(data):
    """Whether the set that a config names can be read without anything being drawn, fetched or prepared first.

    Args:
        data: config.DataConfig.

    Returns:
        bool.

    Raises:
        UsageError: TensorFlow Datasets has no such set.
    """
    if data.dataset == "shapes":
        return os.path.isdir(data.data_dir or os.path.join("data", "shapes"))
    if data.dataset in ("folder", "records"):
        return True
    return bool(_builder(data.dataset, data.data_dir).info.splits)


def _open_builder(name, data_dir):
    """A set whose files are there: (builder, (key of the image, key of the label))."""
    builder = _builder(name, data_dir)
    keys = _labeled_image(builder, name)
    _prepare(builder, name)
    return builder, keys


def _builder(name, data_dir):
    import tensorflow_datasets as tfds

    try:
        return tfds.builder(name, data_dir=os.path.expanduser(data_dir) if data_dir else None)
    except (tfds.core.DatasetNotFoundError, ValueError, ImportError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "unknown"
        raise UsageError(
            f"--dataset={name}: {reason} Give the name of a TensorFlow Datasets set, folder, records or shapes."
        ) from None


def _split_of(builder, name, keys, flag, split, shuffle_buffer):
    try:
        source = records.of_builder(builder, name, split, *keys, shuffle_buffer)
    except UsageError:
        raise
    except (KeyError, ValueError) as error:
        there = ", ".join(builder.info.splits)
        raise UsageError(f"--{flag}={split}: {name} has the splits {there} ({error})") from None
    if not source.count:
        raise UsageError(f"--{flag}={split}: {name} has no images there")
    return source


def open_records(data_dir, shuffle_buffer):
    """The splits of a folder that `keras_alexnet.data.preparation` has prepared.

    Args:
        data_dir: str.
        shuffle_buffer: int, images that are mixed as a whole.

    Returns:
        (training, validation): RecordSource; what could not be decoded was left out when they were prepared.

    Raises:
        UsageError: the folder holds nothing of the kind, or not all of it.
    """
    import tensorflow_datasets as tfds

    from keras_alexnet.data import preparation, shards
    from keras_alexnet.data.decoding import STORED_SIZE

    try:
        manifest = preparation.manifest_of(data_dir)
        preparation.check_sizes(data_dir, manifest)
    except (UsageError, RunError) as error:
        raise UsageError(f"--data_dir={error}") from None
    settings = manifest["settings"]
    if settings["encoding"] == "raw":
        return tuple(_raw_source(data_dir, manifest, split) for split in shards.SPLITS)
    stored = "jpeg" if settings["size"] == STORED_SIZE else ""
    builder = tfds.builder_from_directory(data_dir)
    return tuple(
        dataclasses.replace(
            records.of_builder(builder, "records", split, shards.IMAGE, shards.LABEL, shuffle_buffer),
            identity=facts["fingerprint"],
            stored=stored,
            label_counts=tuple(facts["label_counts"]),
        )
        for split, facts in manifest["splits"].items()
    )


def _raw_source(data_dir, manifest, split):
    """A split of raw images, by the places that its preparation has noted."""
    from keras_alexnet.data import preparation, raw

    facts = manifest["splits"][split]
    with np.load(os.path.join(data_dir, preparation.PLACES), allow_pickle=False) as places:
        columns = {name: places[f"{split}_{name}"] for name in ("files", "offsets", "labels")}
    return raw.RawSource(
        name=f"records {split}",
        identity=facts["fingerprint"],
        paths=tuple(os.path.join(data_dir, shard["file"]) for shard in facts["shards"]),
        **columns,
        class_names=tuple(manifest["class_names"]),
        label_counts=tuple(facts["label_counts"]),
    )


def _overlap(train, val):
    """Whether two sources share a record."""

    def stretches(source):
        return zip(source.paths, source.first, source.ends, strict=True)

    return any(
        a == b and low < end and start < high for a, low, high in stretches(train) for b, start, end in stretches(val)
    )


def list_split(data_dir, split):
    root = data_dir / split
    if not root.is_dir():
        raise UsageError(f"--data_dir={data_dir}: there is no folder {root}; it is to hold one folder per class")
    classes = sorted(entry.name for entry in os.scandir(root) if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        raise UsageError(f"--data_dir={data_dir}: {root} holds no class folders")
    files, labels, sizes, other = [], [], [], []
    for label, name in enumerate(classes):
        entries = sorted(
            (entry.name, entry.stat().st_size)
            for entry in os.scandir(root / name)
            if entry.is_file() and not entry.name.startswith(".")
        )
        images = [(entry, size) for entry, size in entries if entry.lower().endswith(SUFFIXES)]
        if not images:
            raise UsageError(f"--data_dir={data_dir}: {root / name} holds no images ({', '.join(SUFFIXES)})")
        files += [os.path.join(name, image) for image, _ in images]
        sizes += [size for _, size in images]
        labels += [label] * len(images)
        other += [os.path.join(name, entry) for entry, _ in entries if not entry.lower().endswith(SUFFIXES)]
    for file in (*files, *other):
        if not _is_text(file):
            raise UsageError(f"--data_dir={data_dir}: {split}/{file!r} has a name that is not UTF-8; rename it")
    return FolderSource(split, str(root), *map(tuple, (classes, files, labels, sizes, other)))


def _is_text(name):
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _prepare(builder, name):
    """Downloads and prepares a set that is not there yet; the library's long explanations become one line."""
    try:
        builder.download_and_prepare()
    except AssertionError as error:  # what TensorFlow Datasets raises for files that users must fetch themselves
        raise UsageError(
            f"--dataset={name}: some of its files must be fetched by hand: {' '.join(str(error).split())[:400]}"
        ) from None
    except Exception as error:
        # Everything between a missing network and a changed checksum; there is no common base class.
        reason = " ".join(str(error).split())[:300]
        raise UsageError(f"--dataset={name}: could not be downloaded and prepared: {reason}") from None


def _labeled_image(builder, name):
    """The keys of a set's image and label, as it would give them to supervised learning."""
    import tensorflow_datasets as tfds

    keys = builder.info.supervised_keys
    features = builder.info.features
    if (
        not keys
        or len(keys) != 2
        or not isinstance(features[keys[0]], tfds.features.Image)
        or not isinstance(features[keys[1]], tfds.features.ClassLabel)
    ):
        raise UsageError(f"--dataset={name}: is not a set of images with one label each")
    return keys[0], keys[1]
