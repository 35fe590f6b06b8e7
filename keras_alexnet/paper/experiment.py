"""Shared code of the commands in this folder. Each command is a module that tests a claim of the paper:

    TITLE, CLAIM    the experiment, and what the paper claims in which section
    COST, COMMAND   measured or estimated time and device, and an example call
    Settings        subclass of experiment.Settings, the flags
    run             settings -> Result, or None if there is nothing to record
    tables          values -> list of Table
    verdict         values -> Verdict
    REFERENCE       optional, list of Table: published numbers that the report shows where nothing was measured

A command writes RESULTS/NAME.json (protocol, command, commit, date, device, values), its figures beside that file, and
the figures for TensorBoard in RESULTS/logs.
"""

import dataclasses
import datetime
import functools
import importlib
import io
import os
import shlex
import shutil
import statistics

import numpy as np
from PIL import Image

from keras_alexnet import __version__, cli, errors, flags, rundir
from keras_alexnet.cli import Table  # noqa: F401 (for the commands)
from keras_alexnet.errors import ArgumentError, reading
from keras_alexnet.files import atomic_write, make_folder, read_json, write_json
from keras_alexnet.flags import flag

# In the order of the report.
NAMES = ["figure1", "cifar10_lrn", "figure3", "figure4", "retrieval", "table1", "table2", "transfer", "ablations"]
NAMES += ["initialization"]
NOT_RUN = "not run"
LEAST_SEEDS = 3  # for a confidence interval
optional = functools.partial(errors.optional, extra="figures")  # function of the name of a module


@dataclasses.dataclass(frozen=True)
class Verdict:
    outcome: str  # "holds", "does not hold" or "cannot be told"
    numbers: str  # evidence, such as "6.1 times here and six times in the paper, one seed"

    def __str__(self):
        return f"{self.outcome.capitalize()}: {self.numbers}."


