"""The mean image and the RGB covariance of a training set (sections 2 and 4.1), in one streaming pass.

The sums are of whole numbers and exact, so they do not depend on the order, and one pass is as good as two.
"""

import dataclasses

import numpy as np

from keras_alexnet.data.decoding import STORED_SIZE, center_of
from keras_alexnet.data.threads import parallel_calls, with_options
from keras_alexnet.errors import RunError
from keras_alexnet.files import atomic_write

_BATCH = 64
_EXACT_16 = (2**16 - 1) // 255  # images whose sum in one place fits in 16 bits, where adding is quick


@dataclasses.dataclass(frozen=True)
class Statistics:
    """What is known of a training set.

    Attributes:
        mean_image: float32 (256, 256, 3), 0..255.
        rgb_mean: float64 (3,), 0..255.
        rgb_covariance: float64 (3, 3), over all pixels of all images, 0..255 units squared.
        count: int, images.
        label_counts: tuple of int, images of each class; empty where that is not known.
        skipped: tuple of str, names of the files that are no images.
        fingerprint: str, the source's own, so that another set is not taken for this one.
    """

    mean_image: np.ndarray
    rgb_mean: np.ndarray
    rgb_covariance: np.ndarray
    count: int
    label_counts: tuple[int, ...] = ()
    skipped: tuple[str, ...] = ()
    fingerprint: str = ""


class Sums:
    """Sums over images, to which more can be added in any order; `statistics` divides them.

    Args:
        classes: int.
    """

    def __init__(self, classes):
        self.pixels = np.zeros((STORED_SIZE, STORED_SIZE, 3), np.int64)  # the sum of all images
        self.products = np.zeros((3, 3), np.int64)  # of r r, r g, r b, ... over all pixels of all images
        self.label_counts = np.zeros(classes, np.int64)
        # What is yet to be added to the products; whole numbers, which float64 holds exactly up to 2^53.
        self._columns = np.zeros((3, STORED_SIZE * 3))

    @property
    def count(self):
        """Images so far, int."""
        return int(self.label_counts.sum())

    def add(self, images, labels):
        """Adds uint8 (B, 256, 256, 3), RGB, and int (B,)."""
        self.label_counts += np.bincount(labels, minlength=len(self.label_counts))
        for first in range(0, len(images), _EXACT_16):
            self.pixels += np.add.reduce(images[first : first + _EXACT_16], axis=0, dtype=np.uint16)
        for image in images:
            # In a row of pixels beside each other, each number times the one `step` further on: r r, g g, b b first,
            # then r g, g b and something across two pixels, then r b and two of those.
            # Exact in float32: a column's sum, 256 * 255^2 at most, is below 2^24.
            rows = image.reshape(STORED_SIZE, -1).astype(np.float32)
            for step, columns in enumerate(self._columns):
                end = len(columns) - step
                columns[:end] += np.einsum("ij,ij->j", rows[:, :end], rows[:, step:])

    def merge(self, other):
        """Adds what another one has summed up."""
        for name, array in other.arrays().items():
            getattr(self, name)[...] += array

    def arrays(self):
        """dict of name -> int64 array: pixels (256, 256, 3), products (3, 3), label_counts (classes,)."""
        self._flush()
        return {"pixels": self.pixels, "products": self.products, "label_counts": self.label_counts}

    @classmethod
    def from_arrays(cls, arrays):
        """The inverse of `arrays`. Raises KeyError or ValueError when it is something else."""
        sums = cls(len(arrays["label_counts"]))
        for name in sums.arrays():
            getattr(sums, name)[...] = arrays[name]
        return sums

    def statistics(self, skipped=(), fingerprint=""):
        """Statistics of what was added, at least one image."""
        self._flush()
        pixels = self.count * STORED_SIZE**2
        sums = self.pixels.sum((0, 1)).tolist()
        products = self.products.tolist()
        # Python's own whole numbers up to the division: the difference of two large floats would lose the small one.
        covariance = [[(products[a][b] * pixels - sums[a] * sums[b]) / pixels**2 for b in range(3)] for a in range(3)]
        return Statistics(
            mean_image=(self.pixels / self.count).astype(np.float32),
            rgb_mean=np.array([total / pixels for total in sums]),
            rgb_covariance=np.array(covariance),
            count=self.count,
            label_counts=tuple(self.label_counts.tolist()),
            skipped=tuple(skipped),
            fingerprint=fingerprint,
        )

    def _flush(self):
        for step, columns in enumerate(self._columns):
            for channel in range(3 - step):
                product = int(columns[channel::3].sum())
                self.products[channel, channel + step] += product
                if step:
                    self.products[channel + step, channel] += product
        self._columns[...] = 0


