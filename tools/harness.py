"""What the benchmarks share: flags, rows that take turns, medians and ratios, memory, tables, figures as JSON.

A row is a function of a rows_*.py that takes the row's name and the settings and returns (facts, turn): a dict, and a
function of nothing that measures once and returns a dict. It runs in a process of its own. The processes take turns, so
that a machine whose speed changes is equally fast or slow for all rows; ratios are medians of the rounds' ratios.
"""

import dataclasses
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
import types

from keras_alexnet import flags, rundir
from keras_alexnet.cli import quiet_start, run_command, start_tensorflow
from keras_alexnet.errors import ArgumentError, RunError
from keras_alexnet.files import atomic_write
from keras_alexnet.flags import flag
from keras_alexnet.model import variants
from keras_alexnet.tables import Table


@dataclasses.dataclass(frozen=True)
class Settings:
    """Flags of every benchmark."""

    rounds: int = flag(5, "Turns of every row.", low=1)
    json: str | None = flag(None, "A file for all figures as JSON.", path=True)


def parse(kind, argv, usage, positional=None):
    """As `flags.parse`; --json and --width are checked now, before anything is measured."""
    settings = flags.parse(kind, argv, usage, positional)
    if settings.json:
        folder = os.path.dirname(os.path.abspath(settings.json))
        if os.path.isdir(settings.json) or not os.access(folder, os.W_OK | os.X_OK):
            raise ArgumentError("json", settings.json, "must name a file, in a folder that can be written to")
    if hasattr(settings, "width"):
        variants.Network(width=settings.width)
    return settings


def choose_rows(asked, known, default):
    """(the rows to measure, list of str; a dict of row -> why, those of the default that cannot run here)."""
    for row in asked:
        if row not in known or asked.count(row) > 1:
            raise ArgumentError("rows", ",".join(asked), f"{row!r} is none of {', '.join(known)}, or there twice")
    rows, missing = asked or default, {}
    if not importlib.util.find_spec("torch"):
        why = "not run: PyTorch is not installed (pip install 'keras-alexnet[benchmark]')"
        missing = {row: why for row in rows if row.startswith("torch")}
    for row, why in missing.items():
        if asked:
            raise RunError(f"--rows={','.join(asked)}: {row}: {why}")
    return [row for row in rows if row not in missing], missing


def interleave(rows, settings, rounds, before=None):
    """Measures rows, {row: "MODULE.FUNCTION"}, in turns: ({row: its facts}, {row: list of the results of its turns}).

    The row `before` takes a turn before each turn of the others; its results are added to theirs.
    """
    workers = {row: worker(row, function, dataclasses.asdict(settings)) for row, function in rows.items()}
    try:
        for each in workers.values():
            next(each)
        facts = {row: next(each) for row, each in workers.items()}
        turns = {row: [] for row in rows if row != before}
        for done in range(rounds):
            for row, found in turns.items():
                if sys.stderr.isatty():
                    print(f"\rround {done + 1} of {rounds}: {row:<40}\r", end="", file=sys.stderr, flush=True)
                added = next(workers[before]) if before else {}
                found.append({**next(workers[row]), **added})
        return facts, turns
    finally:
        for each in workers.values():
            each.close()


def worker(row, function, settings):
    """Starts the process of a row. Yields None once it runs, then its facts, then the result of each turn."""
    command = [sys.executable, os.path.abspath(__file__), row, function, json.dumps(settings)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        yield
        while line := process.stdout.readline():
            yield json.loads(line)
            process.stdin.write("\n")
            process.stdin.flush()
        if process.wait() in (1, 2):
            raise SystemExit(process.returncode)  # the process has printed why
        raise RunError(f"the process of {row} ended with exit code {process.returncode}")
    finally:
        process.kill()
        process.wait()


def main(argv):
    """The process of a row."""
    row, function, settings = argv
    module, _, name = function.partition(".")
    # The peak of the memory is that beyond what the process has before it imports TensorFlow or PyTorch.
    settings = types.SimpleNamespace(**json.loads(settings), peak_mb=resident_peak())
    with quiet_start():
        function = getattr(importlib.import_module(module), name)
    facts, turn = function(row, settings)
    print(json.dumps(facts), flush=True)
    for _ in sys.stdin:
        print(json.dumps(turn()), flush=True)


def seconds(work, *arguments):
    """How long a call takes."""
    started = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - started


def speed_turn(images, work, peak_mb):
    """A turn that measures the images_per_second of a function that works through so many images, and peak_mb."""
    return lambda: {"images_per_second": images / seconds(work), "peak_mb": peak_mb()}


def step_turn(settings, step, peak_mb):
    """A turn of training steps, after two that build what the others use."""

    def steps(count=settings.steps):
        for _ in range(count):
            step()

    steps(2)
    return speed_turn(settings.batch_size * settings.steps, steps, peak_mb)


def summary(turns, compared):
    """The figures of each row from the turns of `speed_turn`, dict of row -> dict.

    images_per_second is the median of the turns, peak_mb that of the last one. `compared` is {row: {figure: other}}:
    these figures are medians of the rounds' ratios of images_per_second, and left out where the other row is missing.
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
        with open("/proc/self/status", encoding="utf-8") as file:
            return int(next(line for line in file if line.startswith("VmHWM")).split()[1]) * 1024 / 1e6

    if not os.path.exists("/proc/self/clear_refs"):
        return lambda: float("nan")
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # sets the peak back to what is resident now
    before = peak_mb()
    return lambda: peak_mb() - before


def table(title, columns, rows):
    """A table as lines of text.

    Args:
        title: str, above the names of the rows.
        columns: dict of heading -> (figure, format), such as {"img/s": ("images_per_second", ".2f")}.
        rows: list of (name, dict of figures, text behind them); where a figure is missing the cell is empty.
    """
    lines = [
        (name, *(format(figures[key], form) if key in figures else "" for key, form in columns.values()), note)
        for name, figures, note in rows
    ]
    return Table("", (title, *columns, ""), lines).as_text().splitlines()


def publish(report, lines, path):
    """Prints the text of a report; writes its figures as JSON where a file was asked for."""
    print("\n".join(lines))
    if path:
        with atomic_write(path) as file:
            json.dump(report, file, indent=1)


if __name__ == "__main__":
    sys.exit(run_command(sys.argv[1], main, sys.argv[1:]))
