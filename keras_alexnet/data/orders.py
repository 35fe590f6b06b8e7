"""In which order the images of a set come, where any of them can be read at its place."""

import numpy as np

WHOLE = (0, 1)  # the part that one process has where there are no others


def indices(count, order, start, part=WHOLE):
    """The places of images.

    Args:
        count: int, of the images.
        order: None for 0, 1, 2, ..., or a sequence of int that seeds a permutation of all.
        start: int, how many to leave out at the beginning.
        part: (which, of how many), dealt out one by one: the next few of all parts are the next of the whole.

    Returns:
        int64 np.ndarray, of the whole set (count - start,).
    """
    places = np.arange(count) if order is None else np.random.default_rng(order).permutation(count)
    return places[part[0] :: part[1]][start:]


def part_count(count, part):
    """How many images a part has, int."""
    return len(range(part[0], count, part[1]))


def dataset(count, order, start, part=WHOLE):
    """The same as a tf.data.Dataset of (index,), an int64 scalar."""
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices((indices(count, order, start, part),))