def compute(source, threads=0, progress=None):
    """One pass over the images of a source, each decoded as for training.

    Args:
        source: see `keras_alexnet.data.sources`.
        threads: int, images decoded at a time; 0 for one per core.
        progress: optional function of (images done, images in all), called now and then.

    Returns:
        Statistics; files that could not be decoded are in `skipped` and in nothing else.

    Raises:
        RunError: not one image could be decoded.
    """
    load = source.loader()

    def decoded(*item):
        name, image, label = load(*item)
        return name, label, center_of(source.stored, image)

    sums, seen = Sums(len(source.class_names)), set()
    for names, labels, images in _batches(source, decoded, threads):
        seen.update(name.decode() for name in names)
        sums.add(images, labels)
        if progress:
            progress(len(seen), source.count)
    _check_some(source, seen)
    return sums.statistics(_missing(source, seen), source.fingerprint())


@dataclasses.dataclass(frozen=True)
class DatasetSummary:
    """What is known of a validation set: which files can be decoded, and how its labels are spread.

    Attributes:
        label_counts: tuple of int, images of each class, those skipped left out.
        skipped: tuple of str, names of the files that are no images.
        fingerprint: str, as in Statistics.
    """

    label_counts: tuple[int, ...]
    skipped: tuple[str, ...]
    fingerprint: str


def summarize(source, threads=0, progress=None):
    """One pass over a source without its statistics. Arguments and errors as `compute`; returns a DatasetSummary."""
    load = source.loader()

    def decoded(*item):
        name, image, label = load(*item)
        # One number of the image: none, and it would not be decoded; all of it, and it would be copied for nothing.
        return name, label, center_of(source.stored, image)[0, 0, 0]

    counts, seen = np.zeros(len(source.class_names), np.int64), set()
    for names, labels, _ in _batches(source, decoded, threads):
        seen.update(name.decode() for name in names)
        np.add.at(counts, labels, 1)
        if progress:
            progress(len(seen), source.count)
    _check_some(source, seen)
    return DatasetSummary(tuple(counts.tolist()), _missing(source, seen), source.fingerprint())


def _batches(source, decoded, threads):
    """NumPy batches of what a function makes of the items of a source, those left out for which it fails."""
    # What cannot be decoded is missing behind `ignore_errors`; by the names we know which.
    images = source.items().map(decoded, num_parallel_calls=parallel_calls(threads), deterministic=False)
    return with_options(images.ignore_errors().batch(_BATCH).prefetch(2), threads).as_numpy_iterator()


def _check_some(source, seen):
    if not seen:
        raise RunError(f"{source.name}: none of the {source.count} files is an image that can be decoded")


def _missing(source, seen):
    """Names of what did not come through; listed only when something is missing, for it may take a pass.

    Raises:
        RunError: a file cannot be read at all, which says nothing about the image in it.
    """
    if len(seen) == source.count:
        return ()
    missing = tuple(sorted(set(source.names()) - seen))
    for name in missing:
        try:
            source.check_readable(name)
        except OSError as error:
            raise RunError(
                f"{source.name}/{name}: cannot be read ({error.strerror}); mend that and start again"
            ) from None
    return missing


def save(statistics, path):
    """Writes a `.npz` aside and renames it into place."""
    with atomic_write(path, "wb") as file:
        np.savez(file, **dataclasses.asdict(statistics))


def load(path):
    """Reads what `save` wrote, or any `.npz` with mean_image, rgb_mean, rgb_covariance and count.

    Raises:
        RunError: it is no such file. Nothing in it is unpickled.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            statistics = Statistics(
                mean_image=arrays["mean_image"].astype(np.float32),
                rgb_mean=arrays["rgb_mean"].astype(np.float64),
                rgb_covariance=arrays["rgb_covariance"].astype(np.float64),
                count=int(arrays["count"]),
                label_counts=tuple(arrays["label_counts"].tolist()) if "label_counts" in arrays else (),
                skipped=tuple(str(name) for name in arrays["skipped"]) if "skipped" in arrays else (),
                fingerprint=str(arrays["fingerprint"]) if "fingerprint" in arrays else "",
            )
    except OSError:
        raise
    except Exception as error:
        # A damaged archive fails in its zip, its compression or an array's header, each with errors of its own.
        raise RunError(f"{path}: holds no statistics of a training set") from error
    shapes = (statistics.mean_image.shape, statistics.rgb_mean.shape, statistics.rgb_covariance.shape)
    if shapes != ((STORED_SIZE, STORED_SIZE, 3), (3,), (3, 3)):
        raise RunError(f"{path}: statistics of other shapes, {shapes}")
    if not all(np.isfinite(each).all() for each in (statistics.mean_image, statistics.rgb_covariance)):
        raise RunError(f"{path}: statistics with numbers that are not finite")
    return statistics
