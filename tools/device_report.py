"""Where one training step really runs, and what crosses between the devices.

    python tools/device_report.py                            # two GPUs, or two logical CPU devices in their place
    python tools/device_report.py --json=placement.json

The placement is read from the graphs that TensorFlow executes, not from the scopes that asked for it. Exits with 1 if
anything of a tower ran elsewhere, if a weight or its gradient crossed, or if more than 1.02 times the least possible
bytes did: of activations and gradients, or of the batch to a device, whose least is its crops as uint8.
"""

import dataclasses
import re

import harness

from keras_alexnet.cli import quiet_start, run_command
from keras_alexnet.errors import RunError
from keras_alexnet.flags import flag, parse
from keras_alexnet.model.variants import VARIANTS

ALLOWED = 1.02  # times the least possible bytes
PHASES = ("forward", "backward", "update")
TWO_TOWERS = tuple(name for name, variant in VARIANTS.items() if not variant.one_tower)
OWNERS = {0: "of tower 0", 1: "of tower 1", None: "of neither"}


@dataclasses.dataclass(frozen=True)
class Settings(harness.Report):
    """The report on devices."""

    devices: str | None = flag(None, "Of the two towers, such as GPU:0,GPU:1; two GPUs or logical CPUs if left out.")
    variant: str = flag("paper", "The network.", choices=TWO_TOWERS)
    batch_size: int = flag(128, "Images of the step.", low=1)
    width: float = flag(1.0, "Factor on the units of every layer.")
    precision: str = flag("float32", "Arithmetic.", choices=("float32", "mixed_bfloat16", "mixed_float16"))
    loss_scale: bool = flag(False, "With mixed_float16's scaling of the loss, in any precision.")


def main(argv):
    settings = parse(Settings, argv, __doc__)
    with quiet_start():
        import placement  # TensorFlow, which a wrong flag does not wait for
    devices, operations, crossings = placement.measure(settings)
    places = [(device, phase) for device in sorted({o["device"] for o in operations}) for phase in PHASES]
    counts = {f"{device}  {phase}": dict.fromkeys(OWNERS.values(), 0) for device, phase in places}
    for operation in operations:
        counts[f"{operation['device']}  {operation['phase']}"][OWNERS[operation["tower"]]] += 1
    total = sum(c["bytes"] for c in crossings if c["kind"] != "input")
    least = settings.batch_size * minimum(settings.variant, settings.width, 4 if settings.precision == "float32" else 2)
    report = dataclasses.asdict(settings) | {"devices": devices, "operations": operations, "crossings": crossings}
    report |= {"counts": counts, "bytes": total, "minimum_bytes": least, "ratio": total / least}
    sizes = {d: sum(c["bytes"] for c in crossings if (c["kind"], c["target"]) == ("input", d)) for d in devices}
    crops = settings.batch_size * 3 * VARIANTS[settings.variant].input_size ** 2
    report |= {"input_bytes": sizes, "input_ratio": max(sizes.values()) / crops}
    report["strays"] = [o for o in operations if o["tower"] is not None and o["device"] != devices[o["tower"]]]
    report["weights_crossing"] = sum(c["kind"] == "weight" for c in crossings)
    harness.publish(report, as_text(report), settings.json)
    if report["strays"] or report["weights_crossing"] or max(report["ratio"], report["input_ratio"]) > ALLOWED:
        raise RunError(
            f"{len(report['strays'])} operations ran on the other tower's device, {report['weights_crossing']} weights "
            f"or their gradients crossed, {report['ratio']:.3f} times the least possible bytes, of the batch "
            f"{report['input_ratio']:.3f} times (at most {ALLOWED})"
        )


def minimum(variant, width, size):
    """The least bytes of an image where towers hand over whole activations: once each, and its gradient once back.

    Section 3.2 and Figure 2: 13x13x128 of each tower into conv3, 6x6x128 into fc6, 2048 into fc7, and 2048 of tower 1
    into fc8. Where a normalization is across the towers, conv1's and conv2's cross as well.
    """
    conv1, conv2, conv5, dense = (round(units * width) // 2 for units in (96, 256, 256, 4096))
    each = 13 * 13 * conv2 + 6 * 6 * conv5 + dense
    if VARIANTS[variant].whole_layer:
        each += 55 * 55 * conv1 + 27 * 27 * conv2
    return 2 * size * (2 * each + dense)


def as_text(report):
    """The report as two tables, list of str."""
    crossed = []
    for c in sorted(report["crossings"], key=lambda c: -c["bytes"]):
        if c["kind"] != "scalar":
            shape = f"{c['kind']} {c['dtype']} {'x'.join(map(str, c['shape']))}"
            crossed.append((f"{c['source']} -> {c['target']}  {layer_of(c)}", {"MB": c["bytes"] / 1e6}, shape))
    sizes, scalars = report["input_bytes"], [c["bytes"] for c in report["crossings"] if c["kind"] == "scalar"]
    columns = {owner: (owner, "d") for owner in OWNERS.values()}
    return [
        f"One training step: {report['variant']}, batch of {report['batch_size']}, {report['precision']}, "
        f"towers on {' and '.join(report['devices'])}",
        "",
        *harness.table("operations", columns, [(place, owners, "") for place, owners in report["counts"].items()]),
        "",
        f"On the other tower's device: {len(report['strays'])}",
        *(f"  {o['phase']} {o['type']} {o['name']} on {o['device']}" for o in report["strays"][:20]),
        "",
        *harness.table("crossing", {"MB": ("MB", ".3f")}, crossed),
        f"and {len(scalars)} single numbers, {sum(scalars)} bytes: learning rates and their factors",
        "",
        f"Crossing, inputs aside: {report['bytes'] / 1e6:.3f} MB, {report['ratio']:.4f} times the least possible "
        f"{report['minimum_bytes'] / 1e6:.3f} MB; weights and their gradients: {report['weights_crossing']}",
        *(f"Batch to {name}: {size / report['batch_size']:,.0f} bytes an image" for name, size in sizes.items()),
    ]


def layer_of(crossing):
    """The layer of a tensor, or the tensor where it is of none."""
    layers = re.findall(r"(?:pad|join|norm|conv|fc|relu|pool|dropout)\d\w*?(?=_\d+/|/|$)", crossing["tensor"])
    return layers[0] if layers and crossing["kind"] != "input" else crossing["tensor"]


if __name__ == "__main__":
    raise SystemExit(run_command("device_report", main))
