"""Images in TFRecord files, as TensorFlow Datasets writes them and `tools/prepare_dataset.py` does.

The library's orders cannot be entered at any place. So here an epoch's records are cut into chunks of a file, the
chunks are permuted, and the result is cut into shuffle windows of `shuffle_buffer` records, each of which is shuffled
as a whole: to get to a place, only its window is read. Raw images (pixels alone) are read one by one.
"""

import contextlib
import dataclasses
import itertools
import os

import numpy as np
import tensorflow as tf

from keras_alexnet.data.decoding import STORED_SIZE
from keras_alexnet.data.sources import WHOLE, IndexedSource, Source, permutation

_CHUNK = 2048  # records of one file that stay together until a window shuffles them: a prepared shard
_READERS = 4  # files of a window that are read at a time
_READ_BYTES = 2**20  # of a file at a time
_FILE = 2**32  # an item's place is the number of its file times this, plus the number of its record in the file
_PIXEL = np.dtype("V3")  # three bytes in one: reversed by pixels, not by bytes


@dataclasses.dataclass(frozen=True)
class RecordSource(Source):
    """Images of TFRecord files; an item is (place: int64, record: string), and parts get whole chunks.

    Attributes:
        identity: str, what tells these records from others.
        paths: tuple of str, the files.
        first, ends: tuple of int, of each file the first record that belongs to the source, and the first after those.
        image_key, label_key: str, of the features.
        shuffle_buffer: int >= 1, records of a shuffle window; up to three times as many are in memory.
        skipped: frozenset of (int, int), the files and records that are left out.
    """

    name: str
    identity: str
    paths: tuple[str, ...]
    first: tuple[int, ...]
    ends: tuple[int, ...]
    image_key: str
    label_key: str
    class_names: tuple[str, ...]
    shuffle_buffer: int
    stored: str = ""
    label_counts: tuple[int, ...] = ()
    skipped: frozenset = frozenset()
    resize: str = "shorter_side"
    labels = ()

    @property
    def count(self):
        return sum(self.ends) - sum(self.first) - len(self.skipped)

    def names(self):
        """FILE__NUMBER of every record, as TensorFlow Datasets calls them."""
        return tuple(
            f"{os.path.basename(path)}__{record}"
            for file, (path, first, end) in enumerate(zip(self.paths, self.first, self.ends, strict=True))
            for record in range(first, end)
            if (file, record) not in self.skipped
        )

    def name_of(self, place, record):
        return f"{os.path.basename(self.paths[int(place) // _FILE])}__{int(place) % _FILE}"

    def without(self, names):
        files = {}
        for file, path in enumerate(self.paths):  # a file can be there twice, as in train[:5]+train[6:]
            files.setdefault(os.path.basename(path), []).append(file)
        skipped = frozenset(
            (file, int(record))
            for base, record in (name.rpartition("__")[::2] for name in names)
            for file in files.get(base, ())
            if self.first[file] <= int(record) < self.ends[file]
        )
        return dataclasses.replace(self, skipped=self.skipped | skipped, label_counts=())

    def items(self, order=None, start=0, part=WHOLE):
        windows = _windows(self._chunks(order, part), self.shuffle_buffer)
        before = list(itertools.accumulate((self._kept_in(window) for window in windows), initial=0))
        # The window of the place: the last one that begins at or before it.
        entered = max((index for index in range(len(windows)) if before[index] <= start), default=0)
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
            skipped = tf.constant([file * _FILE + number for file, number in sorted(self.skipped)], tf.int64)
            records = records.filter(lambda place, _: tf.reduce_all(place != skipped))
        return records.skip(start - before[entered])

    def part_count(self, order, part):
        return self._kept_in(self._chunks(order, part))

    def loader(self):
        bases = tf.constant([os.path.basename(path) for path in self.paths])
        features = {
            self.image_key: tf.io.FixedLenFeature((), tf.string),
            self.label_key: tf.io.FixedLenFeature((), tf.int64),
        }

        def load(place, record):
            example = tf.io.parse_single_example(record, features)
            file, number = place // _FILE, tf.strings.as_string(place % _FILE)
            name = tf.strings.join([tf.gather(bases, file), "__", number])
            return name, example[self.image_key], tf.cast(example[self.label_key], tf.int32)

        return load

    def _chunks(self, order, part):
        """[(file, first record, end)] in the order in which they are read."""
        if order is None and part == WHOLE:
            return list(zip(range(len(self.paths)), self.first, self.ends, strict=True))
        # Shorter where many share few files.
        length = max(1, min(_CHUNK, -(-self.count // (4 * part[1])))) if part[1] > 1 else _CHUNK
        chunks = [
            (file, begin, min(begin + length, end))
            for file, (first, end) in enumerate(zip(self.first, self.ends, strict=True))
            for begin in range(first, end, length)
        ]
        chunks = [chunks[place] for place in permutation(len(chunks), order)]
        if part == WHOLE:
            return chunks
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
            end - first - sum(other == file and first <= record < end for other, record in self.skipped)
            for file, first, end in chunks
        )


@dataclasses.dataclass(frozen=True, eq=False)
class RawSource(IndexedSource):
    """Raw images of 256x256 in TFRecord files; the preparation has noted where the pixels of each begin.

    Only the rows of a crop are read, and no check sums: `tools/prepare_dataset.py --check` verifies them.

    Attributes:
        identity, paths: as of RecordSource.
        files, labels: int32 (images,), which of the paths an image is in, and its class.
        offsets: int64 (images,), bytes before its pixels there.
    """

    name: str
    identity: str
    paths: tuple[str, ...]
    files: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    label_counts: tuple[int, ...] = ()
    resize: str = "shorter_side"
    stored, per_image = "raw", ("files", "offsets", "labels")

    def names(self):
        """FILE@OFFSET of every image."""
        bases = [os.path.basename(path) for path in self.paths]
        return tuple(f"{bases[file]}@{offset}" for file, offset in zip(self.files, self.offsets, strict=True))

    def check_readable(self, name):
        base, _, offset = name.rpartition("@")
        path = next(path for path in self.paths if os.path.basename(path) == base)
        with open(path, "rb") as file:
            file.seek(int(offset))
            file.read(STORED_SIZE * STORED_SIZE * 3)

    def loader(self):
        bases = tf.constant([os.path.basename(path) for path in self.paths])
        files, offsets, labels = (tf.constant(column) for column in (self.files, self.offsets, self.labels))
        read = self.window_reader(STORED_SIZE)

        def load(index):
            zero = tf.zeros([1], tf.int32)
            image = read(index[None], zero, zero, zero)[0]
            file, offset = tf.gather(bases, tf.gather(files, index)), tf.strings.as_string(tf.gather(offsets, index))
            return tf.strings.join([file, "@", offset]), image, tf.gather(labels, index)

        return load

    def window_reader(self, size):
        """A function of (indices: int64 (B,), rows, columns, reflected: int32 (B,)) -> uint8 (B, size, size, 3), RGB.

        It reads crops, reflected or not, in a graph; a tf.errors.OpError where a file cannot be read or is too short.
        """

        def read(indices, rows, columns, reflected):
            images = tf.numpy_function(
                lambda *arrays: self._crops(size, *arrays), (indices, rows, columns, reflected), tf.uint8
            )
            return tf.ensure_shape(images, (None, size, size, 3))

        return read

    def _crops(self, size, indices, rows, columns, reflected):
        images = np.empty((len(indices), size, size), _PIXEL)
        band = np.empty((size, STORED_SIZE), _PIXEL)
        with contextlib.ExitStack() as stack:
            opened = {}
            for image, index, row, column, turned in zip(images, indices, rows, columns, reflected, strict=True):
                file = self.files[index]
                if file not in opened:
                    opened[file] = stack.enter_context(open(self.paths[file], "rb", buffering=0)).fileno()
                if os.preadv(opened[file], [band], self.offsets[index] + row * STORED_SIZE * 3) != band.nbytes:
                    raise OSError(f"{self.paths[file]}: ends before the image at byte {self.offsets[index]} does")
                crop = band[:, column : column + size]
                image[...] = crop[:, ::-1] if turned else crop
        return images.view(np.uint8).reshape(len(indices), size, size, 3)


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
