"""What every source of images has, and what those have whose images can be read one by one."""

import dataclasses

import numpy as np

WHOLE = (0, 1)  # the part of a process that shares the images with no other


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Source:
    """Undecoded images with labels, which can be read in any order and from any place on.

    Every source also has `count`, int, images; `labels`, a sequence of int, one an image, empty where labels are known
    only after reading; and these methods:
        keys, name_of(key): property, a number for each image, iterable of int; and its name, str.
        without(names): the same source without some of them.
        items(order=None, start=0, part=WHOLE): what `loader()` makes images of, tf.data.Dataset of tuples, a key first.
            `order`: None for that of the keys, or a sequence of int that seeds one; `start`: images to leave out at the
            beginning; `part`: (which, of how many) that share the images, `part_count(order, part)` of them.
        loader(): a function of an item -> (image as `stored` says, label: int32 scalar), for a graph.
    """

    name: str  # for messages, such as "train"
    class_names: tuple[str, ...]  # in the order of the labels
    label_counts: tuple[int, ...] = ()  # images of each class; empty where it is not known which can be decoded
    other_files: tuple[str, ...] = ()  # files among the images that are not read
    resize: str = "shorter_side"  # or "stretch": how an image becomes (or became) 256x256, see `data.decoding`
    orientation: str = "ignore"  # or "apply": what is done with the EXIF orientation of a file, see `data.decoding`
    stored = ""  # for JPEG and PNG files of any size; "jpeg" or "raw" (pixels alone) where all images are 256x256

    def fingerprint(self):
        """What tells this source from others, str."""
        return self.with_decoding_in(f"{self.identity} {self.count}")

    def with_decoding_in(self, fingerprint):
        """A fingerprint that tells statistics of images that were resized or turned in another way apart."""
        fingerprint = fingerprint if self.resize == "shorter_side" else f"{fingerprint} {self.resize}"
        return f"{fingerprint} upright" if self.orientation == "apply" else fingerprint

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
        return dataclasses.replace(self, **columns, label_counts=())


def permutation(count, order):
    """int64 (count,): 0, 1, 2, ... where order is None, or else a permutation that the sequence of int seeds."""
    return np.arange(count) if order is None else np.random.default_rng(order).permutation(count)
