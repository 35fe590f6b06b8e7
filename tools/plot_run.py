"""A run as one picture: loss, errors and rate by epoch, and the filters of conv1. Needs the extra `figures`.

python tools/plot_run.py runs/flowers docs/flowers.png
"""

import argparse
import csv
import sys
from pathlib import Path


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a run's folder, with history.csv and checkpoints")
    parser.add_argument("picture", type=Path, help="the PNG to write")
    options = parser.parse_args(argv)
    if not (options.run / "history.csv").is_file():
        parser.error(f"{options.run} holds no history.csv; train first")
    with open(options.run / "history.csv", newline="") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    draw(rows, filters(options.run), options.picture)


def filters(folder):
    """The conv1 filters of the newest checkpoint: uint8 (height, width, 3)."""
    from keras_alexnet import rundir
    from keras_alexnet.training.filters import conv1_grid

    return conv1_grid(rundir.build(rundir.open_run(str(folder))), scale=4)


def draw(rows, grid, path):
    """Writes the picture.

    Args:
        rows: list of dict of float, as history.csv has them.
        grid: uint8 (height, width, 3), the filters.
        path: where to.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    epochs = [row["epoch"] for row in rows]
    figure, panels = plt.subplots(1, 4, figsize=(14, 3.8), layout="constrained", width_ratios=[1, 1, 1, 1.35])
    titles = {"loss": "cross-entropy", "top1_error": "top-1 error, %", "learning_rate": "learning rate"}
    for panel, (name, title) in zip(panels, titles.items(), strict=False):
        if name == "learning_rate":
            panel.step(epochs, [row[name] for row in rows], where="mid", color="black")
            panel.set_yscale("log")
        else:
            panel.plot(epochs, [row[name] for row in rows], color="black", label="training, augmented")
            panel.plot(epochs, [row[f"val_{name}"] for row in rows], color="tab:red", label="validation, center view")
            panel.legend(frameon=False)
            panel.set_ylim(bottom=0)
        panel.set_title(title)
        panel.set_xlabel("epoch")
        panel.xaxis.get_major_locator().set_params(integer=True)
        panel.spines[["top", "right"]].set_visible(False)
    panels[3].imshow(grid, interpolation="nearest")
    panels[3].set_title("conv1, tower 0 above tower 1")
    panels[3].axis("off")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
