"""A run looked at before it begins: what it will take, from two steps of it. Nothing is written."""

import math
import os
import shutil
import time

from keras_alexnet.errors import RunError, UsageError

_GIGABYTE = 1e9
# What a checkpoint has beside the weights is a velocity for each, and the exported model has weights alone.
_COPIES = 2


def report(config, session, described):
    """Trains two steps, and prints what the run would take.

    Args:
        config: config.Config.
        session: session.Session, made with whatever statistics.
        described: str, what is known of data and network.

    Raises:
        UsageError: the disk has not the room, or the folder cannot be written to.
        RunError: an image cannot be read, or the loss is no number.
    """
    training, run = config.training, config.run
    seconds, validation = _timed(session)
    left = max(0, training.epochs - session.progress.epochs)
    epoch = session.steps * seconds + math.ceil(session.val_source.count / training.batch_size) * validation
    weights = 4 * session.model.count_params()
    checkpoint = _COPIES * weights
    needed = checkpoint * (run.checkpoints_to_keep + 3) + (weights if run.export else 0)
    place = _existing(run.model_dir)
    free = shutil.disk_usage(place).free
    print(
        f"{described}"
        f"steps:      {session.steps:,} an epoch, {left * session.steps:,} in {left} epochs to go\n"
        f"time:       {seconds:.2f} s a step, about {_words(epoch)} an epoch with its validation, up to "
        f"{_words(left * epoch)} in all\n"
        f"memory:     {_memory()}\n"
        f"disk:       {needed / _GIGABYTE:.2f} GB for {run.checkpoints_to_keep} checkpoints, those of the last and the "
        f"best epoch, one being written{' and the export' if run.export else ''}; {free / _GIGABYTE:.1f} GB free at "
        f"{place}",
        flush=True,
    )
    if not os.access(place, os.W_OK):
        raise UsageError(f"--model_dir={run.model_dir}: {place} cannot be written to; name another folder")
    if free < needed:
        raise UsageError(
            f"--model_dir={run.model_dir}: {free / _GIGABYTE:.2f} GB are free and {needed / _GIGABYTE:.2f} GB are "
            "needed; make room, or give another folder or fewer --checkpoints_to_keep"
        )
    print("nothing was written; without --dry_run the run begins")


def _timed(session):
    """Seconds of a training and of a validation step, reading included, of the second each: the first is compiled."""
    from keras_alexnet.training.trainer import read

    found = []
    for batches, step in (
        (session.training_batches(0), session.trainer.train_step),
        (session.validation_batches(), session.trainer.test_step),
    ):
        # Without end, so that there is a second one.
        reading = read(batches.repeat())
        for _ in range(2):
            begun = time.perf_counter()
            loss = step(*next(reading))
            spent = time.perf_counter() - begun
        if loss is not None and not math.isfinite(float(loss)):
            raise RunError(f"the loss is {float(loss)} after two steps; give a lower --learning_rate")
        found.append(spent)
    return found


def _existing(path):
    """The folder itself, or the nearest one above it that is there."""
    path = os.path.abspath(path)
    while not os.path.isdir(path):
        path = os.path.dirname(path)
    return path


def _memory():
    from keras_alexnet.training.watch import memory

    used = ", ".join(f"{name} {size / _GIGABYTE:.1f} GB" for name, size in memory().items())
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return f"{used}, of {whole / _GIGABYTE:.1f} GB of the machine"


def _words(seconds):
    for size, name in ((86400, "days"), (3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {name}"
    return f"{seconds:.0f} seconds"
