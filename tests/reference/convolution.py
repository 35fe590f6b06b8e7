"""Convolution and max pooling, one output position at a time (sections 3.4 and 3.5)."""

import numpy as np


def convolve(x, kernel, bias, stride, padding, groups=1):
    """Section 3.5: an output is the dot product of a kernel (not flipped) and a window, plus a bias.

    With groups, output run g sees only input run g ("connected only to those kernel maps ... which reside on the same
    GPU"). x is (B, H, W, C), kernel (kh, kw, C / groups, outputs); padding is rows and columns of zeros, ((top,
    bottom), (left, right)), and windows lie inside the padded map. Returns float64.
    """
    x, kernel, bias = (np.asarray(value, np.float64) for value in (x, kernel, bias))
    (top, bottom), (left, right) = padding
    batch, height, width, channels = x.shape
    kernel_height, kernel_width, seen, outputs = kernel.shape
    assert channels == seen * groups and outputs % groups == 0 and bias.shape == (outputs,)

    padded = np.zeros((batch, top + height + bottom, left + width + right, channels))
    padded[:, top : top + height, left : left + width, :] = x

    rows = (padded.shape[1] - kernel_height) // stride + 1
    columns = (padded.shape[2] - kernel_width) // stride + 1
    made = outputs // groups
    y = np.empty((batch, rows, columns, outputs))
    for group in range(groups):
        ins = slice(group * seen, (group + 1) * seen)
        outs = slice(group * made, (group + 1) * made)
        for row in range(rows):
            for column in range(columns):
                r, c = row * stride, column * stride
                window = padded[:, r : r + kernel_height, c : c + kernel_width, ins]
                y[:, row, column, outs] = np.tensordot(window, kernel[..., outs], axes=3) + bias[outs]
    return y


def max_pool(x, size, stride):
    """Section 3.4: the largest value of each size x size window of (B, H, W, C), `stride` apart, inside the map."""
    x = np.asarray(x, np.float64)
    rows = (x.shape[1] - size) // stride + 1
    columns = (x.shape[2] - size) // stride + 1
    y = np.empty((x.shape[0], rows, columns, x.shape[3]))
    for row in range(rows):
        for column in range(columns):
            r, c = row * stride, column * stride
            y[:, row, column, :] = x[:, r : r + size, c : c + size, :].max(axis=(1, 2))
    return y
