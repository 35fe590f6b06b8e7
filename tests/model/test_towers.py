"""Towers on two devices. The test process has two logical CPU devices, see tests/conftest.py."""

import functools
import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_alexnet import AlexNet
from keras_alexnet.data.augmentation import Preprocessing
from keras_alexnet.errors import ArgumentError, RunError
from keras_alexnet.model import towers, weights
from keras_alexnet.model.towers import check_precision, choose_devices
from keras_alexnet.training.optimizer import MomentumSGD
from keras_alexnet.training.trainer import Trainer
from tests.tools.conftest import load_tool

TINY, BATCH, CLASSES, STEPS = 1 / 16, 2, 5, 3
# At a sixteenth of the width: maps of one tower after pool1, pool2 and pool5, and its dense units.
MAPS1, MAPS2, MAPS5, DENSE = 3, 8, 8, 128
BOTH = ("CPU:0", "CPU:1")


def report(path, *flags):
    """What tools/device_report.py finds out about one step, a dict."""
    arguments = ["--devices=CPU:0,CPU:1", f"--width={TINY}", f"--batch_size={BATCH}", f"--json={path}", *flags]
    load_tool("device_report").main(arguments)
    return json.loads(path.read_text())


@pytest.mark.parametrize(
    "flags",
    [("--variant=release2012", "--loss_scale"), ("--variant=caffe",), ("--precision=mixed_bfloat16",)],
    ids=["release2012 and loss scale", "caffe", "bfloat16"],
)
def test_a_step_runs_where_its_towers_are(flags, tmp_path, capsys):
    found = report(tmp_path / "report.json", *flags)
    for operation in found["operations"]:
        for tower in (0, 1):
            if f"_tower{tower}" in operation["name"] or operation["tower"] == tower:
                assert operation["device"] == f"CPU:{tower}", operation

    def count(phase, tower, *kinds):
        chosen = [o for o in found["operations"] if o["phase"] == phase and o["tower"] == tower]
        return [sum(kind in o["type"] for o in chosen) for kind in kinds]

    for tower in (0, 1):
        assert count("forward", tower, "Conv2D", "MaxPool") == [5, 3]
        # conv1 hands no gradient down
        assert count("backward", tower, "BackpropFilter", "BackpropInput", "MaxPoolGrad") == [5, 4, 3]
        assert count("backward", tower, "AddN")[0] >= 3  # what both towers' conv3, fc6 and fc7 hand down to this one
        assert count("backward", tower, "MatMul")[0] >= 4  # fc6 and fc7, to the kernel and down
        # five convolutions and two dense layers; biases have a factor, so that theirs is written with assignments
        assert count("update", tower, "If") == [7]
        assert count("update", tower, "Assign") >= [14]
    assert count("update", None, "If") == [1]  # fc8

    # Only halves of activations and their gradients cross.
    halves = [[13, 13, MAPS2], [6, 6, MAPS5], [DENSE]]
    if "--variant=caffe" in flags:  # normalizes across the towers
        halves += [[55, 55, MAPS1], [27, 27, MAPS2]]
    both_ways = [[BATCH, *shape] for shape in halves for _ in range(2)]
    for kind in ("activation", "gradient"):
        crossed = sorted(c["shape"] for c in found["crossings"] if c["kind"] == kind)
        assert crossed == sorted([*both_ways, [BATCH, DENSE]])  # the last is into fc8, which is on one device
    assert {c["kind"] for c in found["crossings"]} == {"activation", "gradient", "scalar", "input"}
    # Each device gets the crops as bytes, with seven numbers of each, and the first one the labels.
    crop = 227 * 227 * 3 if "--variant=caffe" in flags else 150_528
    assert found["input_bytes"] == {"CPU:0": BATCH * (crop + 28 + 4), "CPU:1": BATCH * (crop + 28)}
    size = 2 if "--precision=mixed_bfloat16" in flags else 4
    assert found["minimum_bytes"] == 2 * size * sum(np.prod(shape) for shape in [*both_ways, [BATCH, DENSE]])
    assert 1 <= found["ratio"] <= 1.02
    assert load_tool("device_report").minimum("paper", 1.0, 4) == 468_992  # of the paper's network


def test_the_report_fails_where_an_ordinary_scope_leaves_work_behind(tmp_path, monkeypatch, capsys):
    """A report that finds nothing proves nothing: with scopes around the forward pass only, it must find a lot."""

    def scoped(make, name, dtype, device):
        layer = make(name=name, dtype=dtype)
        for method in ("build", "call"):
            function = getattr(layer, method)

            @functools.wraps(function)
            def under_scope(*args, function=function, **kwargs):
                with tf.device(device):
                    return function(*args, **kwargs)

            setattr(layer, method, under_scope)
        return layer

    monkeypatch.setattr(towers, "pinned", scoped)
    with pytest.raises(RunError, match="operations ran on the other tower's device"):
        report(tmp_path / "report.json")
    found = json.loads((tmp_path / "report.json").read_text())
    assert sum(o["phase"] == "backward" for o in found["strays"]) > 20
    assert found["weights_crossing"] > 0 and found["ratio"] > 1.5


def test_the_report_fails_where_one_device_makes_the_input_of_both(tmp_path, monkeypatch, capsys):
    class OnFirst(Preprocessing):
        def __call__(self, images):
            return super().__call__(images)[:1] * 2

    monkeypatch.setitem(load_tool("placement").trainer_of.__globals__, "Preprocessing", OnFirst)
    with pytest.raises(RunError, match="^0 operations ran .* 0 weights or their gradients crossed, [2-9].* times"):
        report(tmp_path / "report.json")


