"""A run as one image: loss, errors and learning rate by epoch, and the filters of conv1. Needs the extra `figures`.

python tools/plot_run.py runs/imagenette docs/imagenette.png
"""

import argparse
from pathlib import Path

from keras_alexnet import rundir
from keras_alexnet.cli import run_command, start_tensorflow
from keras_alexnet.errors import UsageError
from keras_alexnet.model import filters
from keras_alexnet.paper import experiment


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a run's folder")
    parser.add_argument("image", type=Path, help="the .png, .svg or .pdf to write")
    options = parser.parse_args(argv)
    if options.image.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise UsageError(f"{options.image}: must end in .png, .svg or .pdf")
    rundir.check_run(str(options.run), "")
    start_tensorflow()
    figure, panels = experiment.panel(14, 3.8, columns=4, width_ratios=[1, 1, 1, 1.35])
    run = rundir.open_run(str(options.run))
    if not run.history:
        raise UsageError(f"{options.run}: has no history of a whole epoch")
    panels[3].set_title("conv1, tower 0 above tower 1" if run.config.network.groups == 2 else "conv1")
    draw(panels, run.history, filters.conv1_grid(rundir.build(run), scale=4, smooth=True))
    options.image.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(options.image, dpi=110)
    print(f"wrote {options.image}")


def draw(panels, rows, grid):
    """Fills four axes from the rows of history.csv, dicts of float, and an image of the filters, uint8."""
    epochs = [row["epoch"] for row in rows]
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
        panel.set(title=title, xlabel="epoch")
        panel.xaxis.get_major_locator().set_params(integer=True)
    panels[3].imshow(grid, interpolation="nearest")
    panels[3].axis("off")


if __name__ == "__main__":
    raise SystemExit(run_command("plot_run", main))
