"""Caffe's files, written here byte by byte; what they compute is in tests/tools/test_import_weights.py."""

import functools
import io
import os
import pickle
import struct

import numpy as np
import pytest

from keras_alexnet.errors import RunError
from keras_alexnet.model import caffe, public_weights

CLASSES = 7


def blobs_of(c1=6, c2=16, c3=24, fc=256, classes=CLASSES, seed=0):
    """Random weights in Caffe's axes, of a sixteenth of the width; probabilities that differ from class to class."""
    random = np.random.default_rng(seed)
    shapes = {"conv1": (c1, 3, 11, 11), "conv2": (c2, c1 // 2, 5, 5), "conv3": (c3, c2, 3, 3)}
    shapes |= {"conv4": (c3, c3 // 2, 3, 3), "conv5": (c2, c3 // 2, 3, 3)}
    shapes |= {"fc6": (fc, c2 * 36), "fc7": (fc, fc), "fc8": (classes, fc)}
    blobs = {}
    for name, shape in shapes.items():
        stddev = np.sqrt((0.00012 if name == "fc8" else 2) / np.prod(shape[1:]))
        kernel = random.normal(0, stddev, shape).astype(np.float32)
        blobs[name] = [kernel, random.normal(0, 0.3, shape[0]).astype(np.float32)]
    return blobs


def varint(number):
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def field(number, value):
    """A field of a protocol buffer: a whole number, or bytes with their length before them."""
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def blob_2014(array):
    dims = (1,) * (4 - array.ndim) + array.shape
    sizes = b"".join(field(number, size) for number, size in enumerate(dims, 1))
    return sizes + field(5, array.astype("<f4").tobytes()) + field(6, b"")


def blob_2015(array, number=5, dtype="<f4"):
    return field(7, field(1, b"".join(map(varint, array.shape)))) + field(number, array.astype(dtype).tobytes())


doubles = functools.partial(blob_2015, number=8, dtype="<f8")


def caffemodel(blobs, blob=blob_2015, order=("norm1", "pool1")):
    """NetParameter: layers in field 2 (name 4, blobs 6) as in 2014, or in field 100 (name 1, blobs 7)."""
    layer, name, kept = (2, 4, 6) if blob is blob_2014 else (100, 1, 7)
    content = field(1, b"AlexNet") + field(layer, field(name, b"data"))
    for each, arrays in blobs.items():
        content += field(layer, field(name, each.encode()) + b"".join(field(kept, blob(array)) for array in arrays))
        if each == "conv1":
            content += b"".join(field(layer, field(name, other.encode())) for other in order)
    return content


def converted(blobs):
    """As caffe-tensorflow has it: kernels (rows, columns, inputs, outputs), fc6 of maps that are channels last."""
    pairs = blobs.items()
    layers = {n: [kernel.transpose(2, 3, 1, 0) if kernel.ndim == 4 else kernel.T, bias] for n, (kernel, bias) in pairs}
    kernel = blobs["fc6"][0]
    layers["fc6"][0] = kernel.reshape(len(kernel), -1, 6, 6).transpose(2, 3, 1, 0).reshape(-1, len(kernel))
    return layers


class Python2Pickler(pickle._Pickler):
    """Writes text and bytes alike as Python 2 wrote its str."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_string(self, value):
        content = value if isinstance(value, bytes) else value.encode("ascii")
        self.write(pickle.BINSTRING + struct.pack("<i", len(content)) + content)
        self.memoize(value)

    dispatch[bytes] = dispatch[str] = save_string


def npy(value, python2=False):
    """What np.save made of an object: a header, and a pickle of an array of it."""
    file = io.BytesIO()
    array = np.array(value, dtype=object)
    np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
    (Python2Pickler if python2 else pickle.Pickler)(file, protocol=2).dump(array)
    content = file.getvalue()
    return content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray") if python2 else content


@pytest.fixture(scope="module")
def blobs():
    return blobs_of()


FORMATS = {
    "2014": lambda blobs: caffemodel(blobs, blob_2014),
    "2015": caffemodel,
    "doubles": lambda blobs: caffemodel(blobs, doubles),
    "npy": lambda blobs: npy(converted(blobs)),
    "npy of Python 2": lambda blobs: npy(converted(blobs), python2=True),
    "npy of names": lambda blobs: npy({n: {"weights": k, "biases": b} for n, (k, b) in converted(blobs).items()}),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_formats_hold_the_same(blobs, tmp_path, kind):
    path, expected = tmp_path / "file", {}
    path.write_bytes(FORMATS[kind](blobs))
    for name, (kernel, bias) in converted(blobs).items():
        # Dropout in Caffe's training: what is kept, twice. Here: what is kept, of hidden units that are twice as large.
        scale = 2 if name in ("fc6", "fc7") else 1
        expected[f"{name}/kernel"] = scale * (kernel[:, :, ::-1] if name == "conv1" else kernel)
        expected[f"{name}/bias"] = scale * bias
    found = public_weights.read(str(path)).weights
    assert {array.dtype for array in found.values()} == {np.dtype(np.float32)}
    np.testing.assert_equal(found, expected)


class Evil:
    """Unpickled, it would make a file."""

    def __reduce__(self):
        return os.system, ("touch was_run",)


NONE = "holds no weights, .caffemodel or .npy"
NO_NPY = "holds no weights as caffe-tensorflow writes them"
NO_MEAN = "holds no mean image"
NUMBERS = b"\x93NUMPY\x01\x00\x46\x00{'descr': '<f4', 'fortran_order': False, 'shape': (2,), }".ljust(80)
BAD = {
    "empty": (lambda b: b"", "has 0 bytes; 1 to "),
    "text": (lambda b: b"no caffemodel, but a text of some length\n" * 9, NONE),
    "no layer": (lambda b: caffemodel(b | {"fc6": []}), "fc6 is missing; AlexNet has .*, the file conv1, conv2, "),
    "no bias": (lambda b: caffemodel(b | {"fc7": b["fc7"][:1]}), "fc7 has 1 arrays; a kernel and a bias are expected"),
    "other shape": (
        lambda b: caffemodel(b | {"conv4": [np.ones((24, 108)), b["conv4"][1]]}),
        r"conv4: the kernel, .* is float32 \(24, 108\); \(24, 12, 3, 3\) is expected",
    ),
    "few numbers": (
        lambda b: caffemodel(b, lambda a: blob_2015(a).replace(bytes((6, 3, 11, 11)), bytes((7, 3, 11, 11)))),
        r"conv1: 8,712 bytes of numbers; \(7, 3, 11, 11\) should have 10,164",
    ),
    "too large for float32": (
        lambda b: caffemodel(b | {"fc8": [b["fc8"][0], np.full(CLASSES, 1e300)]}, doubles),
        "fc8: the bias has non-finite numbers",
    ),
    "CaffeNet": (lambda b: caffemodel(b, order=("pool1", "norm1")), "pools before it normalizes, as CaffeNet does"),
    "npy of numbers": (lambda b: NUMBERS, rf"{NO_NPY} \(an array float32 \(2,\)"),
    "npy, truncated": (lambda b: npy(converted(b))[:-1000], NO_NPY),
    "npy of objects": (lambda b: npy({"conv3": [np.array([{}], object)] * 2}), "an array of type O8; f4 or f8 is"),
    "npy that runs a program": (lambda b: npy({"conv1": Evil()}), r"its pickle asks for (posix|nt)\.system, and only"),
}
BAD_MEANS = {
    "truncated": (lambda b: blob_2014(mean_of_caffe())[:-9], NO_MEAN),
    "size": (lambda b: blob_2014(mean_of_caffe()[:, :9]), rf"{NO_MEAN}.*\(its shape is \(1, 3, 9, 256\)"),
    "range": (lambda b: blob_2014(mean_of_caffe() * 9), "numbers outside 0..255"),
    "npy, truncated": (lambda b: b"\x93NUMPY\x01", NO_MEAN),
}
CASES = {name: (public_weights.read, *case) for name, case in BAD.items()}
CASES |= {f"mean, {name}": (caffe.read_mean, *case) for name, case in BAD_MEANS.items()}


@pytest.mark.parametrize("read, write, words", CASES.values(), ids=CASES)
def test_what_cannot_be_read_is_named_in_one_line(blobs, tmp_path, monkeypatch, read, write, words):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "file"
    path.write_bytes(write(blobs))
    with pytest.raises(RunError, match=words) as raised:
        read(str(path))
    message = str(raised.value)
    assert message.startswith(f"{path}: ") and "\n" not in message, message
    assert os.listdir(tmp_path) == ["file"]


def mean_of_caffe():
    return np.random.default_rng(2).uniform(80, 140, (3, 256, 256)).astype(np.float32)


def test_mean_images(tmp_path):
    mean = mean_of_caffe()
    (tmp_path / "mean.binaryproto").write_bytes(blob_2014(mean))
    np.save(tmp_path / "mean.npy", mean.astype(np.float64))
    for name in ("mean.binaryproto", "mean.npy"):
        found = caffe.read_mean(str(tmp_path / name))
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, mean[::-1].transpose(1, 2, 0))
