"""The mean image and the RGB covariance of a training set (sections 2 and 4.1), in one streaming pass.

The sums are of whole numbers and exact, so they do not depend on the order, and one pass is as good as two.
"""

import dataclasses

import numpy as np
import tensorflow as tf

from keras_alexnet.data.decoding import STORED_SIZE, decode_center
from keras_alexnet.data.threads import parallel_calls, settled
from keras_alexnet.errors import RunError
from keras_alexnet.files import written_aside

_SHIFT = 128  # of pixel values before squaring: a sum over an image, 65536 * 128^2 = 2^30, then fits in int32
_BATCH = 64


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

    def sums(name, image_bytes, label):
        image = tf.cast(decode_center(image_bytes), tf.int32)
        shifted = tf.reshape(image - _SHIFT, (-1, 3))
        return name, label, image, tf.matmul(shifted, shifted, transpose_a=True)

    def batch_sums(names, labels, images, squares):
        return names, labels, tf.reduce_sum(images, 0), tf.reduce_sum(tf.cast(squares, tf.int64), 0)

    images = source.images().map(sums, num_parallel_calls=parallel_calls(threads), deterministic=False)
    # What cannot be decoded is missing behind `ignore_errors`; by their names we know which.
    batches = images.ignore_errors().batch(_BATCH).map(batch_sums)
    pixel_sums = np.zeros((STORED_SIZE, STORED_SIZE, 3), np.int64)
    square_sums = np.zeros((3, 3), np.int64)
    label_counts = np.zeros(len(source.class_names), np.int64)
    seen = set()
    for names, labels, image_sum, square_sum in settled(batches.prefetch(2), threads).as_numpy_iterator():
        seen.update(name.decode() for name in names)
        np.add.at(label_counts, labels, 1)
        pixel_sums += image_sum
        square_sums += square_sum
        if progress:
            progress(len(seen), source.count)
    if not seen:
        raise RunError(f"{source.name}: none of the {source.count} files is an image that can be decoded")
    pixels = len(seen) * STORED_SIZE**2
    shifted_mean = (pixel_sums.sum((0, 1)) - _SHIFT * pixels) / pixels
    return Statistics(
        mean_image=(pixel_sums / len(seen)).astype(np.float32),
        rgb_mean=shifted_mean + _SHIFT,
        rgb_covariance=square_sums / pixels - np.outer(shifted_mean, shifted_mean),
        count=len(seen),
        label_counts=tuple(label_counts.tolist()),
        skipped=_missing(source, seen),
        fingerprint=source.fingerprint(),
    )


@dataclasses.dataclass(frozen=True)
class Survey:
    """What is known of a validation set: which files can be decoded, and how its labels are spread.

    Attributes:
        label_counts: tuple of int, images of each class, those skipped left out.
        skipped: tuple of str, names of the files that are no images.
        fingerprint: str, as in Statistics.
    """

    label_counts: tuple[int, ...]
    skipped: tuple[str, ...]
    fingerprint: str


def survey(source, threads=0, progress=None):
    """One pass over a source without its statistics. Arguments and errors as `compute`; returns a Survey."""

    def decoded(name, image_bytes, label):
        return name, label, decode_center(image_bytes)

    images = (
        source.images().map(decoded, num_parallel_calls=parallel_calls(threads), deterministic=False).ignore_errors()
    )
    counts = np.zeros(len(source.class_names), np.int64)
    seen = set()
    labeled = images.map(lambda name, label, _: (name, label)).batch(_BATCH)
    for names, labels in settled(labeled, threads).as_numpy_iterator():
        seen.update(name.decode() for name in names)
        np.add.at(counts, labels, 1)
        if progress:
            progress(len(seen), source.count)
    if not seen:
        raise RunError(f"{source.name}: none of the {source.count} files is an image that can be decoded")
    return Survey(tuple(counts.tolist()), _missing(source, seen), source.fingerprint())


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
    with written_aside(path, "wb") as file:
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
    return statistics
