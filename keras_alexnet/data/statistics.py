"""The mean image and the RGB covariance of a training set (sections 2 and 4.1), in one streaming pass.

The sums are of whole numbers and exact: they do not depend on the order, and one pass is as good as two.
"""

import dataclasses
import hashlib

import numpy as np

from keras_alexnet.data.decoding import STORED_SIZE, center_of, require_whole
from keras_alexnet.data.pipeline import parallel_calls, with_options
from keras_alexnet.errors import RunError, UsageError, printable
from keras_alexnet.files import atomic_write, progress_bar

_BATCH = 64
_EXACT_16 = (2**16 - 1) // 255  # images whose sum in one place fits in 16 bits, where adding is fast


@dataclasses.dataclass(frozen=True)
class Statistics:
    """What is known of a training set."""

    mean_image: np.ndarray  # float32 (256, 256, 3), 0..255
    rgb_mean: np.ndarray  # float64 (3,), 0..255
    rgb_covariance: np.ndarray  # float64 (3, 3), over all pixels of all images, 0..255 units squared
    count: int  # images
    label_counts: tuple[int, ...] = ()  # images of each class; empty where that is not known
    skipped: tuple[str, ...] = ()  # names of the files that cannot be decoded
    fingerprint: str = ""  # of the source

    @property
    def identity(self):
        """The fingerprint, or a hash of the mean image where the images are not known, as of imported weights."""
        return self.fingerprint or hashlib.sha256(self.mean_image.tobytes()).hexdigest()


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

    @property
    def count(self):
        return int(self.label_counts.sum())

    def add(self, images, labels):
        """Adds uint8 (B, 256, 256, 3), RGB, and int (B,)."""
        self.label_counts += np.bincount(labels, minlength=len(self.label_counts))
        for first in range(0, len(images), _EXACT_16):
            self.pixels += np.add.reduce(images[first : first + _EXACT_16], axis=0, dtype=np.uint16)
        sums = np.zeros((3, STORED_SIZE * 3))  # whole, exact in float64 up to 2^53
        for image in images:
            # In a row of r g b r g b ..., each number times the one `step` further on: r r, g g, b b first, then r g,
            # g b, then r b; others are across pixels. Exact in float32: a column's sum, at most 256 * 255^2, is < 2^24.
            rows = image.reshape(STORED_SIZE, -1).astype(np.float32)
            for step, columns in enumerate(sums):
                end = len(columns) - step
                columns[:end] += np.einsum("ij,ij->j", rows[:, :end], rows[:, step:])
        for first in range(3):
            for second in range(3):
                self.products[first, second] += int(sums[abs(first - second), min(first, second) :: 3].sum())

    def merge(self, arrays):
        """Adds the arrays of another one, dict by the names of the attributes."""
        for name, array in vars(self).items():
            array += arrays[name]

    def statistics(self, skipped=(), fingerprint=""):
        """Statistics of all images so far, at least one."""
        pixels, count = self.count * STORED_SIZE**2, self.count
        products, sums = self.products.tolist(), self.pixels.sum((0, 1)).tolist()
        # Python's whole numbers up to the division: a difference of two large floats loses its small digits.
        covariance = [[(products[a][b] * pixels - sums[a] * sums[b]) / pixels**2 for b in range(3)] for a in range(3)]
        mean_image, rgb_mean = (self.pixels / count).astype(np.float32), np.array([total / pixels for total in sums])
        label_counts = tuple(self.label_counts.tolist())
        return Statistics(mean_image, rgb_mean, np.array(covariance), count, label_counts, tuple(skipped), fingerprint)


def compute(source, threads=0):
    """One pass over the images of a sources.Source, each decoded as for training: Statistics.

    Files that cannot be decoded are in `skipped` and in nothing else. `threads`: int, images decoded at a time, 0 for
    one a core. Raises RunError where no image can be decoded, or a file cannot be read at all.
    """
    sums = Sums(len(source.class_names))
    skipped = _pass(source, lambda image: image, sums.add, threads)
    return sums.statistics(skipped, source.fingerprint())


def summarize(source, threads=0):
    """As `compute`, without the sums over pixels; returns a DatasetSummary."""
    counts = np.zeros(len(source.class_names), np.int64)
    # One number of each image: all of it would be copied for nothing, and without any it would not be decoded.
    skipped = _pass(source, lambda image: image[0, 0, 0], lambda _, labels: np.add.at(counts, labels, 1), threads)
    return DatasetSummary(tuple(counts.tolist()), skipped, source.fingerprint())


def _pass(source, part, add, threads):
    """Calls `add(parts of images, labels)` with NumPy batches of all images; returns the names of those left out."""
    load, seen, progress = source.loader(), set(), progress_bar(f"reading {source.name}")

    def decoded(*item):
        image, label = load(*item)
        image = image if source.stored else require_whole(image)
        return item[0], label, part(center_of(source.stored, image, STORED_SIZE, source.resize, source.orientation))

    # `ignore_errors` drops what cannot be decoded; the keys tell which.
    images = source.items().map(decoded, num_parallel_calls=parallel_calls(threads), deterministic=False)
    batches = with_options(images.ignore_errors().batch(_BATCH).prefetch(2), threads)
    for keys, labels, parts in batches.as_numpy_iterator():
        check_labels(labels, source.name)
        seen.update(keys.tolist())
        add(parts, labels)
        progress(len(seen), source.count)
    if not seen:
        raise RunError(f"{source.name}: none of the {source.count} files is an image that can be decoded")
    missing = [key for key in source.keys if key not in seen]
    for key in missing:
        try:
            source.check_readable(key)  # a file that cannot be read says nothing about the image in it
        except OSError as error:
            where = printable(f"{source.name}/{source.name_of(key)}")
            raise RunError(f"{where}: cannot be read ({error.strerror}); repair it and start again") from None
    return tuple(sorted(source.name_of(key) for key in missing))


def check_labels(labels, name):
    """Raises UsageError where images of a set have no label: TensorFlow Datasets gives them -1."""
    if min(labels) < 0:
        raise UsageError(f"{name}: has images without a label (-1); name a split whose images have labels")


def save(statistics, path):
    with atomic_write(path, "wb") as file:
        np.savez(file, **dataclasses.asdict(statistics))


def load(path):
    """Statistics of `save`, or of any `.npz` with mean_image, rgb_mean, rgb_covariance and count; or a RunError."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {"label_counts": np.array([]), "skipped": np.array([]), "fingerprint": "", **arrays}
        mean_image = found["mean_image"].astype(np.float32)
        rgb_mean, rgb_covariance = (found[name].astype(np.float64) for name in ("rgb_mean", "rgb_covariance"))
        label_counts, skipped = (tuple(found[name].tolist()) for name in ("label_counts", "skipped"))
        known = int(found["count"]), label_counts, skipped, str(found["fingerprint"])
    except OSError:
        raise
    except Exception as error:  # a damaged zip, compression and array header have errors of their own
        raise RunError(f"{path}: does not hold the statistics of a training set") from error
    shapes = mean_image.shape, rgb_mean.shape, rgb_covariance.shape
    if shapes != ((STORED_SIZE, STORED_SIZE, 3), (3,), (3, 3)):
        raise RunError(f"{path}: holds statistics of other shapes, {shapes}")
    if not (np.isfinite(mean_image).all() and np.isfinite(rgb_covariance).all()):
        raise RunError(f"{path}: holds statistics with numbers that are not finite")
    return Statistics(mean_image, rgb_mean, rgb_covariance, *known)
