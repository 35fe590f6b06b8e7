"""The mean image and the RGB covariance of a training set (sections 2 and 4.1), in one streaming pass.

The sums are of whole numbers and exact: they do not depend on the order, and one pass is as good as two.
"""

import dataclasses

import numpy as np

from keras_alexnet.data.decoding import STORED_SIZE, center_of, require_whole
from keras_alexnet.data.pipeline import parallel_calls, with_options
from keras_alexnet.errors import RunError, printable
from keras_alexnet.files import atomic_write

_BATCH = 64
_EXACT_16 = (2**16 - 1) // 255  # images whose sum in one place fits in 16 bits, where adding is fast


@dataclasses.dataclass(frozen=True)
class Statistics:
    """What is known of a training set.

    Attributes:
        mean_image, rgb_mean: float32 (256, 256, 3), float64 (3,), 0..255.
        rgb_covariance: float64 (3, 3), over all pixels of all images, 0..255 units squared.
        count: int, images.
        label_counts: tuple of int, images of each class; empty where that is not known.
        skipped: tuple of str, names of the files that cannot be decoded.
        fingerprint: str, of the source.
    """

    mean_image: np.ndarray
    rgb_mean: np.ndarray
    rgb_covariance: np.ndarray
    count: int
    label_counts: tuple[int, ...] = ()
    skipped: tuple[str, ...] = ()
    fingerprint: str = ""


@dataclasses.dataclass(frozen=True)
class DatasetSummary:
    """What is known of a validation set; as of Statistics."""

    label_counts: tuple[int, ...]
    skipped: tuple[str, ...]
    fingerprint: str


class Sums:
    """Sums over images of so many classes, to which more can be added in any order; `statistics` divides them."""

    def __init__(self, classes):
        self.pixels = np.zeros((STORED_SIZE, STORED_SIZE, 3), np.int64)  # the sum of all images
        self.products = np.zeros((3, 3), np.int64)  # of r r, r g, r b, ... over all pixels of all images
        self.label_counts = np.zeros(classes, np.int64)
        self._columns = np.zeros((3, STORED_SIZE * 3))  # not in `products` yet; whole, exact in float64 up to 2^53

    @property
    def count(self):
        return int(self.label_counts.sum())

    def add(self, images, labels):
        """Adds uint8 (B, 256, 256, 3), RGB, and int (B,)."""
        self.label_counts += np.bincount(labels, minlength=len(self.label_counts))
        for first in range(0, len(images), _EXACT_16):
            self.pixels += np.add.reduce(images[first : first + _EXACT_16], axis=0, dtype=np.uint16)
        for image in images:
            # In a row of r g b r g b ..., each number times the one `step` further on: r r, g g, b b first, then r g,
            # g b and a product across two pixels, then r b and two of those. Exact in float32: the sum of a column, at
            # most 256 * 255^2, is below 2^24.
            rows = image.reshape(STORED_SIZE, -1).astype(np.float32)
            for step, columns in enumerate(self._columns):
                end = len(columns) - step
                columns[:end] += np.einsum("ij,ij->j", rows[:, :end], rows[:, step:])

    def merge(self, arrays):
        """Adds the `arrays` of another one. Raises KeyError or ValueError where they are something else."""
        for name, array in self.arrays().items():
            array += arrays[name]

    def arrays(self):
        """dict of name -> int64 array: pixels (256, 256, 3), products (3, 3), label_counts (classes,)."""
        for step, columns in enumerate(self._columns):
            for channel in range(3 - step):
                product = int(columns[channel::3].sum())
                self.products[channel, channel + step] += product
                if step:
                    self.products[channel + step, channel] += product
        self._columns[...] = 0
        return {"pixels": self.pixels, "products": self.products, "label_counts": self.label_counts}

    def statistics(self, skipped=(), fingerprint=""):
        """Statistics of all images so far, at least one."""
        pixels, count = self.count * STORED_SIZE**2, self.count
        products, sums = self.arrays()["products"].tolist(), self.pixels.sum((0, 1)).tolist()
        # Python's whole numbers up to the division: a difference of two large floats loses its small digits.
        covariance = [[(products[a][b] * pixels - sums[a] * sums[b]) / pixels**2 for b in range(3)] for a in range(3)]
        return Statistics(
            mean_image=(self.pixels / count).astype(np.float32),
            rgb_mean=np.array([total / pixels for total in sums]),
            rgb_covariance=np.array(covariance),
            count=count,
            label_counts=tuple(self.label_counts.tolist()),
            skipped=tuple(skipped),
            fingerprint=fingerprint,
        )


