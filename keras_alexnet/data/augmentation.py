"""Section 4.1: random crops and reflections, and noise along the principal components of RGB.

Every draw is a pure function of (seed, epoch, place in the epoch), so a run that goes on in the middle of an epoch
sees what it would have seen.
"""

import dataclasses

import numpy as np
import tensorflow as tf


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What is done to a training image at random.

    Attributes:
        crop_positions: int >= 1, a crop's first row and column are drawn from 0 .. crop_positions - 1, counted from
            the middle of what is possible (32 of 33 begin at 0).
        pca_color: "dataset", "image" or "none": whose principal components the color noise follows.
        pca_scale: "eigenvalue" (of pixels in [0, 1], the paper) or "stddev" (the release).
        pca_stddev: float >= 0, standard deviation of the factors.
        aligned_mean: bool, subtract the part of the mean image under the crop, not its center.
    """

    crop_positions: int = 33
    pca_color: str = "dataset"
    pca_scale: str = "eigenvalue"
    pca_stddev: float = 0.1
    aligned_mean: bool = False


def random_view(seed, margin, positions):
    """Where a crop begins and whether it is reflected.

    Args:
        seed: int64 (2,), of this image in this epoch.
        margin: int, 256 minus the crop's size.
        positions: int, see `Augmentation.crop_positions`; at most margin + 1.

    Returns:
        row, column: int32 scalars in 0..margin, each value of the range equally likely; reflect: bool scalar, fair.
    """
    first = (margin + 1 - positions) // 2
    draw = tf.random.stateless_uniform([3], seed)
    offsets = first + tf.cast(tf.floor(draw[:2] * positions), tf.int32)
    return offsets[0], offsets[1], draw[2] < 0.5


def noise_matrix(rgb_covariance, scale, stddev):
    """The matrix A for which A g, with g ~ N(0, I), is the color noise in 0..255 units.

    Args:
        rgb_covariance: (3, 3), of the training set's pixels in 0..255 units squared.
        scale: "eigenvalue": each component times its eigenvalue for pixels in [0, 1] and a factor of N(0, stddev^2)
            (section 4.1); in 0..255 units that is 255 (l / 255^2). "stddev": times its standard deviation instead
            (`convdata_jpeg.py` of the release, whose `color_pca` holds standard deviations).
        stddev: float, of the factors.

    Returns:
        float32 (3, 3).
    """
    values, vectors = np.linalg.eigh(np.asarray(rgb_covariance, np.float64))
    values = np.maximum(values, 0.0)  # rounding can leave a tiny negative one
    lengths = values / 255.0 if scale == "eigenvalue" else np.sqrt(values)
    return (vectors * lengths * stddev).astype(np.float32)


def dataset_noise(seed, matrix):
    """Color noise along the training set's components: float32 (3,), in 0..255 units, one for all pixels."""
    return tf.linalg.matvec(tf.constant(matrix), tf.random.stateless_normal([3], _other(seed)))


def image_noise(seed, image, scale, stddev):
    """Color noise along the components of one image's own pixels, as the reading notes of the project have it.

    Args:
        seed: int64 (2,).
        image: uint8 (height, width, 3), the crop that the network gets.
        scale, stddev: as in `noise_matrix`.

    Returns:
        float32 (3,), in 0..255 units.
    """
    pixels = tf.reshape(tf.cast(image, tf.float32), (-1, 3))
    pixels -= tf.reduce_mean(pixels, axis=0)
    covariance = tf.matmul(pixels, pixels, transpose_a=True) / tf.cast(tf.shape(pixels)[0], tf.float32)
    values, vectors = tf.linalg.eigh(covariance)
    values = tf.maximum(values, 0.0)
    lengths = values / 255.0 if scale == "eigenvalue" else tf.sqrt(values)
    return tf.linalg.matvec(vectors, lengths * stddev * tf.random.stateless_normal([3], _other(seed)))


def noise_divisor(augmentation):
    """The release divides a noisy image by 1 + its coefficient (1.1); without noise, nothing is divided."""
    return 1.0 + augmentation.pca_stddev if augmentation.pca_scale == "stddev" else 1.0


def _other(seed):
    """A seed for the colors that shares no stream with the crops."""
    return tf.bitwise.bitwise_xor(seed, tf.constant([0x5DEECE66D, 0], tf.int64))
