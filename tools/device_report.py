"""Where one training step really runs, and what crosses between the devices.

    python tools/device_report.py                            # two GPUs, or two logical CPU devices in their place
    python tools/device_report.py --json=placement.json

The placement is read from the partition graphs that TensorFlow hands to its devices, after all its optimizations, not
from the scopes that asked for it. Exits with 1 if anything of a tower ran elsewhere, if a weight or its gradient
crossed, or if more than 1.02 times the least possible bytes did.
"""

import argparse
import collections
import json
import math
import re
import sys
import tempfile
from pathlib import Path

from keras_alexnet.cli import quiet_start, run_command
from keras_alexnet.errors import RunError, UsageError
from keras_alexnet.files import atomic_write

PHASES = ("forward", "backward", "update")
ALLOWED = 1.02  # times the least possible bytes
# What a partition graph holds beside work: its ends, the ends of crossings, and what is there only to be waited for.
NO_WORK = frozenset(
    ("_Arg", "_Retval", "_Send", "_Recv", "_HostSend", "_HostRecv", "_DeviceArg", "_DeviceRetval", "NoOp")
)


def main(argv):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--devices", help="of the two towers, such as GPU:0,GPU:1; two GPUs or two logical CPUs if left out"
    )
    parser.add_argument("--variant", choices=("paper", "release2012", "caffe"), default="paper")
    parser.add_argument("--batch_size", type=int, default=128)
    parser.add_argument("--width", type=float, default=1.0, help="factor on the units of every layer")
    parser.add_argument("--precision", choices=("float32", "mixed_bfloat16", "mixed_float16"), default="float32")
    parser.add_argument("--loss_scale", action="store_true", help="with mixed_float16's scaling of the loss, anywhere")
    parser.add_argument("--json", type=Path, help="a file for the same as JSON, every operation included")
    options = parser.parse_args(argv)
    if options.batch_size < 1:
        raise UsageError(f"--batch_size={options.batch_size}: give at least 1")
    if options.json and not options.json.absolute().parent.is_dir():
        raise UsageError(f"--json={options.json}: there is no folder {options.json.parent}")
    with quiet_start():
        from keras_alexnet.model.towers import check_precision, choose_devices

        devices = choose_devices(options.devices, 2) or choose_devices(("CPU:0", "CPU:1"), 2)
        if len(devices) < 2:
            raise UsageError(f"--devices={options.devices}: give two, or nothing crosses")
        check_precision(options.precision, devices)
    trainer = build(options, devices)
    step = trainer.train_step.get_concrete_function()
    partitions = run_once(step, options.batch_size)
    variables = arguments(step, [*trainer.model.variables, *trainer.optimizer.variables])
    report = {
        "variant": options.variant,
        "batch_size": options.batch_size,
        "width": options.width,
        "precision": options.precision,
        "devices": list(devices),
        "operations": operations(partitions, variables),
        "crossings": crossings(partitions, step, variables, options.batch_size),
    }
    report.update(totals(report, minimum(options.variant, options.width, 4 if options.precision == "float32" else 2)))
    if options.json:
        with atomic_write(str(options.json)) as file:
            json.dump(report, file, indent=1)
    print(as_text(report))
    if report["strays"] or report["weights_crossing"] or report["bytes"] > ALLOWED * report["minimum_bytes"]:
        raise RunError(
            f"{len(report['strays'])} operations ran on the other tower's device, {report['weights_crossing']} weights "
            f"or their gradients crossed, {report['ratio']:.3f} times the least possible bytes (at most {ALLOWED})"
        )


def build(options, devices):
    """A Trainer of the two-tower network and the config's optimizer."""
    import keras

    from keras_alexnet import AlexNet
    from keras_alexnet.training.trainer import Trainer
    from keras_alexnet.training.optimizer import LossScale, MomentumSGD

    try:
        model = AlexNet(
            1000, options.variant, 2, 2, devices, None, width=options.width, dtype=options.precision, seed=0
        )
    except ValueError as error:
        raise UsageError(f"--width={options.width}: {error}") from None
    keras.config.disable_interactive_logging()
    optimizer = MomentumSGD()
    if options.loss_scale or options.precision == "mixed_float16":
        optimizer = LossScale(optimizer)
    return Trainer(model, optimizer, devices[0])


def run_once(step, batch_size):
    """Runs a training step; returns the graphs that its devices executed, list of tf.compat.v1.GraphDef."""
    import tensorflow as tf

    inputs = [tf.zeros((batch_size, *spec.shape[1:]), spec.dtype) for spec in step.inputs[:2]]
    # TensorBoard's way of looking at a graph is the public way to the partition graphs.
    with tempfile.TemporaryDirectory() as folder:
        writer = tf.summary.create_file_writer(folder)
        tf.summary.trace_on(graph=True)
        step(*inputs)
        with writer.as_default():
            tf.summary.trace_export("step", step=0)
        writer.close()
        events = [
            tf.compat.v1.Event.FromString(record.numpy())
            for record in tf.data.TFRecordDataset([str(path) for path in Path(folder).iterdir()])
        ]
    values = [value for event in events for value in event.summary.value if value.tensor.string_val]
    functions = [
        function
        for value in values
        for function in tf.compat.v1.RunMetadata.FromString(value.tensor.string_val[0]).function_graphs
    ]
    # Reading two counters for the export may be a function as well; the step is the largest by far.
    return max(functions, key=lambda f: sum(len(graph.node) for graph in f.partition_graphs)).partition_graphs