@pytest.mark.parametrize("variant, removed", [("release2012", ()), ("caffe", ("conv3", "conv4", "fc7"))])
def test_two_devices_one_device_and_grouped_layers_take_the_same_steps(variant, removed):
    """The release has a normalization within a map, and Caffe's copy one across the towers."""
    forms = {"two devices": (2, 2, BOTH), "not pinned": (2, 2, ()), "grouped": (1, 2, ())}
    # Without dropout, by which every form would zero other units.
    settings = {"removed_layers": removed, "dropout": 0.0, "width": TINY, "seed": 1}
    models = {name: AlexNet(CLASSES, variant, *form, None, **settings) for name, form in forms.items()}
    source = models["two devices"]
    enlarge(source)
    size = source.input_shape[1]
    rng = np.random.default_rng(0)
    images = rng.normal(scale=60, size=(BATCH, size, size, 3)).astype(np.float32)
    labels = rng.integers(CLASSES, size=BATCH).astype(np.int32)
    for model in models.values():
        weights.copy(source, model)
    reached = {}
    for name, model in models.items():
        trainer = Trainer(model, MomentumSGD(0.0002), "CPU:0")
        steps = [(float(trainer.train_step(images, labels)), velocities_of(trainer)) for _ in range(STEPS)]
        reached[name] = [loss for loss, _ in steps], steps[0][1], steps[-1][1]
    losses, first, last = reached.pop("two devices")
    assert losses[-1] < losses[0] - 0.01, losses  # it learns, so that equal is not equally idle
    for name, (other_losses, other_first, other_last) in reached.items():
        # Pinned or not, the same operations run in the same order. Grouped, oneDNN adds up in another one, and a
        # rounding may decide which of two inputs is a window's maximum.
        grouped = name == "grouped"
        np.testing.assert_allclose(other_losses[0], losses[0], rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(other_losses, losses, rtol=1e-3 if grouped else 1e-5, err_msg=name)
        compare(other_first, first, 1e-5)
        compare(other_last, last, 0.03 if grouped else 1e-4)


def velocities_of(trainer):
    """By the names of the weights; after the first step, the gradients and the decay."""
    names = [f"{variable.path.split('/')[-2]}/{variable.name}" for variable in trainer.model.trainable_variables]
    values = [velocity.numpy() for velocity in trainer.optimizer.velocities]
    return weights.to_grouped(dict(zip(names, values, strict=True)))


def compare(actual, desired, tolerance):
    """Each array within a tolerance that is relative to its largest number."""
    for key, value in desired.items():
        largest = np.abs(value).max()
        assert largest, key
        np.testing.assert_allclose(actual[key], value, rtol=0, atol=tolerance * largest, err_msg=key)


def enlarge(model):
    """Weights so large that every part of every sum shows."""
    for index, variable in enumerate(model.trainable_variables):
        if variable.name == "kernel":
            fan_in = np.prod(variable.shape[:-1])
            variable.assign(keras.random.normal(variable.shape, stddev=fan_in**-0.5, seed=index))


def test_a_pinned_network_is_the_same_network(tmp_path):
    model = AlexNet(3, width=TINY, devices=BOTH, seed=1)
    for layer in model.layers:
        tower = layer.name.rpartition("_tower")[2] if "_tower" in layer.name else "0"
        for weight in layer.variables:
            assert weight.value.device.endswith(f"CPU:{tower}"), (weight.path, weight.value.device)
    image = np.random.default_rng(0).normal(scale=60, size=(2, 224, 224, 3)).astype(np.float32)
    plain = AlexNet(3, width=TINY, devices=(), seed=1)
    np.testing.assert_allclose(model(image), plain(image), rtol=1e-5)
    model.save(tmp_path / "a.keras")
    again = keras.saving.load_model(tmp_path / "a.keras")
    np.testing.assert_allclose(again(image), plain(image), rtol=1e-5)
    assert all(weight.value.device.endswith("CPU:0") for weight in again.weights)

    def twice(network):
        # a tape that is asked twice, and a gradient of a gradient, of the first kernel
        kernel = network.trainable_variables[0].value
        with tf.GradientTape(persistent=True) as outer:
            with tf.GradientTape(persistent=True) as inner:
                loss = tf.reduce_sum(network(image) ** 2)
            first, again = inner.gradient(loss, kernel), inner.gradient(loss, kernel)
            norm = tf.reduce_sum(first**2)
        return first, again, outer.gradient(norm, kernel)

    for ours, theirs in zip(twice(model), twice(plain), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4 * np.abs(theirs).max())


@pytest.mark.parametrize("count, chosen", [(0, ()), (1, ()), (3, ("GPU:0", "GPU:1"))])
def test_two_gpus_are_taken_by_themselves(count, chosen, monkeypatch):
    gpus = [tf.config.LogicalDevice(f"/device:GPU:{index}", "GPU") for index in range(count)]
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: gpus)
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind=None: gpus)
    assert choose_devices(None, 2) == chosen and choose_devices(None, 1) == ()


def test_precisions_that_a_device_has_not(monkeypatch):
    check_precision("float32", ("CPU:0",))
    check_precision("mixed_bfloat16", BOTH)
    with pytest.raises(ArgumentError, match="precision CPU:0 has no float16; use mixed_bfloat16"):
        check_precision("mixed_float16", ())
    details = {"new": (9, 0), "old": (7, 5)}
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: ["new", "old"])
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: {"compute_capability": details[gpu]})
    check_precision("mixed_float16", ("GPU:0", "GPU:1"))
    check_precision("mixed_bfloat16", ())
    with pytest.raises(ArgumentError, match="precision needs compute capability 8.0, and GPU:1 has 7.5; use float32"):
        check_precision("mixed_bfloat16", ("GPU:0", "GPU:1"))
