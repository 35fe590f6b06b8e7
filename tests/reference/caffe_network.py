"""BVLC AlexNet as Caffe computes it, on Caffe's own blobs: maps before rows, blue before red.

Written from `models/bvlc_alexnet/deploy.prototxt` and the layers of github.com/BVLC/caffe, one position at a time.
"""

import numpy as np


def convolve(x, kernel, bias, stride, pad, groups):
    """Caffe's Convolution.

    Args:
        x: float64 (N, C, H, W).
        kernel: (outputs, C / groups, size, size).
        bias: (outputs,).
        stride, pad, groups: int; zeros are added on all four sides.

    Returns:
        float64 (N, outputs, (H + 2 pad - size) // stride + 1, likewise).
    """
    outputs, seen, size, _ = kernel.shape
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    rows, columns = ((side - size) // stride + 1 for side in x.shape[2:])
    y = np.empty((len(x), outputs, rows, columns))
    made = outputs // groups
    for group in range(groups):
        maps, outs = slice(group * seen, (group + 1) * seen), slice(group * made, (group + 1) * made)
        for row in range(rows):
            for column in range(columns):
                r, c = row * stride, column * stride
                window = x[:, maps, r : r + size, c : c + size]
                y[:, outs, row, column] = np.tensordot(window, kernel[outs], ((1, 2, 3), (1, 2, 3))) + bias[outs]
    return y


def normalize(x, size=5, alpha=1e-4, beta=0.75, k=1.0):
    """Caffe's LRN across channels: alpha is divided by the size of the window."""
    y = np.empty_like(x)
    for channel in range(x.shape[1]):
        window = x[:, max(0, channel - size // 2) : channel + size // 2 + 1]
        y[:, channel] = x[:, channel] * (k + alpha / size * (window**2).sum(1)) ** -beta
    return y


def max_pool(x, size=3, stride=2):
    """Caffe's MAX Pooling: windows begin while they are within the map, and end with it."""
    rows, columns = (int(np.ceil((side - size) / stride)) + 1 for side in x.shape[2:])
    y = np.empty((*x.shape[:2], rows, columns))
    for row in range(rows):
        for column in range(columns):
            r, c = row * stride, column * stride
            y[:, :, row, column] = x[:, :, r : r + size, c : c + size].max((2, 3))
    return y


def forward(blobs, images):
    """Every output of the network in its phase TEST, in which Caffe's Dropout passes on what it gets.

    Args:
        blobs: {"conv1": (kernel (96, 3, 11, 11), bias (96,)), "conv2": ((256, 48, 5, 5), (256,)), ..., "fc6": ((4096,
            9216), (4096,)), ...}, any numbers of maps.
        images: (N, 3, 227, 227), blue, green, red, mean subtracted.

    Returns:
        dict of float64 arrays: pool5 (N, 256, 6, 6), fc7 (N, 4096) after its ReLU, fc8 (N, classes), and prob, its
        softmax.
    """
    blobs = {name: [np.asarray(blob, np.float64) for blob in pair] for name, pair in blobs.items()}

    def convolved(name, x, stride=1, pad=0, group=1):
        return np.maximum(convolve(x, *blobs[name], stride, pad, group), 0)

    def product(name, x):
        kernel, bias = blobs[name]
        return x.reshape(len(x), -1) @ kernel.T + bias

    x = max_pool(normalize(convolved("conv1", np.asarray(images, np.float64), stride=4)))
    x = max_pool(normalize(convolved("conv2", x, pad=2, group=2)))
    x = convolved("conv3", x, pad=1)
    x = convolved("conv4", x, pad=1, group=2)
    outputs = {"pool5": max_pool(convolved("conv5", x, pad=1, group=2))}
    x = np.maximum(product("fc6", outputs["pool5"]), 0)
    outputs["fc7"] = np.maximum(product("fc7", x), 0)
    outputs["fc8"] = product("fc8", outputs["fc7"])
    powers = np.exp(outputs["fc8"] - outputs["fc8"].max(1, keepdims=True))
    outputs["prob"] = powers / powers.sum(1, keepdims=True)
    return outputs
