"""Weights of AlexNet that others have published, from the files they come in. Nothing in a file is run.

    from keras_alexnet.model import public_weights, weights
    imported = public_weights.read("alexnet-owt-7be5be79.pth")
    model = AlexNet(**imported.settings)
    weights.assign(imported.weights, model)

Read are PyTorch's `.pth` (torchvision, pytorchcv), the `.h5` of tf2cv, ONNX graphs, and Caffe's files, see
`keras_alexnet.model.caffe`. What a file is, is seen by its content.
"""

import dataclasses
import math
import os
import zipfile

import numpy as np

from keras_alexnet.data.decoding import SHORTER_SIDE, STORED_SIZE, STRETCH
from keras_alexnet.errors import ArgumentError, RunError, optional, reading
from keras_alexnet.model import caffe
from keras_alexnet.model.caffe import LAYERS, MAX_BYTES
from keras_alexnet.model.variants import UNITS, VARIANTS, Network
from keras_alexnet.model.weights import describe_file

# Of red, green and blue, in 0..255: what torchvision and pytorchcv subtract, (0.485, 0.456, 0.406) of 1.
PYTORCH_MEAN = (123.675, 116.28, 103.53)
# Whose a file is, by its kind and its variant, and the errors that they published for it, in percent on the validation
# set of ILSVRC2012, one center crop.
# - torchvision: the metadata of AlexNet_Weights.IMAGENET1K_V1. pytorchcv, tf2cv: the READMEs of the packages.
# - tf2cv measured its own graph, which is another function of the same weights: `tf.nn.lrn` has windows of 11 and does
#   not divide alpha by them, and its poolings of even maps begin one row and one column earlier. Here the network is
#   that of pytorchcv and of MXNet, where the weights were trained.
ORIGINS = {
    ("torchvision", "owt2014"): ("torchvision's alexnet", "43.48 % top-1, 20.93 % top-5"),
    ("pytorchcv", "imgclsmob"): ("pytorchcv's alexnet", "38.50 % top-1, 16.64 % top-5"),
    ("pytorchcv", "owt2014"): ("pytorchcv's alexnetb", "39.74 % top-1, 17.47 % top-5"),
    ("tf2cv", "imgclsmob"): ("tf2cv's alexnet", "38.06 % top-1, 16.09 % top-5, by its own graph"),
    ("tf2cv", "owt2014"): ("tf2cv's alexnetb", "39.28 % top-1, 17.06 % top-5"),
    ("caffe", "caffe"): ("BVLC AlexNet of Caffe", "42.9 % top-1, 19.8 % top-5, images stretched"),
    ("onnx", "caffe"): ("BVLC AlexNet as an ONNX graph", "42.9 % top-1, 19.8 % top-5 in Caffe"),
    ("onnx", "caffe224"): (
        "BVLC AlexNet as an ONNX graph",
        "42.9 % top-1, 19.8 % top-5 in Caffe, with an input of 227",
    ),
    ("onnx", "imgclsmob"): ("pytorchcv's alexnet as an ONNX graph", "38.50 % top-1, 16.64 % top-5"),
    ("onnx", "owt2014"): ("torchvision's alexnet as an ONNX graph", "43.48 % top-1, 20.93 % top-5"),
}
_SIDES = (11, 5, 3, 3, 3)  # of the kernels of the convolutions
# Operations of an ONNX graph: those that pass on what they get outside training, and names of one step.
_PASSING = ("Dropout", "Identity")
_STEPS = {"Relu": "Relu", "Flatten": "Flatten", "Reshape": "Flatten", "Softmax": "Softmax"}


@dataclasses.dataclass(frozen=True)
class Imported:
    """What a file of weights holds, as this package needs it."""

    origin: str  # whose it is
    published: str  # the errors that they published for it
    settings: dict  # of variants.Network, in one tower
    weights: dict  # str -> float32 array, see `model.weights.named`
    mean_image: np.ndarray  # float32 (256, 256, 3), RGB, 0..255, which is subtracted from the input
    resize: str  # how they bring an image to 256x256, see `data.decoding`


