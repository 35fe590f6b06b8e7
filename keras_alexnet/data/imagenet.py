"""ImageNet 2012: the names of its classes, and its two official archives as image sources.

Nothing is unpacked: after one walk over an archive's headers an image is one read at its place. Labels of the
validation images are in the development kit, or else in a list that comes with TensorFlow Datasets.
"""

import collections
import contextlib
import csv
import dataclasses
import errno
import functools
import gzip
import hashlib
import importlib.util
import io
import os
import re
import sys
import tarfile
from pathlib import Path

import numpy as np

from keras_alexnet.data.base import IndexedSource
from keras_alexnet.errors import UsageError, optional, printable
from keras_alexnet.files import progress_bar, read_json, write_json

TRAIN_ARCHIVE, VAL_ARCHIVE = "ILSVRC2012_img_train.tar", "ILSVRC2012_img_val.tar"
KIT_ARCHIVE = "ILSVRC2012_devkit_t12.tar.gz"
SOLUTION = "LOC_val_solution.csv"  # the labels of the validation images in Kaggle's copy
FOLDERS = ("", os.path.join("downloads", "manual"))  # below data_dir; the second is where TensorFlow Datasets looks
OFFICIAL_COUNTS = (1_281_167, 1_000, 50_000)  # training images, their classes, validation images

_CLASSES_FILE = Path(__file__).with_name("imagenet_classes.csv")
WORDNET_ID = re.compile(r"n[0-9]{8}")
_CLASS_ARCHIVE = re.compile(r"(n[0-9]{8})\.tar")
_TRAIN_IMAGE = re.compile(r".+\.jpe?g", re.IGNORECASE)
VAL_IMAGE = re.compile(r"ILSVRC2012_val_([0-9]{8})\.jpe?g", re.IGNORECASE)
_KIT_FILES = ("ILSVRC2012_validation_ground_truth.txt", "meta.mat")
_KIT_BYTES = 2**26  # unpacked; the official kit has a few million
_HEADER_BYTES = 2**20  # more than any real header has; tarfile reads what a header claims in one piece
_PADDING_BYTES = 2**20  # behind the end of a tar: GNU tar fills up to 10 KiB, other programs to a tape's record
_INDEX_FORMAT = 3  # to be raised whenever another index is made of the same archives


@functools.cache
def classes():
    """The thousand classes in the order of their labels: dict of WordNet id -> word; crane and maillot occur twice."""
    with open(_CLASSES_FILE, encoding="utf-8", newline="") as file:
        return {row["wnid"]: row["name"] for row in csv.DictReader(file)}


def word(class_name):
    """The name of a class for people, str: of a WordNet id of ImageNet its word, else the name itself."""
    return classes()[class_name].replace("_", " ") if class_name in classes() else class_name


def class_names(ids, words):
    """One name for each WordNet id, no two of them equal: tuple of str. `words`: {id: name} of other classes."""
    names = [classes().get(wordnet_id) or words.get(wordnet_id) or wordnet_id for wordnet_id in ids]
    for _ in range(2):  # once more where a name of `words` equals one of these
        counts = collections.Counter(names)
        pairs = zip(names, ids, strict=True)
        names = [f"{name} ({wordnet_id})" if counts[name] > 1 else name for name, wordnet_id in pairs]
    return tuple(names)


def as_known(names, known):
    """Class names, as `known` has them where one has the WordNet ids and the other the names of ImageNet: tuple."""
    ids = tuple(classes())
    words = class_names(ids, {})
    other = dict(zip(ids + words, words + ids, strict=True))
    return tuple(name if name in known or other.get(name) not in known else other[name] for name in names)


