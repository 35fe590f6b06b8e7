"""What the benchmarks share: processes that take turns, so that a machine that is now fast and now slow is so for all.

A worker prints one line of JSON when it is ready, one for every line it is sent, and one when its input ends.
"""

import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys

from keras_alexnet.errors import RunError


def race(commands, rounds, environment, before=dict):
    """Lets workers take turns.

    Args:
        commands: dict of row -> list of str, the program of each.
        rounds: int, turns of each.
        environment: dict, of the workers.
        before: function of nothing -> dict, called before each turn; what it returns is added to what the turn says.

    Returns:
        (dict of row -> dict, what each said at its start and its end; dict of row -> list of dict, its turns).

    Raises:
        RunError: a worker ended early.
    """
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": environment}
    workers = {row: subprocess.Popen(command, **pipes) for row, command in commands.items()}
    try:
        said = {row: _answer(row, worker) for row, worker in workers.items()}
        turns = {row: [] for row in commands}
        for done in range(rounds):
            for row, worker in workers.items():
                if sys.stderr.isatty():
                    print(f"\rround {done + 1} of {rounds}: {row:<16}", end="", file=sys.stderr, flush=True)
                measured = before()
                worker.stdin.write("go\n")
                worker.stdin.flush()
                turns[row].append({**_answer(row, worker), **measured})
        if sys.stderr.isatty():
            print("\r" + " " * 50 + "\r", end="", file=sys.stderr)
        for row, worker in workers.items():
            worker.stdin.close()
            said[row].update(_answer(row, worker))
        return said, turns
    finally:
        for worker in workers.values():
            worker.kill()
            worker.wait()


def take_turns(ready, turn, finished):
    """A worker's side of a race: prints `ready`, then what `turn()` returns for every line, then `finished()`."""
    print(json.dumps(ready), flush=True)
    for _ in sys.stdin:
        print(json.dumps(turn()), flush=True)
    print(json.dumps(finished()), flush=True)


def median_ratio(turns, others, name):
    """The median of the rounds' ratios of a figure, so that a slow round is slow for both."""
    return statistics.median(turn[name] / other[name] for turn, other in zip(turns, others, strict=True))


def machine(packages):
    """What figures belong to: processor, cores, and the versions of those packages that are installed."""
    from importlib.metadata import version

    processor = platform.processor() or platform.machine()
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            processor = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), processor)
    versions = {name: version(name) for name in packages if importlib.util.find_spec(name)}
    return {"processor": processor, "cores": os.cpu_count(), "python": platform.python_version(), **versions}


def resident_peak():
    """Starts to watch the resident memory; returns a function that says its peak from here on, in MB."""
    if not os.path.exists("/proc/self/clear_refs"):
        return lambda: float("nan")
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # sets the peak back to what is there now
    before = _status("VmHWM")
    return lambda: _status("VmHWM") - before


def _answer(row, worker):
    line = worker.stdout.readline()
    if not line:
        raise RunError(f"{row} ended with exit code {worker.wait()}; its words are above")
    return json.loads(line)


def _status(name):
    with open("/proc/self/status", encoding="utf-8") as file:
        kilobytes = next(line for line in file if line.startswith(name)).split()[1]
    return int(kilobytes) * 1024 / 1e6
