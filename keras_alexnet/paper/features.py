"""Images -> the 4096 numbers of the last hidden layer, kept as an index (section 6.1).

The features are what fc8 multiplies, of the center view: after the nonlinearity and, in a network with dropout, times
one minus its rate (0.5). Section 6.1 compares them by Euclidean distance, so nothing else is scaled.
"""

import dataclasses
import hashlib
import json
import math
import os
import typing
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image
from tensorboard.plugins import projector

from keras_alexnet import export, rundir
from keras_alexnet.cli import hidden_library_messages
from keras_alexnet.data import sources, statistics
from keras_alexnet.data.decoding import decode_center
from keras_alexnet.errors import ArgumentError, RunError, UsageError, brief, printable, reading
from keras_alexnet.files import atomic_write, progress_bar

PIXELS = 32  # rows and columns of the images that raw pixels are compared of
QUICK = 4  # images of a class with --quick
THUMBNAIL, LARGEST_SPRITE = 64, 8192  # pixels, in the projector; browsers do not take larger images
MOST_SHOWN = 10_000  # images in the projector; the browser holds all their features in memory
_BATCH = 32  # files that are read and decoded at a time
_FORMAT = 1  # of an index file
_NAMED = 3  # files left out that are named on the screen


class Extractor(typing.NamedTuple):
    """What describes images."""

    name: str  # "features" or "pixels"
    identity: str  # another one gives other numbers
    extract: Callable  # list of bytes, B files -> float32 (B, D); raises InvalidArgumentError where one is not an image


@dataclasses.dataclass(frozen=True)
class Index:
    """The images of a folder with their features."""

    features: np.ndarray  # float32 (N, D), a row for each image
    files: tuple[str, ...]  # N paths below root
    labels: np.ndarray  # int32 (N,), places in class_names; -1 in a folder without classes
    class_names: tuple[str, ...]
    root: str  # the folder
    model: str  # the identity of the extractor
    fingerprint: str  # of all files of the folder by name and size
    left_out: tuple[str, ...] = ()  # "FILE: why" of what is not an image

    def paths(self):
        """The files with their folder, list of str."""
        return [os.path.join(self.root, file) for file in self.files]


def list_images(data_dir, split, flag, quick=False):
    """The images of `DATA_DIR/SPLIT/CLASS/*`, or of `DATA_DIR/SPLIT/*` without classes: sources.FolderSource.

    Nothing is read. `flag` is the one that gave the split, for errors; `quick` takes the first few of each class.
    """
    root = Path(data_dir, split)
    if not root.is_dir():
        name, value = (flag, split) if os.path.isdir(data_dir) else ("data_dir", data_dir)
        raise ArgumentError(name, value, f"there is no folder {root}")
    if any(entry.is_dir() and not entry.name.startswith(".") for entry in root.iterdir()):
        source = sources.list_split(Path(data_dir), split)
    else:
        files = sorted(entry for entry in root.iterdir() if entry.name.lower().endswith(sources.SUFFIXES))
        files = [entry for entry in files if not entry.name.startswith(".")]
        if not files:
            raise ArgumentError("data_dir", data_dir, f"{root} holds neither class folders nor images")
        names, sizes = tuple(entry.name for entry in files), tuple(entry.stat().st_size for entry in files)
        source = sources.FolderSource(split, str(root), (), names, (-1,) * len(names), sizes)
    if quick:
        labels = np.array(source.labels)
        kept = {place for label in set(labels) for place in np.flatnonzero(labels == label)[:QUICK]}
        return source.without([file for place, file in enumerate(source.files) if place not in kept])
    return source


def list_splits(settings, query_flag):
    """The images that are searched and those that are asked about, as of `list_images`; one where both are the same.

    `query_flag` is the field of the settings that names the second split. Raises ArgumentError where a split is
    missing, or where neighbors of the same class would say nothing.
    """
    found = {}
    for flag in ("index_split", query_flag):
        split = getattr(settings, flag)
        if split not in found:
            found[split] = list_images(settings.data_dir, split, flag, settings.quick)
        if not found[split].class_names:
            raise ArgumentError(
                flag, split, f"{found[split].root} has no class folders, so no neighbor is right or wrong"
            )
    source, queries = found[settings.index_split], found[getattr(settings, query_flag)]
    if len(source.class_names) == 1:
        raise ArgumentError("index_split", source.name, f"{source.root} has one class only; add classes")
    unknown = sorted(set(queries.class_names) - set(source.class_names))
    if unknown:
        raise ArgumentError(query_flag, queries.name, f"its class {unknown[0]!r} is not in --index_split={source.name}")
    return source, queries


