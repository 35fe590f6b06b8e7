"""Training and validation batches, side by side: they differ in the view of an image and in the noise.

    JPEG bytes -> a view of the 256x256 image, RGB, uint8 -> batch -> `augmentation.Preprocessing`, on the device

Everything from the bytes of a file on is TensorFlow's graph, without Python.
"""

import os

import tensorflow as tf

from keras_alexnet.data import augmentation as augment
from keras_alexnet.data.base import WHOLE
from keras_alexnet.data.decoding import STORED_SIZE, center_of, window_function


def training(source, statistics, augmentation, *, size, batch_size, seed, epoch, start=0, threads=0, part=WHOLE):
    """One epoch of augmented batches in its own order: tf.data.Dataset of ((crops, adjustments), labels).

    Crops, uint8 (B, size, size, 3), and their adjustments are what `augmentation.Preprocessing` takes; labels are int32
    (B,). `statistics`: of the training set; `size`: int, rows and columns of a crop. The last batch holds what is left.
    The same seed and epoch, int, give the same batches. `start`: int, images of this epoch to leave out; after a whole
    number of batches the rest is the same to the bit. `threads`: int, of the data graph, 0 for one per core. `part`:
    (which, of how many) that share the epoch; batch size and start are those of the part. Where images are files, the
    batches of all parts are together those of the whole.
    """
    noisy = augmentation.pca_color != "none" and augmentation.pca_stddev > 0
    scale, stddev = augmentation.pca_scale, augmentation.pca_stddev
    matrix = tf.constant(augment.noise_matrix(statistics.rgb_covariance, scale, stddev))
    # The release divides a noisy image by 1 + its coefficient (1.1), the paper does not.
    factor = 1.0 / tf.constant(1.0 + stddev) if noisy and scale == "stddev" else 1.0
    load = source.loader()

    def view(item, draw):
        image, label = load(*item)
        row, column = tf.unstack(tf.cast(draw[:2], tf.int32))
        window = window_function(source.stored, size, source.resize, source.orientation)
        return window(image, row, column), label, draw

    def raw_views(items, draws):
        images = source.window_reader(size)(*items, *tf.unstack(tf.cast(draws[:, :2], tf.int32), axis=1))
        return images, tf.gather(source.labels, items[0]), draws

    def finish(images, labels, draws):
        if not noisy:
            noise = tf.zeros_like(draws[:, 3:])
        elif augmentation.pca_color == "image":
            noise = augment.image_noise(draws[:, 3:], images, scale, stddev)
        else:
            noise = tf.matmul(draws[:, 3:], matrix, transpose_b=True)
        adjustments = tf.concat([draws[:, :3], noise], axis=1)
        return (images, tf.pad(adjustments, ((0, 0), (0, 1)), constant_values=factor)), labels

    # Shuffled before anything is decoded; decoded in parallel but handed on in order; uint8 until there is a batch.
    which, parts = part
    first = start * parts  # the places of an epoch are dealt out one by one
    positions, reflections = augmentation.crop_positions, augmentation.reflections
    draws = augment.draws(seed, epoch, first, STORED_SIZE - size, positions, reflections)
    items = source.items(order=(seed, epoch), start=start, part=part)
    dataset = tf.data.Dataset.zip(items, draws.shard(parts, which) if parts > 1 else draws)
    if source.stored == "raw":
        dataset = dataset.batch(batch_size).map(raw_views, num_parallel_calls=2)
    else:
        dataset = dataset.map(view, num_parallel_calls=parallel_calls(threads)).batch(batch_size)
    return with_options(dataset.map(finish, num_parallel_calls=2).prefetch(2), threads)


def center_view(source, *, size, batch_size, threads=0, part=WHOLE):
    """Validation: every image once, in the order of the source, its center view without noise. See `training`."""
    center = tf.constant([[(STORED_SIZE - size) // 2] * 2 + [0, 0, 0, 0, 1]], tf.float32)
    batches = evaluation_batches(source, (size,), batch_size=batch_size, threads=threads, part=part)
    return batches.map(lambda images, labels: ((images[0], tf.repeat(center, tf.size(labels), axis=0)), labels))


def evaluation_batches(source, sizes, *, batch_size, threads=0, part=WHOLE):
    """As `center_view`, alone: (tuple of uint8 (B, size, size, 3), the centers of these sizes; int32 (B,))."""
    load = source.loader()

    def view(*item):
        image, label = load(*item)
        decoding = source.resize, source.orientation
        return tuple(center_of(source.stored, image, size, *decoding) for size in sizes), label

    images = source.items(part=part).map(view, num_parallel_calls=parallel_calls(threads))
    return with_options(images.batch(batch_size).prefetch(2), threads)


def parallel_calls(threads):
    """How many images are decoded at a time: `threads`, or one per core where that is 0."""
    return threads or os.cpu_count() or 1


def with_options(dataset, threads):
    """A dataset in a fixed order, with threads of its own if a number is given, and without automatic tuning.

    tf.data's tuning thread sleeps for up to a minute, and TensorFlow 2.21 waits for it before it deletes an iterator.
    """
    options = tf.data.Options()
    options.deterministic = True
    options.autotune.enabled = False
    if threads:
        options.threading.private_threadpool_size = threads
    return dataset.with_options(options)
