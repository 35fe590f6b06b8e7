"""Devices, in a process of its own: they are made before anything runs."""

import subprocess
import sys

import pytest

from keras_alexnet.errors import UsageError
from keras_alexnet.model.towers import choose_devices

PLACEMENT = """
import numpy as np, tensorflow as tf
from keras_alexnet import AlexNet
from keras_alexnet.model.towers import choose_devices
names = choose_devices(("CPU:0", "CPU:1"), 2)
assert names == ("CPU:0", "CPU:1")
model = AlexNet(3, width=1 / 16, devices=names, seed=1)
for layer in model.layers:
    tower = layer.name.rpartition("_tower")[2] if "_tower" in layer.name else "0"
    for weight in layer.weights:
        assert weight.value.device.endswith(f"CPU:{tower}"), (weight.path, weight.value.device)
graph = tf.function(lambda x: model(x)).get_concrete_function(tf.TensorSpec((None, 224, 224, 3))).graph
placed = [op for op in graph.get_operations() if op.type in ("Conv2D", "MatMul", "LRN", "MaxPool", "ConcatV2", "Relu")]
assert len(placed) > 40
for op in placed:
    tower = "1" if "_tower1" in op.name else "0"
    assert op.device.endswith(f"CPU:{tower}"), (op.name, op.device)
image = np.random.default_rng(0).normal(scale=60, size=(2, 224, 224, 3)).astype(np.float32)
plain = AlexNet(3, width=1 / 16, devices=(), seed=1)
np.testing.assert_allclose(model(image), plain(image), rtol=1e-5)
plain.set_weights(model.get_weights())
restored = type(model).from_config(model.get_config())
assert "CPU" not in str(model.get_config())
"""


def test_variables_and_forward_operations_are_where_their_tower_is():
    done = subprocess.run([sys.executable, "-c", PLACEMENT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_nothing_is_pinned_without_two_gpus():
    assert choose_devices(None, 2) == ()


def test_one_device_serves_both_towers():
    assert choose_devices(("CPU:0",), 2) == ("CPU:0", "CPU:0")


def test_a_missing_device_is_named_with_those_that_are_there():
    with pytest.raises(UsageError, match="GPU:5: there is no GPU:5; present: CPU:0"):
        choose_devices(("CPU:0", "GPU:5"), 2)
