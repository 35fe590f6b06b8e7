"""Shards of prepared images: TFRecord files of tf.train.Example, each with a file beside it on what is in it.

A shard holds the images of one stretch of a source's fixed random order. It is written aside and renamed; the file
beside it, written after that, is what makes it count. So a shard is whole or is not there, whenever the process ends.
"""

import contextlib
import dataclasses
import functools
import hashlib
import itertools
import json
import os
import tempfile

import numpy as np
import tensorflow as tf

from keras_alexnet.data.decoding import STORED_SIZE, decode_center, decode_window
from keras_alexnet.data.statistics import Sums
from keras_alexnet.data.threads import parallel_calls, with_options
from keras_alexnet.errors import RunError, UsageError, brief
from keras_alexnet.files import atomic_write

NAME = "prepared"  # of the set, as TensorFlow Datasets has it, and so of its files
ASIDE = ".shard-"  # how the names of unfinished shards begin
WORK = ".preparing"  # the folder, beside the shards, of what is only needed until all are there
IMAGE, LABEL, FILE_NAME = "image", "label", "file_name"  # keys of the features
SPLITS = ("train", "validation")

_BATCH = 32  # images that are handed to Python at a time
_BEFORE_RECORD, _AFTER_RECORD = 12, 4  # bytes of a TFRecord: its length and two check sums


