"""Training and validation batches, side by side: what differs between them is the view and the noise.

    JPEG bytes -> 256x256 uint8 -> a view (random, or the center) -> batch -> float32 minus the mean, plus color noise

Values: RGB, 0..255 minus the mean. Everything is a tf.data graph; there is no Python function in it.
"""

import numpy as np
import tensorflow as tf

from keras_alexnet.data import augmentation as augment
from keras_alexnet.data.decoding import STORED_SIZE, decode_center, decode_window
from keras_alexnet.data.threads import parallel_calls, settled


def training(source, statistics, augmentation, *, size, batch_size, seed, epoch, start=0, threads=0):
    """One epoch of augmented batches, in an order of its own.

    Args:
        source: see `keras_alexnet.data.sources`.
        statistics: of the training set.
        augmentation: Augmentation.
        size: int, rows and columns of a crop.
        batch_size: int; the last batch holds what is left.
        seed, epoch: int; the same two give the same batches.
        start: int, images of this epoch to leave out at the beginning, when a run goes on inside it.
        threads: int, of the data graph; 0 for one per core.

    Returns:
        tf.data.Dataset of (float32 (B, size, size, 3), int32 (B,)).
    """
    noisy = augmentation.pca_color != "none" and augmentation.pca_stddev > 0
    matrix = augment.noise_matrix(statistics.rgb_covariance, augmentation.pca_scale, augmentation.pca_stddev)
    mean_image = tf.constant(statistics.mean_image)
    margin = STORED_SIZE - size

    def view(position, item):
        _, image_bytes, label = item
        image_seed = tf.stack([tf.cast(seed, tf.int64), epoch * 2**32 + position])
        row, column, reflect = augment.random_view(image_seed, margin, augmentation.crop_positions)
        image = decode_window(image_bytes, row, column, size)
        if not noisy:
            noise = tf.zeros([3])
        elif augmentation.pca_color == "image":
            noise = augment.image_noise(image_seed, image, augmentation.pca_scale, augmentation.pca_stddev)
        else:
            noise = augment.dataset_noise(image_seed, matrix)
        image = tf.cond(reflect, lambda: tf.reverse(image, [1]), lambda: image)
        if not augmentation.aligned_mean:
            return image, noise, label
        mean = tf.slice(mean_image, [row, column, 0], [size, size, 3])
        mean = tf.cond(reflect, lambda: tf.reverse(mean, [1]), lambda: mean)
        return image, noise, label, mean

    def finish(images, noise, labels, means=None):
        means = _center(mean_image, size) if means is None else means
        images = tf.cast(images, tf.float32) - means
        if noisy:
            # The release adds its noise after the mean is gone, and divides the sum; the paper does not divide.
            images = (images + noise[:, None, None, :]) / augment.noise_divisor(augmentation)
        return images, labels

    # Shuffled before anything is read, one permutation or draw of names an epoch; decoded in parallel but handed on
    # in order, so that a seed repeats; kept as uint8 until there is a batch, which is a quarter of the bytes to move.
    items = source.images(order=(seed, epoch), start=start)
    positions = tf.data.Dataset.range(start, start + source.count)
    dataset = tf.data.Dataset.zip(positions, items).map(view, num_parallel_calls=parallel_calls(threads))
    dataset = dataset.batch(batch_size).map(finish, num_parallel_calls=2)
    return settled(dataset.prefetch(2), threads)


def center_view(source, statistics, *, size, batch_size, threads=0):
    """Every image once, in the order of the source, its center view without noise: validation.

    Args and returns as `training`.
    """
    mean = _center(tf.constant(statistics.mean_image), size)
    dataset = source.images().map(
        lambda _, image_bytes, label: (decode_center(image_bytes, size), label),
        num_parallel_calls=parallel_calls(threads),
    )
    dataset = dataset.batch(batch_size).map(lambda images, labels: (tf.cast(images, tf.float32) - mean, labels))
    return settled(dataset.prefetch(2), threads)


def center_of_mean(statistics, size):
    """The part of the mean image that the center view loses: float32 (size, size, 3), NumPy."""
    return np.asarray(_center(statistics.mean_image, size))


def _center(image, size):
    margin = (STORED_SIZE - size) // 2
    return image[margin : margin + size, margin : margin + size]
