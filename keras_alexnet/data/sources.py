"""Where images come from: folders of class folders, TensorFlow Datasets, the built-in shapes.

A source gives undecoded files: (name, JPEG or PNG bytes, label). Folders are listed without TensorFlow, so that a
wrong path is answered at once.
"""

import dataclasses
import hashlib
import os
from pathlib import Path

import numpy as np

from keras_alexnet.data import shapes
from keras_alexnet.errors import UsageError

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
    """

    name: str
    root: str
    class_names: tuple[str, ...]
    files: tuple[str, ...]
    labels: tuple[int, ...]
    sizes: tuple[int, ...]
    other_files: tuple[str, ...] = ()

    @property
    def count(self):
        return len(self.files)

    def names(self):
        """The names of all files, in order."""
        return self.files

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

    def images(self, order=None, start=0):
        """The files as a dataset.

        Args:
            order: None for the order of the names, or a sequence of int that seeds a permutation of all files.
            start: int, how many to leave out at the beginning: nothing of them is read.

        Returns:
            tf.data.Dataset of (name, bytes, label): string, string and int32 scalars.
        """
        import tensorflow as tf

        indices = np.arange(self.count) if order is None else np.random.default_rng(order).permutation(self.count)
        files, labels = tf.constant(self.files), tf.constant(self.labels, tf.int32)
        root = self.root + os.sep

        def read(index):
            file = tf.gather(files, index)
            return file, tf.io.read_file(root + file), tf.gather(labels, index)

        return tf.data.Dataset.from_tensor_slices(indices[start:]).map(read, num_parallel_calls=os.cpu_count() or 1)


@dataclasses.dataclass(frozen=True)
class TfdsSource:
    """One split of a TensorFlow Datasets set, its images left undecoded. Attributes and methods as FolderSource."""

    name: str
    builder: object
    split: str
    image_key: str
    label_key: str
    class_names: tuple[str, ...]
    shuffle_buffer: int
    skipped: frozenset = frozenset()
    other_files: tuple[str, ...] = ()

    @property
    def count(self):
        return self.builder.info.splits[self.split].num_examples - len(self.skipped)

    def names(self):
        examples = self._examples(None).map(lambda example: example["tfds_id"])
        return tuple(name.decode() for name in examples.as_numpy_iterator())

    def fingerprint(self):
        return f"{self.builder.info.full_name} {self.split} {self.count}"

    def check_readable(self, name):
        """Records are read by the library, which raises what it cannot read."""

    def without(self, names):
        return dataclasses.replace(self, skipped=self.skipped | frozenset(names))

    def images(self, order=None, start=0):
        import tensorflow as tf

        seed = None if order is None else int(np.random.default_rng(order).integers(2**31))
        dataset = self._examples(seed).map(
            lambda example: (
                example["tfds_id"],
                example[self.image_key],
                tf.cast(example[self.label_key], tf.int32),
            ),
        )
        if self.skipped:
            skipped = tf.constant(sorted(self.skipped))
            dataset = dataset.filter(lambda name, *_: tf.reduce_all(name != skipped))
        if seed is not None:
            dataset = dataset.shuffle(
                min(self.shuffle_buffer, max(1, self.count)), seed=seed, reshuffle_each_iteration=False
            )
        return dataset.skip(start) if start else dataset

    def _examples(self, seed):
        import tensorflow_datasets as tfds

        return self.builder.as_dataset(
            split=self.split,
            decoders={self.image_key: tfds.decode.SkipDecoding()},
            shuffle_files=seed is not None,
            read_config=tfds.ReadConfig(add_tfds_id=True, shuffle_seed=seed),
        )


def open_folder(data_dir):
    """The splits of `DATA_DIR/train/CLASS/*.jpg` and `DATA_DIR/val/CLASS/*.jpg`.

    Returns:
        (training, validation): FolderSource; labels in the alphabetical order of the class names.

    Raises:
        UsageError: a folder is missing or empty, a class has no image, the two splits have other classes.
    """
    train, val = (_list_split(Path(data_dir), split) for split in ("train", "val"))
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
        shuffle_buffer: int, undecoded images among which the next is drawn.

    Returns:
        (training, validation): TfdsSource.

    Raises:
        UsageError: no such set or split, or it is not one of labeled images.
    """
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=os.path.expanduser(data_dir) if data_dir else None)
    except (tfds.core.DatasetNotFoundError, ValueError, ImportError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "unknown"
        raise UsageError(
            f"--dataset={name}: {reason} Give the name of a TensorFlow Datasets set, folder or shapes."
        ) from None
    image_key, label_key = _labeled_image(builder, name)
    _prepare(builder, name)
    if not {"validation", "test"} & set(builder.info.splits):
        if (train_split is None) != (val_split is None):
            raise UsageError(
                f"--dataset={name}: has one split only; give both --train_split and --val_split, or neither"
            )
        train_split, val_split = train_split or "train[:80%]", val_split or "train[80%:]"
    train_split = train_split or "train"
    val_split = val_split or ("validation" if "validation" in builder.info.splits else "test")
    sources = []
    for flag, split in (("train_split", train_split), ("val_split", val_split)):
        try:
            count = builder.info.splits[split].num_examples
        except (KeyError, ValueError) as error:
            there = ", ".join(builder.info.splits)
            raise UsageError(f"--{flag}={split}: {name} has the splits {there} ({error})") from None
        if not count:
            raise UsageError(f"--{flag}={split}: {name} has no images there")
        sources.append(
            TfdsSource(
                name=f"{name} {split}",
                builder=builder,
                split=split,
                image_key=image_key,
                label_key=label_key,
                class_names=tuple(builder.info.features[label_key].names),
                shuffle_buffer=shuffle_buffer,
            )
        )
    if _overlap(builder, train_split, val_split):
        raise UsageError(f"--val_split={val_split}: has images of --train_split={train_split} in it; keep them apart")
    return tuple(sources)


def _overlap(builder, first, second):
    """Whether two splits share an example."""

    def stretches(split):
        for part in builder.info.splits[split].file_instructions:
            yield part.filename, part.skip, part.skip + part.take if part.take > 0 else float("inf")

    return any(
        a == b and low < end and start < high
        for a, low, high in stretches(first)
        for b, start, end in stretches(second)
    )


def _list_split(data_dir, split):
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
