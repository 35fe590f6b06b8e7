"""How far a run has trained, and the names of its checkpoints; without TensorFlow.

CHECKPOINTS/epoch-12.index, .data-*            after the twelfth epoch
CHECKPOINTS/epoch-12-step-340.index, .data-*   and 340 steps into the thirteenth
"""

import dataclasses
import glob
import json
import os
import re
import sys

from keras_alexnet.errors import RunError, reading

_NAME = re.compile(r"epoch-(\d+)(?:-step-(\d+))?")


@dataclasses.dataclass
class Progress:
    """What a checkpoint keeps as JSON, so that a run resumes as if it had not been interrupted."""

    epochs: int = 0  # whole epochs done, their validation included
    steps: int = 0  # updates made
    batches: int = 0  # of these, the updates of the unfinished epoch
    seconds: float = 0.0  # that these took
    history: list = dataclasses.field(default_factory=list)  # a row of `history.csv` for each epoch, dict
    plateau: dict = dataclasses.field(default_factory=dict)  # the state of `schedules.Plateau`; empty without one
    finished: bool = False  # the plateau policy has ended training
    sums: dict = dataclasses.field(default_factory=dict)  # of the epoch at the last point of `monitoring.Curves`
    files: dict = dataclasses.field(default_factory=dict)  # TensorBoard's, path below the logs -> bytes up to here
    workers: int = 1  # processes that train together

    def to_json(self):
        return json.dumps(dataclasses.asdict(self))

    @property
    def best(self):
        """The first epoch with the lowest validation error, int from 1 on; None before the first."""
        rows = [row for row in self.history if "val_top1_error" in row]
        return min(rows, key=lambda row: row["val_top1_error"])["epoch"] if rows else None


def of_json(text):
    """Progress as this or an earlier version's `to_json` wrote it. Raises ValueError of anything else."""
    kept = json.loads(text)
    if not isinstance(kept, dict):
        raise ValueError("is not the progress of a run")
    names = {field.name for field in dataclasses.fields(Progress)}
    return Progress(**{name: value for name, value in kept.items() if name in names})


def checkpoint_name(epochs, steps):
    """The name of the checkpoint after so many whole epochs and so many steps of the next, str."""
    return f"epoch-{epochs}" + (f"-step-{steps}" if steps else "")


def checkpoint_place(path):
    """What a checkpoint's name says: (epochs, steps); None of other names."""
    found = _NAME.fullmatch(os.path.basename(path))
    return found and (int(found[1]), int(found[2] or 0))


def checkpoint_paths(folder):
    """The checkpoints of a folder by their names alone, oldest first: list of str, without suffix."""
    found = [path.removesuffix(".index") for path in glob.glob(os.path.join(glob.escape(folder), "epoch-*.index"))]
    return sorted((path for path in found if checkpoint_place(path)), key=checkpoint_place)


def epoch_checkpoints(folder):
    """The checkpoints that stand for a run, newest first: those of whole epochs, or else all: list of str."""
    paths = checkpoint_paths(folder)[::-1]
    return [path for path in paths if not checkpoint_place(path)[1]] or paths


def first_readable(paths, read):
    """What `read` returns of the first checkpoint that can be read; those before are named on standard error."""
    for path in paths:
        try:
            with reading(path):
                return read(path)
        except RunError as error:
            if path == paths[-1]:
                raise RunError(f"{error}; there is no other checkpoint") from None
            print(f"warning: {error}; trying the one before", file=sys.stderr, flush=True)
