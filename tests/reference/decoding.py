"""Image files as the network's data sets hold them (section 2), as keras_alexnet.data.decoding documents it.

Pillow decodes, which has a libjpeg of its own; the rest is NumPy in float64.
"""

import io

import numpy as np
from PIL import Image


def reduction(short, side):
    """By what a shorter side is divided first: the largest of 1, 2, 4, 8 that leaves at least `side`."""
    return max(factor for factor in (1, 2, 4, 8) if factor == 1 or short >= factor * side)


def reduced(data, side=256):
    """A file after the first step: float64 (height, width, 3), 0..255, RGB."""
    with Image.open(io.BytesIO(data)) as opened:
        width, height = opened.size
        factor = reduction(min(width, height), side)
        if opened.format == "JPEG":
            if factor > 1:
                opened.draft(opened.mode, (width // factor, height // factor))
                assert opened.size == (-(-width // factor), -(-height // factor))
            return np.asarray(opened.convert("RGB"), np.float64)
        image = np.asarray(opened.convert("RGB"), np.float64)
    if factor == 1:
        return image
    rows, columns = height // factor, width // factor
    blocks = image[: rows * factor, : columns * factor].reshape(rows, factor, columns, factor, 3)
    return blocks.mean((1, 3))


def bilinear(image, rows, columns):
    """What tf.image.resize does without antialiasing: half-pixel centers, beyond the edge the edge."""
    for axis, length in enumerate((rows, columns)):
        there = image.shape[axis]
        place = (np.arange(length) + 0.5) * there / length - 0.5
        low = np.floor(place)
        share = (place - low).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        first, second = (np.clip(low + step, 0, there - 1).astype(int) for step in (0, 1))
        image = image.take(first, axis) * (1 - share) + image.take(second, axis) * share
    return image


def window(data, row, column, size, side=256):
    """A window of the `side` x `side` image, not rounded yet: float64 (size, size, 3), 0..255, RGB."""
    image = reduced(data, side)
    short = min(image.shape[:2])
    top, left = ((length - short) // 2 for length in image.shape[:2])
    image = image[top : top + short, left : left + short]
    if short < side:
        return bilinear(image, side, side)[row : row + size, column : column + size]
    first_row, first_column, count = (int(np.floor(n * short / side + 0.5)) for n in (row, column, size))
    first_row, first_column = min(first_row, short - count), min(first_column, short - count)
    return bilinear(image[first_row : first_row + count, first_column : first_column + count], size, size)


def center_window(image, side=256):
    """The central `side` x `side` pixels of an array (height, width, 3)."""
    top, left = ((length - side) // 2 for length in image.shape[:2])
    return image[top : top + side, left : left + side]
