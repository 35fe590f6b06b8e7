"""BVLC AlexNet as Caffe computes it, on Caffe's own blobs: maps before rows, blue before red.

Written from `models/bvlc_alexnet/deploy.prototxt` and the layers of github.com/BVLC/caffe.
"""

import numpy as np

from .convolution import convolve, max_pool
from .normalization import local_response_normalization


def forward(blobs, images):
    """The probabilities in the network's phase TEST, in which Caffe's Dropout passes on what it gets: float64.

    Args:
        blobs: {"conv1": (kernel (96, 3, 11, 11), bias (96,)), "conv2": ((256, 48, 5, 5), (256,)), ..., "fc6": ((4096,
            9216), (4096,)), ...}, any numbers of maps.
        images: (N, 3, 227, 227), blue, green, red, mean subtracted.
    """

    def convolved(name, x, stride=1, pad=0, group=1):
        kernel, bias = blobs[name]
        x = convolve(x, kernel.transpose(2, 3, 1, 0), bias, stride, ((pad, pad), (pad, pad)), group)
        return np.maximum(x, 0)

    def normalized(x):
        """Caffe's LRN, of which alpha is divided by the size of the window."""
        return local_response_normalization(x, k=1.0, n=5, alpha=1e-4 / 5, beta=0.75)

    def product(name, x):
        kernel, bias = (np.asarray(blob, np.float64) for blob in blobs[name])
        return x @ kernel.T + bias

    x = images.transpose(0, 2, 3, 1)  # the reference's convolution has channels last
    x = max_pool(normalized(convolved("conv1", x, stride=4)), 3, 2)
    x = max_pool(normalized(convolved("conv2", x, pad=2, group=2)), 3, 2)
    x = convolved("conv3", x, pad=1)
    x = convolved("conv4", x, pad=1, group=2)
    x = max_pool(convolved("conv5", x, pad=1, group=2), 3, 2)
    x = x.transpose(0, 3, 1, 2).reshape(len(x), -1)  # map by map
    hidden = np.maximum(product("fc7", np.maximum(product("fc6", x), 0)), 0)
    powers = np.exp(product("fc8", hidden))
    return powers / powers.sum(1, keepdims=True)