def read(path):
    """The weights of a file, with what belongs to them: Imported.

    Raises UsageError where the file, or a package that reads it, is missing, and RunError where it is something else,
    damaged or of another network.
    """
    caffe.check_file(path)
    with reading(path), open(path, "rb") as file:
        start = file.read(8)
        names = zipfile.ZipFile(file).namelist() if zipfile.is_zipfile(file) else ()
    if any(name.endswith("data.pkl") for name in names) or start.startswith(b"\x80"):
        kind, variant, layers = _of_torch(path)
    elif start.startswith(b"\x89HDF"):
        kind, variant, layers = _of_hdf5(path)
    elif start.startswith(b"\x08"):  # the field that an ONNX file begins with, and a .caffemodel does not have
        kind, variant, layers = _of_onnx(path)
    elif names or start.startswith((b"<", b"version ")):
        what = describe_file(path) or "an .npz of named weights, which need no import"
        raise RunError(f"{path}: is {what}; a .pth, .h5, .onnx, .caffemodel or .npy of weights is read")
    else:
        kind, variant, layers = "caffe", "caffe", caffe.read(path)
    settings, weights = _named(path, variant, layers)
    is_caffe = variant.startswith("caffe")
    mean = np.array(caffe.IMAGENET_MEAN if is_caffe else PYTORCH_MEAN, np.float32)
    mean_image = np.broadcast_to(mean, (STORED_SIZE, STORED_SIZE, 3)).copy()
    return Imported(*ORIGINS[kind, variant], settings, weights, mean_image, STRETCH if is_caffe else SHORTER_SIDE)


