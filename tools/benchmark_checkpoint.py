"""What checkpoints cost: written beside training steps, read to resume, and the first batch inside an epoch.

    python tools/benchmark_checkpoint.py                         # 2 cores: about 3 minutes
    python tools/benchmark_checkpoint.py --data_dir=IMAGES       # and the first batch inside an epoch of these images

Steps without and with a checkpoint that is written beside them take turns; figures are medians.
"""

import dataclasses
import statistics
import tempfile

import harness

from keras_alexnet.cli import run_command
from keras_alexnet.config import RunConfig
from keras_alexnet.flags import flag, parse

FIGURES = {
    "step": "a training step",
    "held": "a checkpoint: training is held up",
    "written": "  it is on the disk after",
    "extra": "  it costs, copies and slower steps included",
    "read": "reading it to resume",
    "beginning_batch": "first batch of an epoch",
    "late_batch": "first batch in its last tenth",
}


@dataclasses.dataclass(frozen=True)
class Settings(harness.Settings):
    """The benchmark of checkpoints."""

    width: float = flag(1.0, "Factor on the units of every layer.")
    batch_size: int = flag(128, "Images of a step.", low=1)
    data_dir: str | None = flag(None, "DATA_DIR/train/CLASS/*.jpg and DATA_DIR/val/CLASS/*.jpg.", path=True)
    folder: str | None = None  # for the checkpoints, made below


def main(argv):
    settings, rows = parse(Settings, argv, __doc__), {"checkpoint": "rows_training.checkpoint"}
    if settings.data_dir:
        rows["epoch"] = "rows_training.epoch"
    with tempfile.TemporaryDirectory() as folder:
        _, turns = harness.interleave(rows, dataclasses.replace(settings, folder=folder), settings.rounds)
    report = {"machine": harness.machine(), "minutes": RunConfig().checkpoint_minutes}
    for its_turns in turns.values():
        report |= {name: statistics.median(turn[name] for turn in its_turns) for name in its_turns[0]}
    report["share"] = report["extra"] / (60 * report["minutes"])
    figures = [(text, {"seconds": report[name]}, "") for name, text in FIGURES.items() if name in report]
    costs = f"One every {report['minutes']:g} minutes costs {100 * report['share']:.3f} % of the time."
    lines = [*harness.table("", {"seconds": ("seconds", ".3f")}, figures), ""]
    lines.append(f"A checkpoint has {report['megabytes']:.1f} MB. {costs}")
    harness.publish(report, lines, settings.json)


if __name__ == "__main__":
    raise SystemExit(run_command("benchmark_checkpoint", main))
