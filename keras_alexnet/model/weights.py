"""Weights of one network in its two forms, which compute the same: a stack of layers per tower, or one grouped stack.

from keras_alexnet.model import weights
weights.copy(two_towers, grouped)          # keras_alexnet.AlexNet(towers=2) -> AlexNet(towers=1, groups=2)
"""

import dataclasses
import os
import re
import zipfile

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import trackable_object_graph_pb2

from keras_alexnet import flags, rundir
from keras_alexnet.config import NetworkConfig
from keras_alexnet.errors import ArgumentError, RunError, UsageError, reading
from keras_alexnet.files import read_json
from keras_alexnet.model import variants
from keras_alexnet.model.variants import LAYERS
from keras_alexnet.training.progress import epoch_checkpoints, first_readable

_NAME = re.compile(rf"({'|'.join(LAYERS)})(_tower[01])?/(kernel|bias)")
_EXPECTED = "a run's folder, an exported model's, or an .npz of named weights"
_PUBLISHED = ("HDF5 file", ".npy", "PyTorch")
_KINDS = {
    b"\x89HDF": "an HDF5 file",
    b"\x93NUM": "an .npy",
    b"\x80": "a pickle, perhaps of PyTorch",
    b"<": "a page of the web",
    b"version ": "a pointer of Git LFS, and not the file",
}
_IMPORT = "python tools/import_weights.py FILE --out=RUN"
_NONE = (
    "no weights of its 1,000 classes come with the package (imagenette has ten of them): fetch public ones, such as "
    "torchvision's alexnet-owt-7be5be79.pth from https://download.pytorch.org/models, make a run of them with "
    f"`{_IMPORT}`, and give RUN"
)


def named(model):
    """The weights of an AlexNet: dict of "conv1/kernel" or "conv1_tower0/kernel" ... -> float32 np.ndarray."""
    return {name: variable.numpy() for name, variable in variables(model).items()}


def variables(model):
    """As `named`, the variables themselves: dict of str -> keras.Variable."""
    layers = [layer for layer in model.layers if layer.name.split("_")[0] in LAYERS and layer.weights]
    return {f"{layer.name}/{variable.name}": variable for layer in layers for variable in layer.weights}


def to_grouped(weights):
    """Named weights of two towers -> those of one stack of grouped layers, exactly; others are unchanged.

    The halves of a layer are concatenated along its outputs, tower 0 first; conv3, fc6, fc7 and fc8 take both towers'
    channels in this order in both forms. Raises ValueError where halves do not fit.
    """
    parts, grouped = {}, {}
    for name in weights:
        parts.setdefault(re.sub("_tower[01]/", "/", name), []).append(name)
    for whole, names in parts.items():
        shapes = [weights[name].shape for name in names]
        if names != [whole] and (len(names) != 2 or whole in names or shapes[0] != shapes[1]):
            found = ", ".join(f"{name} {shape}" for name, shape in zip(names, shapes, strict=True))
            raise ValueError(f"{whole} should have two halves of the same shape. Received: {found}")
        grouped[whole] = np.concatenate([weights[name] for name in sorted(names)], axis=-1)
    return grouped


def to_towers(weights):
    """The inverse of `to_grouped`; fc8 and what is in towers already are unchanged. Raises ValueError of odd units."""
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
    """Gives the model `target` the weights of the model `source`, whichever forms the two have; see `assign`."""
    assign(named(source), target)


def assign(weights, target, without=()):
    """Gives a model named weights, whichever forms the two have; weights of other layers are not used.

    Layers whose names begin as one of `without` keep the weights they have. Raises ValueError where a layer's weights
    are missing or have another shape; nothing was changed.
    """
    wanted = {name: each for name, each in variables(target).items() if not name.startswith(tuple(without))}
    weights = (to_towers if any("_tower" in name for name in wanted) else to_grouped)(weights)
    for name, variable in wanted.items():
        found = weights[name].shape if name in weights else "missing"
        if found != tuple(variable.shape):
            raise ValueError(f"{name} should be {tuple(variable.shape)}. Received: {found}")
    for name, variable in wanted.items():
        variable.assign(weights[name])


