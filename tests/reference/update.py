"""The update rule of section 5 (release: src/weights.cu)."""

import numpy as np


def momentum_sgd(w, v, g, learning_rate, momentum, weight_decay):
    """One step: v <- momentum v - weight_decay learning_rate w - learning_rate g, then w <- w + v.

    The gradient g is the average of a minibatch, taken at w. Returns the new w and the new v, float64.
    """
    w, v, g = (np.asarray(value, np.float64) for value in (w, v, g))
    new_v = momentum * v - weight_decay * learning_rate * w - learning_rate * g
    new_w = w + new_v
    return new_w, new_v
