"""The update rule of section 5 (release: src/weights.cu)."""

import numpy as np


def momentum_sgd(w, v, g, learning_rate, momentum, weight_decay):
    """One step: v <- momentum v - weight_decay learning_rate w - learning_rate g, then w <- w + v.

    Args:
        w: weights, any shape.
        v: momentum variable, same shape; zeros at the start.
        g: gradient averaged over the minibatch, taken at w, same shape.
        learning_rate: factor of the gradient and of the decay (0.01 at the start in the paper).
        momentum: factor of the old v (0.9 in the paper).
        weight_decay: factor of the old w (0.0005 in the paper; 0 for biases in the release).

    Returns:
        The new w and the new v, float64.
    """
    w, v, g = (np.asarray(value, np.float64) for value in (w, v, g))
    new_v = momentum * v - weight_decay * learning_rate * w - learning_rate * g
    new_w = w + new_v
    return new_w, new_v
