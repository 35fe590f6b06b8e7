"""Shards of prepared images: TFRecord files of tf.train.Example, each with a file in WORK on what is in it.

A shard holds the images of one part of a source's fixed random order. It is written to a temporary file and renamed; it
counts once the file in WORK is written after that. So a shard is whole or missing, whenever the process ends.
"""

import contextlib
import dataclasses
import functools
import itertools
import json
import os
import tempfile

import numpy as np
import tensorflow as tf

from keras_alexnet.data.decoding import STORED_SIZE, decode_center, decode_window, require_whole
from keras_alexnet.data.pipeline import parallel_calls, with_options
from keras_alexnet.data.record_sets import FILE_NAME, IMAGE, LABEL, WORK, sha256_of
from keras_alexnet.data.sources import conversion
from keras_alexnet.data.statistics import Sums
from keras_alexnet.errors import ArgumentError, RunError, brief, printable
from keras_alexnet.files import atomic_write

NAME = "prepared"  # of the set, as TensorFlow Datasets has it, and so of its files
TEMPORARY = ".shard-"  # how the names of unfinished shards begin
_BATCH = 32  # images that are handed to Python at a time
_BEFORE_RECORD, _AFTER_RECORD = 12, 4  # bytes of a TFRecord: its length and two check sums
_LIMITS = {"size": (8, 4096), "quality": (1, 100), "shard_images": (1, 10**6), "seed": (0, 2**31 - 1)}
_CHOICES = {"encoding": ("jpeg", "raw"), "bad_images": ("skip", "fail")}