def feature_extractor(model):
    """The Extractor of a network's last hidden layer. Args: model: evaluate.Model, a run or an exported model."""
    served = model.served
    if hasattr(served, "extract_features"):
        files = tf.TensorSpec((None,), tf.string, name="image_bytes")
        answer = tf.function(served.extract_features, input_signature=[files])
    else:
        answer = served.signatures["features"]

    def extract(files):
        return answer(image_bytes=tf.constant(files, tf.string))["features"].numpy()

    return Extractor("features", model_identity(model), extract)


def pixel_extractor(size=PIXELS):
    """The Extractor of the central squares at `size` x `size`, by means of blocks: size * size * 3 numbers, 0..255."""

    def small(file):
        image = tf.cast(decode_center(file), tf.float32)[None]
        return tf.reshape(tf.raw_ops.ResizeArea(images=image, size=[size, size]), [-1])

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string)])
    def extract(files):
        return tf.map_fn(small, files, fn_output_signature=tf.TensorSpec((size * size * 3,), tf.float32))

    return Extractor("pixels", f"pixels {size}x{size}", lambda files: extract(tf.constant(files, tf.string)).numpy())


def model_identity(model):
    """A hash of everything that a network's features depend on, str: a run and its export have the same."""
    if rundir.is_run(model.name):  # the mean image of its training set is subtracted from the input
        training_set = statistics.load(os.path.join(model.name, rundir.STATISTICS)).fingerprint
    else:
        training_set = export.read_metadata(model.name).get("training_set", {}).get("fingerprint")
    network = dataclasses.asdict(model.config.network)
    network.pop("devices")  # where it computes changes nothing
    found = hashlib.sha256(json.dumps([network, training_set], sort_keys=True).encode())
    for name, variable in sorted(model.served.weights.items()):
        found.update(name.encode())
        found.update(np.ascontiguousarray(variable.numpy()).tobytes())
    return found.hexdigest()


def extract_features(extractor, paths, show=None):
    """Describes files; one that is not an image is left out.

    Returns:
        (features: float32 (M, D), of those that are images; kept: list of int, their places in paths; left_out: list
        of (place, str that says why)).

    Raises:
        RunError: a number is non-finite, or nothing is an image.
    """
    rows = []
    with hidden_library_messages():
        for start in range(0, len(paths), _BATCH):
            rows += _rows(extractor, paths[start : start + _BATCH])
            if show:
                show(len(rows), len(paths))
    left_out = [(place, row) for place, row in enumerate(rows) if isinstance(row, str)]
    kept = [place for place, row in enumerate(rows) if not isinstance(row, str)]
    if not kept:
        raise RunError(f"{paths[0]}: not an image that can be decoded, nor any other of {len(paths)} files")
    features = np.stack([rows[place] for place in kept])
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(bad):
        raise RunError(f"{paths[kept[bad[0]]]}: the network gives non-finite numbers; was it trained?")
    return features, kept, left_out


def _rows(extractor, paths):
    """For each file its features, or a str that says why it has none."""
    try:
        return list(extractor.extract([Path(path).read_bytes() for path in paths]))
    except OSError as error:
        reason = error.strerror or "cannot be read"
    except tf.errors.InvalidArgumentError as error:
        message = brief(error)
        reason = message if message.startswith("a header") else "not a JPEG or PNG file that can be decoded"
    if len(paths) == 1:
        return [reason]
    return [row for path in paths for row in _rows(extractor, [path])]


def open_index(extractor, source, folder, path=None):
    """The Index of a sources.FolderSource, computed once.

    It is kept in the file `path`, by default in `folder`, and computed again for another model or other files.
    """
    path = path or os.path.join(folder, f"{extractor.name}_{'all' if source.name == '.' else source.name}.npz")
    if os.path.exists(path):
        index = load(path)
        if index.model == extractor.identity and index.fingerprint == source.fingerprint():
            return dataclasses.replace(index, root=source.root)
        other = "other files" if index.model == extractor.identity else "another model"
        print(f"{path}: is of {other} and is computed again", flush=True)
    index = make(extractor, source, progress_bar(f"{extractor.name} of {source.name}"))
    os.makedirs(folder, exist_ok=True)
    save(index, path)
    if index.left_out:
        named = "; ".join(map(printable, index.left_out[:_NAMED])) + " ..." * (len(index.left_out) > _NAMED)
        print(f"{len(index.left_out)} files left out: {named}", flush=True)
    return index


