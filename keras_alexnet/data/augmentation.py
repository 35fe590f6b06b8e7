"""Section 4.1: what the network sees of a 256x256 image.

In training a random crop, perhaps reflected, with noise along the principal components of RGB; in tests the center, or
ten views. Every draw is a pure function of (seed, epoch, place in the epoch): a run can resume within an epoch.
"""

import contextlib
import dataclasses

import numpy as np
import tensorflow as tf

_BLOCK = 1024  # places of an epoch whose draws are made together: a thousand take little longer than one


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """What is done to a training image at random."""

    crop_positions: int = 33  # >= 1, places in the middle from which a crop's first row and column are drawn
    reflections: bool = True  # half of the images are reflected
    pca_color: str = "dataset"  # or "image" or "none": whose principal components the color noise follows
    pca_scale: str = "eigenvalue"  # of pixels in [0, 1] (the paper), or "stddev" (the release)
    pca_stddev: float = 0.1  # >= 0, standard deviation of the factors
    aligned_mean: bool = False  # subtract the part of the mean image under the crop, not its center


class Preprocessing:
    """Crops -> the network's input, (B, size, size, 3), on the device that uses it, as a part of its step.

    Called with a pair, whose tf.TensorSpecs are `signature`: crops, uint8 (B, size, size, 3), and adjustments, float32
    (B, 7): row, column and reflected, see `draws`; color noise, three numbers in 0..255 units; a factor. Returns
    (crop - mean + noise) * factor, the crop reflected or not; with two devices a list, one made on each.

    Args:
        mean_image: float32 (256, 256, 3), 0..255, of which the center is subtracted.
        size: int, rows and columns of a crop.
        aligned: bool, subtract the part of the mean image under the crop instead, reflected with it.
        devices: names, () for where the call is.
        dtype: of the input, computed in float32. Keras would convert to a network's own on the first device.
    """

    def __init__(self, mean_image, size, aligned=False, devices=(), dtype="float32"):
        self.mean = mean_image if aligned else center_crop(mean_image, size)
        self.aligned, self.devices, self.dtype = aligned, devices, dtype
        names = devices or [device.name for device in tf.config.list_logical_devices("GPU")]
        # A CPU would write and read a whole batch in memory for each operation; compiled, they are one pass.
        self.make = _input_of if any("GPU" in name for name in names) else tf.function(_input_of, jit_compile=True)
        self.signature = tf.TensorSpec((None, size, size, 3), tf.uint8), tf.TensorSpec((None, 7), tf.float32)

    def __call__(self, images):
        made = []
        for device in self.devices or (None,):
            # tf.device(None) would clear a replica's device. The mean is a constant of each device: it never crosses.
            with tf.device(device) if device else contextlib.nullcontext():
                made.append(self.make(*images, tf.constant(self.mean), self.aligned, self.dtype))
        return made if len(made) > 1 else made[0]


def _input_of(crops, adjustments, mean, aligned, dtype):
    crops = tf.where(adjustments[:, None, None, 2:3] == 1, tf.reverse(crops, [2]), crops)
    if aligned:
        # int64, since TensorFlow has int32 in the memory of the host
        row, column, reflected = tf.unstack(tf.cast(adjustments[:, :3, None], tf.int64), axis=1)
        places = tf.range(crops.shape[1], dtype=tf.int64)
        columns = column + tf.where(reflected == 1, places[::-1], places)
        mean = tf.gather(tf.reshape(mean, (-1, 3)), (row + places)[:, :, None] * mean.shape[1] + columns[:, None])
    noise, factor = adjustments[:, None, None, 3:6], adjustments[:, None, None, 6:]
    return tf.cast((tf.cast(crops, tf.float32) - mean + noise) * factor, dtype)


def center_crop(images, size):
    """The center `size` x `size` pixels of (..., 256, 256, 3), NumPy or TensorFlow; same dtype."""
    margin = (images.shape[-2] - size) // 2
    return images[..., margin : margin + size, margin : margin + size, :]


