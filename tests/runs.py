"""What tests of runs share: the flags of tiny runs, what runs have written, and runs in processes of their own."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_alexnet.training.progress import checkpoint_paths

ROOT = Path(__file__).parents[1]
SMALL_CLASSES = ("blue_disk", "red_square", "striped_red_disk")
# Two towers and all layers, a sixteenth of the width.
FULL_RUN = ["--dataset=folder", "--width=0.0625", "--batch_size=8", "--variant=release2012", "--summary_steps=1"]
# Tracing graphs takes most of a tiny run's time: one tower, and the first layer of each kind only.
REMOVED = "--removed_layers=conv2,conv3,conv4,conv5,fc7"
TINY_RUN = [*FULL_RUN, "--towers=1", "--groups=1", REMOVED, "--learning_rate=0.001"]


def history(folder):
    """The history.csv of a run's folder, a list of dict of str."""
    with open(folder / "history.csv", newline="") as file:
        return list(csv.DictReader(file))


def newest(folder):
    """The newest checkpoint of a run's folder, str without suffix; None without one."""
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
    return found


def assert_same(folder, other):
    """Weights, velocities, random states, history and curves to the bit, except for what a clock measured."""
    first, second = state(folder), state(other)
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)
    for a, b in zip(history(folder), history(other), strict=True):
        assert {**a, "images_per_second": 0} == {**b, "images_per_second": 0}
    for split in ("train", "val"):
        ours, theirs = (points(each, split) for each in (folder, other))
        ours.pop("warnings", None)  # of what was done to the one
        assert set(ours) == set(theirs)
        clocks = {tag for tag in ours if tag.startswith(("speed/", "memory/"))} | {"images_per_second"}
        for tag in set(ours) - clocks:
            assert [step for step, _ in ours[tag]] == [step for step, _ in theirs[tag]], tag
            for (_, value), (_, wanted) in zip(ours[tag], theirs[tag], strict=True):
                np.testing.assert_array_equal(value, wanted, err_msg=tag)


def start(*flags, env=(), **options):
    """`python -m keras_alexnet.train FLAGS` in a process of its own: subprocess.Popen."""
    return subprocess.Popen(
        [sys.executable, "-m", "keras_alexnet.train", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **dict(env)},
        **options,
    )


def finish(process):
    """(exit code, standard output, the last line of standard error, which has no stack trace)."""
    try:
        shown, error = process.communicate(timeout=300)
    finally:
        process.kill()
    assert "Traceback" not in error, error
    return process.returncode, shown, (error.strip().splitlines() or [""])[-1]


def until(process, words):
    """Reads what a process prints up to a line that has these words."""
    for line in process.stdout:
        if words in line:
            return line
    raise AssertionError(f"it ended without {words!r}: {process.stderr.read()}")
