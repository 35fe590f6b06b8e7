"""The filters of conv1 as an image (Figure 3), and two numbers that tell how well a first layer has learned.

M. D. Zeiler and R. Fergus, "Visualizing and Understanding Convolutional Networks" (2013, arXiv 1311.2901, section 4.1),
found two things in this network: "dead" filters in the first layer, and aliasing that its stride of 4 causes.
"""

import math

import numpy as np
from PIL import Image

# As in the release's shownet.py: filters per line; white pixels after each filter and between the towers.
PER_LINE, BORDER, GAP = 16, 1, 4
DEAD = 0.1  # a filter whose root mean square is below this share of that of all filters has no structure to see


def conv1_towers(model):
    """The conv1 filters by tower, or in halves for a single tower: list of two float32 (11, 11, 3, filters)."""
    kernels = [layer.kernel.numpy() for layer in model.layers if layer.name.startswith("conv1")]
    return kernels if len(kernels) > 1 else np.array_split(kernels[0], 2, axis=-1)


def conv1_grid(model, scale=3, smooth=False):
    return grid(conv1_towers(model), scale, smooth=smooth)


def summary(model):
    """What Zeiler and Fergus looked for in conv1: dict of

    filters, stride, int; dead, int: `dead_filters`; aliasing and median_aliasing, 0..1: the share of the energy of all
    filters that is `aliasing`, and the median over filters; random_aliasing: the share in random weights.
    """
    kernel = np.concatenate(conv1_towers(model), axis=-1)
    stride = next(layer.strides[0] for layer in model.layers if layer.name.startswith("conv1"))
    energy, shares = np.square(kernel, dtype=np.float64).sum((0, 1, 2)), aliasing(kernel, stride)
    return {
        "filters": kernel.shape[-1],
        "stride": stride,
        "dead": int(dead_filters(kernel).sum()),
        "aliasing": float((energy * shares).sum() / max(energy.sum(), 1e-30)),
        "median_aliasing": float(np.median(shares)),
        "random_aliasing": 1 - 1 / stride**2,
    }


def dead_filters(kernel):
    """Which filters of a kernel (rows, columns, channels, filters) are dead, see DEAD: bool (filters,)."""
    squares = np.square(kernel, dtype=np.float64).mean((0, 1, 2))
    return squares <= DEAD**2 * squares.mean()


def aliasing(kernel, stride):
    """The share of each filter's energy at frequencies that a map cannot have: float64 (filters,), 0..1.

    A map has a number every `stride` pixels. Above the Nyquist frequency of that, 1 / (2 stride) per pixel in either
    direction, what a filter answers to cannot be told from something coarser. Exact: the energy of w within the band is
    sum w[i] w[j] sin(pi (i - j) / stride) / (pi (i - j)), in both directions. Filters of zeros have the share 0.
    """
    kernel = np.asarray(kernel, np.float64)
    places = (np.arange(length) for length in kernel.shape[:2])
    rows, columns = (np.sinc((place[:, None] - place) / stride) / stride for place in places)
    within = np.einsum("ijcf,ik,jl,klcf->f", kernel, rows, columns, kernel, optimize=True)
    energy = np.square(kernel).sum((0, 1, 2))
    return np.where(energy > 0, 1 - within / np.maximum(energy, 1e-30), 0.0)


def grid(towers, scale=3, normalize="jointly", smooth=False):
    """An image of filters, uint8 (rows, columns, 3), RGB: a block for each tower, lines of 16 filters, white borders.

    `towers` are filters as returned by `conv1_towers`, `scale` the pixels per weight: squares, or with `smooth` between
    them by bicubic interpolation, in which edges and gratings are easier to see. Normalization is "jointly", one factor
    for all filters with zero as mid-gray; or "each", which first standardizes every filter by its mean and standard
    deviation, as the release's `shownet.py --norm-filters` does.
    """
    if normalize == "each":
        deviations = [np.where(kernel.std((0, 1, 2)) > 0, kernel.std((0, 1, 2)), 1.0) for kernel in towers]
        towers = [(own - own.mean((0, 1, 2))) / each for own, each in zip(towers, deviations, strict=True)]
    peak = max(np.abs(kernel).max() for kernel in towers) or 1.0
    shades, per_line = [kernel / peak * 0.5 + 0.5 for kernel in towers], max(kernel.shape[-1] for kernel in towers)
    blocks = [tiles(upsampled(own, scale, smooth), min(PER_LINE, per_line), BORDER * scale) for own in shades]
    return np.concatenate([blocks[0], np.full((GAP * scale, blocks[0].shape[1], 3), 255, np.uint8), blocks[1]])


def upsampled(images, scale, smooth):
    """Images (rows, columns, channels, N) -> (rows * scale, columns * scale, channels, N), see `grid`."""
    if not smooth:
        return images.repeat(scale, axis=0).repeat(scale, axis=1)
    rows, columns = (
        np.asarray(Image.fromarray(np.eye(length, dtype=np.float32)).resize((length, length * scale), Image.BICUBIC))
        for length in images.shape[:2]
    )
    return np.clip(np.einsum("ai,bj,ijcn->abcn", rows, columns, images, optimize=True), 0, 1)


def tiles(images, per_line, border):
    """Images in 0..1, (rows, columns, 3 or 1, N), side by side in lines with white borders: uint8 (..., ..., 3)."""
    images = np.moveaxis(np.broadcast_to(images, (*images.shape[:2], 3, images.shape[3])), -1, 0)
    around = (0, -len(images) % per_line), (0, border), (0, border), (0, 0)
    lines = np.split(np.pad(images, around, constant_values=1.0), math.ceil(len(images) / per_line))
    return np.round(np.concatenate([np.concatenate(line, axis=1) for line in lines]) * 255).astype(np.uint8)
