"""Devices, in processes of their own: they are made before anything runs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import tensorflow as tf

from keras_alexnet.errors import UsageError
from keras_alexnet.model.towers import check_precision, choose_devices

ROOT = Path(__file__).parents[2]
BATCH = 2
# At a sixteenth of the width: maps of one tower after pool1, pool2 and pool5, and its dense units.
MAPS1, MAPS2, MAPS5, DENSE = 3, 8, 8, 128


def report(*flags, tmp_path):
    command = [
        sys.executable,
        "tools/device_report.py",
        "--devices=CPU:0,CPU:1",
        "--width=0.0625",
        f"--batch_size={BATCH}",
    ]
    path = tmp_path / "report.json"
    done = subprocess.run([*command, f"--json={path}", *flags], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(path.read_text())


@pytest.mark.parametrize(
    "flags",
    [
        ["--variant=paper"],
        ["--variant=release2012"],
        ["--variant=caffe"],
        ["--precision=mixed_bfloat16"],
        ["--loss_scale"],
    ],
    ids=lambda flags: flags[0],
)
def test_a_step_runs_where_its_towers_are(flags, tmp_path):
    """What TensorFlow really placed: layers by their names, updates by their variables."""
    found = report(*flags, tmp_path=tmp_path)
    for operation in found["operations"]:
        for tower in "01":
            if f"_tower{tower}" in operation["name"]:
                assert operation["device"] == f"CPU:{tower}", operation
        if operation["tower"] is not None:
            assert operation["device"] == f"CPU:{operation['tower']}", operation

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
        assert count("update", tower, "ResourceApplyKerasMomentum") == [7]
        assert count("update", tower, "Assign") >= [14]
    assert count("update", None, "ResourceApplyKerasMomentum") == [1]  # fc8


@pytest.mark.parametrize("variant", ["paper", "release2012", "caffe"])
def test_only_halves_of_activations_and_their_gradients_cross(variant, tmp_path):
    found = report(f"--variant={variant}", tmp_path=tmp_path)
    halves = [[13, 13, MAPS2], [6, 6, MAPS5], [DENSE]]
    if variant == "caffe":  # normalizes across the towers
        halves += [[55, 55, MAPS1], [27, 27, MAPS2]]
    both_ways = [[BATCH, *shape] for shape in halves for _ in range(2)]
    for kind in ("activation", "gradient"):
        crossed = sorted(c["shape"] for c in found["crossings"] if c["kind"] == kind)
        assert crossed == sorted([*both_ways, [BATCH, DENSE]])  # the last is into fc8, which is on one device
    assert {c["kind"] for c in found["crossings"]} == {"activation", "gradient", "scalar", "input"}
    assert found["minimum_bytes"] == 2 * 4 * sum(_size(shape) for shape in [*both_ways, [BATCH, DENSE]])
    assert 1 <= found["ratio"] <= 1.02


def _size(shape):
    return shape[0] * _size(shape[1:]) if shape else 1


def test_the_least_possible_bytes_are_those_of_the_paper():
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        from device_report import minimum
    finally:
        sys.path.pop(0)
    assert minimum("paper", 1.0, 4) == 468_992


def test_the_report_fails_where_an_ordinary_scope_leaves_work_behind(tmp_path):
    """A report that finds nothing proves nothing: with scopes around the forward pass only, it must find a lot."""
    script = (
        "import sys; sys.path.insert(0, 'tools')\n"
        "import functools, tensorflow as tf\n"
        "from keras_alexnet.model import alexnet, towers\n"
        "def scoped(make, name, device):\n"
        "    layer = make(name)\n"
        "    layer.build, layer.call = under(device, layer.build), under(device, layer.call)\n"
        "    return layer\n"
        "def under(device, function):\n"
        "    @functools.wraps(function)\n"
        "    def call(*args, **kwargs):\n"
        "        with tf.device(device):\n"
        "            return function(*args, **kwargs)\n"
        "    return call\n"
        "alexnet.pinned = scoped\n"
        "import device_report\n"
        "device_report.main(sys.argv[1:])\n"
    )
    flags = ["--devices=CPU:0,CPU:1", "--width=0.0625", f"--batch_size={BATCH}", f"--json={tmp_path / 'report.json'}"]
    done = subprocess.run([sys.executable, "-c", script, *flags], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert "operations ran on the other tower's device" in done.stderr
    found = json.loads((tmp_path / "report.json").read_text())
    assert sum(o["phase"] == "backward" for o in found["strays"]) > 20
    assert found["weights_crossing"] > 0 and found["ratio"] > 1.5


@pytest.mark.parametrize("variant", ["paper", "release2012", "caffe"])
def test_two_devices_one_device_and_grouped_layers_take_the_same_steps(variant):
    command = [sys.executable, "-m", "tests.model.two_devices", variant]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_pinned_network_is_the_same_network(tmp_path):
    """Eagerly and in a file: what is pinned computes the same, and its configuration knows no device."""
    script = """
