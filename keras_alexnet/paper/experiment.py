"""What the commands of this folder share. Each is a module that makes a claim of the paper and measures it:

    TITLE, CLAIM    what it repeats, and what the paper says of it, and where
    COST, COMMAND   how long it takes, measured or estimated, and on what; and how a user would call it
    Settings        subclass of experiment.Settings, the flags
    run             settings -> Result, or None where it only printed something
    tables          values -> list of Table
    verdict         values -> Verdict
    REFERENCE       optional, list of Table: numbers of others, which the report shows where nothing was measured

A command leaves RESULTS/NAME.json (protocol, command, commit, date, device, values), its figures beside it, and the
figures for TensorBoard in RESULTS/logs.
"""

import dataclasses
import datetime
import importlib
import io
import json
import os
import shlex
import shutil
import statistics
import sys

import numpy as np
from PIL import Image

from keras_alexnet import __version__, cli, flags, rundir
from keras_alexnet.cli import Table  # noqa: F401 (for the commands)
from keras_alexnet.errors import ArgumentError, RunError, UsageError
from keras_alexnet.files import atomic_write
from keras_alexnet.flags import flag

# In the order of the report.
NAMES = ["figure1", "cifar10_lrn", "figure3", "figure4", "retrieval", "table1", "table2", "ablations", "initialization"]
NOT_RUN = "not run"
LEAST_SEEDS = 3  # fewer say nothing about a spread


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether a claim holds here."""

    outcome: str  # "holds", "does not hold" or "cannot be told"
    numbers: str  # what decides it, such as "6.1 times here and six times in the paper, one seed"

    def __str__(self):
        return f"{self.outcome.capitalize()}: {self.numbers}."


@dataclasses.dataclass(frozen=True)
class Result:
    """What an experiment has measured."""

    values: dict  # as JSON takes it
    protocol: str  # how: set, images, views, models, what was cut
    figures: tuple[tuple[str, str], ...] = ()  # (file name below the results folder, caption), written already


@dataclasses.dataclass(frozen=True)
class Settings:
    """Results."""

    results_dir: str = flag(
        "results", "Where the JSON file and the figures are written; unfinished work is in RESULTS/NAME.", path=True
    )
    quick: bool = flag(
        False, "A trial of the command in a minute or two: a few images, a short training. Its numbers mean nothing."
    )

    def check(self, name, holds, problem):
        """Raises ArgumentError of a flag unless its value is right."""
        if not holds:
            value = getattr(self, name)
            raise ArgumentError(name, ",".join(map(str, value)) if isinstance(value, tuple) else value, problem)


def load(name):
    """The module of one of NAMES."""
    return importlib.import_module(f"keras_alexnet.paper.{name}")


def main(name, argv=None):
    """Runs the command of that name; returns its exit code."""
    return cli.run_command(name, lambda argv: _main(name, argv), sys.argv[1:] if argv is None else argv)


def _main(name, argv):
    command = load(name)
    usage = f"{command.TITLE}. {command.CLAIM}\n\n    {command.COMMAND}\n\nCost: {command.COST}."
    settings = flags.parse(command.Settings, argv, usage)
    if settings.quick:  # a trial replaces no result, and the trial before it is gone
        settings = dataclasses.replace(settings, results_dir=os.path.join(settings.results_dir, "quick"))
        shutil.rmtree(os.path.join(settings.results_dir, name), ignore_errors=True)
    folder = settings.results_dir
    make_folder("results_dir", folder, folder)
    rundir.commit()  # of the code that runs now, whatever is checked out when the command ends
    result = command.run(settings)
    if result is None:
        return
    content = {
        "name": name,
        "protocol": result.protocol,
        "command": shlex.join(["python", "-m", f"keras_alexnet.paper.{name}", *argv]),
        "quick": settings.quick,
        "keras_alexnet": __version__,
        "commit": rundir.commit(),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "device": rundir.device(),
        "pictures": [{"file": file, "shows": caption} for file, caption in result.figures],
        "values": result.values,
    }
    path = os.path.join(folder, f"{name}.json")
    with atomic_write(path) as file:
        json.dump(content, file, indent=1, ensure_ascii=False)
    for table in command.tables(result.values):
        print(f"{table.as_text()}\n")
    print(f"{command.verdict(result.values)}\nall numbers: {path}")
    for file, _ in result.figures:
        print(f"figure: {os.path.join(folder, file)}")


def make_folder(name, value, folder):
    """Makes a folder to write to, where a flag wants one. Raises ArgumentError."""
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise ArgumentError(name, value, f"cannot be written ({error.strerror}); name another place") from None
    if not os.access(folder, os.W_OK):
        raise ArgumentError(name, value, f"{folder} is not writable; name another place")


def read(name, folder):
    """The JSON that a command has left: dict, or None where it was not run. Raises RunError of a damaged file."""
    path = os.path.join(folder, f"{name}.json")
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise RunError(f"{path}: is not a result ({error}); run the command again") from None


def optional(module):
    """Imports a module of the extra `figures`, without which a network can be trained. Raises UsageError."""
    try:
        return importlib.import_module(module)
    except ImportError:
        library = module.split(".")[0]
        raise UsageError(f"{library} is not installed; pip install 'keras-alexnet[figures]'") from None


# Numbers of several seeds.


def paired(pairs):
    """How much the first of each pair of values is above the second; a pair for each seed.

    dict: mean; low and high, its 95 % confidence interval (Student's t), and the two-sided p of the paired t-test, all
    None with fewer than LEAST_SEEDS; seeds, their number; by_seed, list of float.
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
    """A difference as of `paired`, such as "+1.37 [+0.20, +2.54]"."""
    mean, low, high, seeds = (difference[name] for name in ("mean", "low", "high", "seeds"))
    if low is None:
        return f"{mean:+.2f} ({seeds} seed{'s' * (seeds > 1)}, no interval)"
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"


def mean_and_spread(values):
    """Such as "18.21 ± 0.30": mean and standard deviation (n - 1); the value alone where there is one."""
    mean = statistics.fmean(values)
    return f"{mean:.2f} ± {statistics.stdev(values):.2f}" if len(values) > 1 else f"{mean:.2f}"


# Figures: a file for the report, and an image in TensorBoard.


def pyplot():
    """Matplotlib's pyplot, without a screen; commands that train call it before, so that they do not train in vain."""
    optional("scipy.stats")
    optional("matplotlib").use("Agg")
    # Text stays text, and the same figure gives the same file: element ids are not random.
    settings = {"svg.hashsalt": "keras_alexnet", "svg.fonttype": "none", "font.size": 10}
    optional("matplotlib").rcParams.update(settings)
    return optional("matplotlib.pyplot")


def panel(width, height, columns=1, rows=1, **settings):
    """A figure of so many inches, whose axes have no box: (figure, axes, or an array of them)."""
    figure, axes = pyplot().subplots(rows, columns, figsize=(width, height), layout="constrained", **settings)
    for each in np.ravel(axes):
        each.spines[["top", "right"]].set_visible(False)
    return figure, axes


def write_figure(figure, path):
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
    figure.savefig(drawn, format="png", dpi=110)
    pyplot().close(figure)
    with Image.open(drawn) as image:
        return np.asarray(image.convert("RGB"))


def _log(pixels, path):
    """Shows an image in TensorBoard under the name of its file, in place of the one of the last time."""
    import tensorflow as tf  # which the report does without

    folder, name = os.path.split(os.path.splitext(path)[0])
    log_dir = os.path.join(folder, "logs", name)
    shutil.rmtree(log_dir, ignore_errors=True)
    with tf.summary.create_file_writer(log_dir).as_default(0):
        tf.summary.image(name, pixels[None])
