"""How fast a training step is, compared with the machine's limit, plain Keras layers and PyTorch; and its memory.

    python tools/benchmark_step.py                           # 2 cores: about 8 minutes
    python tools/benchmark_step.py --json=step.json --rows=pinned,mixed_bfloat16

The rows take turns, with a 4096x4096 float32 matrix product before each turn; a figure is the median of the rounds, a
ratio the median of the rounds' ratios. PyTorch belongs to the extra `benchmark`; without it its row is left out.
"""

import dataclasses
import statistics

import harness

from keras_alexnet.cli import run_command
from keras_alexnet.errors import RunError
from keras_alexnet.flags import flag, parse

# Each row trains with random images that stay where they are.
ROWS = {
    "keras": "plain Keras layers and optimizer, tf.nn normalization",
    "unpinned": "AlexNet(devices=()), float32",
    "pinned": "AlexNet(devices=one), float32",
    "mixed_bfloat16": "AlexNet(devices=one), mixed_bfloat16",
    "two_devices": "AlexNet(devices=two), float32",
    "torch": "PyTorch, the same function in grouped layers, float32",
}
PEERS = ("keras", "unpinned", "pinned", "torch")  # the rows that all others are compared with


@dataclasses.dataclass(frozen=True)
class Settings(harness.Settings):
    """The benchmark of training steps."""

    rows: tuple[str, ...] = flag((), f"Some of {', '.join(ROWS)}; all but two_devices if left out.")
    batch_size: int = flag(128, "Images of a step.", low=1)
    steps: int = flag(3, "Training steps of a turn.", low=1)
    width: float = flag(1.0, "Factor on the units of every layer.")


def main(argv):
    settings = parse(Settings, argv, __doc__)
    rows, missing = harness.choose_rows(settings.rows, ROWS, [row for row in ROWS if row != "two_devices"])
    starts = {row: "rows_torch.step" if row == "torch" else "rows_training.start" for row in rows}
    starts["product"] = "rows_training.product"
    facts, turns = harness.interleave(starts, settings, settings.rounds, before="product")
    report = {**dataclasses.asdict(settings), **facts["product"], "rows": summary(facts, turns)}
    report["machine"] = harness.machine()
    harness.publish(report, as_text(report, missing), settings.json)


def summary(facts, turns):
    """The figures of each row, as of `harness.summary`, with those that depend on the machine and on the network.

    of_PEER: the speed over that of another row; product_gflops: the machine's speed in the same turns; of_limit: images
    a second over what this speed allows; weights ... sum: MB that a step holds, on paper.
    """
    network = facts["product"]
    found = harness.summary(turns, {row: {f"of_{peer}": peer for peer in PEERS if peer != row} for row in turns})
    for row, figures in found.items():
        if facts[row]["parameters"] != network["parameters"]:
            raise RunError(f"{row} has {facts[row]['parameters']} parameters instead of {network['parameters']}")
        figures["product_gflops"] = statistics.median(turn["product_gflops"] for turn in turns[row])
        shares = [turn["images_per_second"] / turn["product_gflops"] for turn in turns[row]]
        figures["of_limit"] = network["gflop_per_image"] * statistics.median(shares)
        paper = network["paper_mb"]["bfloat16" if row == "mixed_bfloat16" else "float32"]
        figures |= {**paper, "sum": sum(paper.values())}
    return found


def as_text(report, missing):
    """The report as two tables, list of str."""
    speed = {"img/s": ("images_per_second", ".2f"), "GFLOP/s": ("product_gflops", ".1f")}
    names = ["limit", *(peer for peer in PEERS if peer in report["rows"])]
    speed |= {f"of {name}": (f"of_{name}", ".3f") for name in names}
    kinds = ("weights", "momentum", "gradients", "activations", "sum")
    memory = {"peak": ("peak_mb", ".0f"), **{kind: (kind, ".0f") for kind in kinds}}
    rows = [(row, figures, ROWS[row]) for row, figures in report["rows"].items()]
    return [
        f"Training step, batch of {report['batch_size']}, median of {report['rounds']} rounds. "
        f"{report['machine']['device']}",
        "",
        *harness.table("row", speed, rows + [(row, {}, why) for row, why in missing.items()]),
        "",
        f"GFLOP/s: TensorFlow's {report['product_size']}x{report['product_size']} float32 matrix product before the "
        f"same turns. Limit: that speed at {report['gflop_per_image']:.4f} GFLOP an image.",
        "",
        *harness.table("memory, MB", memory, [(row, figures, "") for row, figures, _ in rows]),
        "",
        "Peak: resident memory of the process beyond what it had before the network was built, or the GPU's own count.",
        "Activations, on paper: the images and the output of every layer once, ReLUs in place.",
    ]


if __name__ == "__main__":
    raise SystemExit(run_command("benchmark_step", main))
