"""Where the operations of a training step run, what crosses between devices (device_report.py), and how long they take.

Read from the partition graphs that TensorFlow hands to its devices, after all its optimizations, and from its profiler.
"""

import collections
import math
import os
import re
import tempfile
from pathlib import Path

import tensorflow as tf
from device_report import layer_of
from harness import seconds
from rows_training import flop_of, random_batch, trainer_of
from tensorflow.tsl.profiler.protobuf.xplane_pb2 import XSpace

from keras_alexnet.cli import quiet_start
from keras_alexnet.errors import RunError, UsageError
from keras_alexnet.model.towers import check_precision, choose_devices

# What a partition graph holds beside work: its ends, the ends of crossings, and what is there only to be waited for.
NO_WORK = {"_Arg", "_Retval", "_Send", "_Recv", "_HostSend", "_HostRecv", "_DeviceArg", "_DeviceRetval", "NoOp"}
ARGUMENTS = ("_Arg", "_DeviceArg")


def measure(settings):
    """Runs one training step of the network in two towers: (their devices, operations, crossings), lists of dict.

    Without names of devices it takes two GPUs, or two logical CPUs in their place.
    """
    with quiet_start():
        devices = choose_devices(settings.devices, 2) or choose_devices(("CPU:0", "CPU:1"), 2)
    if len(devices) < 2:
        raise UsageError(f"--devices={settings.devices}: give two, or nothing crosses")
    check_precision(settings.precision, devices)
    trainer = trainer_of(settings, settings.precision, devices, settings.loss_scale)
    step = trainer.train_step.get_concrete_function()
    by_handle = {id(each.value.handle): each for each in [*trainer.model.variables, *trainer.optimizer.variables]}
    captured = enumerate(step.captured_inputs, len(step.inputs) - len(step.captured_inputs))
    # The Keras variable behind each argument of the step, by the number of the argument.
    variables = {number: by_handle[id(handle)] for number, handle in captured if id(handle) in by_handle}
    graphs = [Graph(each, step, variables) for each in run(step, settings.batch_size)]
    operations = [operation for graph in graphs for operation in graph.operations()]
    crossings = [crossing for graph in graphs for crossing in graph.crossings(settings.batch_size)]
    # A tensor that is sent twice to a device counts once.
    return devices, operations, list({(each["tensor"], each["target"]): each for each in crossings}.values())


def run(step, batch_size):
    """Runs a training step; returns the graphs that its devices executed, list of tf.compat.v1.GraphDef."""
    inputs = random_batch(batch_size, step.structured_input_signature[0])
    # TensorBoard's way of looking at a graph is the public way to the partition graphs.
    with tempfile.TemporaryDirectory() as folder:
        tf.summary.trace_on(graph=True)
        step(*inputs)
        with tf.summary.create_file_writer(folder).as_default() as writer:
            tf.summary.trace_export("step", step=0)
            writer.close()
        records = tf.data.TFRecordDataset([path.path for path in os.scandir(folder)])
        events = [tf.compat.v1.Event.FromString(record.numpy()) for record in records]
    texts = [value.tensor.string_val[0] for event in events for value in event.summary.value if value.tensor.string_val]
    functions = [f for text in texts for f in tf.compat.v1.RunMetadata.FromString(text).function_graphs]
    # The export may run functions as well; the step is the largest by far.
    return max(functions, key=lambda f: sum(len(graph.node) for graph in f.partition_graphs)).partition_graphs


def phase_of(name):
    """forward, backward or update, by the scope that an operation was built in."""
    if "gradient_tape/" in name:
        return "backward"
    # With a scaled loss the whole update is a branch, taken when all gradients are finite.
    return "update" if re.search(r"\b(momentum_sgd|loss_scale|cond)/|^ResourceApply", name) else "forward"


def row_of(name):
    """An operation's row of profile_step.py: conv1 to fc8, the kind of another layer, update, or loss: all else."""
    layer = re.match(r"([a-z]+)(\d)", layer_of({"tensor": name, "kind": ""}))
    kind, number = layer.groups() if layer else ("loss", "")
    if kind in ("pad", "conv", "relu", "fc"):
        kind = ("conv" if number < "6" else "fc") + number
    return "update" if phase_of(name) == "update" else kind


def timed(row, settings):
    """A row of profile_step.py; a turn is one step: "step_ms", and "spent", milliseconds by (row, phase)."""
    trainer, flop = trainer_of(settings, settings.precision), collections.Counter()
    batch = random_batch(settings.batch_size, trainer.signature)
    for layer in (layer for layer in trainer.model.layers if hasattr(layer, "kernel")):
        flop[row_of(f"{layer.name}/")] += settings.batch_size * flop_of(layer)

    def turn():
        with tempfile.TemporaryDirectory() as folder:
            with tf.profiler.experimental.Profile(folder):
                step_ms = 1000 * seconds(trainer.train_step, *batch)
            (path,) = Path(folder).rglob("*.xplane.pb")
            planes, spent = XSpace.FromString(path.read_bytes()).planes, collections.Counter()
        for plane in planes:
            for event in (event for line in plane.lines for event in line.events):
                if named := re.fullmatch(r"([\w./]+):\w+", plane.event_metadata[event.metadata_id].name):
                    spent[row_of(named[1]), phase_of(named[1])] += event.duration_ps / 1e9
        return {"step_ms": step_ms, "spent": spent}

    trainer.train_step(*batch), trainer.train_step(*batch)
    return {"flop": flop}, turn


