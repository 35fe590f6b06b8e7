import contextlib
import csv
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_alexnet.cli import run_command
from keras_alexnet.training.progress import checkpoint_paths

ROOT = Path(__file__).parents[1]
SMALL_CLASSES = ("blue_disk", "red_square", "striped_red_disk")
# Two towers and all layers, a sixteenth of the width.
FULL_RUN = ["--dataset=folder", "--width=0.0625", "--batch_size=8", "--variant=release2012", "--summary_steps=1"]
# Tracing graphs takes most of a tiny run's time: one tower, and the first layer of each kind only.
REMOVED = ("conv2", "conv3", "conv4", "conv5", "fc7")
TINY_RUN = [*FULL_RUN, "--towers=1", "--groups=1", f"--removed_layers={','.join(REMOVED)}", "--learning_rate=0.001"]


def call(module, *argv):
    """Runs the command of a module in this process: (exit code, standard output, standard error)."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        code = run_command("command", module.main, [str(each) for each in argv])
    print(out.getvalue(), err.getvalue())
    return code, out.getvalue(), err.getvalue()


def refusal(module, *argv, code=2):
    found, _, error = call(module, *argv)
    assert found == code and error.startswith("command: ") and error.count("\n") == 1
    return error.removeprefix("command: ").strip()


def history(folder):
    with open(folder / "history.csv", newline="") as file:
        return list(csv.DictReader(file))


def newest(folder):
    return (checkpoint_paths(str(folder / "checkpoints")) or [None])[-1]


def state(folder):
    """All that the newest checkpoint of a run holds but its progress: dict of str -> np.ndarray."""
    reader = tf.train.load_checkpoint(newest(folder))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map() if name != "progress"}


def points(folder, split):
    """tag -> list of (step, value), of a run's TensorBoard files."""
    found = {}
    for path in sorted((folder / "logs" / split).glob("events*")):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, tf.make_ndarray(value.tensor)[()]))
    # The names of two files of one process and one second end in a counter without leading zeros.
    return {tag: sorted(each, key=lambda point: point[0]) for tag, each in found.items()}


def assert_same(folder, other):
    """Weights, velocities, random states, history and curves to the bit, except for what a clock measured."""
    np.testing.assert_equal(state(folder), state(other))
    for a, b in zip(history(folder), history(other), strict=True):
        assert {**a, "images_per_second": 0} == {**b, "images_per_second": 0}
    for split in ("train", "val"):
        ours, theirs = (points(each, split) for each in (folder, other))
        # Warnings are of what was done to the one; the settings name its folder.
        for tag in [tag for tag in {*ours, *theirs} if tag.startswith(("speed/", "memory/", "settings", "warnings"))]:
            ours.pop(tag, None), theirs.pop(tag, None)
        np.testing.assert_equal(ours, theirs)


def start(*flags, env=(), **options):
    """`python -m keras_alexnet.train FLAGS` in a process of its own: subprocess.Popen."""
    command = [sys.executable, "-m", "keras_alexnet.train", *flags]
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "cwd": ROOT}
    return subprocess.Popen(command, env={**os.environ, "PYTHONUNBUFFERED": "1", **dict(env)}, **streams, **options)


def finish(process):
    """(exit code, standard output, the last line of standard error, which has no stack trace)."""
    try:
        shown, error = process.communicate(timeout=300)
    finally:
        process.kill()
    assert "Traceback" not in error, error
    return process.returncode, shown, (error.strip().splitlines() or [""])[-1]


def until(process, words):
    assert any(words in line for line in process.stdout), process.stderr.read()
