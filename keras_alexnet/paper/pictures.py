"""Drawing, the same way for every figure. Needs the extra `figures`.

A figure goes to a file for the report, and as it looks to TensorBoard (Images): `tensorboard --logdir RESULTS/logs`.
"""

import io
import os
import shutil

import numpy as np

from keras_alexnet.errors import UsageError
from keras_alexnet.files import atomic_write

LOGS = "logs"
DPI = 110  # pixels an inch


def pyplot():
    """Matplotlib without a screen. Raises UsageError where it is not installed."""
    try:
        import matplotlib
    except ImportError:
        raise UsageError("matplotlib is not installed; pip install 'keras-alexnet[figures]'") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    # The same picture every time: no random names in the SVG, and text as text.
    plt.rcParams.update({"svg.hashsalt": "keras_alexnet", "svg.fonttype": "none", "font.size": 10})
    return plt


def panel(width, height, columns=1):
    """A figure with axes without a box. Args: inches. Returns (figure, axes, or an array of them)."""
    figure, axes = pyplot().subplots(1, columns, figsize=(width, height), layout="constrained")
    for each in [axes] if columns == 1 else axes:
        each.spines[["top", "right"]].set_visible(False)
    return figure, axes


def write(figure, path):
    """Writes a figure as SVG, without a date, and shows it in TensorBoard; the figure is closed.

    Args:
        figure: of Matplotlib.
        path: str, RESULTS/NAME.svg.
    """
    with atomic_write(path, "wb") as file:
        figure.savefig(file, format="svg", metadata={"Date": None})
    log(pixels_of(figure), path)


def write_pixels(pixels, path):
    """As `write`, a picture that is there already, as PNG. `pixels`: uint8 (height, width, 3)."""
    from PIL import Image

    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "PNG", optimize=True)
    write_png(encoded.getvalue(), path)


def write_png(data, path):
    """As `write`, the bytes of a PNG."""
    from PIL import Image

    with atomic_write(path, "wb") as file:
        file.write(data)
    with Image.open(io.BytesIO(data)) as image:
        log(np.asarray(image.convert("RGB")), path)


def pixels_of(figure):
    """A figure as it looks, uint8 (height, width, 3); it is closed."""
    from PIL import Image

    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI)
    pyplot().close(figure)
    with Image.open(drawn) as image:
        return np.asarray(image.convert("RGB"))


def log(pixels, path):
    """Shows a picture in TensorBoard, in place of the one of the last time.

    Args:
        pixels: uint8 (height, width, 3).
        path: str, its file below RESULTS; it gets the name of the file.
    """
    import tensorflow as tf

    folder, name = os.path.split(os.path.splitext(path)[0])
    place = os.path.join(folder, LOGS, name)
    shutil.rmtree(place, ignore_errors=True)
    with tf.summary.create_file_writer(place).as_default(0):
        tf.summary.image(name, pixels[None])