def make(extractor, source, show=None):
    """The Index of a sources.FolderSource; raises as `extract_features`."""
    paths = [os.path.join(source.root, file) for file in source.files]
    features, kept, left_out = extract_features(extractor, paths, show)
    return Index(
        features,
        tuple(source.files[place] for place in kept),
        np.array(source.labels, np.int32)[kept],
        tuple(source.class_names),
        source.root,
        extractor.identity,
        source.fingerprint(),
        tuple(f"{source.files[place]}: {why}" for place, why in left_out),
    )


def save(index, path):
    """Writes an index as .npz."""
    about = {name: value for name, value in vars(index).items() if name not in ("features", "labels")}
    text = np.frombuffer(json.dumps({"format": _FORMAT, **about}).encode(), np.uint8)
    with atomic_write(path, "wb") as file:
        np.savez(file, features=index.features, labels=index.labels, about=text)


def load(path):
    """Reads what `save` wrote: Index. Raises UsageError where there is no such file, RunError of a damaged one."""
    if not os.path.isfile(path):
        raise UsageError(f"{path}: there is no such index; give --data_dir to make it")
    with reading(path), np.load(path, allow_pickle=False) as stored:
        about = json.loads(stored["about"].tobytes())
        if about.pop("format") != _FORMAT:
            raise ValueError("it has another format; delete it")
        about = {name: tuple(value) if isinstance(value, list) else value for name, value in about.items()}
        return Index(features=stored["features"], labels=stored["labels"], **about)


def described_model(model):
    """What results say of an evaluation.Model, dict."""
    network = model.config.network
    return {"model_dir": model.name, "variant": network.variant, "width": network.width, "epochs": model.epochs}


def thumbnails(paths, size, show=None):
    """The central squares of image files, uint8 (N, size, size, 3); black where a file cannot be read any more."""
    found, kept, _ = extract_features(pixel_extractor(size), paths, show)
    images = np.zeros((len(paths), size, size, 3), np.uint8)
    images[kept] = np.rint(found).reshape(-1, size, size, 3)
    return images


def write_projector(index, folder, show=None):
    """Shows an index in TensorBoard's embedding projector, with classes and thumbnails, in place of the one before.

    `folder` is TensorBoard's `--logdir`. Of more than MOST_SHOWN images so many are shown, evenly spread.
    """
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise ArgumentError("log_dir", folder, f"cannot be created ({error.strerror}); name another folder") from None
    count = min(len(index.files), MOST_SHOWN)
    shown = np.linspace(0, len(index.files) - 1, count).round().astype(int)
    columns = math.isqrt(count - 1) + 1  # of the sprite, a square of thumbnails row by row
    side = max(1, min(THUMBNAIL, LARGEST_SPRITE // columns))
    cells = np.zeros((columns * columns, side, side, 3), np.uint8)
    cells[:count] = thumbnails(np.array(index.paths())[shown], side, show)
    square = cells.reshape(columns, columns, side, side, 3).swapaxes(1, 2).reshape(columns * side, columns * side, 3)
    with atomic_write(os.path.join(folder, "sprite.png"), "wb") as file:
        Image.fromarray(square).save(file, format="png")
    with atomic_write(os.path.join(folder, "metadata.tsv")) as file:
        file.write("class\tfile\n")
        for place in shown:
            name = index.class_names[index.labels[place]] if index.class_names else "-"
            file.write(f"{printable(name)}\t{printable(index.files[place])}\n")
    checkpoint = tf.train.Checkpoint(features=tf.Variable(index.features[shown], trainable=False))
    manager = tf.train.CheckpointManager(checkpoint, folder, max_to_keep=1, checkpoint_name="features")
    manager.save(checkpoint_number=1)
    config = projector.ProjectorConfig()
    embedding = config.embeddings.add(tensor_name="features/.ATTRIBUTES/VARIABLE_VALUE", metadata_path="metadata.tsv")
    embedding.sprite.image_path = "sprite.png"
    embedding.sprite.single_image_dim.extend([side, side])
    projector.visualize_embeddings(folder, config)
