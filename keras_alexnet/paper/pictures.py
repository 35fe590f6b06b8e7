"""Drawing, the same way for every figure. Needs the extra `figures`."""

from keras_alexnet.errors import UsageError


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


def save(figure, file, kind="svg"):
    """Writes a figure into an open file without a date, and forgets it. `kind`: "svg" or "png"."""
    figure.savefig(file, format=kind, dpi=110, metadata={"Date": None} if kind == "svg" else {"Software": None})
    pyplot().close(figure)
