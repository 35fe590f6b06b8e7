"""Where images come from: class folders, TensorFlow Datasets, prepared records, the built-in shapes.

    train, val = sources.open_training(config.data)

Folders are listed without TensorFlow, so that a wrong path is answered at once.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import os
import re
import unicodedata
from pathlib import Path

from keras_alexnet.data import imagenet, shapes
from keras_alexnet.data.base import IndexedSource
from keras_alexnet.errors import ArgumentError, RunError, UsageError, is_utf8, printable
from keras_alexnet.flags import flag
from keras_alexnet.standalone import EXIF_BYTES, exif_orientation

SUFFIXES = (".jpg", ".jpeg", ".png")
VALIDATION_FOLDERS = ("val", "valid", "validation", "test")
ROOTS = ("", "ILSVRC/Data/CLS-LOC", "Data/CLS-LOC")  # of train and val below data_dir, the latter in Kaggle's ImageNet
VAL_FRACTION = 0.2  # of the images of a folder that has no validation folder
_READERS = 8  # files that are read at a time
MAX_FILE_BYTES = 2**31  # a larger file is not read: an image of 134 million pixels takes less
# How image files begin that are neither JPEG nor PNG.
_FORMATS = re.compile(
    rb"(?P<GIF>GIF8)|(?P<TIFF>II\*\0|MM\0\*)|(?P<WebP>.{8}WEBP)|(?P<BMP>BM.{4}\0{4})|"
    rb"(?P<AVIF>.{4}ftypavi[fs])|(?P<HEIC>.{4}ftyp(?:hei[cxms]|hevc|mif1|msf1))",
    re.DOTALL,
)


@dataclasses.dataclass(frozen=True)
class FolderSource(IndexedSource):
    """Image files of class folders below `root`, in the order of the labels and then of the names, and their bytes."""

    root: str
    files: tuple[str, ...]
    labels: tuple[int, ...]
    sizes: tuple[int, ...]
    per_image = ("files", "labels", "sizes")

    def paths(self):
        return [os.path.join(self.root, file) for file in self.files]

    def fingerprint(self):
        """A hash of the names of all classes and of the names and sizes of all files."""
        files = [f"{file} {size}" for file, size in zip(self.files, self.sizes, strict=True)]
        return self.with_decoding_in(hashlib.sha256("\n".join([*self.class_names, "", *files]).encode()).hexdigest())

    def loader(self):
        import tensorflow as tf  # as in `items`

        labels = tf.constant(self.labels, tf.int32)
        paths = tf.constant(self.paths())
        return lambda index: (tf.io.read_file(tf.gather(paths, index)), tf.gather(labels, index))

    def facts(self):
        """The Facts of each image, list; several files are read at a time."""
        with concurrent.futures.ThreadPoolExecutor(_READERS) as pool:
            return list(pool.map(facts_of, self.paths(), self.sizes))

    def check_readable(self, index):
        Path(self.root, self.files[index]).read_bytes()

    def reason(self, name):
        path = os.path.join(self.root, name)
        if not os.path.isfile(path):
            folder = "a link to a folder" if os.path.islink(path) else "a folder"
            other = folder if os.path.isdir(path) else "not a regular file"
            return other if os.path.exists(path) else "a broken link"
        if os.path.getsize(path) > MAX_FILE_BYTES:
            return "too large"
        if name in self.other_files and name.lower().endswith(SUFFIXES):
            return "not in a class folder"
        with contextlib.suppress(OSError), open(path, "rb") as file:
            return conversion(file.read(16), path)
        return "not readable"


@dataclasses.dataclass(frozen=True)
class Settings:
    """How `prepare` stores images: shards of TFRecords."""

    size: int = flag(256, "Rows and columns of the images; training resizes others than 256.", low=8, high=4096)
    encoding: str = flag(
        "jpeg",
        "raw: pixels alone, 197 kB an image. yuv420: 98 kB, with colors at half the resolution, as JPEG has them.",
        choices=("jpeg", "yuv420", "raw"),
    )
    quality: int = flag(90, "Of the JPEGs.", low=1, high=100)
    shard_images: int = flag(2048, "Images of a shard.", low=1, high=10**6)
    seed: int = flag(2012, "Of the order of the images.", low=0)
    bad_images: str = flag("skip", "List what cannot be decoded, or stop.", choices=("skip", "fail"))
    resize: str = flag("shorter_side", "As in training.", choices=("shorter_side", "stretch"))
    orientation: str = flag("auto", "As in training.", choices=("auto", "apply", "ignore"))
    name = "prepared"  # of the set in TensorFlow Datasets, and so of its files

    def __post_init__(self):
        if self.encoding != "jpeg" and self.size != 256:
            raise ArgumentError("size", self.size, f"must be 256 for {self.encoding} images, as training takes them")

    def files(self, split, count):
        """The names of the shards of so many images, list of str, as TensorFlow Datasets expects them."""
        shards = -(-count // self.shard_images)
        return [f"{self.name}-{split}.tfrecord-{number:05d}-of-{shards:05d}" for number in range(shards)]

    def places(self, number, count):
        """Which of so many images the shard of a number holds, range."""
        return range(count)[number * self.shard_images : (number + 1) * self.shard_images]


def open_training(data):
    """(training, validation), Source, of a config.DataConfig. Raises UsageError."""
    return tuple(with_decoding(source, data) for source in _open_training(data))


def with_decoding(source, data):
    """The source with images resized and turned as the settings say.

    Raises UsageError where they were prepared in another way. --orientation=auto applies the orientation to images of
    folders, unless the classes are named by WordNet ids, as ImageNet's. Where no image is turned there is nothing to
    apply, and decoding is faster.
    """
    if data.dataset == "records":
        for name in ("resize", "orientation"):
            asked, prepared = getattr(data, name), getattr(source, name)
            if asked not in ("auto", prepared):
                problem = f"was prepared with --{name}={prepared}; prepare the images into another folder"
                raise UsageError(f"--{name}={asked}: {data.data_dir} {problem}")
        return source
    orientation = data.orientation
    if isinstance(source, FolderSource) and orientation != "ignore":
        is_imagenet = all(map(imagenet.WORDNET_ID.fullmatch, source.class_names))
        look = orientation == "apply" or not is_imagenet
        orientation = "apply" if look and any(facts.orientation > 1 for facts in source.facts()) else "ignore"
    return dataclasses.replace(source, resize=data.resize, orientation="apply" if orientation == "apply" else "ignore")


def _open_training(data):
    if data.dataset == "folder":
        train, val = open_folder(data.data_dir, data.val_fraction, data.split_seed)
        if train.root == val.root:
            parts = f"{train.count} images to train on, {val.count} to validate on"
            print(f"split:      {parts}, chosen by content (--val_fraction, --split_seed)")
        return train, val
    if data.dataset == "shapes":
        folder = shapes_folder(data)
        try:
            shapes.make(folder, data.shapes_train, data.shapes_val, data.shapes_seed)
        except FileExistsError as error:
            raise UsageError(f"--data_dir={folder}: {error}") from None
        return open_folder(folder)
    from keras_alexnet.data import records  # which needs TensorFlow, and folders are listed without

    if data.dataset == "records":
        return records.open_prepared(data.data_dir, data.shuffle_buffer)
    splits = data.train_split, data.val_split
    return records.open_tfds(data.dataset, data.data_dir, *splits, data.shuffle_buffer)


def shapes_folder(data):
    """Where the built-in shapes are kept, str: `data_dir`, data/shapes, or data/shapes-4x1-seed7 for other settings."""
    settings = data.shapes_train, data.shapes_val, data.shapes_seed
    name = "shapes" if settings == shapes.DEFAULTS else "shapes-{}x{}-seed{}".format(*settings)
    return data.data_dir or os.path.join("data", name)


def open_folder(data_dir, val_fraction=None, seed=2012):
    """(training, validation), FolderSource, see `list_split`. Raises UsageError also where their classes differ."""
    train, val = (list_split(data_dir, split, val_fraction, seed) for split in ("train", "val"))
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


def split_folder(data_dir, split):
    """The folder of a split, Path, or None; "val" is the first of the folders val, valid, validation and test."""
    names = VALIDATION_FOLDERS if split == "val" else (split,)
    paths = (Path(data_dir, root, name) for root in ROOTS for name in names)
    return next((path for path in paths if path.is_dir()), None)


def is_unsplit(data_dir):
    """Whether a folder has neither a training nor a validation folder, bool."""
    return os.path.isdir(data_dir) and not any(split_folder(data_dir, split) for split in ("train", "val"))


def list_split(data_dir, split, val_fraction=None, seed=2012):
    """The images of DATA_DIR/SPLIT/CLASS/**/*.jpg, FolderSource; labels are in the order of the class names.

    Of an unsplit folder, DATA_DIR/CLASS/**/*.jpg, and of the training folder where a fraction is given, "train" and
    "val" are the two parts of `hold_out`. Validation images of ImageNet in one folder have the labels of
    `imagenet.labels_of`. Raises UsageError where the folder is missing or has no classes, a class has no images, a name
    is not UTF-8, or a class's name has a line break.
    """
    said, unsplit = f"--data_dir={data_dir}: ", is_unsplit(data_dir)
    if not os.path.isdir(data_dir):
        raise UsageError(f"{said}is not a folder; name the one that holds a folder per class, or train and val")
    is_part = split in ("train", "val") and (unsplit or val_fraction)
    folder = "train" if is_part else split
    root = Path(data_dir) if is_part and unsplit else split_folder(data_dir, folder)
    if root is None:
        tried = f"{Path(data_dir, folder)}{' (or valid, validation, test)' if folder == 'val' else ''}"
        remedy = (
            "; or, in training and preparing, give --val_fraction=0.2 to take a part of train"
            if folder == "val"
            else ""
        )
        raise UsageError(f"{said}the folder {tried} is missing; it holds one folder per class{remedy}")
    if not is_part:
        return _list_flat(data_dir, root) or _list_classes(said, root, root.name)
    whole = _list_classes(said, root, split)
    if len(whole.class_names) == 1:
        only = printable(whole.class_names[0])
        raise UsageError(f"{said}{root} holds one class folder, {only}; name the folder of all")
    held_out = hold_out(whole, val_fraction or VAL_FRACTION, seed)
    own = {label for label, held in zip(whole.labels, held_out, strict=True) if held == (split == "val")}
    missing = [name for label, name in enumerate(whole.class_names) if label not in own]
    if missing:
        problem = f"class {printable(missing[0])} has too few different images for both sides of the split"
        raise UsageError(f"{said}{problem}; add images, or give another --val_fraction or --split_seed")
    other = dataclasses.replace(whole, other_files=whole.other_files if split == "train" else ())
    return other.without(file for file, held in zip(whole.files, held_out, strict=True) if held != (split == "val"))


def is_own(data_dir, data):
    """Whether a folder is that of a run, by the config.DataConfig of the run: bool."""
    return bool(data.data_dir) and os.path.realpath(data_dir) == os.path.realpath(data.data_dir)


def is_inside(folder, data_dir):
    """Whether a folder is among the images of a data_dir, or would be, bool."""
    folder, names = os.path.realpath(folder), ("train", *VALIDATION_FOLDERS)
    first = os.path.relpath(folder, os.path.realpath(data_dir)).split(os.sep)[0]
    # All folders of an unsplit one are classes, but the hidden ones.
    is_class = is_unsplit(data_dir) and (first == "." or not first.startswith("."))
    splits = (os.path.realpath(os.path.join(data_dir, root, name)) for root in ROOTS for name in names)
    return is_class or any(Path(folder).is_relative_to(split) for split in splits)


def splitting(data_dir, data):
    """(val_fraction, seed) of a run for `list_split`; no fraction for another folder that has a validation folder."""
    return data.val_fraction if is_own(data_dir, data) or not split_folder(data_dir, "val") else None, data.split_seed


def hold_out(source, fraction, seed):
    """Which images of a FolderSource are for validation, list of bool: those whose hash, of seed and content, is low.

    So an image stays where it is when others are added, and copies of it are on the same side. The fraction of a class
    is that of all only on average; a class of which no image is below it gives the lowest one.
    """
    hashes = [hashlib.sha256(b"%d %s" % (seed, facts.digest)).digest() for facts in source.facts()]
    held, lowest = {each for each in hashes if int.from_bytes(each[:8], "big") < fraction * 2**64}, {}
    for label, each in zip(source.labels, hashes, strict=True):
        lowest[label] = min(each, lowest.get(label, each))
    held |= set(lowest.values())
    return [each in held for each in hashes]


Facts = collections.namedtuple("Facts", "digest orientation")  # of size and beginning, bytes; int


@functools.cache
def facts_of(path, size):
    """Facts of an image file of so many bytes, whose beginning is read once in a process; b"" and 1 if unreadable."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        head = file.read(EXIF_BYTES)
        return Facts(hashlib.sha256(b"%d %s" % (size, head)).digest(), exif_orientation(head))
    return Facts(b"", 1)


