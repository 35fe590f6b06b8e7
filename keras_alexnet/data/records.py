"""Images in TFRecord files as sources: sets of TensorFlow Datasets, and folders of `keras_alexnet.data.prepare`.

The library's orders cannot be entered at any place. So here an epoch's records are cut into chunks of a file, the
chunks are permuted, and the result is cut into shuffle windows of `shuffle_buffer` records, each of which is shuffled
as a whole: to get to a place, only its window is read. Raw images (pixels alone) are read one by one.
"""

import bisect
import contextlib
import dataclasses
import errno
import functools
import hashlib
import itertools
import logging
import os
import urllib.parse

import numpy as np
import requests
import tensorflow as tf
import tensorflow_datasets as tfds
from tensorflow_datasets.core.download import downloader

from keras_alexnet.data.base import WHOLE, IndexedSource, Source, permutation
from keras_alexnet.data.decoding import IGNORE, SHORTER_SIDE, STORED_SIZE, from_yuv
from keras_alexnet.data.sources import check_class_names
from keras_alexnet.errors import RunError, UsageError
from keras_alexnet.files import progress_bar, read_json

# What is in a prepared folder.
MANIFEST = "manifest.json"  # written last: a folder that has it is whole
STATISTICS = "statistics.npz"
PLACES = "places.npz"  # of raw images: where in which file the pixels of each begin, and its label
FORMAT = 1  # to be raised when the same source and settings give other bytes
WORK = ".preparing"  # a folder of what is needed only until all shards are there
SPLITS = ("train", "validation")
EARLIER_SETTINGS = {"resize": SHORTER_SIDE, "orientation": IGNORE}  # which folders of earlier versions do not name
IMAGE, LABEL, FILE_NAME = "image", "label", "file_name"  # keys of the features

_CHUNK = 2048  # records of one file that stay together until a window shuffles them: a prepared shard
_READERS = 4  # files of a window that are read at a time
_READ_BYTES = 2**20  # of a file at a time
_FILE = 2**32  # an item's place is the number of its file times this, plus the number of its record in the file
_PIXEL = np.dtype("V3")  # three bytes in one: reversed by pixels, not by bytes
_TRIES, _CONNECT_SECONDS, _READ_SECONDS = 3, 5, 60  # of a download; the library itself tries for minutes


