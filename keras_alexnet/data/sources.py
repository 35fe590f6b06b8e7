"""Where images come from: class folders, TensorFlow Datasets, prepared records, the built-in shapes.

    train, val = sources.open_training(config.data)

Folders are listed without TensorFlow, so that a wrong path is answered at once.
"""

import dataclasses
import hashlib
import os
import re
import unicodedata
from pathlib import Path

import numpy as np

from keras_alexnet.data import shapes
from keras_alexnet.errors import ArgumentError, UsageError, printable
from keras_alexnet.flags import flag

SUFFIXES = (".jpg", ".jpeg", ".png")
VALIDATION_FOLDERS = ("val", "validation", "test")
MAX_FILE_BYTES = 2**31  # a larger file is not read: an image of 134 million pixels takes less
WHOLE = (0, 1)  # the part of a process that shares the images with no other
# How image files begin that are neither JPEG nor PNG.
_FORMATS = re.compile(
    rb"(?P<GIF>GIF8)|(?P<TIFF>II\*\0|MM\0\*)|(?P<WebP>.{8}WEBP)|(?P<BMP>BM.{4}\0{4})|"
    rb"(?P<AVIF>.{4}ftypavi[fs])|(?P<HEIC>.{4}ftyp(?:hei[cxms]|hevc|mif1|msf1))",
    re.DOTALL,
)


class Source:
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

    Every source also has these methods:
        keys, name_of(key): property, a number for each image, iterable of int; and its name, str.
        without(names): the same source without some of them.
        items(order=None, start=0, part=WHOLE): what `loader()` makes images of, tf.data.Dataset of tuples, a key first.
            `order`: None for that of the keys, or a sequence of int that seeds one; `start`: images to leave out at the
            beginning; `part`: (which, of how many) that share the images, `part_count(order, part)` of them.
        loader(): a function of an item -> (image as `stored` says, label: int32 scalar), for a graph.
    """

    label_counts = other_files = ()
    stored, resize = "", "shorter_side"

    def fingerprint(self):
        """What tells this source from others, str."""
        return self.with_resize_in(f"{self.identity} {self.count}")

    def with_resize_in(self, fingerprint):
        """A fingerprint that tells statistics of images that were resized in another way apart."""
        return fingerprint if self.resize == "shorter_side" else f"{fingerprint} {self.resize}"

    def names(self):
        """The names of all images, tuple of str."""
        return tuple(self.name_of(key) for key in self.keys)

    def check_readable(self, key):
        """Raises OSError where an image's bytes cannot be read; of records TensorFlow says so itself."""

    def reason(self, name):
        """Why an image or another file cannot be used, str, as far as its first bytes tell."""
        return ""


class IndexedSource(Source):
    """Images read one by one: an item is an index, int64; `per_image` names the attributes with a value for each."""

    @property
    def count(self):
        return len(self.labels)

    @property
    def keys(self):
        return range(self.count)

    def name_of(self, index):
        return self.files[index]

    def items(self, order=None, start=0, part=WHOLE):
        import tensorflow as tf  # a folder is listed without it

        return tf.data.Dataset.from_tensor_slices((permutation(self.count, order)[part[0] :: part[1]][start:],))

    def part_count(self, order, part):
        return len(range(part[0], self.count, part[1]))

    def without(self, names):
        names = frozenset(names)
        if not names:
            return self
        kept = [index for index in self.keys if self.name_of(index) not in names]
        columns = {column: getattr(self, column) for column in self.per_image}
        for column, values in columns.items():
            columns[column] = tuple(values[index] for index in kept) if isinstance(values, tuple) else values[kept]
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

    def fingerprint(self):
        """A hash of the names of all classes and of the names and sizes of all files."""
        files = [f"{file} {size}" for file, size in zip(self.files, self.sizes, strict=True)]
        return self.with_resize_in(hashlib.sha256("\n".join([*self.class_names, "", *files]).encode()).hexdigest())

    def loader(self):
        import tensorflow as tf  # as in `items`

        labels = tf.constant(self.labels, tf.int32)
        paths = tf.constant([os.path.join(self.root, file) for file in self.files])
        return lambda index: (tf.io.read_file(tf.gather(paths, index)), tf.gather(labels, index))

    def check_readable(self, index):
        Path(self.root, self.files[index]).read_bytes()

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