def arguments(step, variables):
    """The Keras variable behind each argument of a traced step, dict of int -> keras.Variable."""
    by_handle = {id(variable.value.handle): variable for variable in variables}
    first = len(step.inputs) - len(step.captured_inputs)
    captured = enumerate(step.captured_inputs, first)
    return {index: by_handle[id(handle)] for index, handle in captured if id(handle) in by_handle}


def operations(partitions, variables):
    """Every operation that did work in a step.

    Returns:
        list of dict: name, type, device ("CPU:1"), phase (of PHASES) and tower (0, 1 or None for what belongs to none).
        A tower is read from the layer's name, and in the update from the variables that go into an operation.
    """
    found = []
    for graph in partitions:
        nodes = {node.name: node for node in graph.node}
        for node in graph.node:
            if node.op in NO_WORK:
                continue
            phase = phase_of(node.name)
            owner = node.name if phase != "update" else " ".join(_updated(node, nodes, variables))
            towers = set(re.findall(r"_tower([01])", owner))
            found.append(
                {
                    "name": node.name,
                    "type": node.op,
                    "device": short(node.device),
                    "phase": phase,
                    "tower": int(towers.pop()) if len(towers) == 1 else None,
                }
            )
    return found


def _updated(node, nodes, variables):
    """The paths of the variables behind an operation of the update, looking no further than the update."""
    seen, waiting, behind = set(), [node], set()
    while waiting:
        for name in waiting.pop().input:
            name = name.removeprefix("^").split(":")[0]
            if name in seen or name not in nodes:
                continue
            seen.add(name)
            variable = _variable(nodes[name], nodes, variables)
            if variable is not None:
                behind.add(variable.path)
            elif phase_of(name) == "update":
                waiting.append(nodes[name])
    return behind


def _variable(node, nodes, variables):
    """The variable that a node hands in, or None."""
    while node.op in ("Identity", "Switch"):
        node = nodes[node.input[0].split(":")[0]]
    return variables.get(node.attr["index"].i) if node.op in ("_Arg", "_DeviceArg") else None


def crossings(partitions, step, variables, batch_size):
    """Every tensor that went from one device to another in a step.

    Returns:
        list of dict: tensor, source, target, kind ("input", "scalar", "activation", "gradient" or "weight"), shape,
        dtype and bytes.

    Raises:
        RunError: the size of a tensor cannot be known.
    """
    import tensorflow as tf

    found = {}
    for graph in partitions:
        nodes = {node.name: node for node in graph.node}
        for node in graph.node:
            if node.op not in ("_Send", "_HostSend") or _carries_nothing(nodes[node.input[0].split(":")[0]]):
                continue
            tensor = node.input[0]
            dtype = tf.dtypes.as_dtype(node.attr["T"].type)
            shape = _shape(tensor, step, nodes, variables)
            if _is_input(tensor, nodes):
                kind = "input"
            elif not shape:
                kind = "scalar"
            elif shape[0] is not None:
                kind = "weight"  # or its gradient, or a state: all that is not of an image
            else:
                kind = "gradient" if phase_of(tensor) == "backward" else "activation"
            shape = [batch_size if length is None else length for length in shape]
            source, target = (short(node.attr[end].s.decode()) for end in ("send_device", "recv_device"))
            found[tensor, target] = {
                "tensor": tensor,
                "source": source,
                "target": target,
                "kind": kind,
                "shape": shape,
                "dtype": dtype.name,
                "bytes": dtype.size * math.prod(shape),
            }
    return list(found.values())


def _is_input(tensor, nodes):
    """Whether a tensor is the images or the labels, perhaps in another type."""
    node = nodes[tensor.split(":")[0]]
    while node.op in ("Cast", "Identity"):
        node = nodes[node.input[0].split(":")[0]]
    return node.op in ("_Arg", "_DeviceArg") and node.attr["index"].i < 2


def _carries_nothing(producer):
    """Whether what is sent only says that something is done: a constant that waits for it."""
    return producer.op == "Const" and any(name.startswith("^") for name in producer.input)


def _shape(tensor, step, nodes, variables):
    """The shape of a tensor as the step was traced, None for images; optimizations keep the names of what they keep."""
    name, _, index = tensor.partition(":")
    node = nodes[name]
    if node.op in ("Identity", "Switch"):  # into a branch
        return _shape(node.input[0], step, nodes, variables)
    if node.op == "ReadVariableOp":
        return tuple(_variable(nodes[node.input[0]], nodes, variables).shape)
    if node.op.endswith("BackpropFilterWithBias") and index == "1":  # oneDNN's: a bias's gradient beside its kernel's
        return _shape(name, step, nodes, variables)[-1:]
    try:
        shape = tuple(step.graph.get_tensor_by_name(f"{name}:{index or 0}").shape.as_list())
    except (KeyError, ValueError):
        shape = (None, None)
    if None in shape[1:]:
        raise RunError(f"{tensor} ({node.op}) crosses, and its size is not known")
    return shape