@dataclasses.dataclass(frozen=True, eq=False)
class ArchiveSource(IndexedSource):
    """Image files inside the tar archive `path`."""

    path: str
    wordnet_ids: tuple[str, ...]  # in the order of the labels
    files: tuple[str, ...]  # in the order of the names, which begin with the class's WordNet id in training
    labels: np.ndarray  # int32 (files,)
    offsets: np.ndarray  # int64 (files,), bytes from the beginning of the archive
    sizes: np.ndarray  # int64 (files,), bytes
    per_image = ("files", "labels", "offsets", "sizes")

    def fingerprint(self):
        """A hash of the ids of all classes and of the names, sizes and labels of all files."""
        columns = zip(self.files, self.sizes.tolist(), self.labels.tolist(), strict=True)
        files = [f"{file} {size} {label}" for file, size, label in columns]
        return self.with_decoding_in(hashlib.sha256("\n".join([*self.wordnet_ids, "", *files]).encode()).hexdigest())

    def loader(self):
        import tensorflow as tf  # archives are listed without it

        labels = tf.constant(self.labels)

        def load(index):
            content = tf.numpy_function(self.check_readable, (index,), tf.string)
            return tf.ensure_shape(content, ()), tf.gather(labels, index)

        return load

    def check_readable(self, index):
        """As of Source; returns the bytes, an array of an object, since NumPy's own strings lose zeros at the end."""
        with open(self.path, "rb") as file:
            content = os.pread(file.fileno(), int(self.sizes[index]), int(self.offsets[index]))
        if len(content) != self.sizes[index]:
            raise OSError(errno.EIO, "the archive has changed: it ends before this file does", self.path)
        return np.array(content, object)


def open_ilsvrc2012(data_dir, index_folder=None, orientation="auto"):
    """Training and validation images of ImageNet 2012: (training, validation), ArchiveSource.

    `data_dir` holds the two archives, or has them in downloads/manual; a file in the folder `index_folder` keeps the
    places of all images, so that the archives are walked through only once; `orientation`: "apply", "ignore" or
    "auto", which ignores it, as the authors did. Raises UsageError where an archive is missing, damaged or without
    images, a label is missing, or the kit cannot be read.
    """
    folder = find_archives(data_dir)
    paths = [os.path.join(folder, name) for name in (TRAIN_ARCHIVE, VAL_ARCHIVE)]
    kit_path = os.path.join(folder, KIT_ARCHIVE)
    # Before the walk, which takes minutes: an error of the labels comes at once.
    numbered, words = _read_kit(data_dir, kit_path) if os.path.exists(kit_path) else (_packaged_labels(data_dir), {})
    (train, _), (val, _) = listings = _listings(data_dir, paths, index_folder)
    train_ids = [name.partition("/")[0] for name in train]
    ids = tuple(sorted(set(train_ids)))
    val_ids = _val_ids(data_dir, val, numbered, frozenset(ids))
    known, names = {wordnet_id: label for label, wordnet_id in enumerate(ids)}, class_names(ids, words)
    opened = []
    for split, path, (found, others), own in zip(("train", "val"), paths, listings, (train_ids, val_ids), strict=True):
        labels = np.array([known[wordnet_id] for wordnet_id in own], np.int32)
        offsets, sizes = np.array(list(found.values()), np.int64).T
        shared = {"name": split, "class_names": names, "other_files": tuple(others)}
        shared["orientation"] = "apply" if orientation == "apply" else "ignore"
        opened.append(ArchiveSource(path, ids, tuple(found), labels, offsets, sizes, **shared))
    return tuple(opened)


def find_archives(data_dir):
    """The folder that holds the two archives, str. Raises UsageError where one is missing."""
    folders = [os.path.join(os.path.expanduser(data_dir), folder) for folder in FOLDERS]
    for name in (TRAIN_ARCHIVE, VAL_ARCHIVE):
        folders = [folder for folder in folders if os.path.isfile(os.path.join(folder, name))]
        if not folders:
            fetch = "fetch it from https://image-net.org/download-images and do not unpack it"
            raise UsageError(f"--data_dir={data_dir}: {name} is missing, here or in {FOLDERS[1]}; {fetch}")
    return folders[0]


def note_counts(train, val):
    """Says on standard error where the numbers of images and classes are not the official ones."""
    counts = (train.count, len(train.wordnet_ids), val.count)
    if counts != OFFICIAL_COUNTS:
        kinds = "{:,} training images in {:,} classes and {:,} validation images"
        text = f"note: the official archives hold {kinds}; these hold {kinds}"
        print(text.format(*OFFICIAL_COUNTS, *counts), file=sys.stderr)


class _Archive(io.BufferedReader):
    """A file for tarfile, which reads what a header claims in one piece: no piece is larger than a real header."""

    def read(self, size=-1):
        if not 0 <= size <= _HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return super().read(size)