@dataclasses.dataclass(frozen=True)
class Settings:
    """How `prepare` stores images: shards of TFRecords."""

    size: int = flag(256, "Rows and columns of the images; training resizes others than 256.", low=8, high=4096)
    encoding: str = flag("jpeg", "raw: pixels alone, 196 kB an image.", choices=("jpeg", "raw"))
    quality: int = flag(90, "Of the JPEGs.", low=1, high=100)
    shard_images: int = flag(2048, "Images of a shard.", low=1, high=10**6)
    seed: int = flag(2012, "Of the order of the images.", low=0)
    bad_images: str = flag("skip", "List what cannot be decoded, or stop.", choices=("skip", "fail"))
    resize: str = flag("shorter_side", "As in training.", choices=("shorter_side", "stretch"))
    name = "prepared"  # of the set in TensorFlow Datasets, and so of its files

    def __post_init__(self):
        if self.encoding == "raw" and self.size != 256:
            raise ArgumentError("size", self.size, "must be 256 for raw images, as training takes them")

    def files(self, split, count):
        """The names of the shards of so many images, list of str, as TensorFlow Datasets expects them."""
        shards = -(-count // self.shard_images)
        return [f"{self.name}-{split}.tfrecord-{number:05d}-of-{shards:05d}" for number in range(shards)]

    def places(self, number, count):
        """Which of so many images the shard of a number holds, range."""
        return range(count)[number * self.shard_images : (number + 1) * self.shard_images]


def open_training(data):
    """(training, validation), Source, of a config.DataConfig. Raises UsageError."""
    return tuple(with_resize(source, data) for source in _open_training(data))


def with_resize(source, data):
    """The source with images resized as the settings say. Raises UsageError where they were prepared in another way."""
    if source.resize != data.resize and data.dataset == "records":
        prepared = f"{data.data_dir} was prepared with --resize={source.resize}; prepare the images into another folder"
        raise UsageError(f"--resize={data.resize}: {prepared}")
    return source if source.resize == data.resize else dataclasses.replace(source, resize=data.resize)


def _open_training(data):
    if data.dataset == "folder":
        return open_folder(data.data_dir)
    if data.dataset == "records":
        return _records().open_prepared(data.data_dir, data.shuffle_buffer)
    if data.dataset != "shapes":
        splits = data.train_split, data.val_split
        return _records().open_tfds(data.dataset, data.data_dir, *splits, data.shuffle_buffer)
    folder = shapes_folder(data)
    try:
        shapes.make(folder, data.shapes_train, data.shapes_val, data.shapes_seed)
    except FileExistsError as error:
        raise UsageError(f"--data_dir={folder}: {error}") from None
    return open_folder(folder)


def shapes_folder(data):
    """Where the built-in shapes are kept, str: `data_dir`, data/shapes, or data/shapes-4x1-seed7 for other settings."""
    settings = data.shapes_train, data.shapes_val, data.shapes_seed
    name = "shapes" if settings == shapes.DEFAULTS else "shapes-{}x{}-seed{}".format(*settings)
    return data.data_dir or os.path.join("data", name)


def open_tfds_split(name, data_dir, split, shuffle_buffer):
    """One split of a set of TensorFlow Datasets, see `records.open_tfds_split`."""
    return _records().open_tfds_split(name, data_dir, split, shuffle_buffer)


def open_folder(data_dir):
    """(training, validation), FolderSource, see `list_split`. Raises UsageError also where their classes differ."""
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


def list_split(data_dir, split):
    """The images of DATA_DIR/SPLIT/CLASS/*.jpg, FolderSource; labels are in the order of the class names.

    The split "val" is the first of the folders val, validation and test. Raises UsageError where the folder is missing
    or has no classes, a class has no images, a name is not UTF-8, or a class's name has a line break.
    """
    said, names = f"--data_dir={data_dir}: ", VALIDATION_FOLDERS if split == "val" else (split,)
    root = next((path for path in (Path(data_dir, name) for name in names) if path.is_dir()), None)
    if root is None:
        tried = f"{Path(data_dir, split)}{' (or validation, or test)' if split == 'val' else ''}"
        raise UsageError(f"{said}the folder {tried} is missing; it holds one folder per class")
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
    found = _FORMATS.match(head)
    convert = f"only JPEG and PNG are read: convert it with `mogrify -format jpg {printable(path)}`"
    return f"a {found.lastgroup} image; {convert}" if found else ""


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


def _records():
    from keras_alexnet.data import records  # which needs TensorFlow, and folders are listed without

    return records