def ten_crops(images, size):
    """Four corners and the center of (..., 256, 256, 3), then their reflections: (..., 10, size, size, 3), same dtype.

    In the order of the release (`convdata_jpeg.py`, __trim_borders).
    """
    margin = images.shape[-2] - size
    corners = [(0, 0), (0, margin), (margin // 2, margin // 2), (margin, 0), (margin, margin)]
    crops = tf.stack([images[..., row : row + size, column : column + size, :] for row, column in corners], axis=-4)
    return tf.concat([crops, tf.reverse(crops, axis=[-2])], axis=-4)


def draws(seed, epoch, start, margin, positions, reflections=True):
    """Where the crops of an epoch begin, whether they are reflected, and the factors of their color noise.

    `margin`: int, 256 minus the crop's size; `positions`: int, at most margin + 1, see `Augmentation.crop_positions`;
    without `reflections` every reflection is 0, and all other draws are the same.

    Returns an endless tf.data.Dataset of float32 (6,), one for each place of the epoch from `start` on: row and column,
    each value of their range equally likely; 1 for reflected or 0, equally likely; three factors, N(0, 1).
    """
    first = (margin + 1 - positions) // 2

    def block(index):
        key = tf.stack([tf.constant(seed, tf.int64), epoch * 2**32 + index])
        uniform = tf.random.stateless_uniform([_BLOCK, 3], key)
        # Another key, so that colors share no stream with crops.
        other = tf.bitwise.bitwise_xor(key, tf.constant([0x5DEECE66D, 0], tf.int64))
        factors = tf.random.stateless_normal([_BLOCK, 3], other)
        offsets = first + tf.floor(uniform[:, :2] * positions)
        reflected = uniform[:, 2:] < (0.5 if reflections else 0.0)
        return tf.concat([offsets, tf.cast(reflected, tf.float32), factors], axis=1)

    return tf.data.Dataset.counter(start // _BLOCK).map(block).unbatch().skip(start % _BLOCK)


def noise_matrix(rgb_covariance, scale, stddev):
    """The matrix A, float32 (3, 3), for which A g, with g ~ N(0, I), is the color noise in 0..255 units.

    `rgb_covariance`: (3, 3), in 0..255 units squared; `stddev`: of the factors. With the scale "eigenvalue" (section
    4.1) a component counts times its eigenvalue for pixels in [0, 1], in 0..255 units 255 (l / 255^2); with "stddev"
    times its standard deviation (`convdata_jpeg.py` of the release, whose `color_pca` holds standard deviations).
    """
    values, vectors = np.linalg.eigh(np.asarray(rgb_covariance, np.float64))
    values = np.maximum(values, 0.0)  # rounding can leave a tiny negative one
    lengths = values / 255.0 if scale == "eigenvalue" else np.sqrt(values)
    return (vectors * lengths * stddev).astype(np.float32)


def image_noise(factors, images, scale, stddev):
    """Color noise along the principal components of each image's own pixels, float32 (B, 3), in 0..255 units.

    `factors`: float32 (B, 3), N(0, 1); `images`: uint8 (B, height, width, 3); `scale`, `stddev`: as of `noise_matrix`.
    """
    values, vectors = tf.linalg.eigh(_covariances(images))
    values = tf.maximum(values, 0.0)
    lengths = values / 255.0 if scale == "eigenvalue" else tf.sqrt(values)
    return tf.linalg.matvec(vectors, lengths * stddev * factors)


@tf.function(jit_compile=True)
def _covariances(images):
    """RGB covariance of each image, float32 (B, 3, 3); compiled into one pass over the pixels."""
    pixels = tf.cast(tf.reshape(images, (tf.shape(images)[0], -1, 3)), tf.float32)
    pixels -= tf.reduce_mean(pixels, axis=1, keepdims=True)
    products = [tf.reduce_mean(pixels[..., a] * pixels[..., b], axis=1) for a in range(3) for b in range(3)]
    return tf.reshape(tf.stack(products, axis=1), (-1, 3, 3))