def compute(source, threads=0, progress=None):
    """One pass over the images of a sources.Source, each decoded as for training: Statistics.

    Files that cannot be decoded are in `skipped` and in nothing else. `threads`: images decoded at a time, 0 for one a
    core; `progress`: optional function of (images done, images in all). Raises RunError where no image can be decoded,
    or a file cannot be read at all.
    """
    sums = Sums(len(source.class_names))
    skipped = _pass(source, lambda image: image, sums.add, threads, progress)
    return sums.statistics(skipped, source.fingerprint())


def summarize(source, threads=0, progress=None):
    """As `compute`, without the sums over pixels; returns a DatasetSummary."""
    counts = np.zeros(len(source.class_names), np.int64)

    def add(_, labels):
        np.add.at(counts, labels, 1)

    # One number of each image: all of it would be copied for nothing, and without any it would not be decoded.
    skipped = _pass(source, lambda image: image[0, 0, 0], add, threads, progress)
    return DatasetSummary(tuple(counts.tolist()), skipped, source.fingerprint())


def _pass(source, part, add, threads, progress):
    """Calls `add(parts of images, labels)` with NumPy batches of all images; returns the names of those left out."""
    load, seen = source.loader(), set()

    def decoded(*item):
        name, image, label = load(*item)
        image = image if source.stored else require_whole(image)
        return name, label, part(center_of(source.stored, image, resize=source.resize))

    # `ignore_errors` drops what cannot be decoded; the names tell which.
    images = source.items().map(decoded, num_parallel_calls=parallel_calls(threads), deterministic=False)
    batches = with_options(images.ignore_errors().batch(_BATCH).prefetch(2), threads)
    for names, labels, parts in batches.as_numpy_iterator():
        seen.update(name.decode() for name in names)
        add(parts, labels)
        if progress:
            progress(len(seen), source.count)
    if not seen:
        raise RunError(f"{source.name}: none of the {source.count} files is an image that can be decoded")
    # Listed only where something is missing: it may take a pass.
    missing = tuple(sorted(set(source.names()) - seen)) if len(seen) < source.count else ()
    for name in missing:
        try:
            source.check_readable(name)  # a file that cannot be read says nothing about the image in it
        except OSError as error:
            where = printable(f"{source.name}/{name}")
            raise RunError(f"{where}: cannot be read ({error.strerror}); repair it and start again") from None
    return missing


def save(statistics, path):
    """Writes a `.npz`."""
    with atomic_write(path, "wb") as file:
        np.savez(file, **dataclasses.asdict(statistics))


def load(path):
    """Statistics of `save`, or of any `.npz` with mean_image, rgb_mean, rgb_covariance and count; or a RunError."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {"label_counts": np.array([]), "skipped": np.array([]), "fingerprint": "", **arrays}
        statistics = Statistics(
            mean_image=found["mean_image"].astype(np.float32),
            rgb_mean=found["rgb_mean"].astype(np.float64),
            rgb_covariance=found["rgb_covariance"].astype(np.float64),
            count=int(found["count"]),
            label_counts=tuple(found["label_counts"].tolist()),
            skipped=tuple(found["skipped"].tolist()),
            fingerprint=str(found["fingerprint"]),
        )
    except OSError:
        raise
    except Exception as error:  # a damaged zip, compression and array header have errors of their own
        raise RunError(f"{path}: does not hold the statistics of a training set") from error
    shapes = (statistics.mean_image.shape, statistics.rgb_mean.shape, statistics.rgb_covariance.shape)
    if shapes != ((STORED_SIZE, STORED_SIZE, 3), (3,), (3, 3)):
        raise RunError(f"{path}: holds statistics of other shapes, {shapes}")
    if not all(np.isfinite(each).all() for each in (statistics.mean_image, statistics.rgb_covariance)):
        raise RunError(f"{path}: holds statistics with numbers that are not finite")
    return statistics
