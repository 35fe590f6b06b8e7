"""Pictures -> the 4096 numbers of the last hidden layer, kept as an index (section 6.1).

The numbers are exactly what fc8 multiplies: after the nonlinearity and, in a network with dropout, times 1 - rate
(0.5), of the center view. Neither is anything else scaled: section 6.1 compares these by Euclidean distance.
"""

import dataclasses
import hashlib
import json
import os
import zipfile
from pathlib import Path

import numpy as np

from keras_alexnet import rundir
from keras_alexnet.cli import hidden_library_messages
from keras_alexnet.data import sources
from keras_alexnet.errors import RunError, UsageError, brief
from keras_alexnet.files import atomic_write

BATCH = 32  # files that are read and decoded at a time
PIXELS = 32  # rows and columns of the pictures that raw pixels are compared of
NO_CLASS = -1  # label of a picture without one
_FORMAT = 1  # of the file; another number is another layout


@dataclasses.dataclass(frozen=True)
class Index:
    """What is known of the pictures of a folder.

    Attributes:
        features: float32 (N, D), one row a picture; D is 4096 times the width of the network.
        files: tuple of str, N paths below root.
        labels: int32 (N,), places in class_names; -1 where there are no classes.
        class_names: tuple of str; empty for a folder of pictures without classes.
        root: str, the folder.
        model: str, what the features come from, see `model_id`.
        fingerprint: str, of all files of the folder by name and size, see `sources.FolderSource.fingerprint`.
        left_out: tuple of str, "FILE: why" of what is no picture.
    """

    features: np.ndarray
    files: tuple[str, ...]
    labels: np.ndarray
    class_names: tuple[str, ...]
    root: str
    model: str
    fingerprint: str
    left_out: tuple[str, ...] = ()

    def paths(self):
        """The files with their folder, list of str."""
        return [os.path.join(self.root, file) for file in self.files]


def list_pictures(data_dir, split, flag="data_dir"):
    """The pictures of `DATA_DIR/SPLIT/CLASS/*`, or of `DATA_DIR/SPLIT/*` without classes; nothing is read.

    Args:
        data_dir: str.
        split: str, the name of a folder; "." is DATA_DIR itself.
        flag: str, named in errors.

    Returns:
        sources.FolderSource; of a folder without class folders with no class_names, and labels of -1.

    Raises:
        UsageError: there is no such folder, or there are no pictures in it.
    """
    root = Path(data_dir, split)
    if not root.is_dir():
        raise UsageError(f"--{flag}={split if flag != 'data_dir' else data_dir}: there is no folder {root}")
    entries = [entry for entry in os.scandir(root) if not entry.name.startswith(".")]
    if any(entry.is_dir() for entry in entries):
        return sources.list_split(Path(data_dir), split)
    files = sorted((entry.name, entry.stat().st_size) for entry in entries if entry.is_file())
    pictures = [(name, size) for name, size in files if name.lower().endswith(sources.SUFFIXES)]
    if not pictures:
        raise UsageError(
            f"--data_dir={data_dir}: {root} holds neither class folders nor pictures ({', '.join(sources.SUFFIXES)})"
        )
    names, sizes = zip(*pictures, strict=True)
    for name in names:
        if not name.isprintable() and not _is_text(name):
            raise UsageError(f"--data_dir={data_dir}: {name!r} has a name that is not UTF-8; rename it")
    other = tuple(name for name, _ in files if not name.lower().endswith(sources.SUFFIXES))
    return sources.FolderSource(split, str(root), (), names, (NO_CLASS,) * len(names), sizes, other)


def feature_extractor(model):
    """The function that gives the last hidden layer of a network.

    Args:
        model: evaluate.Model, a run or an exported model.

    Returns:
        function of a list of bytes, B files -> float32 (B, D); it raises tf.errors.InvalidArgumentError where one of
        them is no picture.
    """
    import tensorflow as tf

    served = model.served
    if hasattr(served, "extract_features"):
        files = tf.TensorSpec((None,), tf.string, name="image_bytes")
        answer = tf.function(served.extract_features, input_signature=[files])
    else:
        answer = served.signatures["features"]
    return lambda files: answer(image_bytes=tf.constant(files, tf.string))["features"].numpy()


def small_pictures(size):
    """As `feature_extractor`, of the pictures themselves: the central square, by the means of blocks.

    Args:
        size: int, rows and columns.

    Returns:
        function of a list of bytes -> float32 (B, size * size * 3), RGB, 0..255.
    """
    import tensorflow as tf

    from keras_alexnet.data.decoding import decode_center

    def small(file):
        image = tf.cast(decode_center(file), tf.float32)[None]
        return tf.raw_ops.ResizeArea(images=image, size=[size, size])[0]

    def all_of(files):
        return tf.map_fn(small, files, fn_output_signature=tf.TensorSpec((size, size, 3), tf.float32))

    answer = tf.function(all_of, input_signature=[tf.TensorSpec((None,), tf.string)])
    return lambda files: answer(tf.constant(files, tf.string)).numpy().reshape(len(files), -1)


def model_id(model):
    """A hash of everything that a network's features depend on, str: a run and its export have the same.

    Args:
        model: evaluate.Model.
    """
    # Where it computes changes nothing; all else of the config's network may.
    network = dataclasses.asdict(model.config.network)
    network.pop("devices", None)
    found = hashlib.sha256(json.dumps([network, _training_set(model.name)], sort_keys=True, default=str).encode())
    weights = model.served.weights
    for name in sorted(weights):
        found.update(name.encode())
        found.update(np.ascontiguousarray(weights[name].numpy()).tobytes())
    return found.hexdigest()


