"""Where the time of a training step on the CPU goes, by layer and phase.

    python tools/profile_step.py [--width=0.25] [--batch_size=32] [--json=profile.json]

TensorFlow's profiler times every operation; one runs at a time, so that they add up to the step. Share: percent of all.
Padding, bias and ReLU belong to their convolution or product. Of limit: the time of the same multiplications in a
4096x4096 float32 matrix product, measured before each step, over that of the layer.
"""

import collections
import dataclasses
import os
import statistics

import harness

from keras_alexnet.cli import run_command
from keras_alexnet.flags import flag, parse
from keras_alexnet.model.variants import VARIANTS


@dataclasses.dataclass(frozen=True)
class Settings(harness.Report):
    """The profile of a training step."""

    batch_size: int = flag(128, "Images of a step.", low=1)
    steps: int = flag(3, "Training steps to time, after two others.", low=1)
    width: float = flag(1.0, "Factor on the units of every layer.")
    precision: str = flag("float32", "Arithmetic.", choices=("float32", "mixed_bfloat16"))
    variant: str = flag("paper", "The network.", choices=tuple(VARIANTS))


def main(argv):
    settings = parse(Settings, argv, __doc__)
    os.environ["TF_NUM_INTEROP_THREADS"] = "1"
    functions = {"step": "placement.timed", "product": "rows_training.product"}
    facts, turns = harness.interleave(functions, settings, settings.steps, before="product")
    step_ms, gflops = (statistics.mean(turn[key] for turn in turns["step"]) for key in ("step_ms", "product_gflops"))
    spent, rows = sum((turn["spent"] for turn in turns["step"]), collections.Counter()), {}
    for (row, phase), milliseconds in sorted(spent.items()):
        figures = rows.setdefault(row, {"share": 0.0})
        figures[phase] = milliseconds / settings.steps
        figures["share"] += 100 * milliseconds / spent.total()
    limit = {row: flop / gflops / 1e6 for row, flop in facts["step"]["flop"].items()}  # milliseconds
    for row in limit:
        rows[row]["of_limit"] = limit[row] / (rows[row]["forward"] + rows[row]["backward"])
    report = {**dataclasses.asdict(settings), "step_ms": step_ms, "product_gflops": gflops, "rows": rows}
    report["of_limit"] = sum(limit.values()) / step_ms
    columns = {name: (name, ".1f") for name in ("forward", "backward", "update", "share")}
    columns["of limit"] = "of_limit", ".2f"
    text = harness.table("ms", columns, [(row, figures, "") for row, figures in rows.items()])
    explained = f"{step_ms:.1f} ms a step, of which {gflops:.1f} GFLOP/s explain {100 * report['of_limit']:.0f} %"
    asked = f"{settings.variant}, width {settings.width:g}, {settings.precision}, batch of {settings.batch_size}"
    harness.publish(report, [f"{asked}: {explained}", "", *text], settings.json)


if __name__ == "__main__":
    raise SystemExit(run_command("profile_step", main))
