"""Caffe's files, read without Caffe: the weights of BVLC AlexNet and the mean image they were trained with.

    from keras_alexnet import caffe
    weights.assign(caffe.read("bvlc_alexnet.caffemodel"), model)   # AlexNet(variant="caffe")

Formats: `.caffemodel`, a NetParameter of `caffe.proto` (github.com/BVLC/caffe), with its layers in the field of 2014 or
in today's; and the `.npy` that caffe-tensorflow makes of one (github.com/ethereon/caffe-tensorflow).
"""

import io
import math
import os
import pickle

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from keras_alexnet.applications import IMAGENET_MEAN
from keras_alexnet.data.decoding import STORED_SIZE
from keras_alexnet.errors import RunError, UsageError
from keras_alexnet.model.variants import Network

LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")
MAX_BYTES = 2**31 - 1  # of a file: what a protocol buffer may have; the real one has 244 million
_NPY = b"\x93NUMPY"

# The fields of caffe.proto that are looked at: name, number, type, * for repeated; the rest is skipped. Packed numbers
# have the wire form of bytes. Declared as bytes they come as they lie in the file, and not as a list of 60 million
# objects; repeated, for a writer may cut them into runs.
_MESSAGES = {
    "BlobShape": "dim 1 INT64*",
    "BlobProto": "num 1 INT64, channels 2 INT64, height 3 INT64, width 4 INT64, "
    "data 5 BYTES*, shape 7 BlobShape, double_data 8 BYTES*",
    "V1LayerParameter": "name 4 STRING, blobs 6 BlobProto*",
    "LayerParameter": "name 1 STRING, blobs 7 BlobProto*",
    "NetParameter": "layers 2 V1LayerParameter*, layer 100 LayerParameter*",
}


def read(path):
    """The weights of a file, as those of `keras_alexnet.AlexNet(variant="caffe", towers=1, groups=2)`.

    Four things are not as Caffe has them: a kernel's axes; the order of conv1's channels, blue, green, red there; the
    order of fc6's inputs, map by map there; and the scale of fc6 and fc7, twice as large here. Caffe's dropout doubles
    in training what it keeps, and the paper's halves everything afterwards (section 4.2): with doubled hidden units
    both give the same numbers to the layer above, in training and after it. (Training on, a rate moves fc6 and fc7 by a
    quarter as much, relative to their size.)

    Args:
        path: str, a `.caffemodel` or a `.npy` of caffe-tensorflow; told apart by what is in them.

    Returns:
        dict of "LAYER/kernel" and "LAYER/bias" -> float32 np.ndarray as of `keras_alexnet.model.weights.named`.

    Raises:
        UsageError: there is no such file.
        RunError: it is something else, damaged, or of another network. Nothing in it is run, a pickle neither.
    """
    content = _content(path)
    is_npy = content.startswith(_NPY)
    layers = _of_npy(path, content) if is_npy else _of_caffemodel(path, content)
    for layer in LAYERS:
        if layer not in layers:
            there = ", ".join(sorted(map(str, layers))[:12]) or "none"
            raise RunError(f"{path}: {layer} is missing; AlexNet has {', '.join(LAYERS)}, the file {there}")
        if len(layers[layer]) != 2:
            raise RunError(f"{path}: {layer} has {len(layers[layer])} arrays; a kernel and a bias are expected")
    # Width and classes are what the file has; all other shapes follow.
    units, classes = layers["conv1"][1].size, layers["fc8"][1].size
    try:
        Network(width=units / 96)
    except ValueError as error:
        raise RunError(f"{path}: conv1 has {units} outputs and AlexNet 96; {error}") from None
    weights = {}
    for layer, shapes in zip(LAYERS, _shapes(units / 96, classes, is_npy), strict=True):
        for kind, array, shape in zip(("kernel", "bias"), layers[layer], shapes, strict=True):
            if not _is_of(array, shape):
                raise RunError(f"{path}: {layer}: the {kind} is {array.shape}; {shape} is expected")
            with np.errstate(over="ignore"):  # what float32 does not hold is found to be infinite
                array = array.reshape(shape).astype(np.float32, copy=False)
            if not np.isfinite(array).all():
                raise RunError(f"{path}: {layer}: the {kind} has numbers that are not finite")
            if kind == "kernel":
                array = array if is_npy else _ours(layer, array)
                array = array[:, :, ::-1] if layer == "conv1" else array
            weights[f"{layer}/{kind}"] = np.ascontiguousarray(array * np.float32(2 if layer in ("fc6", "fc7") else 1))
    return weights


