"""Caffe's files, read without Caffe: BVLC AlexNet and the mean image it was trained with. Nothing in them is run.

Formats: `.caffemodel`, a NetParameter of `caffe.proto` (github.com/BVLC/caffe), with its layers in the field of 2014 or
in today's; and the `.npy` that caffe-tensorflow makes of one (github.com/ethereon/caffe-tensorflow).
"""

import functools
import io
import math
import os
import pickle

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from keras_alexnet.errors import RunError, UsageError, reading

LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")
MAX_BYTES = 2**31 - 1  # of a file: what a protocol buffer may have; the real one has 244 million
# Mean of the training images of ILSVRC2012, red, green, blue, in 0..255, as Caffe's `ilsvrc_2012_mean.npy` has it (its
# example 00-classification prints it).
IMAGENET_MEAN = (122.67891434, 116.66876762, 104.00698793)
_MEAN_SHAPE = (3, 256, 256)
_NPY = b"\x93NUMPY"
# What is read of caffe.proto: (number, type) of fields. Packed numbers are taken as bytes, which NumPy reads faster.
_PROTOCOL = {
    "Shape": {"dim": (1, "UINT32")},
    "Blob": {"num": (1, "UINT32"), "channels": (2, "UINT32"), "height": (3, "UINT32"), "width": (4, "UINT32")}
    | {"data": (5, "BYTES"), "shape": (7, "Shape"), "double_data": (8, "BYTES")},
    "Layer2014": {"name": (4, "STRING"), "blobs": (6, "Blob")},
    "Layer": {"name": (1, "STRING"), "blobs": (7, "Blob")},
    "Network": {"layers": (2, "Layer2014"), "layer": (100, "Layer")},
}


def read(path):
    """The kernels and biases of a `.caffemodel` or caffe-tensorflow's `.npy`: dict of layer -> [kernel, bias].

    In Caffe's axes and order of channels: kernels (outputs, inputs, rows, columns) or (outputs, inputs), fc6's inputs
    map by map. What differs from our network beside these, `keras_alexnet.model.public_weights` brings into line.
    Raises UsageError where there is no such file, and RunError where it is something else, damaged, or of another
    network. Nothing in it is run, a pickle neither.
    """
    content = _content(path)
    layers = _of_npy(path, content) if content.startswith(_NPY) else _of_caffemodel(path, content)
    for layer in LAYERS:
        if layer not in layers:
            present = ", ".join(sorted(map(str, layers))[:12]) or "none"
            raise RunError(f"{path}: {layer} is missing; AlexNet has {', '.join(LAYERS)}, the file {present}")
        if len(layers[layer]) != 2:
            raise RunError(f"{path}: {layer} has {len(layers[layer])} arrays; a kernel and a bias are expected")
    return {layer: layers[layer] for layer in LAYERS}


def read_mean(path):
    """The mean image of the training set, float32 (256, 256, 3), RGB, 0..255. Raises UsageError and RunError as `read`.

    `path`: Caffe's `imagenet_mean.binaryproto` or `ilsvrc_2012_mean.npy`, (3, 256, 256), blue, green, red.
    """
    content = _content(path)
    with reading(path, "holds no mean image of 3x256x256, or a truncated one"):
        if content.startswith(_NPY):
            mean = np.load(io.BytesIO(content), allow_pickle=False)
        else:
            mean = _array(f"{path}: the mean image", _message("Blob").FromString(content))
        if mean.shape[-3:] != _MEAN_SHAPE:
            raise ValueError(f"its shape is {mean.shape}")
        mean = mean.reshape(_MEAN_SHAPE).astype(np.float32)
    if not ((mean >= 0) & (mean <= 255)).all():
        raise RunError(f"{path}: the mean image has numbers outside 0..255")
    return np.ascontiguousarray(mean[::-1].transpose(1, 2, 0))


def check_file(path):
    """Raises UsageError where there is no such file, and RunError where it is too large to be read."""
    if not os.path.isfile(path):
        raise UsageError(f"{path}: {'is a folder' if os.path.isdir(path) else 'there is no such file'}")
    size = os.path.getsize(path)
    if not 0 < size <= MAX_BYTES:
        raise RunError(f"{path}: has {size:,} bytes; 1 to {MAX_BYTES:,} are read")


def _content(path):
    check_file(path)
    with open(path, "rb") as file:
        return file.read()


