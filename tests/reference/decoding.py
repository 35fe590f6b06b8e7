"""A photograph to side x side pixels: shorter side resized, then the central window (section 2)."""

import io
import os

import numpy as np
from PIL import Image


def resize_axis(x, size):
    """Resize the first axis of x to `size` with a triangle filter, widened when shrinking.

    Output j looks at the source around (j + 0.5) * scale, scale = len(x) / size; source pixel i has its
    center at i + 0.5. The weight falls linearly from 1 to 0 at a distance of max(1, scale). Weights of the
    source pixels that exist are divided by their sum.
    """
    x = np.asarray(x, np.float64)
    scale = len(x) / size
    radius = max(1.0, scale)
    y = np.empty((size, *x.shape[1:]))
    for j in range(size):
        distance = np.abs(np.arange(len(x)) + 0.5 - (j + 0.5) * scale)
        weights = np.maximum(0.0, 1.0 - distance / radius)
        y[j] = np.tensordot(weights / weights.sum(), x, axes=1)
    return y


def resize_short_side(image_uint8, side=256):
    """Section 2: "rescaled the image such that the shorter side was of length 256". The filter is our choice.

    Args:
        image_uint8: uint8 (H, W, 3).
        side: new length of the shorter side in pixels; the longer becomes floor(side * long / short + 0.5).

    Returns:
        float64 (H', W', 3), in 0..255 units, not rounded.
    """
    height, width = image_uint8.shape[:2]
    short = min(height, width)
    new_height = (2 * side * height + short) // (2 * short)  # floor(side * height / short + 1 / 2) in whole numbers
    new_width = (2 * side * width + short) // (2 * short)
    y = resize_axis(image_uint8, new_height)
    return resize_axis(y.swapaxes(0, 1), new_width).swapaxes(0, 1)


def center_window(image, side=256):
    """Section 2: the central side x side window of (H, W, 3), offset floor((length - side) / 2) each way."""
    top = (image.shape[0] - side) // 2
    left = (image.shape[1] - side) // 2
    return image[top : top + side, left : left + side]


def decode(path_or_bytes, side=256):
    """An image file as the network's data sets hold it.

    Args:
        path_or_bytes: path of an image file, or its contents as bytes.
        side: height and width of the result in pixels.

    Returns:
        uint8 (side, side, 3), RGB; halves are rounded to the even neighbor.
    """
    is_path = isinstance(path_or_bytes, (str, os.PathLike))
    with Image.open(path_or_bytes if is_path else io.BytesIO(path_or_bytes)) as opened:
        image = np.asarray(opened.convert("RGB"))
    window = center_window(resize_short_side(image, side), side)
    return np.clip(np.rint(window), 0, 255).astype(np.uint8)