@dataclasses.dataclass(frozen=True)
class Result:
    values: dict  # serializable as JSON
    protocol: str  # set, images, views, models, what was left out
    # Name of a file, .svg or .png -> (Matplotlib's figure or RGB pixels, uint8 (height, width, 3); caption).
    figures: dict[str, tuple] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Results."""

    results_dir: str = flag(
        "results", "Folder for the JSON file and the figures; unfinished work is in RESULTS_DIR/NAME.", path=True
    )
    quick: bool = flag(
        False, "Try the command in a minute or two, with few images and short training; its numbers mean nothing."
    )

    def check(self, name, valid, problem):
        """Raises ArgumentError for the flag `name` unless `valid` is true."""
        if not valid:
            value = getattr(self, name)
            raise ArgumentError(name, ",".join(map(str, value)) if isinstance(value, tuple) else value, problem)


def load(name):
    return importlib.import_module(f"keras_alexnet.paper.{name}")


def main(name, argv=None):
    """Runs the command `name` of NAMES; returns its exit code."""
    return cli.run_command(name, lambda argv: _main(name, argv), argv)


def _main(name, argv):
    command = load(name)
    usage = f"{command.TITLE}. {command.CLAIM}\n\n    {command.COMMAND}\n\nCost: {command.COST}."
    settings = flags.parse(command.Settings, argv, usage)
    if settings.quick:  # a trial must not replace results, and replaces earlier trials
        settings = dataclasses.replace(settings, results_dir=os.path.join(settings.results_dir, "quick"))
        shutil.rmtree(os.path.join(settings.results_dir, name), ignore_errors=True)
    folder = settings.results_dir
    make_folder("results_dir", folder, folder)
    rundir.commit()  # cached: another commit may be checked out when the command ends
    result = command.run(settings)
    if result is None:
        return
    for file, (picture, _) in result.figures.items():
        write_picture(picture, os.path.join(folder, file))
    content = {
        "name": name,
        "protocol": result.protocol,
        "command": shlex.join(["python", "-m", f"keras_alexnet.paper.{name}", *argv]),
        "quick": settings.quick,
        "keras_alexnet": __version__,
        "commit": rundir.commit(),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "device": rundir.device(),
        "pictures": [{"file": file, "shows": caption} for file, (_, caption) in result.figures.items()],
        "values": result.values,
    }
    path = os.path.join(folder, f"{name}.json")
    write_json(path, content, indent=1, ensure_ascii=False)
    for table in command.tables(result.values):
        print(f"{table.as_text()}\n")
    print(f"{command.verdict(result.values)}\nall numbers: {path}")
    for file in result.figures:
        print(f"figure: {os.path.join(folder, file)}")


def read(name, folder):
    """The JSON of a command: dict, or None if it was not run. Raises RunError where the file is damaged."""
    path = os.path.join(folder, f"{name}.json")
    if not os.path.exists(path):
        return None
    with reading(path, "is not a result; run the command again"):
        return read_json(path)


def paired(pairs):
    """The mean difference, first minus second, of pairs of values with one pair for each seed.

    Returns a dict: mean; low and high, the 95 % confidence interval of the mean (Student's t), and p, two-sided, of the
    paired t-test, all None with fewer than LEAST_SEEDS; seeds, int; by_seed, list of float.
    """
    by_seed = [value - other for value, other in pairs]
    mean, low, high, p = statistics.fmean(by_seed), None, None, None
    if len(by_seed) >= LEAST_SEEDS and min(by_seed) == max(by_seed):  # the test would divide by zero
        low, high, p = mean, mean, float(mean == 0)
    elif len(by_seed) >= LEAST_SEEDS:
        test = optional("scipy.stats").ttest_1samp(by_seed, 0.0)
        (low, high), p = map(float, test.confidence_interval(0.95)), float(test.pvalue)
    return {"mean": mean, "low": low, "high": high, "p": p, "seeds": len(by_seed), "by_seed": by_seed}


def paired_text(difference):
    """The text of a difference from `paired`, such as "+1.37 [+0.20, +2.54]"."""
    mean, low, high, seeds = (difference[name] for name in ("mean", "low", "high", "seeds"))
    if low is None:
        return f"{mean:+.2f} ({seeds} seed{'s' * (seeds > 1)}, no interval)"
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"


def mean_and_spread(values):
    """The mean and standard deviation (n - 1), such as "18.21 ± 0.30"; a single value without deviation."""
    mean = statistics.fmean(values)
    return f"{mean:.2f} ± {statistics.stdev(values):.2f}" if len(values) > 1 else f"{mean:.2f}"


def pyplot():
    """Matplotlib's pyplot, without a screen. Called before training, to fail early if a library is missing."""
    optional("scipy.stats")
    optional("matplotlib").use("Agg")
    # SVG text stays text, and equal figures give equal files, since element ids are not random.
    settings = {"svg.hashsalt": "keras_alexnet", "svg.fonttype": "none", "font.size": 10}
    settings |= {"axes.spines.top": False, "axes.spines.right": False}
    optional("matplotlib").rcParams.update(settings)
    return optional("matplotlib.pyplot")


def panel(width, height, columns=1, rows=1, **settings):
    """A figure of `width` by `height` inches: (figure, axes or an array of axes); axes have no box."""
    return pyplot().subplots(rows, columns, figsize=(width, height), layout="constrained", **settings)


def write_picture(picture, path):
    """Writes a figure of a Result as SVG or PNG, and as an image in TensorBoard, where it replaces the previous one."""
    import tensorflow as tf  # not needed by the report

    with atomic_write(path, "wb") as file:
        if path.endswith(".png"):
            Image.fromarray(picture).save(file, "PNG", optimize=True)
        else:
            picture.savefig(file, format="svg", metadata={"Date": None})
            picture = pixels_of(picture)
    folder, name = os.path.split(os.path.splitext(path)[0])
    log_dir = os.path.join(folder, "logs", name)
    shutil.rmtree(log_dir, ignore_errors=True)
    with tf.summary.create_file_writer(log_dir).as_default(0):
        tf.summary.image(name, picture[None])


def pixels_of(figure):
    """Draws and closes a Matplotlib figure: uint8 (height, width, 3)."""
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=110)
    pyplot().close(figure)
    with Image.open(png) as image:
        return np.asarray(image.convert("RGB"))