class Graph:
    """The partition graph of one device and the traced step that it is of."""

    def __init__(self, graph, step, variables):
        self.nodes, self.step, self.variables = {node.name: node for node in graph.node}, step, variables
        self.of_batch = len(step.inputs) - len(step.captured_inputs)  # arguments that are not variables

    def operations(self):
        """Every operation that did work, dict: name, type, device ("CPU:1"), phase and tower.

        The tower, 0, 1 or None, is read from the layer's name, in the update from the variables behind an operation.
        """
        for node in self.nodes.values():
            if node.op not in NO_WORK:
                phase = phase_of(node.name)
                owner = node.name if phase != "update" else " ".join(self.updated(node))
                towers = set(re.findall(r"_tower([01])", owner))
                tower = int(towers.pop()) if len(towers) == 1 else None
                facts = {"name": node.name, "type": node.op, "device": _short(node.device)}
                yield {**facts, "phase": phase, "tower": tower}

    def crossings(self, batch_size):
        """Every tensor that goes to another device, dict: tensor, source, target, kind, shape, dtype and bytes."""
        for node in self.nodes.values():
            if node.op in ARGUMENTS and node.attr["index"].i < self.of_batch:  # what the step is called with
                facts = {"tensor": node.name, "source": "batch", "target": _short(node.device), "kind": "input"}
                yield facts | _size(self.step.inputs[node.attr["index"].i].shape, node.attr["T"].type, batch_size)
            if node.op not in ("_Send", "_HostSend"):
                continue
            tensor = node.input[0]
            producer = self.nodes[_name(tensor)]
            if producer.op == "Const" and any(name.startswith("^") for name in producer.input):
                continue  # it only says that something is done
            shape, origin = self.shape(tensor), self.origin(producer, ("Cast", "Identity"))
            kind = "gradient" if phase_of(tensor) == "backward" else "activation"
            if origin.op in ARGUMENTS and origin.attr["index"].i < self.of_batch:
                kind = "input"
            elif not shape or shape[0] is not None:
                kind = "weight" if shape else "scalar"  # a weight's gradient too: all that is not of an image
            source, target = (_short(node.attr[end].s.decode()) for end in ("send_device", "recv_device"))
            facts = {"tensor": tensor, "source": source, "target": target, "kind": kind}
            yield facts | _size(shape, node.attr["T"].type, batch_size)

    def updated(self, node):
        """The paths of the variables behind an operation of the update, looking no further than the update."""
        waiting, seen, behind = [node], set(), set()
        while waiting:
            names = {_name(tensor) for tensor in waiting.pop().input} & set(self.nodes) - seen
            seen |= names
            for name in names:
                variable = self.variable(self.nodes[name])
                if variable is not None:
                    behind.add(variable.path)
                elif phase_of(name) == "update":
                    waiting.append(self.nodes[name])
        return behind

    def variable(self, node):
        """The variable that a node hands in, or None."""
        node = self.origin(node, ("Identity", "Switch"))
        return self.variables.get(node.attr["index"].i) if node.op in ARGUMENTS else None

    def origin(self, node, kinds):
        """The node before those of some kinds, which hand on what they get."""
        while node.op in kinds:
            node = self.nodes[_name(node.input[0])]
        return node

    def shape(self, tensor):
        """The shape of a tensor as the step was traced, None for images; optimizations keep the names of tensors."""
        name, _, index = tensor.partition(":")
        node = self.nodes[name]
        if node.op in ("Identity", "Switch"):  # into a branch
            return self.shape(node.input[0])
        if node.op == "ReadVariableOp":
            return tuple(self.variable(self.nodes[node.input[0]]).shape)
        if node.op.endswith("BackpropFilterWithBias") and index == "1":  # oneDNN's: a bias's gradient with its kernel's
            return self.shape(name)[-1:]
        try:
            shape = tuple(self.step.graph.get_tensor_by_name(f"{name}:{index or 0}").shape.as_list())
        except (KeyError, ValueError):
            shape = (None, None)
        if None in shape[1:]:
            raise RunError(f"{tensor} ({node.op}) crosses, and its size is not known")
        return shape


def _size(shape, number, batch_size):
    dtype, shape = tf.dtypes.as_dtype(number), [batch_size if length is None else length for length in shape]
    return {"shape": shape, "dtype": dtype.name, "bytes": dtype.size * math.prod(shape)}


def _name(tensor):
    return tensor.removeprefix("^").split(":")[0]


def _short(device):
    """ "/job:localhost/replica:0/task:0/device:CPU:1" -> "CPU:1"."""
    return device.rpartition("device:")[2]