import sys, numpy as np, tensorflow as tf
from keras_alexnet import AlexNet
import keras
model = AlexNet(3, width=1 / 16, devices=("CPU:0", "CPU:1"), seed=1)
for layer in model.layers:
    tower = layer.name.rpartition("_tower")[2] if "_tower" in layer.name else "0"
    for weight in layer.variables:
        assert weight.value.device.endswith(f"CPU:{tower}"), (weight.path, weight.value.device)
image = np.random.default_rng(0).normal(scale=60, size=(2, 224, 224, 3)).astype(np.float32)
plain = AlexNet(3, width=1 / 16, devices=(), seed=1)
np.testing.assert_allclose(model(image), plain(image), rtol=1e-5)
assert "CPU" not in str(model.get_config())
model.save(sys.argv[1])
again = keras.saving.load_model(sys.argv[1])
np.testing.assert_allclose(again(image), plain(image), rtol=1e-5)
assert all(weight.value.device.endswith("CPU:0") for weight in again.weights)
second = AlexNet(3, width=1 / 16, devices=("CPU:1",), seed=1)
assert all(weight.value.device.endswith("CPU:1") for weight in second.weights)

def twice(network):
    # a tape that is asked twice, and a gradient of a gradient, of the first kernel
    kernel = network.trainable_variables[0].value
    with tf.GradientTape(persistent=True) as outer:
        with tf.GradientTape(persistent=True) as inner:
            loss = tf.reduce_sum(network(image) ** 2)
        first, again = inner.gradient(loss, kernel), inner.gradient(loss, kernel)
        norm = tf.reduce_sum(first**2)
    return first, again, outer.gradient(norm, kernel)

for ours, theirs in zip(twice(model), twice(plain)):
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-4 * np.abs(theirs).max())
"""
    done = subprocess.run([sys.executable, "-c", script, tmp_path / "a.keras"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_nothing_is_pinned_without_two_gpus():
    assert choose_devices(None, 2) == ()
    assert choose_devices(None, 1) == ()


def test_two_gpus_are_taken_by_themselves(monkeypatch):
    gpus = [tf.config.LogicalDevice(f"/device:GPU:{index}", "GPU") for index in range(3)]
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: gpus)
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind=None: gpus)
    assert choose_devices(None, 2) == ("GPU:0", "GPU:1")
    assert choose_devices(None, 1) == ()
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind=None: gpus[:1])
    assert choose_devices(None, 2) == ()


def test_one_device_serves_both_towers():
    assert choose_devices(("CPU:0",), 2) == ("CPU:0",)


@pytest.mark.parametrize(
    "names, towers, words",
    [
        (("CPU:0", "GPU:5"), 2, "--devices=CPU:0,GPU:5: there is no GPU:5; present: CPU:0"),
        (("GPU:0",), 1, "--devices=GPU:0: there is no GPU:0; present: CPU:0"),
        (("CPU:0", "CPU:0"), 2, "--devices=CPU:0,CPU:0: give one device, or a different one for each tower"),
        (("CPU:0", "CPU:1"), 1, "--devices=CPU:0,CPU:1: give one device, or a different one for each tower .towers=1"),
        (("CPU:0", "CPU:1", "CPU:2"), 2, "give one device, or a different one for each tower"),
        ("CPU:x", 2, "'CPU:X' is no device; write names such as GPU:0,GPU:1"),
        ("CPU:0,", 2, "'' is no device"),
    ],
)
def test_devices_that_cannot_be_had_are_named(names, towers, words):
    with pytest.raises(UsageError, match=words):
        choose_devices(names, towers)


def test_precisions_that_a_device_has_not(monkeypatch):
    check_precision("float32", ("CPU:0",))
    check_precision("mixed_bfloat16", ("CPU:0", "CPU:1"))
    with pytest.raises(UsageError, match="--precision=mixed_float16: CPU:0 has no float16; use mixed_bfloat16"):
        check_precision("mixed_float16", ())
    details = {"new": (9, 0), "old": (7, 5)}
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind=None: ["new", "old"])
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: {"compute_capability": details[gpu]})
    check_precision("mixed_float16", ("GPU:0", "GPU:1"))
    check_precision("mixed_bfloat16", ())
    with pytest.raises(UsageError, match="GPU:1 has compute capability 7.5, and this needs 8.0; use float32"):
        check_precision("mixed_bfloat16", ("GPU:0", "GPU:1"))
