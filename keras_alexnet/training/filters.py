"""The kernels of conv1 as a picture: Figure 3 of the paper, one row of filters per tower."""

import numpy as np

_BORDER = 1  # pixels between filters


def conv1_grid(model, scale=2):
    """The filters of conv1, all brightened by one common factor.

    Args:
        model: AlexNet, in one tower (its filters then make one row per half of them) or two.
        scale: int >= 1, screen pixels per weight.

    Returns:
        uint8 (rows * (11 + 1) * scale, filters per row * (11 + 1) * scale, 3), RGB; zero weights are mid-grey.
    """
    kernels = [layer.kernel.numpy() for layer in model.layers if layer.name.startswith("conv1")]
    rows = kernels if len(kernels) > 1 else np.array_split(kernels[0], 2, axis=-1)
    peak = max(np.abs(row).max() for row in rows) or 1.0
    lines = []
    for row in rows:
        filters = np.moveaxis(row, -1, 0)  # (filters, 11, 11, 3)
        margin = ((0, 0), (0, _BORDER), (0, _BORDER), (0, 0))
        shaded = np.pad(filters / peak * 0.5 + 0.5, margin, constant_values=1.0)
        lines.append(np.concatenate(list(shaded), axis=1))
    grid = np.round(np.concatenate(lines, axis=0) * 255).astype(np.uint8)
    return grid.repeat(scale, axis=0).repeat(scale, axis=1)