def totals(report, minimum_of_an_image):
    """What the lists come to: counts by device, phase and tower, strays, bytes."""
    counts = collections.Counter((o["device"], o["phase"], o["tower"]) for o in report["operations"])
    homes = report["devices"]
    strays = [o for o in report["operations"] if o["tower"] is not None and o["device"] != homes[o["tower"]]]
    total = sum(c["bytes"] for c in report["crossings"] if c["kind"] != "input")
    least = minimum_of_an_image * report["batch_size"]
    return {
        "counts": [{"device": d, "phase": p, "tower": t, "operations": n} for (d, p, t), n in counts.items()],
        "strays": strays,
        "weights_crossing": sum(c["kind"] == "weight" for c in report["crossings"]),
        "bytes": total,
        "minimum_bytes": least,
        "ratio": total / least,
    }


def minimum(variant, width, size):
    """The least bytes of an image where towers hand over whole activations: once each, and its gradient once back.

    Section 3.2 and Figure 2: 13x13x128 of each tower into conv3, 6x6x128 into fc6, 2048 into fc7, and 2048 of tower 1
    into fc8: 468,992 bytes in float32. Caffe's network normalizes across the towers, so there conv1's and conv2's cross
    as well, whole; two maps at the border would do.
    """
    conv1, conv2, conv5, dense = (round(units * width) // 2 for units in (96, 256, 256, 4096))
    each = 13 * 13 * conv2 + 6 * 6 * conv5 + dense
    if variant == "caffe":
        each += 55 * 55 * conv1 + 27 * 27 * conv2
    return 2 * size * (2 * each + dense)


def phase_of(name):
    """forward, backward or update, by the scope that an operation was built in."""
    if "gradient_tape/" in name:
        return "backward"
    # With a scaled loss the whole update is a branch, taken when all gradients are finite.
    return "update" if re.search(r"\b(momentum_sgd|loss_scale|cond)/", name) else "forward"


def short(device):
    """ "/job:localhost/replica:0/task:0/device:CPU:1" -> "CPU:1"."""
    return device.rpartition("device:")[2]


def as_text(report):
    """The report as two tables."""
    lines = [
        f"One training step: {report['variant']}, batch of {report['batch_size']}, {report['precision']}, "
        f"towers on {' and '.join(report['devices'])}",
        "",
        "operations   phase       of tower 0  of tower 1  of neither",
    ]
    count = {(c["device"], c["phase"], c["tower"]): c["operations"] for c in report["counts"]}
    for device in sorted({c["device"] for c in report["counts"]}):
        for phase in PHASES:
            row = [count.get((device, phase, tower), 0) for tower in (0, 1, None)]
            lines.append(f"{device:<13}{phase:<12}" + "".join(f"{n:>10}  " for n in row).rstrip())
    lines += ["", f"On the other tower's device: {len(report['strays'])}"]
    lines += [f"  {o['phase']} {o['type']} {o['name']} on {o['device']}" for o in report["strays"][:20]]
    lines += ["", "from   to     tensor                                              shape                  MB"]
    for c in sorted(report["crossings"], key=lambda c: (c["kind"] == "input", -c["bytes"])):
        if c["kind"] == "scalar":
            continue
        shape = f"{c['dtype']} {'x'.join(map(str, c['shape']))}"
        where = " (input)" if c["kind"] == "input" else ""
        lines.append(f"{c['source']:<7}{c['target']:<7}{_layer(c):<52}{shape:<22}{c['bytes'] / 1e6:>7.3f}{where}")
    scalars = [c for c in report["crossings"] if c["kind"] == "scalar"]
    lines += [
        f"and {len(scalars)} single numbers, {sum(c['bytes'] for c in scalars)} bytes: rates and their factors",
        "",
        f"Crossing, inputs aside: {report['bytes'] / 1e6:.3f} MB, {report['ratio']:.4f} times the least possible "
        f"{report['minimum_bytes'] / 1e6:.3f} MB; weights and their gradients: {report['weights_crossing']}",
    ]
    return "\n".join(lines)


def _layer(crossing):
    """A tensor in the words of the network: its layer, and "gradient" where it is one."""
    layers = re.findall(r"(?:join|norm|conv|fc|relu|pool|dropout)\d\w*?(?:_tower\d)?(?=_\d+/|/|$)", crossing["tensor"])
    if crossing["kind"] == "input" or not layers:
        return crossing["tensor"]
    return f"gradient of {layers[0]}" if crossing["kind"] == "gradient" else layers[0]


if __name__ == "__main__":
    sys.exit(run_command("device_report", main, sys.argv[1:]))
