"""Weights of one network in its two forms: a stack of layers per tower, or one stack of grouped layers.

    from keras_alexnet.model import weights
    weights.copy(two_towers, grouped)          # keras_alexnet.AlexNet(towers=2) -> AlexNet(towers=1, groups=2)

Both forms compute the same, so that a network trained on two devices can be looked at, served or trained further as one
stack, and back.
"""

import glob
import os
import re
import zipfile

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import trackable_object_graph_pb2

# Those with weights; conv6 is of the network of Table 2 only.
LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "conv6", "fc6", "fc7", "fc8")


def named(model):
    """The weights of a model by name.

    Args:
        model: keras.Model of `keras_alexnet.AlexNet`.

    Returns:
        dict of "LAYER/kernel" and "LAYER/bias" -> float32 np.ndarray, in the paper's order; LAYER as the model names
        it, "conv1" or "conv1_tower0".
    """
    return {name: variable.numpy() for name, variable in variables(model).items()}


def variables(model):
    """As `named`, the variables themselves: dict of str -> keras.Variable."""
    layers = [layer for layer in model.layers if layer.name.split("_")[0] in LAYERS and layer.weights]
    return {f"{layer.name}/{variable.name}": variable for layer in layers for variable in layer.weights}


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
    assign(named(source), target)


def assign(weights, target, without=()):
    """Gives a model weights by name, whichever forms the two have.

    Args:
        weights: dict as of `named`; what the model has no layer for is not used.
        target: keras.Model of `keras_alexnet.AlexNet`.
        without: sequence of str, layers such as "fc8" that keep the weights they have.

    Raises:
        ValueError: a layer's weights are missing or have another shape; nothing was changed.
    """
    wanted = {name: each for name, each in variables(target).items() if re.split("[_/]", name)[0] not in without}
    towers = any("_tower" in name for name in wanted)
    weights = (to_towers if towers else to_grouped)(weights)
    for name, variable in wanted.items():
        found = weights[name].shape if name in weights else "missing"
        if found != tuple(variable.shape):
            raise ValueError(f"{name} should be {tuple(variable.shape)}. Received: {found}")
    for name, variable in wanted.items():
        variable.assign(weights[name])


def read(path):
    """The weights that a run, an exported model or a file holds.

    Args:
        path: str, a run's folder (its newest checkpoint), a folder with a SavedModel that `keras_alexnet.export` wrote,
            the path of a checkpoint without its suffix, or an `.npz` of what `named` returns
            (`np.savez(path, **named(model))`).

    Returns:
        dict as of `named`.

    Raises:
        ValueError: there is no such thing there, or it cannot be read. Nothing is unpickled.
    """
    try:
        if os.path.isfile(path):
            return _of_arrays(path)
        if os.path.isfile(os.path.join(path, "saved_model.pb")):
            return _of_checkpoint(os.path.join(path, "variables", "variables"))
        if not glob.glob(f"{glob.escape(path)}*"):  # the name of a checkpoint is the beginning of its files'
            raise ValueError(f"{path}: there is no such file or folder")
        checkpoint = tf.train.latest_checkpoint(os.path.join(path, "checkpoints"))
        if os.path.isdir(path) and not checkpoint:
            raise ValueError(f"{path}: holds no weights, neither a run's checkpoints nor an exported model")
        return _of_checkpoint(checkpoint or path)
    except ValueError:
        raise
    except Exception as error:
        # A damaged file fails in its zip or its table, with errors of their own; a shortened one with an IndexError.
        raise ValueError(f"{path}: holds no weights that can be read ({' '.join(str(error).split())[:200]})") from None


def _of_arrays(path):
    with open(path, "rb") as file:
        if not zipfile.is_zipfile(file):
            raise ValueError(
                f"{path}: is no .npz of weights; give a run's folder, an exported model's, or an .npz (Keras' own "
                "files are read by model.load_weights)"
            )
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except ValueError as error:  # an array's header, or objects that would have to be unpickled
        raise ValueError(f"{path}: holds no weights that can be read ({error})") from None


def _of_checkpoint(path):
    """Weights by the names that their variables had: those of a run, or wherever they hang in a graph of objects."""
    reader = tf.train.load_checkpoint(path)
    if reader.has_tensor("_CHECKPOINTABLE_OBJECT_GRAPH"):
        graph = trackable_object_graph_pb2.TrackableObjectGraph.FromString(
            reader.get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH")
        )
        keys = {each.full_name: each.checkpoint_key for node in graph.nodes for each in node.attributes}
    else:
        keys = {name: name for name in reader.get_variable_to_shape_map()}
    found = {
        name: reader.get_tensor(key)
        for name, key in keys.items()
        if re.fullmatch(rf"({'|'.join(LAYERS)})(_tower[01])?/(kernel|bias)", name)
    }
    if not found:
        raise ValueError(f"{path}: is a checkpoint of something else, without a layer named {LAYERS[0]}")
    return found
