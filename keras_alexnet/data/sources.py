"""Where images come from: class folders, TensorFlow Datasets, prepared records, the built-in shapes.

    train, val = sources.open_training(config.data)

Folders are listed without TensorFlow, so that a wrong path is answered at once.
"""

import dataclasses
import hashlib
import itertools
import os
import unicodedata
from pathlib import Path
from typing import Protocol

import numpy as np

from keras_alexnet.data import shapes
from keras_alexnet.errors import UsageError, printable

SUFFIXES = (".jpg", ".jpeg", ".png")
VALIDATION_FOLDERS = ("val", "validation", "test")
MAX_FILE_BYTES = 2**31  # a larger file is not read: an image of 134 million pixels takes less
WHOLE = (0, 1)  # the part of a process that shares the images with no other
# How image files begin that are neither JPEG nor PNG: (place, bytes, name).
_FORMATS = (
    *((0, b"GIF8", "GIF"), (0, b"II*\0", "TIFF"), (0, b"MM\0*", "TIFF"), (8, b"WEBP", "WebP"), (6, bytes(4), "BMP")),
    *((4, b"ftyp" + brand, "AVIF") for brand in (b"avif", b"avis")),
    *((4, b"ftyp" + brand, "HEIC") for brand in (b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1", b"msf1")),
)


class Source(Protocol):
    """Undecoded images with labels, which can be read in any order and from any place on.

    Attributes:
        name: str, for messages, such as "train".
        class_names: tuple of str, in the order of the labels.
        count: int, images.
        labels: sequence of int, one an image; empty where labels are known only after reading.
        label_counts: tuple of int, images of each class; empty where it is not known which images can be decoded.
        other_files: tuple of str, files among the images that are not read.
        stored: "" for JPEG and PNG files of any size; "jpeg" or "raw" (pixels alone) where all images are 256x256.
        resize: "shorter_side" or "stretch", how an image becomes (or became) 256x256, see `data.decoding`.

    Methods:
        names, fingerprint: the names of all images, tuple of str, in order; what tells this source from others, str.
        without: the same source without images of these names.
        items, part_count: what `loader()` makes images of, tf.data.Dataset of tuples; and how many, int. `order`: None
            for that of the names, or a sequence of int that seeds one; `start`: how many images to leave out at the
            beginning; `part`: (which, of how many) that share the images.
        loader: a function of an item -> (name: string, image as `stored` says, label: int32), scalars, for a graph.
        name_of: the name of an item, str.
        check_readable: raises OSError where an image's bytes cannot be read; of records TensorFlow says so itself.
        reason: why an image or another file cannot be used, str, as far as its first bytes tell.
    """

    label_counts = other_files = ()
    stored, resize = "", "shorter_side"

    def names(self): ...
    def name_of(self, *item): ...
    def without(self, names): ...
    def items(self, order=None, start=0, part=WHOLE): ...
    def part_count(self, order, part): ...
    def loader(self): ...
    def check_readable(self, name): ...

    def fingerprint(self):
        return self.with_resize_in(f"{self.identity} {self.count}")

    def with_resize_in(self, fingerprint):
        """A fingerprint that tells statistics of images that were resized in another way apart."""
        return fingerprint if self.resize == "shorter_side" else f"{fingerprint} {self.resize}"

    def reason(self, name):
        return ""


class IndexedSource(Source):
    """A source whose images can be read one by one: an item is an index, int64, and parts are dealt out one by one.

    `per_image`: the names of the attributes that have one value for each image, tuple or np.ndarray.
    """

    @property
    def count(self):
        return len(self.labels)

    def name_of(self, index):
        return self.names()[int(index)]

    def items(self, order=None, start=0, part=WHOLE):
        import tensorflow as tf  # a folder is listed without it

        return tf.data.Dataset.from_tensor_slices((permutation(self.count, order)[part[0] :: part[1]][start:],))

    def part_count(self, order, part):
        return len(range(part[0], self.count, part[1]))

    def without(self, names):
        names = frozenset(names)
        if not names:
            return self
        kept = np.array([name not in names for name in self.names()])
        columns = {column: getattr(self, column) for column in self.per_image}
        for column, values in columns.items():
            columns[column] = tuple(itertools.compress(values, kept)) if isinstance(values, tuple) else values[kept]
        return dataclasses.replace(self, **columns, **{"label_counts": ()} if self.label_counts else {})


def permutation(count, order):
    """int64 (count,): 0, 1, 2, ... where order is None, or else a permutation that the sequence of int seeds."""
    return np.arange(count) if order is None else np.random.default_rng(order).permutation(count)


@dataclasses.dataclass(frozen=True)
class FolderSource(IndexedSource):
    """Image files of class folders below `root`, in the order of the labels and then of the names, and their bytes."""

    name: str
    root: str
    class_names: tuple[str, ...]
    files: tuple[str, ...]
    labels: tuple[int, ...]
    sizes: tuple[int, ...]
    other_files: tuple[str, ...] = ()
    resize: str = "shorter_side"
    per_image = ("files", "labels", "sizes")

    def names(self):
        return self.files

    def fingerprint(self):
        """A hash of the names of all classes and of the names and sizes of all files."""
        files = [f"{file} {size}" for file, size in zip(self.files, self.sizes, strict=True)]
        return self.with_resize_in(hashlib.sha256("\n".join([*self.class_names, "", *files]).encode()).hexdigest())

    def loader(self):
        import tensorflow as tf  # as in `items`

        files, labels = tf.constant(self.files), tf.constant(self.labels, tf.int32)
        paths = tf.constant([os.path.join(self.root, file) for file in self.files])

        def load(index):
            return tf.gather(files, index), tf.io.read_file(tf.gather(paths, index)), tf.gather(labels, index)

        return load

    def check_readable(self, name):
        Path(self.root, name).read_bytes()

    def reason(self, name):
        path = os.path.join(self.root, name)
        if not os.path.isfile(path):
            other = "a folder" if os.path.isdir(path) else "not a regular file"
            return other if os.path.exists(path) else "a broken link"
        if os.path.getsize(path) > MAX_FILE_BYTES:
            return "too large"
        if name in self.other_files and name.lower().endswith(SUFFIXES):
            return "in a folder inside a class folder" if os.sep in name else "not in a class folder"
        with open(path, "rb") as file:
            return conversion(file.read(16), path)


def open_training(data, progress_bar=None):
    """(training, validation), Source, of a config.DataConfig; `progress_bar`: function of a label. Or a UsageError."""
    return tuple(with_resize(source, data) for source in _open_training(data, progress_bar))


def with_resize(source, data):
    """The source with images resized as the settings say. Raises UsageError where they were prepared in another way."""
    if source.resize != data.resize and data.dataset == "records":
        prepared = f"{data.data_dir} was prepared with --resize={source.resize}; prepare the images into another folder"
        raise UsageError(f"--resize={data.resize}: {prepared}")
    return source if source.resize == data.resize else dataclasses.replace(source, resize=data.resize)


def _open_training(data, progress_bar):
    if data.dataset == "folder":
        return open_folder(data.data_dir)
    if data.dataset == "records":
        return _record_sets().open_prepared(data.data_dir, data.shuffle_buffer)
    if data.dataset != "shapes":
        splits = data.train_split, data.val_split
        return _record_sets().open_tfds(data.dataset, data.data_dir, *splits, data.shuffle_buffer)
    folder = shapes_folder(data)
    progress = progress_bar and progress_bar(f"drawing shapes into {folder}")
    try:
        shapes.make(folder, data.shapes_train, data.shapes_val, data.shapes_seed, progress)
    except FileExistsError as error:
        raise UsageError(f"--data_dir={folder}: {error}") from None
    return open_folder(folder)


def is_there(data):
    """Whether the set can be read without anything being drawn, fetched or prepared first, bool. Raises UsageError."""
    if data.dataset == "shapes":
        return os.path.isdir(shapes_folder(data))
    return data.dataset in ("folder", "records") or _record_sets().is_prepared(data.dataset, data.data_dir)


def shapes_folder(data):
    """Where the built-in shapes are kept, str: `data_dir`, or a folder below data/ that is named by the settings."""
    return data.data_dir or shapes.default_folder(data.shapes_train, data.shapes_val, data.shapes_seed)


def open_tfds_split(name, data_dir, split, shuffle_buffer):
    """One split of a set of TensorFlow Datasets, see `record_sets.open_tfds_split`."""
    return _record_sets().open_tfds_split(name, data_dir, split, shuffle_buffer)


def open_folder(data_dir):
    """The splits of `DATA_DIR/train/CLASS/*.jpg` and `DATA_DIR/val/CLASS/*.jpg` (or validation, or test).

    Returns (training, validation): FolderSource. Raises UsageError as `list_split`, or where their classes differ.
    """
    train, val = list_split(data_dir, "train"), list_split(data_dir, "val")
    if train.class_names == val.class_names:
        return train, val
    problems = []
    for split, other in ((train, val), (val, train)):
        only = sorted(set(split.class_names) - set(other.class_names))
        problems += [f"only in {split.name}: {printable(', '.join(only))}"] * bool(only)
    composed = [{unicodedata.normalize("NFC", name) for name in split.class_names} for split in (train, val)]
    if composed[0] == composed[1]:
        problems.append("these look the same but are spelled with other Unicode characters, NFC and NFD: rename them")
    differ = f"{train.name} and {val.name} hold different classes ({'; '.join(problems)})"
    raise UsageError(f"--data_dir={data_dir}: {differ}")


def find_split_folder(data_dir, split):
    """The folder of a split, Path; for "val" the first of val, validation and test. Raises UsageError without one."""
    names = VALIDATION_FOLDERS if split == "val" else (split,)
    for path in (Path(data_dir, name) for name in names):
        if path.is_dir():
            return path
    tried = f"{Path(data_dir, split)}{' (or validation, or test)' if split == 'val' else ''}"
    raise UsageError(f"--data_dir={data_dir}: the folder {tried} is missing; it holds one folder per class")


def list_split(data_dir, split):
    """The images of one split of a folder, FolderSource; labels are in the alphabetical order of the class names.

    `split` is as of `find_split_folder`. Raises UsageError where the folder is missing or has no classes, a class has
    no images, a name is not UTF-8, or a class's name has a line break.
    """
    root, said = find_split_folder(data_dir, split), f"--data_dir={data_dir}: "
    entries = _visible(root)
    classes = [entry.name for entry in entries if entry.is_dir()]
    if not classes:
        raise UsageError(f"{said}{root} holds no class folders")
    check_class_names(classes, f"{said}{root.name}")
    # Beside the class folders only what was meant as an image or a class is of interest.
    loose = [entry.name for entry in entries if entry.is_file() and entry.name.lower().endswith(SUFFIXES)]
    other = loose + [entry.name for entry in entries if not os.path.exists(entry.path)]
    found = []  # (file, label, bytes)
    for label, name in enumerate(classes):
        images, others = _list_class(root, name)
        if not images:
            why = others and FolderSource(root.name, str(root), (), (), (), ()).reason(others[0])
            also = f"; {printable(others[0])} is {why}" if why else ""
            raise UsageError(f"{said}{printable(str(root / name))} holds no images ({', '.join(SUFFIXES)}){also}")
        found += [(file, label, size) for file, size in images]
        other += others
    files, labels, sizes = zip(*found, strict=True)
    for file in (*files, *other):
        # Surrogates stand for bytes that are not UTF-8.
        if not file.isascii() and any("\ud800" <= letter <= "\udfff" for letter in file):
            raise UsageError(f"{said}{root.name}/{file!r} has a name that is not UTF-8; rename it")
    return FolderSource(root.name, str(root), tuple(classes), files, labels, sizes, tuple(other))


def check_class_names(names, where):
    """Raises UsageError for a class name that cannot be kept as a line of a file, as runs keep them."""
    for name in names:
        if name.splitlines() != [name]:
            raise UsageError(f"{where}: the class name {printable(name)} has a line break in it; rename it")


def conversion(head, path):
    """What an image is that is not JPEG or PNG, by its first 16 bytes, and how to convert it, str; "" otherwise."""
    kinds = [kind for place, content, kind in _FORMATS if head[place : place + len(content)] == content]
    if not kinds or (kinds[0] == "BMP" and head[:2] != b"BM"):
        return ""
    return f"a {kinds[0]} image; only JPEG and PNG are read: convert it with `mogrify -format jpg {printable(path)}`"


def _list_class(root, name):
    """What is in a class folder: ([(file, bytes)], [other files]), paths below root in alphabetical order."""
    images, other = [], []
    for entry in _visible(root / name):
        path, is_named_so = os.path.join(name, entry.name), entry.name.lower().endswith(SUFFIXES)
        if entry.is_dir():
            walked = [(folder, file) for folder, _, files in os.walk(entry.path) for file in sorted(files)]
            below = [os.path.relpath(os.path.join(*each), root) for each in walked if not each[1].startswith(".")]
            other += below or [path] * is_named_so
        elif is_named_so and entry.is_file() and entry.stat().st_size <= MAX_FILE_BYTES:
            images.append((path, entry.stat().st_size))
        else:
            other.append(path)
    return images, other


def _visible(folder):
    """The entries of a folder that are not hidden, by name."""
    return sorted((each for each in os.scandir(folder) if not each.name.startswith(".")), key=lambda each: each.name)


def _record_sets():
    from keras_alexnet.data import record_sets  # which needs TensorFlow, and folders are listed without

    return record_sets
