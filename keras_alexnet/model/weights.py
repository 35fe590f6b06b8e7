"""Weights of one network in its two forms: a stack of layers per tower, or one stack of grouped layers.

    from keras_alexnet.model import weights
    weights.copy(two_towers, grouped)          # keras_alexnet.AlexNet(towers=2) -> AlexNet(towers=1, groups=2)

Both forms compute the same, so that a network trained on two devices can be looked at, served or trained further as one
stack, and back.
"""

import re

import numpy as np

from keras_alexnet.model.alexnet import LAYERS


def named(model):
    """The weights of a model by name.

    Args:
        model: keras.Model of `keras_alexnet.AlexNet`.

    Returns:
        dict of "LAYER/kernel" and "LAYER/bias" -> float32 np.ndarray, in the paper's order; LAYER as the model names
        it, "conv1" or "conv1_tower0".
    """
    return {name: variable.numpy() for name, variable in _variables(model).items()}


def to_grouped(weights):
    """Two towers -> one stack of grouped layers, exactly.

    The halves of a layer stand side by side along its outputs, tower 0 first. No dense layer needs its inputs
    re-ordered: conv3, fc6, fc7 and fc8 take the towers' maps and numbers next to each other as channels, in the same
    order in both forms.

    Args:
        weights: dict as of `named`.

    Returns:
        dict as of `named`; weights that are of no tower are unchanged.

    Raises:
        ValueError: a tower's half is missing, or the halves differ in shape.
    """
    grouped = {}
    for name, value in weights.items():
        whole = re.sub(r"_tower[01]/", "/", name)
        if whole == name:
            grouped[name] = value
            continue
        other = re.sub(r"_tower([01])/", lambda found: f"_tower{1 - int(found[1])}/", name)
        if other not in weights:
            raise ValueError(f"{name} has no other half: {other} is missing")
        if weights[other].shape != value.shape:
            raise ValueError(f"{name} is {value.shape} and {other} is {weights[other].shape}; halves are alike")
        if "_tower0/" in name:
            grouped[whole] = np.concatenate([value, weights[other]], axis=-1)
    return grouped


def to_towers(weights):
    """One stack of grouped layers -> two towers, exactly; the inverse of `to_grouped`.

    Args:
        weights: dict as of `named`.

    Returns:
        dict as of `named`; fc8, which is of no tower, and what is in towers already are unchanged.

    Raises:
        ValueError: a layer has an odd number of units.
    """
    split = {}
    for name, value in weights.items():
        layer, kind = name.split("/")
        if layer == "fc8" or "_tower" in layer:
            split[name] = value
            continue
        if value.shape[-1] % 2:
            raise ValueError(f"{name} is {value.shape}: its last dimension does not divide between two towers")
        split[f"{layer}_tower0/{kind}"], split[f"{layer}_tower1/{kind}"] = np.split(value, 2, axis=-1)
    return split


def copy(source, target):
    """Gives a model the weights of another, whichever forms the two have.

    Args:
        source, target: keras.Model of `keras_alexnet.AlexNet`; only the weights of the target change.

    Raises:
        ValueError: the weights do not fit, such as those of a network without groups into one with two towers; nothing
            was changed.
    """
    variables = _variables(target)
    towers = any("_tower" in name for name in variables)
    weights = (to_towers if towers else to_grouped)(named(source))
    for name, variable in variables.items():
        found = weights[name].shape if name in weights else "missing"
        if found != tuple(variable.shape):
            raise ValueError(f"{name} should be {tuple(variable.shape)}. Received: {found}")
    for name, variable in variables.items():
        variable.assign(weights[name])


def _variables(model):
    layers = [layer for layer in model.layers if layer.name.split("_")[0] in LAYERS and layer.weights]
    return {f"{layer.name}/{variable.name}": variable for layer in layers for variable in layer.weights}
