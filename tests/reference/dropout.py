"""Dropout as published (section 4.2; release: HiddenSexLayer in src/layer.cu)."""

import numpy as np


def training(x, mask):
    """Units whose mask is 0 are set to zero; the others are left as they are, not rescaled."""
    return np.asarray(x, np.float64) * np.asarray(mask, np.float64)


def inference(x, rate):
    """All units are used and multiplied by the probability of being kept, 1 - rate."""
    return np.asarray(x, np.float64) * (1 - rate)
