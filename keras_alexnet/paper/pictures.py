"""Drawing, the same way for every figure. Needs the extra `figures`.

A figure goes to a file for the report, and as it looks to TensorBoard (Images): `tensorboard --logdir RESULTS/logs`.
"""

import io
import os
import shutil

import numpy as np

from keras_alexnet.errors import UsageError
from keras_alexnet.files import written_aside

LOGS = "logs"
_DPI = 110


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
    from PIL import Image

    with written_aside(path, "wb") as file:
        figure.savefig(file, format="svg", metadata={"Date": None})
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=_DPI)
    pyplot().close(figure)
    _log(path, np.asarray(Image.open(drawn).convert("RGB")))


def write_pixels(pixels, path):
    """As `write`, a picture that is there already, as PNG. `pixels`: uint8 (height, width, 3)."""
    from PIL import Image

    with written_aside(path, "wb") as file:
        Image.fromarray(pixels).save(file, "PNG", optimize=True)
    _log(path, pixels)


def _log(path, pixels):
    import tensorflow as tf

    folder, name = os.path.split(os.path.splitext(path)[0])
    place = os.path.join(folder, LOGS, name)
    shutil.rmtree(place, ignore_errors=True)  # of the last time: TensorBoard would show both
    with tf.summary.create_file_writer(place).as_default(0):
        tf.summary.image(name, pixels[None])


def save(figure, file, kind="svg"):
    """(Being replaced by `write`.)"""
    figure.savefig(file, format=kind, dpi=_DPI, metadata={"Date": None} if kind == "svg" else {"Software": None})
    pyplot().close(figure)
