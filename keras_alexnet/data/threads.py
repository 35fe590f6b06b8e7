"""How a data graph uses the processor."""

import os

import tensorflow as tf


def parallel_calls(threads):
    """How many images are decoded at a time: `threads`, or one per core where that is 0."""
    return threads or os.cpu_count() or 1


def with_options(dataset, threads):
    """A dataset in a fixed order, with threads of its own if a number is given, and without tuning itself.

    tf.data's tuning thread sleeps for up to a minute, and TensorFlow 2.21 waits for it to wake before it lets go of an
    iterator. With one iterator an epoch that cost up to half of a short epoch; fixed numbers cost nothing.
    """
    options = tf.data.Options()
    options.deterministic = True
    options.autotune.enabled = False
    if threads:
        options.threading.private_threadpool_size = threads
    return dataset.with_options(options)
