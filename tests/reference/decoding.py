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


def window(data, row, column, size, side=256, resize="shorter_side"):
    """A window of the `side` x `side` image, not rounded yet: float64 (size, size, 3), 0..255, RGB."""
    image = reduced(data, side)
    if resize == "shorter_side":
        image = center_window(image, min(image.shape[:2]))
    cut, lengths = image, []
    for axis, start in enumerate((row, column)):
        length = image.shape[axis]
        first, count = (int(np.floor(n * length / side + 0.5)) for n in (start, size))
        if length < side:
            first, count = 0, length
        first = min(first, length - count)
        cut = cut.take(range(first, first + count), axis)
        lengths.append(side if length < side else size)
    found = bilinear(cut, *lengths)
    for axis, start in enumerate((row, column)):
        found = found.take(range(start, start + size), axis) if lengths[axis] == side != size else found
    return found


def center_window(image, side=256):
    """The central `side` x `side` pixels of an array (height, width, 3)."""
    top, left = ((length - side) // 2 for length in image.shape[:2])
    return image[top : top + side, left : left + side]
