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


def normalize_layer(x, k, alpha):
    """Section 3.3 with n = 5, beta = 0.75, over all channels of the layer."""
    return local_response_normalization(x, k, 5, alpha, 0.75)


def forward(weights, images, variant):
    """Every activation of the network.

    Args:
        weights: "conv1/kernel" (11, 11, 3, 96), "conv1/bias" (96,), "conv2/kernel" (5, 5, 48, 256),
            "conv3/kernel" (3, 3, 256, 384), "conv4/kernel" (3, 3, 192, 384), "conv5/kernel" (3, 3, 192,
            256), "fc6/kernel" (9216, 4096), "fc7/kernel" (4096, 4096), "logits/kernel" (4096, classes), and
            a bias for each. conv2, conv4 and conv5 have two groups, tower 0 first. Rows of fc6: (row,
            column, channel) of the 6x6x256 map, channel fastest, tower 0's channels first. Any even numbers
            of channels will do.
        images: numbers (B, 224, 224, 3), mean subtracted; (B, 227, 227, 3) for "caffe".
        variant: "paper" (as published, normalization within each tower), "release2012"
            (layers/layers-145.cfg) or "caffe" (BVLC AlexNet).

    Returns:
        Dict of float64 arrays by step, in order of execution: conv1 .. conv5, fc6, fc7 and logits are taken
        before any ReLU; relu1 .. relu7, norm1, norm2, cnorm2 (release only), pool1, pool2, pool5, and
        drop6, drop7 (times 0.5, section 4.2) after the step they name.
    """
    assert variant in ("paper", "release2012", "caffe"), variant
    a = {}

    def conv(name, x, stride, padding, groups):
        return convolve(x, weights[f"{name}/kernel"], weights[f"{name}/bias"], stride, padding, groups)

    def dense(name, x):
        kernel, bias = (np.asarray(weights[f"{name}/{part}"], np.float64) for part in ("kernel", "bias"))
        return x @ kernel + bias

    # Layer 1: 55x55x96, pooled to 27x27x96.
    if variant == "paper":
        a["conv1"] = conv("conv1", images, 4, ((0, 3), (0, 3)), 1)
        a["relu1"] = relu(a["conv1"])
        a["norm1"] = normalize_towers(a["relu1"], 2, 1e-4)
        a["pool1"] = stage1 = max_pool(a["norm1"], 3, 2)
    elif variant == "release2012":
        a["conv1"] = conv("conv1", images, 4, ((0, 3), (0, 3)), 1)
        a["norm1"] = normalize_towers(a["conv1"], 2, 2e-5)
        a["pool1"] = max_pool(a["norm1"], 3, 2)
        a["relu1"] = stage1 = relu(a["pool1"])
    else:
        a["conv1"] = conv("conv1", images, 4, ((0, 0), (0, 0)), 1)
        a["relu1"] = relu(a["conv1"])
        a["norm1"] = normalize_layer(a["relu1"], 1, 2e-5)
        a["pool1"] = stage1 = max_pool(a["norm1"], 3, 2)

    # Layer 2: 27x27x256, pooled to 13x13x256.
    a["conv2"] = conv("conv2", stage1, 1, ((2, 2), (2, 2)), TOWERS)
    a["relu2"] = relu(a["conv2"])
    if variant == "paper":
        a["norm2"] = normalize_towers(a["relu2"], 2, 1e-4)
        a["pool2"] = max_pool(a["norm2"], 3, 2)
    elif variant == "release2012":
        a["norm2"] = normalize_towers(a["relu2"], 2, 2e-5)
        a["cnorm2"] = in_map_normalization(a["norm2"], size=5, scale=0.001, power=0.75)
        a["pool2"] = max_pool(a["cnorm2"], 3, 2)
    else:
        a["norm2"] = normalize_layer(a["relu2"], 1, 2e-5)
        a["pool2"] = max_pool(a["norm2"], 3, 2)

    # Layers 3 (sees both towers) and 4: 13x13x384.
    a["conv3"] = conv("conv3", a["pool2"], 1, ((1, 1), (1, 1)), 1)
    a["relu3"] = relu(a["conv3"])
    a["conv4"] = conv("conv4", a["relu3"], 1, ((1, 1), (1, 1)), TOWERS)
    a["relu4"] = relu(a["conv4"])

    # Layer 5: 13x13x256, pooled to 6x6x256.
    a["conv5"] = conv("conv5", a["relu4"], 1, ((1, 1), (1, 1)), TOWERS)
    if variant == "release2012":
        a["pool5"] = max_pool(a["conv5"], 3, 2)
        a["relu5"] = stage5 = relu(a["pool5"])
    else:
        a["relu5"] = relu(a["conv5"])
        a["pool5"] = stage5 = max_pool(a["relu5"], 3, 2)

    # Layers 6 to 8.
    a["fc6"] = dense("fc6", stage5.reshape(len(stage5), -1))
    a["relu6"] = relu(a["fc6"])
    a["drop6"] = inference(a["relu6"], 0.5)
    a["fc7"] = dense("fc7", a["drop6"])
    a["relu7"] = relu(a["fc7"])
    a["drop7"] = inference(a["relu7"], 0.5)
    a["logits"] = dense("fc8", a["drop7"])
    return a