def read_mean(path=None):
    """The mean image of the training set.

    Args:
        path: str, Caffe's `imagenet_mean.binaryproto` or `ilsvrc_2012_mean.npy`: (3, 256, 256), blue, green, red. None
            for the mean color of the latter everywhere, which Caffe's own example subtracts.

    Returns:
        float32 (256, 256, 3), RGB, 0..255.

    Raises:
        UsageError: there is no such file.
        RunError: it holds no such image.
    """
    if path is None:
        return np.full((STORED_SIZE, STORED_SIZE, 3), IMAGENET_MEAN, np.float32)
    content = _content(path)
    try:
        if content.startswith(_NPY):
            mean = np.load(io.BytesIO(content), allow_pickle=False)
        else:
            mean = _array(f"{path}: the mean image", _parsed("BlobProto", content))
    except (ValueError, EOFError, OSError, DecodeError) as error:
        raise RunError(f"{path}: holds no mean image, .binaryproto or .npy, or is cut off ({error})") from None
    expected = (3, STORED_SIZE, STORED_SIZE)
    if not _is_of(mean, expected) or mean.dtype.kind not in "fiu":
        raise RunError(f"{path}: holds {mean.dtype} {mean.shape}; a mean image is float {expected}")
    mean = mean.reshape(expected)[::-1].transpose(1, 2, 0).astype(np.float32)
    if not ((mean >= 0) & (mean <= 255)).all():
        raise RunError(f"{path}: holds numbers outside 0..255, which a mean image does not have")
    return mean


def _is_of(array, shape):
    """Whether an array is of a shape and not empty; dimensions of 1 in front, as in blobs of 2014, do not count."""
    return array.shape[-len(shape) :] == shape and array.size == math.prod(shape) > 0


def _ours(layer, kernel):
    """(outputs, inputs, rows, columns) -> (rows, columns, inputs, outputs); (outputs, inputs) -> (inputs, outputs)."""
    if layer == "fc6":
        maps = kernel.reshape(len(kernel), -1, 6, 6)  # its inputs are pool5's, a map after the other
        return maps.transpose(2, 3, 1, 0).reshape(-1, len(kernel))
    return kernel.transpose(2, 3, 1, 0) if kernel.ndim == 4 else kernel.T


