"""What every command of this folder is: a claim of the paper, a run that measures it, and how the result is told.

    EXPERIMENT = Experiment(name="figure1", title="...", ..., run=run, tables=tables, verdict=verdict)

    if __name__ == "__main__":
        sys.exit(experiment.main(EXPERIMENT))

A command leaves RESULTS/NAME.json (protocol, command, commit, date, device, values) and its figures beside it.
"""

import dataclasses
import datetime
import importlib
import json
import os
import shlex
import shutil
import sys
from collections.abc import Callable

from keras_alexnet import __version__, cli, flags, rundir
from keras_alexnet.cli import Table
from keras_alexnet.errors import RunError, UsageError
from keras_alexnet.files import atomic_write
from keras_alexnet.flags import flag

# In the order of the report.
NAMES = (
    "figure1",
    "cifar10_lrn",
    "figure3",
    "figure4",
    "retrieval",
    "table1",
    "table2",
    "ablations",
    "initialization",
)
NOT_RUN = "not run"
OUTCOMES = ("holds", "does not hold", "cannot be told")


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether a claim holds here."""

    outcome: str  # one of OUTCOMES
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
class Experiment:
    """A claim of the paper and the command that measures it."""

    name: str  # of the module and of the JSON
    title: str
    claim: str  # what the paper says, and where
    cost: str  # how long the command takes, measured or estimated, and on what
    command: str  # as a user would give it
    settings: type  # subclass of Settings, the command's flags
    run: Callable  # settings -> Result, or None where it only printed something
    tables: Callable  # values -> list of Table
    verdict: Callable  # values -> Verdict
    reference: tuple[Table, ...] = ()  # numbers of others, which the report shows where nothing was measured


@dataclasses.dataclass(frozen=True)
class Settings:
    """Results."""

    results_dir: str = flag(
        "results", "Where the JSON file and the figures are written; unfinished work is in RESULTS/NAME.", path=True
    )
    quick: bool = flag(
        False, "A trial of the command in a minute or two: a few images, a short training. Its numbers mean nothing."
    )


def load(name):
    """The experiment of one of NAMES."""
    return importlib.import_module(f"keras_alexnet.paper.{name}").EXPERIMENT


def main(experiment, argv=None):
    """Runs the command of an experiment; returns its exit code."""
    return cli.run_command(
        experiment.name, lambda argv: _main(experiment, argv), sys.argv[1:] if argv is None else argv
    )


def _main(experiment, argv):
    usage = f"{experiment.title}. {experiment.claim}\n\n    {experiment.command}\n\nCost: {experiment.cost}."
    settings = flags.parse(experiment.settings, argv, usage)
    if settings.quick:  # a trial replaces no result, and the trial before it is gone
        settings = dataclasses.replace(settings, results_dir=os.path.join(settings.results_dir, "quick"))
        shutil.rmtree(os.path.join(settings.results_dir, experiment.name), ignore_errors=True)
    folder = settings.results_dir
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--results_dir={folder}: cannot be created ({error.strerror}); name another folder") from None
    if not os.access(folder, os.W_OK):
        raise UsageError(f"--results_dir={folder}: is not writable; name another folder")
    rundir.commit()  # of the code that runs now, whatever is checked out when the command ends
    result = experiment.run(settings)
    if result is None:
        return
    path = write(experiment.name, result, folder, argv, settings.quick)
    for table in experiment.tables(result.values):
        print(f"{table.as_text()}\n")
    print(f"{experiment.verdict(result.values)}\nall numbers: {path}")
    print("".join(f"figure: {os.path.join(folder, file)}\n" for file, _ in result.figures), end="")


def write(name, result, folder, argv, quick):
    """Writes the JSON of a result into a folder; returns its path."""
    path = os.path.join(folder, f"{name}.json")
    content = {
        "name": name,
        "protocol": result.protocol,
        "command": shlex.join(["python", "-m", f"keras_alexnet.paper.{name}", *argv]),
        "quick": quick,
        "keras_alexnet": __version__,
        "commit": rundir.commit(),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "device": rundir.device(),
        "pictures": [{"file": file, "shows": caption} for file, caption in result.figures],
        "values": result.values,
    }
    with atomic_write(path) as file:
        json.dump(content, file, indent=1, ensure_ascii=False)
    return path


def read(name, folder):
    """What `write` wrote: dict, or None where the command was not run. Raises RunError of a damaged file."""
    path = os.path.join(folder, f"{name}.json")
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise RunError(f"{path}: is not a result ({error}); run the command again") from None
