"""Drawing, the same way for every figure: a file for the report, and an image in TensorBoard (RESULTS/logs).

Importing this module fails with a UsageError unless the extra `figures` is installed, so a command that imports it
before it trains does not train in vain.
"""

import io
import os
import shutil

import numpy as np
import tensorflow as tf
from PIL import Image

from keras_alexnet.errors import UsageError
from keras_alexnet.files import atomic_write

try:
    import matplotlib
    import scipy  # noqa: F401 (of the same extra: intervals and tests in tables and verdicts)
    from matplotlib import pyplot
except ImportError as error:
    raise UsageError(f"{error.name} is not installed; pip install 'keras-alexnet[figures]'") from None

LOGS = "logs"
DPI = 110  # pixels per inch

matplotlib.use("Agg")  # no screen
# Text stays text, and the same figure gives the same file: element ids are not random.
pyplot.rcParams.update({"svg.hashsalt": "keras_alexnet", "svg.fonttype": "none", "font.size": 10})


def panel(width, height, columns=1, rows=1, **settings):
    """A figure of so many inches, whose axes have no box: (figure, axes, or an array of them)."""
    figure, axes = pyplot.subplots(rows, columns, figsize=(width, height), layout="constrained", **settings)
    for each in np.ravel(axes):
        each.spines[["top", "right"]].set_visible(False)
    return figure, axes


def write(figure, path):
    """Writes a Matplotlib figure as SVG, RESULTS/NAME.svg, and closes it."""
    with atomic_write(path, "wb") as file:
        figure.savefig(file, format="svg", metadata={"Date": None})
    _log(pixels_of(figure), path)


def write_pixels(pixels, path, colors=None):
    """Writes an image, uint8 (height, width, 3), RGB, as RESULTS/NAME.png, in a palette of so many colors if given."""
    image = Image.fromarray(pixels)
    with atomic_write(path, "wb") as file:
        (image.quantize(colors) if colors else image).save(file, "PNG", optimize=True)
    _log(pixels, path)


def pixels_of(figure):
    """A Matplotlib figure drawn, uint8 (height, width, 3); it is closed."""
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=DPI)
    pyplot.close(figure)
    with Image.open(drawn) as image:
        return np.asarray(image.convert("RGB"))


def _log(pixels, path):
    """Shows an image in TensorBoard under the name of its file, in place of the one of the last time."""
    folder, name = os.path.split(os.path.splitext(path)[0])
    log_dir = os.path.join(folder, LOGS, name)
    shutil.rmtree(log_dir, ignore_errors=True)
    with tf.summary.create_file_writer(log_dir).as_default(0):
        tf.summary.image(name, pixels[None])