def _shapes(width, classes, ours):
    """(shape of the kernel, of the bias) of each of LAYERS; conv2, conv4 and conv5 see half of the maps before them."""
    c1, c2, c3, fc = (round(units * width) for units in (96, 256, 384, 4096))
    layers = [(11, 3, c1), (5, c1 // 2, c2), (3, c2, c3), (3, c3 // 2, c3), (3, c3 // 2, c2)]
    layers = [((n, n, seen, out) if ours else (out, seen, n, n), (out,)) for n, seen, out in layers]
    dense = ((6 * 6 * c2, fc), (fc, fc), (fc, classes))
    return layers + [((seen, out) if ours else (out, seen), (out,)) for seen, out in dense]


def _of_caffemodel(path, content):
    """{name: its arrays} of the layers that have any."""
    try:
        net = _parsed("NetParameter", content)
    except DecodeError:
        raise RunError(f"{path}: holds no weights, .caffemodel or .npy, or is cut off") from None
    layers = [*net.layers, *net.layer]
    names = [layer.name for layer in layers]
    if "pool1" in names and "norm1" in names[names.index("pool1") :]:
        # The other network that came with Caffe has arrays of the same names and shapes.
        raise RunError(f"{path}: pools before it normalizes, as CaffeNet does; AlexNet's norm1 is before its pool1")
    return {each.name: [_array(f"{path}: {each.name}", blob) for blob in each.blobs] for each in layers if each.blobs}


def _array(said, blob):
    """A BlobProto as np.ndarray."""
    content, dtype = b"".join(blob.data or blob.double_data), np.dtype("<f4" if blob.data else "<f8")
    shape = tuple(blob.shape.dim) if blob.HasField("shape") else (blob.num, blob.channels, blob.height, blob.width)
    expected = math.prod(shape) * dtype.itemsize
    if min(shape, default=1) < 0 or len(content) != expected:
        raise RunError(f"{said}: {len(content):,} bytes of numbers; {shape} should have {expected:,}")
    return np.frombuffer(content, dtype).reshape(shape)


def _parsed(name, content):
    """One of _MESSAGES from its bytes. Raises DecodeError."""
    # A pool of its own: the caffe.proto of another library in the same program is left alone.
    kinds, pool = descriptor_pb2.FieldDescriptorProto, descriptor_pool.DescriptorPool()
    file = descriptor_pb2.FileDescriptorProto(name="keras_alexnet/caffe.proto", package="keras_alexnet.caffe")
    for message_name, fields in _MESSAGES.items():
        message = file.message_type.add(name=message_name)
        for field_name, number, kind in map(str.split, fields.split(", ")):
            label = kinds.LABEL_REPEATED if kind.endswith("*") else kinds.LABEL_OPTIONAL
            kind = kind.rstrip("*")
            of = {"type_name": f".{file.package}.{kind}"} if kind in _MESSAGES else {"type": f"TYPE_{kind}"}
            message.field.add(name=field_name, number=int(number), label=label, **of)
    pool.AddSerializedFile(file.SerializeToString())
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{file.package}.{name}")).FromString(content)


class _Pickled:
    """What stands for numpy's arrays and types in a pickle: data only. numpy's own trust what a pickle tells them."""

    def __init__(self, *arguments):
        self.arguments, self.state = arguments, None

    def __setstate__(self, state):
        self.state = state

    def array(self):
        """The numbers, float32 or float64. Raises ValueError and others."""
        _, shape, kind, by_columns, content = self.state
        if kind.arguments[0] not in ("f4", "f8"):
            raise ValueError(f"an array of type {kind.arguments[0]}; f4 or f8 is expected")
        dtype = np.dtype((">" if kind.state[1] == ">" else "<") + kind.arguments[0])
        content = content.encode("latin1") if isinstance(content, str) else content  # Python 2's bytes, see `_of_npy`
        return np.frombuffer(content, dtype).reshape(shape, order="F" if by_columns else "C")


class _Unpickler(pickle.Unpickler):
    """Unpickles numpy's arrays as `_Pickled`; whatever else a pickle may call is refused."""

    def find_class(self, module, name):
        allowed = {
            ("_codecs", "encode"): str.encode,  # how Python 3 writes bytes for Python 2
            ("numpy", "dtype"): _Pickled,
            ("numpy", "ndarray"): "ndarray",  # an argument of the following, which does not look at it
            ("numpy.core.multiarray", "_reconstruct"): _Pickled,  # of NumPy 1
            ("numpy._core.multiarray", "_reconstruct"): _Pickled,
        }
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"its pickle asks for {module}.{name}, and only arrays are let in")
        return allowed[module, name]


def _of_npy(path, content):
    """{name: [kernel, bias]}; of layers that are none of ours without the arrays."""
    file = io.BytesIO(content)
    try:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)  # later ones are for types with longer names
        if shape != () or not dtype.hasobject:
            raise ValueError(f"an array {dtype} {shape}; a dictionary of layers is expected")
        layers = _Unpickler(file, encoding="latin1").load().state[4][0]  # latin1 keeps Python 2's bytes one to one
        if not isinstance(layers, dict):
            raise ValueError(f"a {type(layers).__name__}; a dictionary of layers is expected")
        pairs = dict.fromkeys(layers, ())
        for name in set(layers) & set(LAYERS):
            arrays = layers[name]
            arrays = [arrays["weights"], arrays["biases"]] if isinstance(arrays, dict) else arrays
            pairs[name] = [each.array() for each in arrays]
        return pairs
    except Exception as error:
        # What is wrong in a pickle shows as any error of Python's.
        raise RunError(f"{path}: holds no weights as caffe-tensorflow writes them ({error})") from None


def _content(path):
    """The bytes of a file that is not too large to be read."""
    if not os.path.isfile(path):
        raise UsageError(f"{path}: {'is a folder' if os.path.isdir(path) else 'there is no such file'}")
    if not os.path.getsize(path):
        raise RunError(f"{path}: the file is empty")
    if os.path.getsize(path) > MAX_BYTES:
        raise RunError(f"{path}: {os.path.getsize(path):,} bytes; at most {MAX_BYTES:,} are read")
    with open(path, "rb") as file:
        return file.read()