@dataclasses.dataclass(frozen=True)
class RecordSource(Source):
    """Images of TFRecord files; an item is (place: int64, record: string), and parts get whole chunks."""

    identity: str  # what tells these records from others
    paths: tuple[str, ...]  # the files
    first: tuple[int, ...]  # of each file the first record that belongs to the source
    ends: tuple[int, ...]  # and the first after those
    image_key: str  # of the features
    label_key: str
    shuffle_buffer: int  # records of a shuffle window; up to three times as many are in memory
    stored: str = ""
    skipped: frozenset = frozenset()  # the places that are left out
    labels = ()

    @property
    def count(self):
        return sum(self.ends) - sum(self.first) - len(self.skipped)

    @property
    def keys(self):
        chunks = self._chunks(None, WHOLE)
        places = (place for file, *ends in chunks for place in range(*(file * _FILE + end for end in ends)))
        return [place for place in places if place not in self.skipped]

    def name_of(self, place):
        """FILE__NUMBER, as TensorFlow Datasets calls a record."""
        return f"{os.path.basename(self.paths[place // _FILE])}__{place % _FILE}"

    def without(self, names):
        names = frozenset(names)
        skipped = frozenset(key for key in self.keys if self.name_of(key) in names) if names else frozenset()
        return dataclasses.replace(self, skipped=self.skipped | skipped, label_counts=()) if skipped else self

    def items(self, order=None, start=0, part=WHOLE):
        windows = _windows(self._chunks(order, part), self.shuffle_buffer)
        before = list(itertools.accumulate((self._kept_in(window) for window in windows), initial=0))
        # The window of the place: the last one that begins at or before it.
        entered = max(bisect.bisect_right(before, start, hi=len(windows)) - 1, 0)
        ahead = windows[entered:] or [[]]
        columns = np.array([piece for window in ahead for piece in window], np.int64).reshape(-1, 3)
        bounds = np.cumsum([0, *(len(window) for window in ahead)])
        numbers = np.arange(entered, entered + len(ahead))
        seed = 0 if order is None else int(np.random.default_rng([*order, 1]).integers(2**62))
        paths = tf.constant(self.paths, tf.string)

        def piece(file, first, end):
            records = tf.data.TFRecordDataset(tf.gather(paths, file), buffer_size=_READ_BYTES).skip(first)
            # File and number in one: a function to put them together would take longer than the reading.
            return tf.data.Dataset.zip(tf.data.Dataset.range(file * _FILE + first, file * _FILE + end), records)

        def window(number, begin, end):
            pieces = tf.data.Dataset.from_tensor_slices(tuple(tf.unstack(tf.constant(columns)[begin:end], 3, axis=1)))
            if order is None:
                return pieces.flat_map(piece)
            mixed = pieces.interleave(piece, cycle_length=_READERS, num_parallel_calls=_READERS, deterministic=True)
            return mixed.shuffle(self.shuffle_buffer, seed=seed + number, reshuffle_each_iteration=False)

        windows = tf.data.Dataset.from_tensor_slices((numbers, bounds[:-1], bounds[1:]))
        # One window after the other; the next one is read and shuffled while this one is used.
        records = windows.interleave(window, cycle_length=1, num_parallel_calls=1, deterministic=True)
        if self.skipped:
            skipped = tf.constant(sorted(self.skipped), tf.int64)
            records = records.filter(lambda place, _: tf.reduce_all(place != skipped))
        return records.skip(start - before[entered])

    def part_count(self, order, part):
        return self._kept_in(self._chunks(order, part))

    def loader(self):
        kinds = (self.image_key, tf.string), (self.label_key, tf.int64)
        features = {key: tf.io.FixedLenFeature((), kind) for key, kind in kinds}

        def load(place, record):
            example = tf.io.parse_single_example(record, features)
            return example[self.image_key], tf.cast(example[self.label_key], tf.int32)

        return load

    def _chunks(self, order, part):
        """[(file, first record, end)] in the order in which they are read."""
        files = list(zip(range(len(self.paths)), self.first, self.ends, strict=True))
        if order is None and part == WHOLE:
            return files
        # Shorter where many share few files.
        length = max(1, min(_CHUNK, -(-self.count // (4 * part[1])))) if part[1] > 1 else _CHUNK
        chunks = [
            (file, begin, min(begin + length, end)) for file, first, end in files for begin in range(first, end, length)
        ]
        chunks = [chunks[place] for place in permutation(len(chunks), order)]
        # Each to the part that has the fewest records.
        counts, own = [0] * part[1], []
        for chunk in chunks:
            least = counts.index(min(counts))
            counts[least] += self._kept_in([chunk])
            if least == part[0]:
                own.append(chunk)
        return own

    def _kept_in(self, chunks):
        """Records of chunks that are not left out, int."""
        return sum(
            end - first - sum(file * _FILE + first <= place < file * _FILE + end for place in self.skipped)
            for file, first, end in chunks
        )


@dataclasses.dataclass(frozen=True, eq=False)
class RawSource(IndexedSource):
    """Raw images of 256x256 in TFRecord files; the preparation has noted where the pixels of each begin.

    Only the rows of a crop are read, and no check sums: `tools/prepare_dataset.py --check` verifies them.
    """

    identity: str
    paths: tuple[str, ...]
    files: np.ndarray  # int32 (images,), which of the paths an image is in
    offsets: np.ndarray  # int64 (images,), bytes before its pixels there
    labels: np.ndarray  # int32 (images,)
    stored, per_image = "raw", ("files", "offsets", "labels")

    def name_of(self, index):
        """FILE@OFFSET"""
        return f"{os.path.basename(self.paths[self.files[index]])}@{self.offsets[index]}"

    def check_readable(self, index):
        self._crops(STORED_SIZE, [index], [0], [0])

    def loader(self):
        labels, read = tf.constant(self.labels), self.window_reader(STORED_SIZE)
        zero = tf.zeros([1], tf.int32)
        return lambda index: (read(index[None], zero, zero)[0], tf.gather(labels, index))

    def window_reader(self, size):
        """A function of (indices: int64 (B,), rows, columns: int32 (B,)) -> uint8 (B, size, size, 3), RGB.

        It reads crops in a graph; a tf.errors.OpError where a file cannot be read or is too short.
        """

        def read(*arrays):
            images = tf.numpy_function(functools.partial(self._crops, size), arrays, tf.uint8)
            return tf.ensure_shape(images, (None, size, size, 3))

        return read

    def _crops(self, size, indices, rows, columns):
        images = np.empty((len(indices), size, size), _PIXEL)
        band = np.empty((size, STORED_SIZE), _PIXEL)
        with contextlib.ExitStack() as stack:
            read = self._reader(stack)
            for image, index, row, column in zip(images, indices, rows, columns, strict=True):
                read(index, row * STORED_SIZE * 3, band)
                image[...] = band[:, column : column + size]
        return images.view(np.uint8).reshape(len(indices), size, size, 3)

    def _reader(self, stack):
        """A function (index, first byte of the image, array to fill); files are open until the ExitStack ends."""

        @functools.cache
        def opened(file):
            return stack.enter_context(open(self.paths[file], "rb", buffering=0)).fileno()

        def read(index, first, band):
            if os.preadv(opened(self.files[index]), [band], self.offsets[index] + first) != band.nbytes:
                place, path = self.offsets[index], self.paths[self.files[index]]
                raise OSError(errno.EIO, f"it ends before the image at byte {place} does", path)

        return read


@dataclasses.dataclass(frozen=True, eq=False)
class YuvSource(RawSource):
    """As RawSource, of images as `decoding.to_yuv420` stores them: half the bytes, and nothing to decode either."""

    def window_reader(self, size):
        def read(*arrays):
            planes = tf.numpy_function(functools.partial(self._crops, size), arrays, tf.uint8)
            return from_yuv(tf.ensure_shape(planes, (None, 3, size, size)))

        return read

    def _crops(self, size, indices, rows, columns):
        images = np.empty((len(indices), 3, size, size), np.uint8)
        with contextlib.ExitStack() as stack:
            read = self._reader(stack)
            for planes, index, row, column in zip(images, indices, rows, columns, strict=True):
                # All pairs of rows that the crop touches; a pair has two rows of luma and one of each color.
                band = np.empty(((row + size + 1) // 2 - row // 2, 6, STORED_SIZE // 2), np.uint8)
                read(index, row // 2 * band[0].size, band)
                luma = band[:, :4].reshape(-1, STORED_SIZE)
                halved = band[:, 4:, column // 2 : (column + size + 1) // 2].swapaxes(0, 1)
                # Each number twice in a row, as the two bytes of one of 16 bits: NumPy repeats rows fast, bytes slowly.
                colors = (halved.astype(np.uint16) * 257).view(np.uint8).repeat(2, 1)
                planes[0] = luma[row % 2 :, column:][:size, :size]
                planes[1:] = colors[:, row % 2 :, column % 2 :][:, :size, :size]
        return images


def open_tfds(name, data_dir, train_split, val_split, shuffle_buffer):
    """Two splits, RecordSource, of any image classification set of TensorFlow Datasets; prepared where needed.

    Splits are in the library's notation, such as "train[:80%]", or None (see `--val_split`). Raises UsageError where
    the set or a split is unknown, cannot be had, or is not one of labeled images.
    """
    builder, keys = _open_builder(name, data_dir)
    second = _second(builder)
    if not second and (train_split is None) != (val_split is None):
        problem = "has one split only; give both --train_split and --val_split, or neither"
        raise UsageError(f"--dataset={name}: {problem}")
    train_split, val_split = train_split or ("train" if second else "train[:80%]"), val_split or second or "train[80%:]"
    train = _split_of(builder, name, keys, "train_split", train_split, shuffle_buffer)
    val = _split_of(builder, name, keys, "val_split", val_split, shuffle_buffer)
    ranges = [list(zip(source.paths, source.first, source.ends, strict=True)) for source in (train, val)]
    if any(a == b and low < end and start < high for a, low, high in ranges[0] for b, start, end in ranges[1]):
        raise UsageError(f"--val_split={val_split}: has images of --train_split={train_split} in it; keep them apart")
    return train, val


def open_tfds_split(name, data_dir, split, shuffle_buffer):
    """One split of a set of TensorFlow Datasets: RecordSource. Args and errors as of `open_tfds`; None: validation."""
    builder, keys = _open_builder(name, data_dir)
    return _split_of(builder, name, keys, "split", split or _second(builder) or "train[80%:]", shuffle_buffer)


def _second(builder):
    return next((split for split in ("validation", "test") if split in builder.info.splits), None)


def open_prepared(data_dir, shuffle_buffer):
    """The splits of a prepared folder: (training, validation), RecordSource or RawSource.

    Raises UsageError where the folder is not a prepared one, or something in it is missing or has changed.
    """
    try:
        manifest = read_manifest(data_dir)
        check_files(data_dir, manifest)
    except (UsageError, RunError) as error:
        raise UsageError(f"--data_dir={error}") from None
    opened, settings = [], manifest["settings"]
    for split, facts in manifest["splits"].items():
        known = {"identity": facts["fingerprint"], "label_counts": tuple(facts["label_counts"])}
        known |= {name: settings[name] for name in ("resize", "orientation")}
        if settings["encoding"] != "jpeg":
            with np.load(os.path.join(data_dir, PLACES), allow_pickle=False) as places:
                known |= {name: places[f"{split}_{name}"] for name in RawSource.per_image}
            known["paths"] = tuple(os.path.join(data_dir, shard["file"]) for shard in facts["shards"])
            kind = RawSource if settings["encoding"] == "raw" else YuvSource
            opened.append(kind(name=f"records {split}", class_names=tuple(manifest["class_names"]), **known))
        else:
            builder = tfds.builder_from_directory(data_dir)
            source = of_builder(builder, "records", split, IMAGE, LABEL, shuffle_buffer)
            stored = "jpeg" if settings["size"] == STORED_SIZE else ""
            opened.append(dataclasses.replace(source, stored=stored, **known))
    return tuple(opened)


def read_manifest(folder):
    """The manifest of a prepared folder, dict. Raises UsageError where it is missing or something else."""
    path = os.path.join(folder, MANIFEST)
    try:
        manifest = read_json(path)
        if manifest["format"] != FORMAT or set(manifest["splits"]) != set(SPLITS):
            raise ValueError
        manifest["settings"] = {**EARLIER_SETTINGS, **manifest["settings"]}
        return manifest
    except FileNotFoundError:
        if os.path.isdir(os.path.join(folder, WORK)):
            raise UsageError(f"{folder}: is not completely prepared; the same preparation again resumes") from None
        raise UsageError(f"{folder}: holds no prepared images ({MANIFEST}); see tools/prepare_dataset.py") from None
    except (ValueError, KeyError, TypeError):
        raise UsageError(f"{path}: is not a manifest of this version; prepare into another folder") from None


def check_files(folder, manifest, shards_too=False):
    """Raises RunError unless a prepared folder is as its manifest says; of shards only in size without `shards_too`."""
    shards = [shard for split in manifest["splits"].values() for shard in split["shards"]]
    files = [{"file": name, "sha256": sha256} for name, sha256 in manifest["checksums"].items()]
    done, total, progress = 0, sum(shard["bytes"] for shard in shards), progress_bar(f"checking {folder}", "bytes")
    for each in files + shards:
        path, size, problem = os.path.join(folder, each["file"]), each.get("bytes"), None
        if not os.path.isfile(path):
            problem = "is missing"
        elif size is not None and os.path.getsize(path) != size:
            problem = f"has {os.path.getsize(path)} bytes instead of {size}"
        elif (shards_too or size is None) and sha256_of(path) != each["sha256"]:
            problem = "has changed since it was prepared"
        if problem:
            raise RunError(f"{path}: {problem}; prepare it again, into another folder")
        done += size or 0
        progress(done, total)


def sha256_of(path):
    """The SHA-256 of a file, str."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def is_prepared(name, data_dir):
    """Whether a set of TensorFlow Datasets is on the disk already, bool. Raises UsageError where it is unknown."""
    return bool(_builder(name, data_dir).info.splits)


def of_builder(builder, name, split, image_key, label_key, shuffle_buffer):
    """One split of a tfds.core.DatasetBuilder whose files are there: RecordSource. `name`: str, for messages.

    Raises UsageError where the files are not TFRecords, KeyError or ValueError where the split is unknown.
    """
    info = builder.info
    parts = info.splits[split].file_instructions
    if info.file_format.value != "tfrecord":
        problem = f"is stored as {info.file_format.value}, and only tfrecord is read"
        raise UsageError(f"--dataset={name}: {problem}; prepare it with file_format=tfrecord")
    class_names = tuple(info.features[label_key].names)
    check_class_names(class_names, f"--dataset={name}")
    paths, first = tuple(part.filename for part in parts), tuple(part.skip for part in parts)
    ends = tuple(part.skip + part.take for part in parts)
    facts = f"{info.full_name} {split}", paths, first, ends, image_key, label_key, shuffle_buffer
    return RecordSource(*facts, name=f"{name} {split}", class_names=class_names)


def _split_of(builder, name, keys, flag, split, shuffle_buffer):
    try:
        source = of_builder(builder, name, split, *keys, shuffle_buffer)
    except UsageError:
        raise
    except (KeyError, ValueError) as error:
        known = ", ".join(builder.info.splits)
        raise UsageError(f"--{flag}={split}: {name} has the splits {known} ({error})") from None
    if not source.count:
        raise UsageError(f"--{flag}={split}: {name} has no images there")
    return source


def _builder(name, data_dir):
    try:
        return tfds.builder(name, data_dir=os.path.expanduser(data_dir) if data_dir else None)
    except (tfds.core.DatasetNotFoundError, ValueError, ImportError, AssertionError) as error:
        reason = [*str(error).strip().splitlines(), "unknown"][0]
        known = "Give the name of a TensorFlow Datasets set, folder, records or shapes."
        raise UsageError(f"--dataset={name}: {reason} {known}") from None


def _open_builder(name, data_dir):
    """A set whose files are there: (builder, (key of the image, key of the label))."""
    builder = _builder(name, data_dir)
    keys, features = builder.info.supervised_keys, builder.info.features
    kinds = (tfds.features.Image, tfds.features.ClassLabel)
    if not keys or len(keys) != 2 or not all(map(isinstance, (features[key] for key in keys), kinds)):
        raise UsageError(f"--dataset={name}: is not a set of images with one label each")
    _limit_tries()
    try:
        builder.download_and_prepare()
    except Exception as error:
        # From a missing network to a changed checksum; an AssertionError is of files that users must fetch themselves.
        by_hand = isinstance(error, AssertionError)
        problem = "some of its files must be fetched by hand" if by_hand else "could not be downloaded and prepared"
        words = " ".join(str(error).split())[:400]
        if isinstance(error, requests.RequestException) and error.request is not None and error.response is None:
            words = f"no answer from {urllib.parse.urlsplit(error.request.url).netloc}; check the network"
        raise UsageError(f"--dataset={name}: {problem}: {words}") from None
    return builder, keys


@functools.cache
def _limit_tries():
    """Lets a download without a network fail within seconds, and without urllib3's lines on every try."""
    logging.getLogger("urllib3").setLevel(logging.ERROR)
    downloader.MAX_RETRIES = _TRIES - 1
    timeout = _CONNECT_SECONDS, _READ_SECONDS
    downloader._open_with_requests = functools.partial(downloader._open_with_requests, timeout=timeout)


def _windows(chunks, size):
    """Cuts chunks into windows of `size` records: a list of lists of (file, first record, end)."""
    windows, room = [], 0
    for file, first, end in chunks:
        while first < end:
            if not room:
                windows.append([])
                room = size
            taken = min(room, end - first)
            windows[-1].append((file, first, first + taken))
            first, room = first + taken, room - taken
    return windows
