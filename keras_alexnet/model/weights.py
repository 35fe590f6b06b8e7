"""Weights of one network in its two forms: a stack of layers per tower, or one stack of grouped layers.

    from keras_alexnet.model import weights
    weights.copy(two_towers, grouped)          # keras_alexnet.AlexNet(towers=2) -> AlexNet(towers=1, groups=2)

Both forms compute the same, so that a network trained on two devices can be looked at, served or trained further as one
stack, and back.
"""

import json
import os
import re
import sys
import zipfile

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import trackable_object_graph_pb2

from keras_alexnet.errors import ArgumentError
from keras_alexnet.model import variants
from keras_alexnet.model.variants import LAYERS
from keras_alexnet.training.progress import epoch_checkpoints

_NAME = re.compile(rf"({'|'.join(LAYERS)})(_tower[01])?/(kernel|bias)")
_EXPECTED = "a run's folder, an exported model's, or an .npz of named weights"


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
        path: str or os.PathLike: a run's folder, of which the checkpoint is taken that evaluation and export take (the
            last whole epoch); a folder with a SavedModel that `keras_alexnet.export` wrote; the path of a checkpoint
            without its suffix; or an `.npz` of what `named` returns (`np.savez(path, **named(model))`).

    Returns:
        dict as of `named`.

    Raises:
        ArgumentError: it is not a path.
        ValueError: nothing is there, or something else; the message says what. Nothing is unpickled.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise ArgumentError("weights", path, f"must be the path of {_EXPECTED}")
    path = os.fspath(path)
    if set(os.path.abspath(path)) & set("[]*?\\") and not os.path.isfile(path):
        raise ArgumentError("weights", path, "must not contain [ ] * ? or \\ (TensorFlow takes them for patterns)")
    try:
        if os.path.isfile(path):
            return _of_file(path)
        if os.path.isfile(os.path.join(path, "saved_model.pb")):
            return _of_checkpoint(os.path.join(path, "variables", "variables"))
        if os.path.isfile(f"{path}.index"):
            return _of_checkpoint(path)
        return _of_run(path)
    except Exception as error:
        if isinstance(error, ValueError) and str(error).startswith(path):  # one of ours
            raise
        # A damaged file fails in its zip or its table, with errors of their own; a shortened one with an IndexError.
        raise ValueError(f"{path}: the weights cannot be read ({_one_line(error)})") from None


def read_with_settings(path):
    """As `read`, and the settings that the network of the weights was trained with, as far as they are known.

    Returns:
        (dict of names of `variants.Network`'s fields -> values, dict as of `named`).
    """
    weights = read(path)
    settings = {"num_classes": weights["fc8/bias"].size} if "fc8/bias" in weights else {}
    try:
        texts = _flags_of(os.fspath(path))
        return settings | (variants.settings_of_flags(texts) if texts else {}), weights
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: the flags of its run cannot be read ({_one_line(error)})") from None


def _flags_of(path):
    """The flags of the run that weights are of: dict of str -> str, or None where they are not known."""
    metadata = os.path.join(path, "assets.extra", "metadata.json")
    if os.path.isfile(metadata):
        with open(metadata, encoding="utf-8") as file:
            return json.load(file)["flags"] or None
    is_checkpoint = os.path.isfile(f"{path}.index")  # in a run's folder of checkpoints
    run = os.path.dirname(os.path.dirname(os.path.abspath(path))) if is_checkpoint else path
    if not os.path.isfile(os.path.join(run, "flags.cfg")):
        return None
    with open(os.path.join(run, "flags.cfg"), encoding="utf-8") as file:
        pairs = (line[2:].rstrip("\n").partition("=") for line in file if line.startswith("--"))
        return {name: value for name, _, value in pairs}


def _of_run(path):
    """The weights of the last whole epoch, or of the one before where that is damaged."""
    checkpoints = epoch_checkpoints(os.path.join(path, "checkpoints"))
    if not checkpoints:
        what = "holds no weights" if os.path.isdir(path) else "there is no such file or folder"
        raise ValueError(f"{path}: {what}; give {_EXPECTED} (no weights come with the package)")
    for checkpoint in checkpoints:
        try:
            return _of_checkpoint(checkpoint)
        except Exception as error:
            if checkpoint == checkpoints[-1]:
                raise
            print(f"warning: {checkpoint}: {_one_line(error)}; trying the one before", file=sys.stderr, flush=True)


def _of_checkpoint(path):
    """Weights by the names that their variables had: those of a run, or wherever they are in a graph of objects."""
    reader = tf.train.load_checkpoint(path)
    if reader.has_tensor("_CHECKPOINTABLE_OBJECT_GRAPH"):
        graph = trackable_object_graph_pb2.TrackableObjectGraph.FromString(
            reader.get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH")
        )
        keys = {each.full_name: each.checkpoint_key for node in graph.nodes for each in node.attributes}
    else:
        keys = {name: name for name in reader.get_variable_to_shape_map()}
    found = {name: reader.get_tensor(key) for name, key in keys.items() if _NAME.fullmatch(name)}
    if not found:
        raise ValueError(f"{path}: is a checkpoint of something else, without a layer named {LAYERS[0]}")
    return found


def _of_file(path):
    """The arrays of an `.npz` that have names of weights."""
    with open(path, "rb") as file:
        start = file.read(8)
        names = zipfile.ZipFile(file).namelist() if zipfile.is_zipfile(file) else None
    if names is None:
        kinds = {b"\x89HDF": "an HDF5 file of Keras", b"\x93NUM": "an .npy", b"\x80": "a pickle, perhaps of PyTorch"}
        what = next((kind for magic, kind in kinds.items() if start.startswith(magic)), "another kind of file")
    elif "config.json" in names:
        what = "a model of Keras, which keras.saving.load_model reads"
    elif any(name.endswith("data.pkl") for name in names):
        what = "a file of PyTorch"
    elif "mean_image.npy" in names:
        what = "the statistics of a training set"
    elif any(_NAME.fullmatch(name.removesuffix(".npy")) for name in names):
        what = None
    else:
        what = "an archive without weights of a layer"
    if what:
        raise ValueError(f"{path}: is {what}; give {_EXPECTED}")
    with np.load(path, allow_pickle=False) as arrays:
        found = {name: arrays[name] for name in arrays.files if _NAME.fullmatch(name)}
    for name, array in found.items():
        if array.dtype.kind not in "fiu" or not array.ndim:
            raise ValueError(
                f"{path}: {name} must be an array of numbers. Received: {array.dtype}, shape {array.shape}"
            )
    return found


def _one_line(error):
    return " ".join(str(error).split())[:200]