def _listings(data_dir, paths, index_folder):
    """[({name: (offset, bytes)}, other files)] of the two archives, from the index or else from a walk."""
    stats, index_path = [os.stat(path) for path in paths], os.path.join(index_folder or os.devnull, "index.json")
    key = [_INDEX_FORMAT, *(value for stat in stats for value in (stat.st_size, stat.st_mtime_ns))]
    # An index that is missing, damaged or of another version is made again.
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        index = read_json(index_path)
        if index["key"] == key:
            return index["listings"]
    total, progress = sum(stat.st_size for stat in stats), progress_bar("finding the images in the archives", "bytes")
    where = [f"--data_dir={data_dir}: {os.path.relpath(path, os.path.expanduser(data_dir))}" for path in paths]
    with _Archive(io.FileIO(paths[0])) as file:
        listings = [_walk_classes(where[0], file, stats[0].st_size, lambda done: progress(done, total))]
    with _Archive(io.FileIO(paths[1])) as file:
        listings.append(_images(where[1], _members(where[1], file, stats[1].st_size), VAL_IMAGE))
    progress(total, total)
    if index_folder:
        write_json(index_path, {"key": key, "listings": listings})
    return listings


def _walk_classes(where, file, size, report):
    """Lists a tar of one tar per class: the names are CLASS/FILE. `report`: function of the bytes done."""
    found, others, classes = {}, [], set()
    for tar, member in _members(where, file, size):
        match = _CLASS_ARCHIVE.fullmatch(_file_name(member))
        if not match:
            others += [] if member.isdir() else [printable(member.name)]
            continue
        if match[1] in classes:
            raise UsageError(f"{where} holds {match[1]}.tar twice; fetch it again")
        classes.add(match[1])
        inner = _members(where, tar.extractfile(member), member.size, f"{match[1]}/")
        images, more = _images(where, inner, _TRAIN_IMAGE, f"{match[1]}/", member.offset_data)
        found |= images
        others += more
        report(member.offset_data + member.size)
    if not found:
        raise UsageError(f"{where} holds no class (a tar named after its WordNet id, such as n01440764.tar)")
    return dict(sorted(found.items())), others


def _images(where, members, pattern, folder="", offset=0):
    """The images of one tar, in the order of their names; `offset`: where the tar begins in the archive."""
    found, others = {}, []
    for _, member in members:
        name = _file_name(member)
        if not pattern.fullmatch(name):
            others += [] if member.isdir() else [folder + printable(member.name)]
        elif folder + name in found:
            raise UsageError(f"{where} holds {folder}{name} twice; fetch it again")
        else:
            found[folder + name] = offset + member.offset_data, member.size
    if not found:
        raise UsageError(f"{where} holds no images{folder and f' in {folder}'}; fetch it again")
    return dict(sorted(found.items())), others


def _members(where, file, size, folder=""):
    """(tar, member) of the members of a tar, an open file of so many bytes, one at a time; or a UsageError."""
    place = f"at the beginning{folder and f' of {folder}'}"
    try:
        tar = tarfile.open(fileobj=file, mode="r:", encoding="utf-8")  # noqa: SIM115 (closing would close nothing)
        while (member := tar.next()) is not None:
            tar.members.clear()  # which tarfile keeps for lookups by name
            if member.size < 0:
                raise tarfile.ReadError("a member of negative size")
            yield tar, member
            place = f"after {folder}{printable(member.name)}"
        # tarfile takes everything that is not a header for the end.
        file.seek(tar.offset)
        end = file.read(tarfile.BLOCKSIZE)
        if len(end) < tarfile.BLOCKSIZE or any(end) or size - tar.offset > _PADDING_BYTES:
            raise tarfile.ReadError("its end is missing")
    except (OSError, UsageError):
        raise
    except Exception as error:
        # Most that can be wrong in a header is an error of tarfile's, but not all.
        problem = f"is compressed, cut short or damaged ({place}: {printable(str(error))})"
        raise UsageError(f"{where} {problem}; fetch it again") from None


def _file_name(member):
    """The name of a regular file without the folder it may be in; "" for links, longer paths, hidden or odd names."""
    *folders, file = member.name.removeprefix("./").split("/")
    # Not printable are control characters and surrogates, which stand for bytes that are not UTF-8.
    usual = member.isreg() and not member.issparse() and member.name.isprintable() and not file.startswith(".")
    return file if usual and len(folders) < 2 and folders not in ([""], [".."]) else ""


