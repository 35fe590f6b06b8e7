"""Raw images in TFRecord files, each read at its place: any order, at no cost but the read.

`tools/prepare_dataset.py --encoding=raw` notes where in its files the numbers of every image begin. So an epoch is one
permutation of all images, a run goes on at any place, and of an image only the rows of its window are read, straight
into the batch; TensorFlow's reader would read, check, parse, mix and copy all of it. The records' own check sums are
not looked at: `tools/prepare_dataset.py --check` does that.
"""

import contextlib
import dataclasses
import os

import numpy as np

from keras_alexnet.data import orders

SIZE = 256  # rows and columns of an image

_PIXEL = np.dtype("V3")  # three bytes in one: turned around by pixels, not by bytes


@dataclasses.dataclass(frozen=True, eq=False)
class RawSource:
    """Raw images of 256x256. Methods as `keras_alexnet.data.sources.FolderSource`.

    Attributes:
        name: str, for messages.
        identity: str, what tells these images from others.
        paths: tuple of str, the files.
        files: int32 (images,), which of the paths an image is in.
        offsets: int64 (images,), bytes before its numbers there.
        labels: int32 (images,).
        class_names: tuple of str, in the order of the labels.
        label_counts: tuple of int, images of each class.
        stored, other_files: as of FolderSource.
    """

    name: str
    identity: str
    paths: tuple[str, ...]
    files: np.ndarray
    offsets: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    label_counts: tuple[int, ...] = ()
    stored: str = "raw"
    other_files: tuple[str, ...] = ()

    @property
    def count(self):
        return len(self.labels)

    def names(self):
        """FILE@OFFSET of every image, in order."""
        return tuple(self._name(index) for index in range(self.count))

    def name_of(self, index):
        """The name of an item of `items`, str."""
        return self._name(int(index))

    def fingerprint(self):
        """What tells this source from others, str."""
        return f"{self.identity} {self.count}"

    def check_readable(self, name):
        """Reads an image's bytes, whatever they are. Raises OSError when that fails."""
        base, _, offset = name.rpartition("@")
        path = next(path for path in self.paths if os.path.basename(path) == base)
        with open(path, "rb") as file:
            file.seek(int(offset))
            file.read(SIZE * SIZE * 3)

    def without(self, names):
        """The same source without these images."""
        names = frozenset(names)
        if not names:
            return self
        kept = [index for index in range(self.count) if self._name(index) not in names]
        columns = {column: getattr(self, column)[kept] for column in ("files", "offsets", "labels")}
        return dataclasses.replace(self, **columns, label_counts=())

    def items(self, order=None, start=0, part=orders.WHOLE):
        """Which images, in which order.

        Args:
            order: None for the order of the files, or a sequence of int that seeds a permutation of all images.
            start: int, how many to leave out at the beginning: nothing of them is read.
            part: (which, of how many) that share the set; of what the others have nothing is read.

        Returns:
            tf.data.Dataset of (index,), an int64 scalar.
        """
        return orders.dataset(self.count, order, start, part)

    def part_count(self, order, part):
        """How many images `items` has for a part, int."""
        return orders.part_count(self.count, part)

    def loader(self):
        """A function of an item -> (name, uint8 (256, 256, 3), label): string and int32 scalars; of the graph."""
        import tensorflow as tf

        bases = tf.constant([os.path.basename(path) for path in self.paths])
        files, offsets, labels = (tf.constant(column) for column in (self.files, self.offsets, self.labels))
        read = self.window_reader(SIZE)

        def load(index):
            zero = tf.zeros([1], tf.int32)
            image = read(index[None], zero, zero, zero)[0]
            file, offset = tf.gather(bases, tf.gather(files, index)), tf.strings.as_string(tf.gather(offsets, index))
            return tf.strings.join([file, "@", offset]), image, tf.gather(labels, index)

        return load

    def window_reader(self, size):
        """A function that reads windows, turned around or not, of a batch of images; of the graph.

        Args:
            size: int, rows and columns of a window.

        Returns:
            function of (indices: int64 (B,), rows, columns, reflected: int32 (B,)) -> uint8 (B, size, size, 3), RGB.
            In the graph it fails with tf.errors.OpError where a file cannot be read or is shorter than it was.
        """
        import tensorflow as tf

        def read(indices, rows, columns, reflected):
            images = tf.numpy_function(
                lambda *arrays: self._windows(size, *arrays), (indices, rows, columns, reflected), tf.uint8
            )
            return tf.ensure_shape(images, (None, size, size, 3))

        return read

    def _windows(self, size, indices, rows, columns, reflected):
        images = np.empty((len(indices), size, size), _PIXEL)
        band = np.empty((size, SIZE), _PIXEL)
        with contextlib.ExitStack() as stack:
            opened = {}
            for image, index, row, column, turned in zip(images, indices, rows, columns, reflected, strict=True):
                file = self.files[index]
                if file not in opened:
                    opened[file] = stack.enter_context(open(self.paths[file], "rb", buffering=0)).fileno()
                if os.preadv(opened[file], [band], self.offsets[index] + row * SIZE * 3) != band.nbytes:
                    raise OSError(f"{self.paths[file]}: ends before the image at byte {self.offsets[index]} does")
                window = band[:, column : column + size]
                image[...] = window[:, ::-1] if turned else window
        return images.view(np.uint8).reshape(len(indices), size, size, 3)

    def _name(self, index):
        return f"{os.path.basename(self.paths[self.files[index]])}@{self.offsets[index]}"
