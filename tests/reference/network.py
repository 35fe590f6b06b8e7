"""The network of section 3.5 in inference mode, one step after another, with two groups on one machine."""

import numpy as np

from .convolution import convolve, max_pool
from .dropout import inference
from .normalization import in_map_normalization, local_response_normalization

TOWERS = 2


def relu(x):
    """Section 3.1: f(x) = max(0, x)."""
    return np.maximum(x, 0.0)


def normalize_towers(x, k, alpha):
    """Section 3.3 with n = 5, beta = 0.75, on each tower's channels apart; tower 0 has the first half."""
    parts = np.split(x, TOWERS, axis=-1)
    return np.concatenate([local_response_normalization(part, k, 5, alpha, 0.75) for part in parts], axis=-1)


def forward(weights, images, variant):
    """The logits of the network, float64 (B, classes).

    Args:
        weights: "conv1/kernel" (11, 11, 3, 96), "conv1/bias" (96,), "conv2/kernel" (5, 5, 48, 256),
            "conv3/kernel" (3, 3, 256, 384), "conv4/kernel" (3, 3, 192, 384), "conv5/kernel" (3, 3, 192,
            256), "fc6/kernel" (9216, 4096), "fc7/kernel" (4096, 4096), "fc8/kernel" (4096, classes), and
            a bias for each. conv2, conv4 and conv5 have two groups, tower 0 first. Rows of fc6: (row,
            column, channel) of the 6x6x256 map, channel fastest, tower 0's channels first. Any even numbers
            of channels will do.
        images: numbers (B, 224, 224, 3), mean subtracted; (B, 227, 227, 3) for "caffe".
        variant: "paper" (as published, normalization within each tower), "release2012"
            (layers/layers-145.cfg) or "caffe" (BVLC AlexNet).
    """
    assert variant in ("paper", "release2012", "caffe"), variant

    def conv(name, x, stride, padding, groups):
        return convolve(x, weights[f"{name}/kernel"], weights[f"{name}/bias"], stride, padding, groups)

    def dense(name, x):
        kernel, bias = (np.asarray(weights[f"{name}/{part}"], np.float64) for part in ("kernel", "bias"))
        return x @ kernel + bias

    # Layer 1: 55x55x96, pooled to 27x27x96. Layer 2: 27x27x256, pooled to 13x13x256.
    if variant == "paper":
        x = max_pool(normalize_towers(relu(conv("conv1", images, 4, ((0, 3), (0, 3)), 1)), 2, 1e-4), 3, 2)
        x = max_pool(normalize_towers(relu(conv("conv2", x, 1, ((2, 2), (2, 2)), TOWERS)), 2, 1e-4), 3, 2)
    elif variant == "release2012":
        x = relu(max_pool(normalize_towers(conv("conv1", images, 4, ((0, 3), (0, 3)), 1), 2, 2e-5), 3, 2))
        x = normalize_towers(relu(conv("conv2", x, 1, ((2, 2), (2, 2)), TOWERS)), 2, 2e-5)
        x = max_pool(in_map_normalization(x, size=5, scale=0.001, power=0.75), 3, 2)
    else:  # normalizes over all channels of the layer
        x = relu(conv("conv1", images, 4, ((0, 0), (0, 0)), 1))
        x = max_pool(local_response_normalization(x, 1, 5, 2e-5, 0.75), 3, 2)
        x = relu(conv("conv2", x, 1, ((2, 2), (2, 2)), TOWERS))
        x = max_pool(local_response_normalization(x, 1, 5, 2e-5, 0.75), 3, 2)

    # Layers 3 (sees both towers) and 4: 13x13x384. Layer 5: 13x13x256, pooled to 6x6x256.
    x = relu(conv("conv3", x, 1, ((1, 1), (1, 1)), 1))
    x = relu(conv("conv4", x, 1, ((1, 1), (1, 1)), TOWERS))
    x = conv("conv5", x, 1, ((1, 1), (1, 1)), TOWERS)
    x = relu(max_pool(x, 3, 2)) if variant == "release2012" else max_pool(relu(x), 3, 2)

    # Layers 6 to 8.
    x = inference(relu(dense("fc6", x.reshape(len(x), -1))), 0.5)
    x = inference(relu(dense("fc7", x)), 0.5)
    return dense("fc8", x)
