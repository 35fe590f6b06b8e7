"""Response normalization, one channel or one position at a time."""

import numpy as np


def local_response_normalization(x, k, n, alpha, beta):
    """Section 3.3: b_i = a_i / (k + alpha * sum_j a_j^2)^beta, j from max(0, i - n/2) to min(N - 1, i + n/2).

    The sum, not the mean, is multiplied by alpha, so the release's scale 1e-4 with size 5 is alpha = 2e-5. All channels
    of x (B, H, W, C) are neighbors, so a tower's have to be passed alone.
    """
    x = np.asarray(x, np.float64)
    channels = x.shape[-1]
    y = np.empty_like(x)
    for i in range(channels):
        total = np.zeros(x.shape[:-1])
        for j in range(max(0, i - n // 2), min(channels - 1, i + n // 2) + 1):
            total += x[..., j] ** 2
        y[..., i] = x[..., i] / (k + alpha * total) ** beta
    return y


def in_map_normalization(x, size=5, scale=0.001, power=0.75):
    """The release's cnorm2 (layers/layers-145.cfg): y = x / (1 + scale / size^2 * sum of x^2)^power.

    The sum runs over a size x size window around the position, in the same channel; outside the map x is 0. The scale
    is divided by size^2 before use (layers/layer.py, NormLayerParser). x is (B, H, W, C).
    """
    x = np.asarray(x, np.float64)
    height, width = x.shape[1:3]
    y = np.empty_like(x)
    for row in range(height):
        for column in range(width):
            total = np.zeros((x.shape[0], x.shape[3]))
            for i in range(row - size // 2, row + size // 2 + 1):
                for j in range(column - size // 2, column + size // 2 + 1):
                    if 0 <= i < height and 0 <= j < width:
                        total += x[:, i, j, :] ** 2
            y[:, row, column, :] = x[:, row, column, :] / (1 + scale / size**2 * total) ** power
    return y