def _of_caffemodel(path, content):
    """{name: its arrays} of the layers that have any."""
    with reading(path, "holds no weights, .caffemodel or .npy, or is truncated"):
        network = _message("Network").FromString(content)
        layers = {"".join(layer.name): layer.blobs for layer in [*network.layers, *network.layer]}
        found = {name: [_array(f"{path}: {name}", blob) for blob in blobs] for name, blobs in layers.items() if blobs}
    names = list(layers)
    if "pool1" in names and "norm1" in names[names.index("pool1") :]:
        # The other network that came with Caffe has arrays of the same names and shapes.
        raise RunError(f"{path}: pools before it normalizes, as CaffeNet does; AlexNet's norm1 is before its pool1")
    return found


def _array(name, blob):
    numbers, dtype = (blob.data, "<f4") if blob.data else (blob.double_data, "<f8")
    numbers = b"".join(numbers)
    shape = tuple(blob.shape[0].dim) if blob.shape else (*blob.num, *blob.channels, *blob.height, *blob.width)
    expected = math.prod(shape) * np.dtype(dtype).itemsize
    if len(numbers) != expected:
        raise RunError(f"{name}: {len(numbers):,} bytes of numbers; {shape} should have {expected:,}")
    return np.frombuffer(numbers, dtype).reshape(shape)


@functools.cache
def _message(name):
    """The class of a message of _PROTOCOL."""
    file = descriptor_pb2.FileDescriptorProto(name="caffe.proto", package="caffe", syntax="proto3")
    for message, fields in _PROTOCOL.items():
        added = file.message_type.add(name=message)
        for field, (number, kind) in fields.items():
            its_type = {"type_name": f".caffe.{kind}"} if kind in _PROTOCOL else {"type": f"TYPE_{kind}"}
            added.field.add(name=field, number=number, label="LABEL_REPEATED", **its_type)
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"caffe.{name}"))


class _Pickled:
    """Stands for NumPy's arrays and types in a pickle, as data only: NumPy's own classes trust a pickle."""

    def __init__(self, *arguments):
        self.arguments, self.state = arguments, None

    def __setstate__(self, state):
        self.state = state

    def array(self):
        _, shape, kind, by_columns, content = self.state
        if kind.arguments[0] not in ("f4", "f8"):
            raise ValueError(f"an array of type {kind.arguments[0]}; f4 or f8 is expected")
        dtype = np.dtype((">" if kind.state[1] == ">" else "<") + kind.arguments[0])
        content = content.encode("latin1") if isinstance(content, str) else content  # Python 2's bytes, see `_of_npy`
        return np.frombuffer(content, dtype).reshape(shape, order="F" if by_columns else "C")


class _Unpickler(pickle.Unpickler):
    """Unpickles NumPy's arrays as `_Pickled`; whatever else a pickle may call is refused."""

    def find_class(self, module, name):
        if (module, name) == ("_codecs", "encode"):
            return str.encode  # how Python 3 writes bytes for Python 2
        names = ("dtype", "ndarray") if module == "numpy" else ("_reconstruct",)
        if module not in ("numpy", "numpy.core.multiarray", "numpy._core.multiarray") or name not in names:
            raise pickle.UnpicklingError(f"its pickle asks for {module}.{name}, and only arrays are let in")
        return _Pickled


def _of_npy(path, content):
    """{name: [kernel, bias]}; of layers that are none of ours without the arrays."""
    file = io.BytesIO(content)
    with reading(path, "holds no weights as caffe-tensorflow writes them"):
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)  # later ones are for types with longer names
        if shape != () or not dtype.hasobject:
            raise ValueError(f"an array {dtype} {shape}; a dictionary of layers is expected")
        layers = _Unpickler(file, encoding="latin1").load().state[4][0]  # latin1 keeps Python 2's bytes one to one
        pairs = dict.fromkeys(layers, ())
        for name in set(layers) & set(LAYERS):
            arrays = layers[name]
            arrays = [arrays["weights"], arrays["biases"]] if isinstance(arrays, dict) else arrays
            pairs[name] = [each.array() for each in arrays]
            pairs[name][:1] = [_by_outputs(name, kernel) for kernel in pairs[name][:1]]
        return pairs


def _by_outputs(layer, kernel):
    """A kernel (rows, columns, inputs, outputs) or (inputs, outputs) in Caffe's axes; fc6's inputs are map by map."""
    if layer == "fc6":
        return kernel.reshape(6, 6, -1, kernel.shape[-1]).transpose(3, 2, 0, 1).reshape(kernel.shape[::-1])
    return kernel.transpose(3, 2, 0, 1) if kernel.ndim == 4 else kernel.T
