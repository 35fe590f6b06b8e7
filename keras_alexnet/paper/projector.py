"""TensorBoard's embedding projector of an index: its features, with classes and thumbnails.

    tensorboard --logdir=RESULTS/projector

- features-1.*, checkpoint: the features, as the tensor TENSOR of a checkpoint.
- metadata.tsv: class and file of each.
- sprite.png: thumbnails of 64 pixels or fewer, row by row in one square picture.
- projector_config.pbtxt: which belongs to which.
"""

import json
import math
import os

import numpy as np

from keras_alexnet.errors import UsageError
from keras_alexnet.files import atomic_write
from keras_alexnet.paper import features

TENSOR = "features/.ATTRIBUTES/VARIABLE_VALUE"
THUMBNAIL = 64  # pixels
LARGEST = 8192  # pixels of the sprite, more than which browsers do not take
MOST = 10_000  # pictures; the browser holds all their features in memory
CONFIG, METADATA, SPRITE = "projector_config.pbtxt", "metadata.tsv", "sprite.png"


def write(index, folder, show=None):
    """Writes all of it; what another index left there is replaced.

    Args:
        index: features.Index; of more than MOST pictures, MOST are shown, evenly spread.
        folder: str, made where it is not there.
        show: function of (done, total), or None.

    Returns:
        int, pictures shown.

    Raises:
        UsageError: the folder cannot be made.
        RunError: none of the pictures is there any longer.
    """
    import tensorflow as tf

    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--log_dir={folder}: cannot be made ({error.strerror}); name another folder") from None
    count = len(index.files)
    shown = np.arange(count) if count <= MOST else np.linspace(0, count - 1, MOST).round().astype(int)
    config = os.path.join(folder, CONFIG)
    if os.path.exists(config):
        os.unlink(config)  # written last: until then there is nothing to be shown
    checkpoint = tf.train.Checkpoint(features=tf.Variable(index.features[shown], trainable=False))
    manager = tf.train.CheckpointManager(checkpoint, folder, max_to_keep=1, checkpoint_name="features")
    manager.save(checkpoint_number=1)
    with atomic_write(os.path.join(folder, METADATA)) as file:
        file.write(metadata(index, shown))
    side = thumbnail(len(shown))
    with atomic_write(os.path.join(folder, SPRITE), "wb") as file:
        sprite(index, shown, side, show).save(file, format="png")
    with atomic_write(config) as file:
        file.write(
            "embeddings {\n"
            f"  tensor_name: {json.dumps(TENSOR)}\n"
            f"  metadata_path: {json.dumps(METADATA)}\n"
            f"  sprite {{ image_path: {json.dumps(SPRITE)} single_image_dim: {side} single_image_dim: {side} }}\n"
            "}\n"
        )
    return len(shown)


def metadata(index, shown):
    """The table beside the features, str: a head and one row a picture.

    Args:
        index: features.Index.
        shown: sequence of int, places in it.
    """
    lines = ["class\tfile"]
    for place in shown:
        label = index.labels[place]
        name = index.class_names[label] if index.class_names else "-"
        lines.append(f"{_in_a_cell(name)}\t{_in_a_cell(index.files[place])}")
    return "\n".join(lines) + "\n"


def thumbnail(count):
    """The side of a thumbnail in pixels, int, so that so many make a square of at most LARGEST."""
    return max(1, min(THUMBNAIL, LARGEST // _columns(count)))


def sprite(index, shown, side, show=None):
    """The thumbnails in one picture, row by row; black where a file is not there any longer.

    Args:
        index: features.Index.
        shown: sequence of int, places in it.
        side: int, of a thumbnail, in pixels.
        show: function of (done, total), or None.

    Returns:
        PIL.Image, RGB, square.
    """
    from PIL import Image

    paths = index.paths()
    pictures, kept, _ = features.extract(features.small_pictures(side), [paths[place] for place in shown], show)
    columns = _columns(len(shown))
    cells = np.zeros((columns * columns, side, side, 3), np.uint8)
    cells[kept] = (pictures + 0.5).astype(np.uint8).reshape(-1, side, side, 3)
    square = cells.reshape(columns, columns, side, side, 3).swapaxes(1, 2).reshape(columns * side, columns * side, 3)
    return Image.fromarray(square)


def _columns(count):
    return math.isqrt(max(count, 1) - 1) + 1


def _in_a_cell(text):
    """Without what would end a cell or a row."""
    return "".join(each if each.isprintable() else "?" for each in text)
