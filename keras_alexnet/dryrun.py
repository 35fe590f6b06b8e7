"""`--dry_run`: two steps of a run, and what all of it would take. Nothing is written."""

import math
import os
import shutil
import time

from keras_alexnet.datasets import describe_bad_files, find_bad_files
from keras_alexnet.errors import RunError, UsageError
from keras_alexnet.training.monitoring import memory
from keras_alexnet.training.trainer import ReadError, read

_GIGABYTE = 1e9
_COPIES = 2  # a checkpoint holds the weights and a velocity for each; the exported model the weights alone


def report(loop, describe):
    """Trains two steps, and prints what the run would take, after the text of `describe(loop)`.

    Raises UsageError where the disk is too small or the folder not writable, and RunError where a step fails.
    """
    training, run = loop.config.training, loop.config.run
    try:
        seconds, validation = _step_seconds(loop)
    except ReadError:
        _leave_out_bad_files(loop)
        seconds, validation = _step_seconds(loop)
    left = max(0, training.epochs - loop.progress.epochs)
    epoch = loop.steps * seconds + math.ceil(loop.val_source.count / training.batch_size) * validation
    weights = 4 * loop.model.count_params()
    checkpoint = _COPIES * weights
    needed = checkpoint * (run.checkpoints_to_keep + 3) + (weights if run.export else 0)
    folder = _existing(run.model_dir)
    free = shutil.disk_usage(folder).free
    used = ", ".join(f"{name} {size / _GIGABYTE:.1f} GB" for name, size in memory().items())
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    print(
        f"{describe(loop)}"
        f"steps:      {loop.steps:,} an epoch, {left * loop.steps:,} in {left} epochs to go\n"
        f"time:       {seconds:.2f} s a step, about {_duration(epoch)} an epoch with its validation, up to "
        f"{_duration(left * epoch)} in all\n"
        f"memory:     {used}, of {total / _GIGABYTE:.1f} GB of the machine\n"
        f"disk:       {needed / _GIGABYTE:.2f} GB for {run.checkpoints_to_keep} checkpoints, those of the last and the "
        f"best epoch, one being written{' and the export' if run.export else ''}; {free / _GIGABYTE:.1f} GB free at "
        f"{folder}",
        flush=True,
    )
    if not os.access(folder, os.W_OK):
        raise UsageError(f"--model_dir={run.model_dir}: {folder} is not writable; name another folder")
    if free < needed:
        raise UsageError(
            f"--model_dir={run.model_dir}: {free / _GIGABYTE:.2f} GB are free and {needed / _GIGABYTE:.2f} GB are "
            "needed; make room, or give another folder or fewer --checkpoints_to_keep"
        )
    print("nothing was written; without --dry_run the run starts")


def _step_seconds(loop):
    """Seconds of a training and of a validation step, reading included; of the second each, the first compiles."""
    found = []
    for batches, step in (
        (loop.training_batches(0), loop.trainer.train_step),
        (loop.validation_batches(), loop.trainer.test_step),
    ):
        reader = read(batches.repeat())  # so that there is a second one
        for _ in range(2):
            started = time.perf_counter()
            loss = step(*next(reader))
            seconds = time.perf_counter() - started
        if loss is not None and not math.isfinite(float(loss)):
            raise RunError(f"the loss is {float(loss)} after two steps; give a lower --learning_rate")
        found.append(seconds)
    return found


def _leave_out_bad_files(loop):
    """Names the files that training would leave out, and leaves them out."""
    both = loop.train_source, loop.val_source
    train, val = find_bad_files(*both, loop.config.data.input_threads)
    print(describe_bad_files(both, (train, val)), flush=True)
    if loop.config.data.bad_images == "fail":
        raise RunError("--bad_images=fail: training would stop at them; --bad_images=skip leaves them out")
    loop.train_source, loop.val_source = loop.train_source.without(train), loop.val_source.without(val)


def _existing(path):
    """The folder itself, or the nearest one above it that exists."""
    path = os.path.abspath(path)
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


def _duration(seconds):
    for size, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {name}"
    return f"{seconds:.0f} seconds"
