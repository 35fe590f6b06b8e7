"""In which order the images of a set come, where any of them can be read at its place."""

import numpy as np


def indices(count, order, start):
    """The places of images.

    Args:
        count: int, of the images.
        order: None for 0, 1, 2, ..., or a sequence of int that seeds a permutation of all.
        start: int, how many to leave out at the beginning.

    Returns:
        int64 np.ndarray (count - start,).
    """
    places = np.arange(count) if order is None else np.random.default_rng(order).permutation(count)
    return places[start:]


def dataset(count, order, start):
    """The same as a tf.data.Dataset of (index,), an int64 scalar."""
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((indices(count, order, start),))