def _list_flat(data_dir, root):
    """The validation images of ImageNet that lie in one folder without classes, FolderSource; None of other folders."""
    entries = [entry for entry in _visible(root) if imagenet.VAL_IMAGE.fullmatch(entry.name)]
    if not entries:
        return None
    files = tuple(entry.name for entry in entries)
    ids = imagenet.labels_of(data_dir, files)
    names = sorted(set(ids))
    labels = tuple(map({name: label for label, name in enumerate(names)}.get, ids))
    sizes = tuple(entry.stat().st_size for entry in entries)
    return FolderSource(str(root), files, labels, sizes, name=root.name, class_names=tuple(names))


def _list_classes(said, root, split):
    """The images of class folders, FolderSource; errors begin with `said`."""
    entries = _visible(root)
    classes = [entry.name for entry in entries if os.path.isdir(entry.path)]  # of a link to itself is_dir raises
    if not classes:
        raise UsageError(f"{said}{root} holds no class folders")
    check_class_names(classes, f"{said}{root.name}")
    # Beside the class folders only what was meant as an image or a class is of interest.
    loose = [entry.name for entry in entries if os.path.isfile(entry.path) and entry.name.lower().endswith(SUFFIXES)]
    other = loose + [entry.name for entry in entries if not os.path.exists(entry.path)]
    found = []  # (file, label, bytes)
    for label, name in enumerate(classes):
        images, others = _list_class(root, name)
        if not images:
            why = others and FolderSource(str(root), (), (), (), name=split, class_names=()).reason(others[0])
            also = f"; {printable(others[0])} is {why}" if why else ""
            raise UsageError(f"{said}{printable(str(root / name))} holds no images ({', '.join(SUFFIXES)}){also}")
        found += [(file, label, size) for file, size in images]
        other += others
    files, labels, sizes = zip(*found, strict=True)
    for file in (*files, *other):
        if not is_utf8(file):
            raise UsageError(f"{said}{root.name}/{file!r} has a name that is not UTF-8; rename it")
    return FolderSource(str(root), files, labels, sizes, name=split, class_names=(*classes,), other_files=(*other,))


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
    """What is in a class folder and below it: ([(file, bytes)], [other files]), paths below root, sorted."""
    images, other = [], []
    for folder, folders, files in os.walk(root / name, onerror=_raise):
        folders[:] = [each for each in folders if not each.startswith(".")]
        for file in (each for each in (*files, *folders) if not each.startswith(".")):
            whole = os.path.join(folder, file)
            path, is_named_so = os.path.relpath(whole, root), file.lower().endswith(SUFFIXES)
            if is_named_so and os.path.isfile(whole) and os.path.getsize(whole) <= MAX_FILE_BYTES:
                images.append((path, os.path.getsize(whole)))
            elif is_named_so or file in files or os.path.islink(whole):  # links to folders are not followed
                other.append(path)
    return sorted(images), sorted(other)


def _raise(error):
    raise RunError(f"{printable(error.filename)}: cannot be read ({error.strerror}); repair it and start again")


def _visible(folder):
    """The entries of a folder that are not hidden, by name."""
    return sorted((each for each in os.scandir(folder) if not each.name.startswith(".")), key=lambda each: each.name)