def _val_ids(data_dir, names, numbered, known):
    """WordNet ids of validation images, list of str; `numbered`: those of image 1, 2, ...; `known`: of the classes."""
    by_number = dict(enumerate(numbered, 1))
    ids = [by_number.get(int(VAL_IMAGE.fullmatch(name)[1])) for name in names]
    for name, wordnet_id in zip(names, ids, strict=True):
        if wordnet_id not in known:
            other = f"is of class {wordnet_id}, which {TRAIN_ARCHIVE} does not have"
            problem = other if wordnet_id else f"has no label, there are {len(numbered)}"
            raise UsageError(f"--data_dir={data_dir}: {VAL_ARCHIVE}: {name} {problem}; fetch them again")
    return ids


def labels_of(data_dir, files):
    """WordNet ids of validation images by their names, list of str, where they lie unpacked in one folder.

    They are in SOLUTION, or else in the development kit, in `data_dir` or up to three folders above it; or else in the
    installed TensorFlow Datasets. Raises UsageError where an image has no label or a file cannot be read.
    """
    folders = [Path(data_dir).resolve(), *Path(data_dir).resolve().parents][:4]
    paths = [folder / name for name in (SOLUTION, KIT_ARCHIVE) for folder in folders if (folder / name).is_file()]
    if paths and paths[0].name == SOLUTION:
        try:
            with open(paths[0], encoding="utf-8", newline="") as file:
                ids = {row["ImageId"]: row["PredictionString"].split()[0] for row in csv.DictReader(file)}
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, csv.Error):
            problem = "is not a table of ImageId and PredictionString; fetch it again"
            raise UsageError(f"--data_dir={data_dir}: {paths[0]} {problem}") from None
    else:
        numbered = _read_kit(data_dir, paths[0])[0] if paths else _packaged_labels(data_dir)
        ids = {f"ILSVRC2012_val_{number:08d}": wordnet_id for number, wordnet_id in enumerate(numbered, 1)}
    for file in files:
        if not WORDNET_ID.fullmatch(ids.get(Path(file).stem, "")):
            where = paths[0] if paths else "the installed tensorflow-datasets"
            raise UsageError(f"--data_dir={data_dir}: {file} has no label in {where}; fetch them again")
    return [ids[Path(file).stem] for file in files]


def _packaged_labels(data_dir):
    """WordNet ids of validation images 1, 2, ..., from the installed TensorFlow Datasets; it is not imported."""
    package = Path(importlib.util.find_spec("tensorflow_datasets").origin).parent
    path = package / "datasets" / "imagenet2012" / "validation_labels.txt"
    if path.is_file():
        return path.read_text(encoding="utf-8").split()
    fetch = f"fetch {KIT_ARCHIVE} from https://image-net.org/download-images and put it beside {VAL_ARCHIVE}"
    raise UsageError(f"--data_dir={data_dir}: the installed tensorflow-datasets has no labels of them; {fetch}")


def _read_kit(data_dir, path):
    """What the development kit says: WordNet ids of validation images 1, 2, ..., list; words of classes, {id: str}."""
    said, away = f"--data_dir={data_dir}: {KIT_ARCHIVE}", "move it away: then tensorflow-datasets gives the labels"
    missing = f"{said} is read with scipy, which is not installed; {away}, or"
    loadmat = optional("scipy.io", "imagenet", missing).loadmat
    try:
        with gzip.open(path) as file:
            content = file.read(_KIT_BYTES + 1)
        if len(content) > _KIT_BYTES:
            raise ValueError(f"more than {_KIT_BYTES >> 20} MB")
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:") as tar:
            # A sparse member could grow beyond the bound.
            members = {os.path.basename(each.name): each for each in tar if each.isreg() and not each.issparse()}
            truth, meta = (tar.extractfile(members[name]).read() for name in _KIT_FILES)
        synsets = np.atleast_1d(loadmat(io.BytesIO(meta), variable_names=["synsets"], squeeze_me=True)["synsets"])
        # The kit has inner nodes of the tree too, which are not classes.
        leaves = [synset for synset in synsets if int(synset["num_children"]) == 0]
        ids = {int(synset["ILSVRC2012_ID"]): WORDNET_ID.fullmatch(str(synset["WNID"]))[0] for synset in leaves}
        words = {str(synset["WNID"]): str(synset["words"]).partition(",")[0].strip() for synset in leaves}
        numbered = [ids[int(number)] for number in truth.decode("ascii").split()]
    except Exception as error:
        # Three formats in one another, each with errors of its own.
        reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise UsageError(f"{said} cannot be read ({reason}); fetch it again, or {away}") from None
    return numbered, {wordnet_id: word for wordnet_id, word in words.items() if word.isprintable()}