@dataclasses.dataclass(frozen=True)
class Settings:
    """How images are stored. Raises ArgumentError for other values.

    Attributes:
        size: int, 8..4096, rows and columns; training takes 256 as it is and resizes others.
        encoding: "jpeg", or "raw" for the pixels alone, eight times as large and faster to read.
        quality: int, 1..100, of the JPEGs.
        shard_images: int, 1..1,000,000, images of a shard, those that cannot be decoded included.
        seed: int >= 0, of the order.
        bad_images: "skip", to leave out what cannot be decoded and list it in the manifest, or "fail".
    """

    size: int = STORED_SIZE
    encoding: str = "jpeg"
    quality: int = 90
    shard_images: int = 2048
    seed: int = 2012
    bad_images: str = "skip"

    def __post_init__(self):
        for name, (low, high) in _LIMITS.items():
            if not low <= getattr(self, name) <= high:
                raise ArgumentError(name, getattr(self, name), f"must be a number from {low} to {high}")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise ArgumentError(name, getattr(self, name), f"must be {' or '.join(choices)}")
        if self.encoding == "raw" and self.size != STORED_SIZE:
            raise ArgumentError("size", self.size, f"must be {STORED_SIZE} for raw images, as training takes them")

    def files(self, split, count):
        """The names of the shards of so many images, list of str, as TensorFlow Datasets expects them."""
        shards = -(-count // self.shard_images)
        return [f"{NAME}-{split}.tfrecord-{number:05d}-of-{shards:05d}" for number in range(shards)]

    def places(self, number, count):
        """Which of so many images the shard of a number holds, range."""
        return range(number * self.shard_images, min((number + 1) * self.shard_images, count))


def write(source, split, numbers, folder, settings, threads=0):
    """Writes shards of a split; yields int, images that are done since the last time, those left out included.

    Args:
        source: sources.Source.
        split: str, one of record_sets.SPLITS.
        numbers: list of int, which shards, rising.
        folder: str, the prepared folder; it has a folder WORK.
        settings: Settings.
        threads: int, images decoded and encoded at a time; 0 for one per core.

    Raises:
        RunError: a file cannot be decoded and `settings.bad_images` is "fail".
        tf.errors.OpError, OSError: the disk is full or fails. Finished shards stay.
    """
    files, order = settings.files(split, source.count), (settings.seed,)
    load, stored = source.loader(), _storing(settings.size, settings.encoding, settings.quality)

    def encode(place, item):
        name, image_bytes, label = load(*item)
        return place, name, label, *stored(image_bytes)

    # One graph for each run of neighbors: all of them, unless several machines were interrupted.
    for _, run in itertools.groupby(enumerate(numbers), lambda pair: pair[1] - pair[0]):
        run = [number for _, number in run]
        first, end = settings.places(run[0], source.count).start, settings.places(run[-1], source.count).stop
        items = tf.data.Dataset.zip(tf.data.Dataset.range(first, end), source.items(order, first))
        # `ignore_errors` drops what cannot be decoded; the places tell which.
        images = items.map(encode, parallel_calls(threads)).ignore_errors().batch(_BATCH).prefetch(2)
        batches = _by_shard(with_options(images, threads).as_numpy_iterator(), settings.shard_images)
        current = next(batches, None)
        for number in run:
            places = settings.places(number, source.count)
            done = places.start
            with _Shard(folder, files[number], len(source.class_names)) as shard:
                while current is not None and current[0] == number:
                    shard.add(*current[1:])
                    yield int(current[1][-1]) + 1 - done
                    done = int(current[1][-1]) + 1
                    current = next(batches, None)
                missing = frozenset(places) - shard.places
                skipped = list(_reasons(source, order, places, missing, encode)) if missing else []
                if skipped and settings.bad_images == "fail":
                    name, reason = printable(f"{source.name}/{skipped[0][0]}"), skipped[0][1]
                    raise RunError(
                        f"{name}: {reason}; repair or remove it, or leave such files out with --bad_images=skip"
                    )
                shard.finish(skipped)
            yield places.stop - done


def read(folder, file):
    """What is in a finished shard: dict of the facts, offsets and labels of `_Shard`, and the arrays of its sums; None
    where the shard is missing or not whole.
    """
    try:
        with np.load(_facts_path(folder, file), allow_pickle=False) as arrays:
            shard = {**arrays, **json.loads(str(arrays["facts"]))}
        return shard if os.path.getsize(os.path.join(folder, file)) == shard["bytes"] else None
    except Exception:
        return None  # missing, or damaged in one of many ways: the shard is written again


@functools.cache
def _storing(size, encoding, quality):
    """A function of a file's bytes -> (what is stored of it, what counts in the statistics); traced once for all."""

    @tf.function(input_signature=[tf.TensorSpec((), tf.string)], autograph=False)
    def stored(image_bytes):
        image = decode_window(require_whole(image_bytes), 0, 0, size, size)
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
    for place, item in zip(places, source.items(order, places.start), strict=False):
        if place in missing:
            name, reason = source.name_of(*item), "could not be read at first"
            try:
                source.check_readable(name)
                encode(place, item)
            except OSError as error:
                reason = f"cannot be read ({error.strerror})"
            except tf.errors.OpError as error:
                reason = conversion(source.loader()(*item)[1].numpy()[:16], name) or brief(error)
            yield name, reason


def _facts_path(folder, file):
    return os.path.join(folder, WORK, f"{file}.npz")


class _Shard:
    """One shard that is being written. A context: without `finish` nothing is left of it."""

    def __init__(self, folder, file, classes):
        self.path, self.facts_path = os.path.join(folder, file), _facts_path(folder, file)
        self.places, self.sums = set(), Sums(classes)
        self.bytes, self.offsets, self.labels = 0, [], []
        handle, self.temporary = tempfile.mkstemp(dir=os.path.join(folder, WORK), prefix=TEMPORARY)
        os.close(handle)
        self.records = tf.io.TFRecordWriter(self.temporary)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if os.path.exists(self.temporary):
            with contextlib.suppress(tf.errors.OpError):  # such as a full disk, whose error is on its way up
                self.records.close()
            os.unlink(self.temporary)

    def add(self, places, names, labels, stored, images):
        """Adds a batch of what is made of images, and those that count in the statistics."""
        self.places.update(places.tolist())
        self.sums.add(images, labels)
        for name, label, content, image in zip(names, labels, stored, images, strict=True):
            pixels = b"" if content else image.tobytes()
            features = {
                IMAGE: tf.train.Feature(bytes_list=tf.train.BytesList(value=[content or pixels])),
                LABEL: tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
                FILE_NAME: tf.train.Feature(bytes_list=tf.train.BytesList(value=[name])),
            }
            example = tf.train.Example(features=tf.train.Features(feature=features))
            # Deterministic: otherwise the order of the features, and with it the bytes, can be any.
            record = example.SerializeToString(deterministic=True)
            self.records.write(record)
            if not content:
                self.offsets.append(self.bytes + _BEFORE_RECORD + record.index(pixels))
                self.labels.append(label)
            self.bytes += _BEFORE_RECORD + len(record) + _AFTER_RECORD

    def finish(self, skipped):
        """Gives the shard its name; `skipped`: list of (name, reason)."""
        self.records.close()
        with open(self.temporary, "rb") as file:
            os.fsync(file.fileno())
        facts = {"images": len(self.places), "bytes": os.path.getsize(self.temporary), "skipped": skipped}
        facts["sha256"] = sha256_of(self.temporary)
        os.chmod(self.temporary, 0o644)
        os.replace(self.temporary, self.path)
        with atomic_write(self.facts_path, "wb") as file:
            places = {"offsets": np.array(self.offsets, np.int64), "labels": np.array(self.labels, np.int32)}
            np.savez(file, facts=np.array(json.dumps(facts)), **places, **self.sums.arrays())
