"""The progress of a run and the names of its checkpoints, without TensorFlow.

CHECKPOINTS/epoch-12.index, .data-*            after the twelfth epoch
CHECKPOINTS/epoch-12-step-340.index, .data-*   after 340 steps of the thirteenth epoch
"""

import dataclasses
import glob
import json
import os
import re
import sys

from keras_alexnet.errors import RequeueError, RunError, reading

_NAME = re.compile(r"epoch-(\d+)(?:-step-(\d+))?")


@dataclasses.dataclass
class Progress:
    """The state of a run that a checkpoint holds as JSON, beside the variables."""

    epochs: int = 0  # completed epochs, validation included
    steps: int = 0  # training steps
    batches: int = 0  # training steps of the current epoch
    seconds: float = 0.0  # duration of these steps
    history: list = dataclasses.field(default_factory=list)  # a row of `history.csv` for each epoch, dict
    plateau: dict = dataclasses.field(default_factory=dict)  # the state of `schedules.Plateau`; empty without one
    finished: bool = False  # ended early: by the plateau policy or, in `paper.cifar_network`, because it diverged
    sums: dict = dataclasses.field(default_factory=dict)  # of the epoch, at the last point of `monitoring.Monitor`
    files: dict = dataclasses.field(default_factory=dict)  # TensorBoard's files: path below the logs -> bytes
    workers: int = 1  # processes that train together

    def to_json(self):
        return json.dumps(dataclasses.asdict(self))

    @property
    def best(self):
        """The first epoch with the lowest validation error, int >= 1; None before the first validation."""
        rows = [row for row in self.history if "val_top1_error" in row]
        return min(rows, key=lambda row: row["val_top1_error"])["epoch"] if rows else None


def of_json(text):
    """The Progress that `to_json` of this or an earlier version wrote. Raises ValueError where it is none."""
    values = json.loads(text)
    if not isinstance(values, dict):
        raise ValueError("is not the progress of a run")
    names = {field.name for field in dataclasses.fields(Progress)}
    return Progress(**{name: value for name, value in values.items() if name in names})


def checkpoint_name(epochs, steps):
    """The name of the checkpoint after whole epochs and steps of the next epoch, str."""
    return f"epoch-{epochs}" + (f"-step-{steps}" if steps else "")


def checkpoint_place(path):
    """The (epochs, steps) in the name of a checkpoint; None for other names."""
    match = _NAME.fullmatch(os.path.basename(path))
    return match and (int(match[1]), int(match[2] or 0))


def checkpoint_paths(folder):
    """The paths of a folder's checkpoints without suffix, oldest first: list of str; the files are not read."""
    paths = [path.removesuffix(".index") for path in glob.glob(os.path.join(glob.escape(folder), "epoch-*.index"))]
    return sorted((path for path in paths if checkpoint_place(path)), key=checkpoint_place)


def epoch_checkpoints(folder):
    """The paths of the checkpoints of whole epochs, or of all if there are none, newest first: list of str."""
    paths = checkpoint_paths(folder)[::-1]
    return [path for path in paths if not checkpoint_place(path)[1]] or paths


def first_readable(paths, read):
    """The result of `read` for the first readable checkpoint; warns of unreadable ones before it. Raises RunError."""
    for path in paths:
        try:
            with reading(path):
                return read(path)
        except RequeueError:
            raise  # a signal, which says nothing about the checkpoint
        except RunError as error:
            if path == paths[-1]:
                raise RunError(f"{error}; no other checkpoint can be used: restore it, or train again") from None
            print(f"warning: {error}; trying the checkpoint before", file=sys.stderr)