def pixels_id(size=PIXELS):
    """What stands for the model in an index of raw pixels, str."""
    return f"pixels {size}x{size}"


def extract(describe, paths, show=None):
    """Describes files, batch by batch; one that is no picture costs itself only.

    Args:
        describe: see `feature_extractor`.
        paths: sequence of str, JPEG or PNG files.
        show: function of (done, total), such as of `keras_alexnet.files.bar`, or None.

    Returns:
        (features: float32 (M, D), one row each of those that are pictures; kept: list of int, their places in paths;
        left_out: list of (place, str that says why)).

    Raises:
        RunError: a number is not finite, or nothing is a picture.
    """
    rows, kept, left_out = [], [], []
    with hidden_library_messages():
        for start in range(0, len(paths), BATCH):
            places, files = [], []
            for place in range(start, min(start + BATCH, len(paths))):
                try:
                    files.append(Path(paths[place]).read_bytes())
                    places.append(place)
                except OSError as error:
                    left_out.append((place, error.strerror or "cannot be read"))
            for place, answer in zip(places, _described(describe, files), strict=True):
                if isinstance(answer, str):
                    left_out.append((place, answer))
                else:
                    kept.append(place)
                    rows.append(answer)
            if show:
                show(min(start + BATCH, len(paths)), len(paths))
    if not rows:
        raise RunError(f"{paths[0] if paths else 'no files'}: no picture that can be decoded ({len(left_out)} files)")
    features = np.stack(rows)
    unknown = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(unknown):
        raise RunError(f"{paths[kept[unknown[0]]]}: the network gives numbers that are not finite; was it trained?")
    return features, kept, sorted(left_out)


def make(describe, model, source, show=None):
    """Indexes a folder.

    Args:
        describe, show: as of `extract`.
        model: str, see `model_id`.
        source: sources.FolderSource, see `list_pictures`.

    Returns:
        Index.

    Raises:
        RunError: as `extract`.
    """
    paths = [os.path.join(source.root, file) for file in source.files]
    features, kept, left_out = extract(describe, paths, show)
    return Index(
        features,
        tuple(source.files[place] for place in kept),
        np.array([source.labels[place] for place in kept], np.int32),
        tuple(source.class_names),
        source.root,
        model,
        source.fingerprint(),
        tuple(f"{source.files[place]}: {why}" for place, why in left_out),
    )


def is_of(index, model, source):
    """Whether an index is of this model and of these files (names, sizes and classes), bool."""
    return index.model == model and index.fingerprint == source.fingerprint()


def save(index, path):
    """Writes an index as .npz, aside and then renamed.

    Args:
        index: Index.
        path: str, as it is to be called.
    """
    about = {
        "format": _FORMAT,
        **{name: getattr(index, name) for name in ("files", "class_names", "root", "model", "fingerprint", "left_out")},
    }
    text = np.frombuffer(json.dumps(about).encode(), np.uint8)
    with atomic_write(path, "wb") as file:
        np.savez(file, features=index.features, labels=index.labels, about=text)


def load(path):
    """Reads what `save` wrote, and nothing that would have to be unpickled.

    Returns:
        Index.

    Raises:
        UsageError: there is no such file.
        RunError: it is damaged, or something else.
    """
    if not os.path.isfile(path):
        raise UsageError(f"{path}: there is no such index; leave --query out, or give --data_dir, to make it")
    try:
        with np.load(path, allow_pickle=False) as stored:
            features, labels, text = (stored[name] for name in ("features", "labels", "about"))
        about = json.loads(text.tobytes().decode())
        if about.pop("format") != _FORMAT:
            raise ValueError("of another version")
        index = Index(
            features=features,
            labels=labels,
            **{name: tuple(value) if isinstance(value, list) else value for name, value in about.items()},
        )
        _check(index)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        words = " ".join(str(error).split())[:120] or type(error).__name__
        raise RunError(f"{path}: is no index ({words}); delete it, or name another with --index") from None
    return index


def _check(index):
    """Raises ValueError where an index contradicts itself."""
    count = len(index.files)
    texts = (*index.files, *index.class_names, *index.left_out, index.root, index.model, index.fingerprint)
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("names that are no text")
    if index.features.dtype != np.float32 or index.features.ndim != 2 or not index.features.size:
        raise ValueError(f"features are {index.features.dtype} {index.features.shape}")
    if index.labels.dtype != np.int32 or index.labels.shape != (count,) or len(index.features) != count:
        raise ValueError(f"{len(index.features)} features and {index.labels.shape} labels of {count} files")
    if not np.isfinite(index.features).all():
        raise ValueError("numbers that are not finite")
    least, end = (0, len(index.class_names)) if index.class_names else (NO_CLASS, 0)
    if count and not (index.labels.min() >= least and index.labels.max() < end):
        raise ValueError("labels without a class")


def _described(describe, files):
    """For each file its row, or a str that says why it has none."""
    import tensorflow as tf

    if not files:
        return []
    try:
        return list(describe(files))
    except tf.errors.InvalidArgumentError as error:
        if len(files) == 1:
            return [_reason(error)]
    # One of them is no picture; whoever is left alone with the error is it.
    middle = len(files) // 2
    return [*_described(describe, files[:middle]), *_described(describe, files[middle:])]


def _reason(error):
    """What is wrong with a file, in a few words."""
    said = brief(error)
    return said if "pixels" in said and "or more" not in said else "not a JPEG or PNG file that can be decoded"


def _training_set(folder):
    """What the mean image, which the network's input loses, comes from: str."""
    if rundir.is_run(folder):
        return rundir.open_run(folder).statistics.fingerprint
    from keras_alexnet import export

    return export.read_metadata(folder).get("training_set", {}).get("fingerprint")


def _is_text(name):
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True