def _named(path, variant, layers):
    """(settings, named weights) of {layer: (kernel, bias)}, kernels (outputs, inputs, rows, columns), fc6's by maps.

    Caffe's first kernels are of blue, green and red. All these networks double in training what their dropout keeps,
    where the paper's halves everything afterwards (section 4.2). With doubled hidden units a variant that has the
    paper's gives the same numbers to the layer above, in training and after it. (In further training, a learning rate
    moves fc6 and fc7 by a quarter as much, relative to their size.)
    """
    v, groups = VARIANTS[variant], 1 if VARIANTS[variant].one_tower else 2
    units, first, classes = {**UNITS, **v.units}, layers["conv1"][1].size, layers["fc8"][1].size
    settings = {"variant": variant, "towers": 1, "groups": groups, "width": first / units["conv1"]}
    try:
        Network(num_classes=max(1, classes), **settings)
    except ArgumentError as error:
        raise RunError(f"{path}: conv1 has {first} outputs, AlexNet {units['conv1']}; {error}") from None
    made = [round(units[layer] * settings["width"]) for layer in LAYERS[:-1]] + [classes]
    seen = [3, *made[:4], 36 * made[4], *made[5:-1]]
    weights = {}
    for place, (layer, outputs, inputs) in enumerate(zip(LAYERS, made, seen, strict=True)):
        shape = (outputs, inputs // (groups if place in (1, 3, 4) else 1), *(_SIDES[place : place + 1] * 2))
        kernel = _checked(f"{path}: {layer}: the kernel, as (outputs, inputs, rows, columns),", layers[layer][0], shape)
        bias = _checked(f"{path}: {layer}: the bias", layers[layer][1], (outputs,))
        if layer == "fc6":
            kernel = kernel.reshape(outputs, -1, 6, 6).transpose(0, 2, 3, 1).reshape(outputs, -1)
        kernel = kernel.transpose(2, 3, 1, 0) if kernel.ndim == 4 else kernel.T
        kernel = kernel[:, :, ::-1] if layer == "conv1" and variant.startswith("caffe") else kernel
        scale = np.float32(2 if layer in ("fc6", "fc7") and v.dropout == "published" else 1)
        for name, array in (("kernel", kernel), ("bias", bias)):
            weights[f"{layer}/{name}"] = np.ascontiguousarray(array * scale)
    return settings | {"num_classes": classes}, weights


def _checked(name, array, shape):
    """A finite float32 array of this shape; dimensions of 1 in front, as in Caffe's blobs of 2014, do not count."""
    if array.shape[-len(shape) :] != shape or not array.size == math.prod(shape) > 0 or array.dtype.kind not in "fiu":
        raise RunError(f"{name} is {array.dtype} {array.shape}; {shape} is expected")
    with np.errstate(over="ignore"):  # what float32 does not hold becomes infinite
        array = array.reshape(shape).astype(np.float32, copy=False)
    if not np.isfinite(array).all():
        raise RunError(f"{name} has non-finite numbers")
    return array


def _package(name, path):
    return optional(name, "parity", f"{path}: is read with {name}, which is missing:")


def _limit(path, count):
    """Raises RunError of more numbers than a file of weights has, before memory is taken for them."""
    if not 0 <= 4 * count <= MAX_BYTES:
        raise RunError(f"{path}: claims {count:,} numbers; {MAX_BYTES // 4:,} are read at most")


def _paired(path, arrays, separator):
    """(variant, {layer: (kernel, bias)}) of named arrays in the order of the layers."""
    kernels = sorted((name for name, array in arrays.items() if array.ndim > 1), key=lambda name: -arrays[name].ndim)
    if [arrays[name].ndim for name in kernels] != [4] * 5 + [2] * 3:
        count = sum(arrays[name].ndim == 4 for name in kernels)
        found = f"kernels of {count} convolutions and {len(kernels) - count} other layers"
        raise RunError(f"{path}: has {found}; AlexNet has five convolutions and three dense layers")
    layers = {}
    for layer, name in zip(LAYERS, kernels, strict=True):
        part = name.rpartition(separator)[0]
        biases = [each for each, array in arrays.items() if array.ndim == 1 and each.rpartition(separator)[0] == part]
        if len(biases) != 1:
            raise RunError(f"{path}: {part} has {len(biases)} biases; one is expected")
        layers[layer] = arrays[name], arrays[biases[0]]
    # The one network has fewer maps in conv4 than in conv3, the other as many.
    return "owt2014" if layers["conv4"][1].size != layers["conv3"][1].size else "imgclsmob", layers


def _of_torch(path):
    """(kind, variant, layers) of a state dict of PyTorch, by its restricted reader."""
    torch = _package("torch", path)
    with reading(path, "holds no state dict that can be read without running code"):
        if zipfile.is_zipfile(path):
            _limit(path, sum(each.file_size for each in zipfile.ZipFile(path).infolist()) // 4)
        found = torch.load(path, map_location="cpu", weights_only=True)
        found = found.get("state_dict", found)
        tensors = {name: each for name, each in found.items() if isinstance(each, torch.Tensor)}
        _limit(path, sum(each.numel() for each in tensors.values()))
        arrays = {name: each.float().numpy() for name, each in tensors.items()}
    variant, layers = _paired(path, arrays, ".")
    is_torchvision = variant == "owt2014" and not any("stage" in name for name in arrays)
    return "torchvision" if is_torchvision else "pytorchcv", variant, layers


def _of_hdf5(path):
    """(kind, variant, layers) of weights as tf2cv saves them: fc6 takes its inputs map by map, unlike other Keras."""
    h5py, arrays = _package("h5py", path), {}

    def add(name, each):
        if isinstance(each, h5py.Dataset) and not (each.external or each.is_virtual):
            _limit(path, each.size)
            arrays[name] = each[()]

    with reading(path, "is a damaged HDF5 file"), h5py.File(path, "r") as file:
        file.visititems(add)
    if not any(name.startswith("output1/") for name in arrays):
        raise RunError(f"{path}: is an HDF5 file, but not the weights of tf2cv's alexnet or alexnetb")
    arrays = {name: each.transpose(3, 2, 0, 1) if each.ndim == 4 else each.T for name, each in arrays.items()}
    return "tf2cv", *_paired(path, arrays, "/")


def _of_onnx(path):
    """(kind, variant, layers) of an ONNX graph that computes what a variant computes."""
    onnx, other = _package("onnx", path), f"{path}: is an ONNX graph, but not AlexNet's"
    with reading(path, "holds no ONNX graph, or a damaged one"):
        model = onnx.load(path, load_external_data=False)
        _limit(path, sum(math.prod(each.dims) for each in model.graph.initializer))
        onnx.load_external_data_for_model(model, os.path.dirname(os.path.abspath(path)))
        steps, layers = _steps(onnx, model.graph, other)
    networks = {variant: _expected(variant) for kind, variant in ORIGINS if kind == "onnx"}
    alike = {name: len(os.path.commonprefix([steps, expected])) for name, expected in networks.items()}
    variant = max(alike, key=alike.get)
    place, expected = alike[variant], networks[variant]
    if steps != expected:
        said, wanted = (" ".join(map(str, (*each[place : place + 1], "the end")[0])) for each in (steps, expected))
        raise RunError(f"{other}: at step {place} {said} instead of {wanted}")
    return "onnx", variant, dict(zip(LAYERS, layers, strict=True))


def _expected(variant):
    """What `_steps` finds in a graph of a variant."""
    v, groups = VARIANTS[variant], 1 if VARIANTS[variant].one_tower else 2
    sizes = [(v.input_size + sum(v.padding) - 11) // 4 + 1]
    for name in ("pool1", "pool2", "pool5"):
        sizes.append((sizes[-1] - 3 + (name not in v.floor_pools)) // 2 + 1)
    norm = [("LRN", 5, round(v.alpha, 9), 0.75, v.k)] if v.k else []
    pools = [("MaxPool", 3, 2, 0, size) for size in sizes[1:]]
    middle = [step for number in (1, groups, groups) for step in (("Conv", 3, 1, 1, sizes[2], number), ("Relu",))]
    first, second = ("Conv", 11, 4, v.padding[0], sizes[0], 1), ("Conv", 5, 1, 2, sizes[1], groups)
    dense = [("Flatten",), ("Dense",), ("Relu",), ("Dense",), ("Relu",), ("Dense",)]
    convolutions = [first, ("Relu",), *norm, pools[0], second, ("Relu",), *norm, pools[1], *middle, pools[2]]
    return [("input", v.input_size), *convolutions, *dense]


def _steps(onnx, graph, other):
    """What a graph does to its image, one step after the other, and its [(kernel, bias)], in PyTorch's axes.

    Steps are tuples: an operation, and of what it depends on: sizes of windows, strides, zeros in front, rows of the
    result (which say how a window at the end is treated), groups. Raises RunError, `OTHER: WHY`, of a graph that does
    something else.
    """
    constants = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}

    def attributes_of(node):
        return {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}

    for node in graph.node:
        value = attributes_of(node).get("value")
        if node.op_type == "Constant" and value is not None:
            constants[node.output[0]] = onnx.numpy_helper.to_array(value)
        elif node.op_type == "ConstantOfShape" and value is not None and node.input[0] in constants:
            shape = tuple(int(length) for length in constants[node.input[0]])
            _limit(graph.name, math.prod(shape))
            constants[node.output[0]] = np.full(shape, onnx.numpy_helper.to_array(value)[0])
    (image,) = (each for each in graph.input if each.name not in constants)
    name, (_, channels, rows, columns) = image.name, (each.dim_value for each in image.type.tensor_type.shape.dim)
    if (channels, rows) != (3, columns):
        raise RunError(f"{other}: its input is {channels}x{rows}x{columns}, and not a square of three channels")
    size, steps, layers = rows, [("input", rows)], []
    while True:
        users = [node for node in graph.node if name in node.input and node.op_type != "Shape"]
        if len(users) > 1:
            raise RunError(f"{other}: {name} goes to {users[0].op_type} and to {users[1].op_type}")
        if not users:
            if any(len(pair) != 2 for pair in layers):
                raise RunError(f"{other}: a layer has no bias")
            return steps[: -1 if steps[-1] == ("Softmax",) else None], layers
        (node,), name = users, users[0].output[0]
        kind, attributes = node.op_type, attributes_of(node)
        others = [constants[each] for each in node.input[1:] if each] if kind in ("Conv", "Gemm", "MatMul") else []
        if kind in ("Conv", "MaxPool", "AveragePool"):
            step, size = _window_step(other, kind, attributes, others, size)
            steps += [step] if step[:2] != ("AveragePool", 1) else []
        elif kind == "LRN":
            length, alpha = attributes["size"], attributes.get("alpha", 1e-4)
            others_of = (attributes.get("beta", 0.75), attributes.get("bias", 1.0))
            steps.append((kind, length, *(round(number, 9) for number in (alpha / length, *others_of))))
        elif kind in ("Gemm", "MatMul"):
            if attributes.get("transA") or {attributes.get(key, 1) for key in ("alpha", "beta")} != {1}:
                raise RunError(f"{other}: a {kind} with a transposed input or factors")
            others[0] = others[0] if attributes.get("transB") else others[0].T
            steps.append(("Dense",))
        elif kind == "Add" and layers and len(layers[-1]) == 1:  # the bias of a MatMul
            layers[-1].append(next(constants[each] for each in node.input if each in constants))
        elif kind in _STEPS:
            steps += [(_STEPS[kind],)] if steps[-1] != (_STEPS[kind],) else []
        elif kind not in _PASSING:
            raise RunError(f"{other}: it has a {kind}")
        if others:
            layers.append(others)


def _window_step(other, kind, attributes, kernels, size):
    """(the step of a convolution or a pooling, rows of its result)."""
    window = attributes.get("kernel_shape") or kernels[0].shape[2:]
    pads, strides = attributes.get("pads", [0, 0, 0, 0]), attributes.get("strides", [1, 1])
    pairs = (window, strides, pads[:2], pads[2:])
    padded = attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID")
    if padded or any(len(set(pair)) > 1 for pair in pairs) or set(attributes.get("dilations", [1])) != {1}:
        raise RunError(f"{other}: a {kind} that is dilated, padded by itself or not the same in both directions")
    window, stride, before, behind = (pair[0] for pair in pairs)
    reached = size + before + behind - window + (stride - 1 if attributes.get("ceil_mode") else 0)
    size = reached // stride + 1
    groups = (attributes.get("group", 1),) if kind == "Conv" else ()
    return (kind, window, stride, before, size, *groups), size
