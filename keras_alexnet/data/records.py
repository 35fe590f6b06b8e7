"""Images in TFRecord files, as TensorFlow Datasets writes them and `tools/prepare_dataset.py` does.

The files are read here and not by the library, for two things that it does not have: an order that is mixed by file
and by buffer and can be entered at any place without reading all that lies before it, and a place that a run can go
back to. An epoch's records are cut into stretches of a file, the stretches are permuted, and the result is cut into
windows of `shuffle_buffer` records, each of which is mixed whole. A place in the epoch is a place in a window.
"""

import dataclasses
import itertools

import numpy as np

from keras_alexnet.data import orders
from keras_alexnet.errors import UsageError

# Records of one file that stay together until a window mixes them: a prepared shard, which is so read about once an
# epoch. What a stretch of a longer file skips is passed over by reading it.
_STRETCH = 2048
_READERS = 4  # files of a window that are read at a time
_READ_BYTES = 2**20  # of a file at a time
_FILE = 2**32  # a place is so many times the file, and the number of a record in it


@dataclasses.dataclass(frozen=True)
class RecordSource:
    """Images of TFRecord files, undecoded. Methods as `keras_alexnet.data.sources.FolderSource`.

    Attributes:
        name: str, for messages.
        identity: str, what tells these records from others.
        paths: tuple of str, the files.
        first: tuple of int, of each file the first record that belongs to the source.
        ends: tuple of int, of each file the first record that no longer does.
        image_key, label_key: str, of the features.
        class_names: tuple of str, in the order of the labels.
        shuffle_buffer: int >= 1, records that are mixed as a whole; up to three times as many are in memory.
        stored: as of FolderSource.
        label_counts: tuple of int, images of each class; empty where that is not known.
        skipped: frozenset of (int, int), the files and records that are left out.
        other_files: (), since nothing but records is expected in the files.
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
    other_files: tuple[str, ...] = ()

    @property
    def count(self):
        return sum(self.ends) - sum(self.first) - len(self.skipped)

    def names(self):
        """FILE__NUMBER of every record, as TensorFlow Datasets calls them, in order."""
        return tuple(
            f"{_base(path)}__{record}"
            for file, (path, first, end) in enumerate(zip(self.paths, self.first, self.ends, strict=True))
            for record in range(first, end)
            if (file, record) not in self.skipped
        )

    def name_of(self, place, record):
        """The name of an item of `items`, str."""
        return f"{_base(self.paths[int(place) // _FILE])}__{int(place) % _FILE}"

    def fingerprint(self):
        """What tells this source from others, str."""
        return f"{self.identity} {self.count}"

    def check_readable(self, name):
        """Records are read by TensorFlow, which raises what it cannot read."""

    def without(self, names):
        """The same source without these records."""
        places = {}
        for file, path in enumerate(self.paths):  # a file can be there twice, as in train[:5]+train[6:]
            places.setdefault(_base(path), []).append(file)
        pairs = (name.rpartition("__")[::2] for name in names)
        skipped = frozenset(
            (file, int(record))
            for base, record in pairs
            for file in places.get(base, ())
            if self.first[file] <= int(record) < self.ends[file]
        )
        # What is known of the labels is not known of the rest.
        return dataclasses.replace(self, skipped=self.skipped | skipped, label_counts=())

    def items(self, order=None, start=0, part=orders.WHOLE):
        """What `loader()` makes images of: records as they are in their files.

        Args:
            order: None for the order of the files, or a sequence of int that seeds the mixing.
            start: int, how many to leave out at the beginning; of them only those in one window, and what lies before
                it in its files, are read.
            part: (which, of how many) that share the set. Stretches of files are dealt out, in the order in which they
                are read, so that no two read the same; parts differ by the length of a stretch at most.

        Returns:
            tf.data.Dataset of (file * 2^32 + number in the file: int64, record: string), scalars.
        """
        import tensorflow as tf

        windows = _windows(self._stretches(order, part), self.shuffle_buffer)
        kept = [self._kept_in(window) for window in windows]
        before = list(itertools.accumulate(kept, initial=0))
        # The window that the place is in: the last one that begins at or before it.
        entered = max((index for index in range(len(windows)) if before[index] <= start), default=0)
        ahead = windows[entered:]
        if not ahead:
            ahead, before = [[]], [0]
        columns = np.array([piece for window in ahead for piece in window], np.int64).reshape(-1, 3)
        bounds = np.cumsum([0, *(len(window) for window in ahead)])
        numbers = np.arange(entered, entered + len(ahead))
        seed = 0 if order is None else int(np.random.default_rng([*order, 1]).integers(2**62))
        paths = tf.constant(self.paths, tf.string)

        def piece(file, first, end):
            records = tf.data.TFRecordDataset(tf.gather(paths, file), buffer_size=_READ_BYTES).skip(first)
            # File and number in one: a function to put them together would cost more than the reading.
            return tf.data.Dataset.zip(tf.data.Dataset.range(file * _FILE + first, file * _FILE + end), records)

        def window(number, begin, end):
            pieces = tf.data.Dataset.from_tensor_slices(tuple(tf.unstack(tf.constant(columns)[begin:end], 3, axis=1)))
            if order is None:
                return pieces.flat_map(piece)
            mixed = pieces.interleave(piece, cycle_length=_READERS, num_parallel_calls=_READERS, deterministic=True)
            return mixed.shuffle(self.shuffle_buffer, seed=seed + number, reshuffle_each_iteration=False)

        windows = tf.data.Dataset.from_tensor_slices((numbers, bounds[:-1], bounds[1:]))
        # One window after the other; the next one is read and mixed while this one is used up.
        records = windows.interleave(window, cycle_length=1, num_parallel_calls=1, deterministic=True)
        if self.skipped:
            skipped = tf.constant([file * _FILE + number for file, number in sorted(self.skipped)], tf.int64)
            records = records.filter(lambda place, _: tf.reduce_all(place != skipped))
        return records.skip(start - before[entered])

    def loader(self):
        """A function of the parts of an item -> (name, bytes, label), scalars: string, string, int32; of the graph."""
        import tensorflow as tf

        bases = tf.constant([_base(path) for path in self.paths])
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

    def part_count(self, order, part):
        """How many images `items` has for a part, int."""
        return self._kept_in(self._stretches(order, part))

    def _stretches(self, order, part):
        """[(file, first record, end)] in the order in which they are read."""
        if order is None and part == orders.WHOLE:
            return list(zip(range(len(self.paths)), self.first, self.ends, strict=True))
        # Shorter where there are many to share few files.
        length = max(1, min(_STRETCH, -(-self.count // (4 * part[1])))) if part[1] > 1 else _STRETCH
        stretches = [
            (file, begin, min(begin + length, end))
            for file, (first, end) in enumerate(zip(self.first, self.ends, strict=True))
            for begin in range(first, end, length)
        ]
        stretches = [stretches[place] for place in orders.indices(len(stretches), order, 0)]
        if part == orders.WHOLE:
            return stretches
        # Each to the part that has the fewest: none has more than another by more than a stretch.
        counts, own = [0] * part[1], []
        for stretch in stretches:
            least = counts.index(min(counts))
            counts[least] += self._kept_in([stretch])
            if least == part[0]:
                own.append(stretch)
        return own

    def _kept_in(self, stretches):
        """Records of stretches that are not left out, int."""
        return sum(
            end - first - sum(other == file and first <= record < end for other, record in self.skipped)
            for file, first, end in stretches
        )


def of_builder(builder, name, split, image_key, label_key, shuffle_buffer):
    """One split of a TensorFlow Datasets set.

    Args:
        builder: tfds.core.DatasetBuilder whose files are there.
        name: str, of the set, for messages.
        split: str in the library's notation.
        image_key, label_key, shuffle_buffer: as of RecordSource.

    Returns:
        RecordSource.

    Raises:
        UsageError: the files are no TFRecords.
        KeyError, ValueError: there is no such split.
    """
    info = builder.info
    parts = info.splits[split].file_instructions
    if info.file_format.value != "tfrecord":
        raise UsageError(
            f"--dataset={name}: is stored as {info.file_format.value}, and only tfrecord is read; prepare it with "
            "file_format=tfrecord"
        )
    return RecordSource(
        name=f"{name} {split}",
        identity=f"{info.full_name} {split}",
        paths=tuple(part.filename for part in parts),
        first=tuple(part.skip for part in parts),
        ends=tuple(part.skip + part.take for part in parts),
        image_key=image_key,
        label_key=label_key,
        class_names=tuple(info.features[label_key].names),
        shuffle_buffer=shuffle_buffer,
    )


def _windows(stretches, size):
    """Cuts stretches into windows of `size` records: a list of lists of (file, first record, end)."""
    windows, room = [], 0
    for file, first, end in stretches:
        while first < end:
            if not room:
                windows.append([])
                room = size
            taken = min(room, end - first)
            windows[-1].append((file, first, first + taken))
            first, room = first + taken, room - taken
    return windows


def _base(path):
    return path.rpartition("/")[2]
