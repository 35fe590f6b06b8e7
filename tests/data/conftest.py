import io
import os
import socket

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_alexnet.cli import run_command
from keras_alexnet.data.augmentation import Preprocessing
from keras_alexnet.data.sources import FolderSource


def photo(width, height, seed=0):
    """An image with coarse color areas and fine grain, so that no two of its windows are equal."""
    rng = np.random.default_rng([seed, width, height])
    coarse = Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8))
    smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), np.int16)
    # One tile of grain, repeated: faster where the image is large.
    tile = rng.integers(-12, 13, (211, 223, 3), np.int16)
    grain = np.tile(tile, (height // 211 + 1, width // 223 + 1, 1))[:height, :width]
    return Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8))


def encoded(image, kind="JPEG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write_folder(root, files):
    """Writes {path below root: bytes or None for an empty folder}; returns root."""
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).mkdir() if content is None else (root / name).write_bytes(content)
    return root


def flat_source(root, files):
    """A FolderSource over {name: bytes}, written to `root`, in which every file is a class of its own."""
    write_folder(root, files)
    names = tuple(files)
    return FolderSource(
        str(root), names, tuple(range(len(names))), tuple(map(len, files.values())), name="train", class_names=names
    )


def refusal(capsys, action):
    """What a user gets to read of a wrong flag: one line, and exit code 2."""
    capsys.readouterr()
    assert run_command("train", lambda _: action(), []) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("train: --") and lines[0].isprintable()
    return lines[0]


def items_of(source, **options):
    load = source.loader()
    items = source.items(**options).map(lambda *item: (item[0], *load(*item))).as_numpy_iterator()
    return [(source.name_of(key), image, int(label)) for key, image, label in items]


def preprocessed(dataset, mean_image, aligned=False):
    """The batches of a pipeline as the network sees them, (float32 (B, size, size, 3), labels): tf.data.Dataset."""
    preprocess = Preprocessing(mean_image, dataset.element_spec[0][0].shape[1], aligned)
    return dataset.map(lambda images, labels: (preprocess(images), labels))


def files_of(folder):
    """{path: bytes} of everything below a folder."""
    found = [os.path.join(place, name) for place, _, names in os.walk(folder) for name in names]
    return {os.path.relpath(path, folder): open(path, "rb").read() for path in sorted(found)}  # noqa: SIM115


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Whatever would download something fails at once instead."""

    def refuse(*_):
        raise OSError("tests do not use the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def operations(dataset):
    """The types of all nodes of a dataset's graph and of the functions in it."""
    graph = tf.compat.v1.GraphDef.FromString(dataset._as_serialized_graph().numpy())
    return {node.op for node in [*graph.node, *(n for function in graph.library.function for n in function.node_def)]}
