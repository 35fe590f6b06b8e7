"""Caffe's files, read without Caffe: BVLC AlexNet and the mean image it was trained with. Nothing in them is run.

    from keras_alexnet.model import caffe, weights
    weights.assign(caffe.read("bvlc_alexnet.caffemodel"), model)   # AlexNet(variant="caffe")

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
from google.protobuf.message import DecodeError

from keras_alexnet.errors import RunError, UsageError

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
    """The weights of a file, as those of `keras_alexnet.AlexNet(variant="caffe", towers=1, groups=2)`.

    Four things differ from Caffe: a kernel's axes; the order of conv1's channels, blue, green, red there; the order of
    fc6's inputs, map by map there; and the scale of fc6 and fc7, twice as large here. Caffe's dropout doubles in
    training what it keeps, and the paper's halves everything afterwards (section 4.2). (In further training, a learning
    rate moves fc6 and fc7 by a quarter as much, relative to their size.)

    Args:
        path: str, a `.caffemodel` or a `.npy` of caffe-tensorflow; told apart by what is in them.

    Returns:
        dict of "LAYER/kernel" and "LAYER/bias" -> finite float32 np.ndarray, as of `model.weights.named`. Whether the
        shapes are those of a network is seen by `model.weights.assign`.

    Raises:
        UsageError: there is no such file.
        RunError: it is something else, damaged or CaffeNet.
    """
    content = _content(path)
    is_npy = content.startswith(_NPY)
    layers = _of_npy(path, content) if is_npy else _of_caffemodel(path, content)
    weights = {}
    for layer in LAYERS:
        if len(layers.get(layer, ())) != 2:
            count, present = len(layers.get(layer, ())), ", ".join(sorted(map(str, layers))[:12]) or "none"
            raise RunError(f"{path}: {layer} has {count} arrays instead of a kernel and a bias; the file has {present}")
        kernel, bias = layers[layer]
        try:
            if not is_npy:
                kernel, bias = _channels_last(layer, kernel), bias.reshape(-1)
            kernel = kernel[:, :, ::-1] if layer == "conv1" else kernel
        except (ValueError, IndexError):
            raise RunError(f"{path}: {layer}: a kernel of the shape {kernel.shape} is none of AlexNet's") from None
        weights |= {f"{layer}/kernel": kernel, f"{layer}/bias": bias}
    for name, array in weights.items():
        with np.errstate(over="ignore"):  # what float32 does not hold becomes infinite
            weights[name] = np.ascontiguousarray(array, np.float32) * np.float32(2 if name[:3] in ("fc6", "fc7") else 1)
        if not np.isfinite(weights[name]).all():
            raise RunError(f"{path}: {name} has non-finite numbers")
    return weights


def _channels_last(layer, kernel):
    """A kernel of Caffe, (outputs, inputs, rows, columns) or (outputs, inputs), in the axes of Keras."""
    if layer in LAYERS[:5]:
        return kernel.transpose(2, 3, 1, 0)
    kernel = kernel.reshape(-1, kernel.shape[-1])  # in 2014 every blob had four dimensions
    if layer == "fc6":
        return kernel.reshape(len(kernel), -1, 36).transpose(2, 1, 0).reshape(-1, len(kernel))  # maps of 6x6
    return kernel.T


def read_mean(path=None):
    """The mean image of the training set, float32 (256, 256, 3), RGB, 0..255. Raises UsageError and RunError as `read`.

    Args:
        path: str, Caffe's `imagenet_mean.binaryproto` or `ilsvrc_2012_mean.npy`: (3, 256, 256), blue, green, red. None
            for the mean color of the latter everywhere, which Caffe's own example subtracts.
    """
    if path is None:
        return np.full((*_MEAN_SHAPE[1:], 3), IMAGENET_MEAN, np.float32)
    content = _content(path)
    try:
        if content.startswith(_NPY):
            mean = np.load(io.BytesIO(content), allow_pickle=False)
        else:
            mean = _array(f"{path}: the mean image", _message("Blob").FromString(content))
        if mean.shape[-3:] != _MEAN_SHAPE:
            raise ValueError(f"its shape is {mean.shape}")
        mean = mean.reshape(_MEAN_SHAPE).astype(np.float32)
    except (ValueError, TypeError, EOFError, OSError, DecodeError) as error:
        raise RunError(f"{path}: holds no mean image of 3x256x256, or a truncated one ({error})") from None
    if not ((mean >= 0) & (mean <= 255)).all():
        raise RunError(f"{path}: the mean image has numbers outside 0..255")
    return np.ascontiguousarray(mean[::-1].transpose(1, 2, 0))


def _content(path):
    """The bytes of a file that is not too large to be read."""
    if not os.path.isfile(path):
        raise UsageError(f"{path}: {'is a folder' if os.path.isdir(path) else 'there is no such file'}")
    size = os.path.getsize(path)
    if not 0 < size <= MAX_BYTES:
        raise RunError(f"{path}: has {size:,} bytes; 1 to {MAX_BYTES:,} are read")
    with open(path, "rb") as file:
        return file.read()


def _of_caffemodel(path, content):
    """{name: its arrays} of the layers that have any."""
    try:
        network = _message("Network").FromString(content)
        layers = {"".join(layer.name): layer.blobs for layer in [*network.layers, *network.layer]}
        found = {name: [_array(f"{path}: {name}", blob) for blob in blobs] for name, blobs in layers.items() if blobs}
    except (DecodeError, ValueError):
        raise RunError(f"{path}: holds no weights, .caffemodel or .npy, or is truncated") from None
    names = list(layers)
    if "pool1" in names and "norm1" in names[names.index("pool1") :]:
        # The other network that came with Caffe has arrays of the same names and shapes.
        raise RunError(f"{path}: pools before it normalizes, as CaffeNet does; AlexNet's norm1 is before its pool1")
    return found


def _array(name, blob):
    """A Blob as np.ndarray."""
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
    try:
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
        return pairs
    except Exception as error:
        # What is wrong in a pickle shows as any error of Python's.
        raise RunError(f"{path}: holds no weights as caffe-tensorflow writes them ({error})") from None