def read(path):
    """The named weights that a path holds; nothing is unpickled.

    `path`: str or os.PathLike: a run's folder, of which the checkpoint is taken that evaluation and export take (the
    last whole epoch); a folder with a SavedModel that `keras_alexnet.export` wrote; the path of a checkpoint without
    its suffix; or an `.npz` of what `named` returns (`np.savez(path, **named(model))`). Raises ArgumentError where it
    is not a path, and ValueError where it has no weights; the message says what it has.
    """
    if not isinstance(path, (str, os.PathLike)):
        raise ArgumentError("weights", path, f"must be the path of {_EXPECTED}")
    path = rundir.located(os.fspath(path))
    if path == "imagenet" and not os.path.exists(path):
        raise ArgumentError("weights", path, f"must be a path; {_NONE}")
    if not os.path.isfile(path):
        rundir.check_path(path, "weights")
    with reading(path, kind=ValueError):
        if os.path.isfile(path):
            return _of_file(path)
        if rundir.is_export(path):
            return read_checkpoint(os.path.join(path, "variables", "variables"))
        if os.path.isfile(f"{path}.index"):
            return read_checkpoint(path)
        checkpoints = epoch_checkpoints(os.path.join(path, "checkpoints"))
        if checkpoints:
            return first_readable(checkpoints, read_checkpoint)
        what = "holds no weights" if os.path.isdir(path) else "there is no such file or folder"
        raise UsageError(f"{path}: {what}; give {_EXPECTED}, or imagenette, which comes with the package")


def read_with_settings(path):
    """(settings of `variants.Network` that the weights were trained with, as far as they are known, and `read`)."""
    weights = read(path)
    settings = {"num_classes": weights["fc8/bias"].size} if "fc8/bias" in weights else {}
    with reading(path, kind=ValueError):
        return settings | _settings_of(rundir.located(os.fspath(path))), weights


def _settings_of(path):
    """The settings of variants.Network in the flags of the weights' run, dict; empty where they are not known."""
    is_checkpoint = os.path.isfile(f"{path}.index")  # in a run's folder of checkpoints
    run = os.path.dirname(os.path.dirname(os.path.abspath(path))) if is_checkpoint else path
    if os.path.isfile(os.path.join(run, rundir.FLAGS)):
        return variants.settings_of(rundir.read_config(run).network)
    metadata = os.path.join(path, "assets.extra", "metadata.json")
    if not os.path.isfile(metadata):
        return {}
    texts = read_json(metadata)["flags"]
    names = {field.name for field in dataclasses.fields(NetworkConfig)} & set(texts)
    return variants.settings_of(flags.read(NetworkConfig, {name: texts[name] for name in names})) if texts else {}


def read_checkpoint(path):
    """The named weights of a checkpoint, which has them by name, or in the graph of objects of a SavedModel."""
    reader = tf.train.load_checkpoint(path)
    if reader.has_tensor("_CHECKPOINTABLE_OBJECT_GRAPH"):
        content = reader.get_tensor("_CHECKPOINTABLE_OBJECT_GRAPH")
        graph = trackable_object_graph_pb2.TrackableObjectGraph.FromString(content)
        keys = {each.full_name: each.checkpoint_key for node in graph.nodes for each in node.attributes}
    else:
        keys = {name: name for name in reader.get_variable_to_shape_map()}
    # Runs that were exported to be given away have float16.
    found = {name: reader.get_tensor(key).astype(np.float32) for name, key in keys.items() if _NAME.fullmatch(name)}
    if not found:
        raise RunError(f"{path}: is a checkpoint of something else, without a layer named {LAYERS[0]}")
    return found


def _of_file(path):
    """The arrays of an `.npz` that have names of weights."""
    what = describe_file(path)
    if what:
        published = what.endswith(_PUBLISHED) or path.endswith((".onnx", ".caffemodel"))
        hint = f"make a run of public weights with `{_IMPORT}`, and give RUN" if published else f"give {_EXPECTED}"
        raise UsageError(f"{path}: is {what}; {hint}")
    with np.load(path, allow_pickle=False) as arrays:
        found = {name: arrays[name] for name in arrays.files if _NAME.fullmatch(name)}
    for name, array in found.items():
        if array.dtype.kind not in "fiu" or not array.ndim:
            problem = f"must be an array of numbers. Received: {array.dtype}, shape {array.shape}"
            raise UsageError(f"{path}: {name} {problem}")
    return found


def describe_file(path):
    """What a file is that holds no named weights, in words, str; "" for one that does."""
    with open(path, "rb") as file:
        start = file.read(8)
        names = zipfile.ZipFile(file).namelist() if zipfile.is_zipfile(file) else None
    if names is None:
        return next((kind for magic, kind in _KINDS.items() if start.startswith(magic)), "another kind of file")
    if "config.json" in names:
        return "a model of Keras, which keras.saving.load_model reads"
    if any(name.endswith("data.pkl") for name in names):
        return "a file of PyTorch"
    if "mean_image.npy" in names:
        return "the statistics of a training set"
    known = any(_NAME.fullmatch(name.removesuffix(".npy")) for name in names)
    return "" if known else "an archive without weights of a layer"
