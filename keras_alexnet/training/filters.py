"""The kernels of conv1 as a picture: Figure 3 of the paper, one block of filters per tower."""

import math

import numpy as np

PER_LINE = 16  # as in the paper's figure and in the release's shownet.py
BORDER = 1  # weights' worth of white after each filter
GAP = 4  # and between the towers


def conv1_towers(model):
    """The filters of conv1 by tower.

    Args:
        model: AlexNet, in two towers or in one, whose first and second half of filters then stand for them.

    Returns:
        list of two float32 (11, 11, 3, filters).
    """
    kernels = [layer.kernel.numpy() for layer in model.layers if layer.name.startswith("conv1")]
    return kernels if len(kernels) > 1 else np.array_split(kernels[0], 2, axis=-1)


def conv1_grid(model, scale=3):
    """The filters of conv1, all brightened by one common factor. Args and returns as `grid`, of `conv1_towers`."""
    return grid(conv1_towers(model), scale)


def grid(towers, scale=3, normalize="jointly"):
    """Filters as a picture, one block per tower.

    Args:
        towers: list of two float (rows, columns, 3, filters).
        scale: int >= 1, screen pixels per weight.
        normalize: "jointly", one common factor for all, or "each": every filter loses its own mean and is divided by
            its own standard deviation before that, as `shownet.py --norm-filters` of the release has it.

    Returns:
        uint8 (rows, columns, 3), RGB: the first tower's 48 filters in three lines of 16, below them the second's. Zero
        ("each": a filter's mean) is mid-grey, borders white.
    """
    if normalize == "each":
        towers = [_standardized(kernel) for kernel in towers]
    peak = max(np.abs(kernel).max() for kernel in towers) or 1.0
    blocks = [_block(kernel / peak * 0.5 + 0.5) for kernel in towers]
    gap = np.ones((GAP, blocks[0].shape[1], 3))
    grid = np.round(np.concatenate([blocks[0], gap, blocks[1]]) * 255).astype(np.uint8)
    return grid.repeat(scale, axis=0).repeat(scale, axis=1)


def _standardized(kernel):
    """Each filter with mean 0 and standard deviation 1; one of equal weights becomes 0."""
    centered = kernel - kernel.mean((0, 1, 2))
    deviation = kernel.std((0, 1, 2))
    return centered / np.where(deviation > 0, deviation, 1.0)


def _block(kernel):
    """(11, 11, 3, filters) in 0..1 -> (lines * 12, 16 * 12, 3), white where a line is not full."""
    filters = np.moveaxis(kernel, -1, 0)
    missing = -len(filters) % min(PER_LINE, len(filters))
    margins = ((0, missing), (0, BORDER), (0, BORDER), (0, 0))
    filters = np.pad(filters, margins, constant_values=1.0)
    lines = math.ceil(len(filters) / PER_LINE)
    return np.concatenate([np.concatenate(line, axis=1) for line in np.split(filters, lines)], axis=0)
