"""Where a run stands, beside the numbers of its network."""

import dataclasses
import json


@dataclasses.dataclass
class Progress:
    """What a checkpoint keeps as JSON, so that a run goes on as if it had not been interrupted.

    Attributes:
        epochs: int, whole epochs done, their validation included.
        steps: int, updates made.
        batches: int, those of them that are of the epoch that is going on.
        seconds: float, that they took.
        history: list of dict, a row of `history.csv` for each epoch.
        plateau: dict, the state of `schedules.Plateau`; empty without one.
        finished: bool, the plateau has ended training.
        sums: dict, what `callbacks.Curves` counts from since its last point.
        files: dict of str -> int, bytes of TensorBoard's files that belong to all this, by their paths below the logs.
        workers: int, processes that share the work.
    """

    epochs: int = 0
    steps: int = 0
    batches: int = 0
    seconds: float = 0.0
    history: list = dataclasses.field(default_factory=list)
    plateau: dict = dataclasses.field(default_factory=dict)
    finished: bool = False
    sums: dict = dataclasses.field(default_factory=dict)
    files: dict = dataclasses.field(default_factory=dict)
    workers: int = 1

    def to_json(self):
        return json.dumps(dataclasses.asdict(self))

    @property
    def best(self):
        """Epochs after which the validation error was lowest for the first time, int; None before the first."""
        rows = [row for row in self.history if "val_top1_error" in row]
        return min(rows, key=lambda row: row["val_top1_error"])["epoch"] if rows else None


def of_json(text):
    """Progress as `to_json` wrote it; of an earlier version what it had. Raises ValueError of something else."""
    kept = json.loads(text)
    if not isinstance(kept, dict):
        raise ValueError("is no progress of a run")
    names = {field.name for field in dataclasses.fields(Progress)}
    return Progress(**{name: value for name, value in kept.items() if name in names})
