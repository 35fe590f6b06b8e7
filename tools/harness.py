"""What the benchmarks share: flags, rows that take turns, medians and ratios, memory, tables, figures as JSON.

A row is a function of a rows_*.py that takes the row's name and the settings and returns (facts, turn): a dict, and a
function of nothing that measures once and returns a dict. It runs in a process of its own. The processes take turns:
a machine whose speed changes is equally fast or slow for all rows.
"""

import dataclasses
import glob
import importlib.util
import multiprocessing
import os
import signal
import statistics
import sys
import threading
import time
import types
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from keras_alexnet import rundir
from keras_alexnet.cli import Table, quiet_start, start_tensorflow
from keras_alexnet.errors import ArgumentError, RunError
from keras_alexnet.files import write_json
from keras_alexnet.flags import flag
from keras_alexnet.model import variants

_turns = {}  # in the process of a row: row -> the function that measures once


@dataclasses.dataclass(frozen=True)
class Report:
    """Flags of every report; --json and --width are checked before anything is measured."""

    json: str | None = flag(None, "A file for all figures as JSON.", path=True)

    def __post_init__(self):
        folder = os.path.dirname(os.path.abspath(self.json or ""))
        if self.json and (os.path.isdir(self.json) or not os.access(folder, os.W_OK | os.X_OK)):
            raise ArgumentError("json", self.json, "must name a file, in a folder that can be written to")
        variants.Settings(width=getattr(self, "width", 1.0))


@dataclasses.dataclass(frozen=True)
class Settings(Report):
    """Flags of every benchmark."""

    rounds: int = flag(5, "Turns of every row.", low=1)


def choose_rows(asked, known, default):
    """(the rows to measure, list of str; a dict of row -> why, those of the default that cannot run here)."""
    for row in asked:
        if row not in known or asked.count(row) > 1:
            raise ArgumentError("rows", ",".join(asked), f"{row!r} is none of {', '.join(known)}, or there twice")
    rows, missing = asked or default, {}
    needed = {"torch": "PyTorch is not installed (pip install 'keras-alexnet[benchmark]')"}
    needed["ffcv"] = "FFCV is not installed (pip install ffcv)"
    for row in rows:
        library = row.partition("_")[0]
        if library in needed and importlib.util.find_spec(library) is None:
            missing[row] = f"not run: {needed[library]}"
    if asked and missing:
        raise RunError(f"--rows={','.join(asked)}: {'; '.join(f'{row}: {why}' for row, why in missing.items())}")
    return [row for row in rows if row not in missing], missing


def interleave(rows, settings, rounds, before=None):
    """Measures rows, {row: "MODULE.FUNCTION"}, in turns: ({row: its facts}, {row: list of the results of its turns}).

    The row `before` takes a turn before each turn of the others; its results are added to theirs.
    """
    spawn = multiprocessing.get_context("spawn")
    try:
        workers = {row: ProcessPoolExecutor(1, spawn, end_with_parent) for row in rows}
        arguments = dataclasses.asdict(settings)
        started = {row: workers[row].submit(start, row, function, arguments) for row, function in rows.items()}
        facts, turns = {}, {row: [] for row in rows if row != before}
        for row, each in started.items():
            facts[row] = each.result()
        for done in range(rounds):
            for name, found in turns.items():
                if sys.stderr.isatty():
                    print(f"\rround {done + 1} of {rounds}: {name:<40}\r", end="", file=sys.stderr, flush=True)
                found.append({})
                for row in filter(None, (before, name)):
                    found[-1] |= workers[row].submit(take_turn, row).result()
        return facts, turns
    except BrokenProcessPool:
        raise RunError(f"the process of {row} has ended: killed, perhaps for want of memory") from None
    finally:
        for process in multiprocessing.active_children():
            process.kill()


def end_with_parent():
    """In the process of a row: an interrupt of the keyboard is for the parent, whose end is the row's."""

    def wait():
        multiprocessing.parent_process().join()
        os._exit(1)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=wait, daemon=True).start()


def start(row, function, settings):
    """In the process of a row: its facts."""
    module, _, name = function.partition(".")
    # The peak of the memory is that beyond what the process has before it imports TensorFlow or PyTorch.
    settings = types.SimpleNamespace(**settings, peak_mb=resident_peak())
    with quiet_start():
        function = getattr(importlib.import_module(module), name)
    facts, _turns[row] = function(row, settings)
    return facts


def take_turn(row):
    return _turns[row]()


def files_of(kind, settings):
    """The paths of all images in WORK/KIND, see rows_input.py."""
    return glob.glob(os.path.join(glob.escape(os.path.join(settings.work_dir, kind)), "*", "*"))


def seconds(work, *arguments):
    started = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - started


def speed_turn(images, work, peak_mb):
    """A turn that measures the images_per_second of a function that works through so many images, and peak_mb."""
    return lambda: {"images_per_second": images / seconds(work), "peak_mb": peak_mb()}


def step_turn(settings, step, peak_mb):
    """A turn of training steps, after two that build what the others use."""
    step(), step()
    return speed_turn(settings.batch_size * settings.steps, lambda: [step() for _ in range(settings.steps)], peak_mb)


def summary(turns, compared):
    """The figures of each row from the turns of `speed_turn`, dict of row -> dict.

    images_per_second is the median of the turns, peak_mb that of the last one. `compared` is {row: {figure: other}}:
    medians of the rounds' ratios of images_per_second, left out where the other row is missing.
    """
    speeds = {row: [turn["images_per_second"] for turn in its_turns] for row, its_turns in turns.items()}
    found = {}
    for row, its_turns in turns.items():
        found[row] = {"images_per_second": statistics.median(speeds[row]), "peak_mb": its_turns[-1]["peak_mb"]}
        for figure, other in compared.get(row, {}).items():
            if other in turns:
                ratios = [mine / theirs for mine, theirs in zip(speeds[row], speeds[other], strict=True)]
                found[row][figure] = statistics.median(ratios)
        found[row]["turns"] = its_turns
    return found


def machine():
    """Code, packages and machine that figures belong to, see `rundir.provenance`."""
    start_tensorflow()
    return rundir.provenance()


def resident_peak():
    """A function that gives how far the resident memory of this process has grown since now at its peak, in MB."""

    def peak_mb():
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6

    if not os.path.exists("/proc/self/clear_refs"):
        return lambda: float("nan")
    Path("/proc/self/clear_refs").write_text("5")  # sets the peak back to what is resident now
    before = peak_mb()
    return lambda: peak_mb() - before


def table(title, columns, rows):
    """Lines of text from columns, {"img/s": ("images_per_second", ".2f")}, and rows, (name, figures, text behind)."""
    lines = [
        (name, *(format(figures[key], form) if key in figures else "" for key, form in columns.values()), note)
        for name, figures, note in rows
    ]
    return Table("", (title, *columns, ""), lines).as_text().splitlines()


def publish(report, lines, path):
    """Prints the text of a report; writes its figures as JSON where a file was asked for."""
    print("\n".join(lines))
    if path:
        write_json(path, report, indent=1)