@dataclasses.dataclass(frozen=True)
class Settings:
    """How images are stored.

    Attributes:
        size: int, rows and columns; training takes 256 as it is and resizes others.
        encoding: "jpeg", or "raw" for the numbers themselves, eight times as large and quicker to read.
        quality: int, 1..100, of the JPEGs.
        shard_images: int >= 1, images of a shard, those that turn out to be none included.
        seed: int >= 0, of the order.
        bad_images: "skip", to leave out what is no image and list it in the manifest, or "fail".

    Raises:
        UsageError: a value is none of these.
    """

    size: int = STORED_SIZE
    encoding: str = "jpeg"
    quality: int = 90
    shard_images: int = 2048
    seed: int = 2012
    bad_images: str = "skip"

    def __post_init__(self):
        limits = {"size": (8, 4096), "quality": (1, 100), "shard_images": (1, 10**6), "seed": (0, 2**31 - 1)}
        for name, (low, high) in limits.items():
            if not low <= getattr(self, name) <= high:
                raise UsageError(f"--{name}={getattr(self, name)}: give a number from {low} to {high}")
        for name, choices in {"encoding": ("jpeg", "raw"), "bad_images": ("skip", "fail")}.items():
            if getattr(self, name) not in choices:
                raise UsageError(f"--{name}={getattr(self, name)}: give {' or '.join(choices)}")
        if self.encoding == "raw" and self.size != STORED_SIZE:
            raise UsageError(f"--size={self.size}: raw images are stored as training takes them, with {STORED_SIZE}")

    def shards_of(self, count):
        """Into how many shards so many images go, int."""
        return -(-count // self.shard_images)

    def places_of(self, number, count):
        """Which of so many images the shard of a number holds, range."""
        return range(number * self.shard_images, min((number + 1) * self.shard_images, count))


@dataclasses.dataclass(frozen=True)
class Shard:
    """What is in a shard.

    Attributes:
        file: str, its name.
        images, bytes: int.
        sha256: str.
        skipped: tuple of (name, reason), of the files that are no images.
        sums: Sums.
        offsets: int64 (images,), of raw images: where in the file the numbers of each begin; else (0,).
        labels: int32 (images,), likewise.
    """

    file: str
    images: int
    bytes: int
    sha256: str
    skipped: tuple[tuple[str, str], ...]
    sums: Sums
    offsets: np.ndarray
    labels: np.ndarray


def file_of(split, number, count):
    """The name of a shard, as TensorFlow Datasets expects it."""
    return f"{NAME}-{split}.tfrecord-{number:05d}-of-{count:05d}"


def write(source, split, numbers, folder, settings, threads=0):
    """Writes shards.

    Args:
        source: see `keras_alexnet.data.sources`.
        split: one of SPLITS.
        numbers: list of int, which shards, rising.
        folder: str, where to; it has a folder WORK.
        settings: Settings.
        threads: int, images decoded and encoded at a time; 0 for one per core.

    Yields:
        int, images that are done since the last time, those left out included.

    Raises:
        RunError: a file is no image and `settings.bad_images` is "fail".
        tf.errors.OpError, OSError: the disk is full or fails. Shards that were finished stay.
    """
    order = (settings.seed,)
    encode = _encoder(source, settings)
    # One graph for each run of neighbors: all of them, unless something was interrupted on several machines.
    for _, run in itertools.groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        run = [number for _, number in run]
        start = settings.places_of(run[0], source.count).start
        places = tf.data.Dataset.range(start, settings.places_of(run[-1], source.count).stop)
        images = tf.data.Dataset.zip(places, source.items(order, start)).map(encode, parallel_calls(threads))
        # What cannot be decoded is missing behind `ignore_errors`; by their places we know which.
        batches = with_options(images.ignore_errors().batch(_BATCH).prefetch(2), threads).as_numpy_iterator()
        batches = _by_shard(batches, settings.shard_images)
        current = next(batches, None)
        for number in run:
            places = settings.places_of(number, source.count)
            with _Writer(folder, split, number, settings.shards_of(source.count), len(source.class_names)) as writer:
                done = places.start
                while current is not None and current[0] == number:
                    writer.add(*current[1:])
                    yield int(current[1][-1]) + 1 - done
                    done = int(current[1][-1]) + 1
                    current = next(batches, None)
                missing = sorted(set(places) - writer.places)
                skipped = list(_reasons(source, order, places, missing, encode)) if missing else []
                if skipped and settings.bad_images == "fail":
                    name, reason = skipped[0]
                    raise RunError(
                        f"{source.name}/{name}: {reason}; mend or remove it, or leave such files out with "
                        "--bad_images=skip"
                    )
                writer.finish(skipped)
            yield places.stop - done


def read(folder, split, number, count):
    """What is in a finished shard.

    Args:
        folder, split, number: as of `write`.
        count: int, of all shards of the split.

    Returns:
        Shard, or None where it is not there or not whole.
    """
    file = file_of(split, number, count)
    try:
        with np.load(_beside(folder, file), allow_pickle=False) as arrays:
            facts = json.loads(str(arrays["facts"]))
            sums, offsets, labels = Sums.from_arrays(arrays), arrays["offsets"], arrays["labels"]
        skipped = tuple((name, reason) for name, reason in facts.pop("skipped"))
        shard = Shard(file=file, sums=sums, skipped=skipped, offsets=offsets, labels=labels, **facts)
        return shard if os.path.getsize(os.path.join(folder, file)) == shard.bytes else None
    except Exception:
        # Not there, or damaged in one of many ways: the shard is written again.
        return None


def sha256_of(path):
    """The SHA-256 of a file, str."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def _encoder(source, settings):
    """A function of (place, item) -> (place, name, label, what is stored, uint8 (256, 256, 3)), in the graph."""
    load, stored = source.loader(), _storing(settings.size, settings.encoding, settings.quality)

    def encode(place, item):
        name, image_bytes, label = load(*item)
        return place, name, label, *stored(image_bytes)

    return encode


@functools.cache
def _storing(size, encoding, quality):
    """A function of a file's bytes -> (what is stored of it, what counts in the statistics); traced once for all."""

    @tf.function(input_signature=[tf.TensorSpec((), tf.string)], autograph=False)
    def stored(image_bytes):
        image = decode_window(image_bytes, 0, 0, size, size)
        if encoding == "raw":
            return "", image
        content = tf.io.encode_jpeg(image, quality=quality)
        # The statistics are of the images before they are encoded, which is to say of the source.
        return content, image if size == STORED_SIZE else decode_center(content)

    return stored


def _by_shard(batches, size):
    """Cuts batches where a shard ends: (shard, *parts of the batch)."""
    for batch in batches:
        numbers = batch[0] // size  # rising, so that a shard's part is a slice
        for number in range(int(numbers[0]), int(numbers[-1]) + 1):
            first, end = np.searchsorted(numbers, [number, number + 1])
            if first < end:
                yield number, *(part[first:end] for part in batch)


def _reasons(source, order, places, missing, encode):
    """(name, reason) of the files at these places, each tried once more by itself."""
    missing = frozenset(missing)
    for place, item in zip(places, source.items(order, places.start), strict=False):
        if place in missing:
            try:
                encode(place, item)
                reason = "could not be read at first"
            except tf.errors.OpError as error:
                reason = brief(error)
            yield source.name_of(*item), reason


def _beside(folder, file):
    return os.path.join(folder, WORK, f"{file}.npz")


class _Writer:
    """One shard on its way. A context: without `finish`, nothing is left of it."""

    def __init__(self, folder, split, number, count, classes):
        self.folder, self.file = folder, file_of(split, number, count)
        self.places, self.sums = set(), Sums(classes)
        self.bytes, self.offsets, self.labels = 0, [], []

    def __enter__(self):
        handle, self.aside = tempfile.mkstemp(dir=os.path.join(self.folder, WORK), prefix=ASIDE)
        os.close(handle)
        self.records = tf.io.TFRecordWriter(self.aside)
        return self

    def __exit__(self, *_):
        if self.records is not None:
            # What fails while it closes, such as a full disk, has failed before and is on its way up.
            with contextlib.suppress(tf.errors.OpError):
                self.records.close()
            os.unlink(self.aside)

    def add(self, places, names, labels, stored, images):
        self.places.update(places.tolist())
        self.sums.add(images, labels)
        for name, label, content, image in zip(names, labels, stored, images, strict=True):
            numbers = b"" if content else image.tobytes()
            features = {
                IMAGE: tf.train.Feature(bytes_list=tf.train.BytesList(value=[content or numbers])),
                LABEL: tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
                FILE_NAME: tf.train.Feature(bytes_list=tf.train.BytesList(value=[name])),
            }
            example = tf.train.Example(features=tf.train.Features(feature=features))
            # Deterministic: else the order of the features is anybody's guess, and with it the bytes.
            record = example.SerializeToString(deterministic=True)
            self.records.write(record)
            if not content:
                self.offsets.append(self.bytes + _BEFORE_RECORD + record.index(numbers))
                self.labels.append(label)
            self.bytes += _BEFORE_RECORD + len(record) + _AFTER_RECORD

    def finish(self, skipped):
        self.records.close()
        self.records = None
        path = os.path.join(self.folder, self.file)
        try:
            with open(self.aside, "rb") as file:
                os.fsync(file.fileno())
            facts = {
                "images": len(self.places),
                "bytes": os.path.getsize(self.aside),
                "sha256": sha256_of(self.aside),
                "skipped": skipped,
            }
            os.chmod(self.aside, 0o644)
            os.replace(self.aside, path)
        except BaseException:
            os.unlink(self.aside)
            raise
        with atomic_write(_beside(self.folder, self.file), "wb") as file:
            places = {"offsets": np.array(self.offsets, np.int64), "labels": np.array(self.labels, np.int32)}
            np.savez(file, facts=np.array(json.dumps(facts)), **places, **self.sums.arrays())
