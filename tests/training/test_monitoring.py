"""Warnings and filters; TensorBoard's curves are tested with runs in tests/test_train.py and tests/test_resume.py."""

import math
import shutil
import types

import numpy as np
import pytest
import tensorflow as tf

from keras_alexnet import AlexNet
from keras_alexnet.training import monitoring
from tests.runs import points

LN5 = math.log(5)


@pytest.fixture
def watched(tmp_path, monkeypatch):
    """Warnings with a clock: a function of steps, and what TensorBoard got."""
    clock = types.SimpleNamespace(now=0.0)
    monkeypatch.setattr(monitoring.time, "perf_counter", lambda: clock.now)
    writer = tf.summary.create_file_writer(str(tmp_path / "logs" / "train"))
    averages = types.SimpleNamespace(images=0, count=lambda: averages.images)
    trainer = types.SimpleNamespace(averages=averages, waited=0.0)
    curves = types.SimpleNamespace(trainer=trainer, train_writer=writer, step=0, every=10)
    warnings = monitoring.Warnings(curves, str(tmp_path), 10**6, LN5, 5, 30, "paper")
    warnings.on_epoch_begin(0)

    def step(count=1, seconds=1.0, waited=0.0, loss=1.0):
        for _ in range(count):
            clock.now, trainer.waited = clock.now + seconds, trainer.waited + waited
            averages.images, curves.step = averages.images + 128, curves.step + 1
            warnings.on_train_batch_end(0, {"loss": loss})

    def shown():
        writer.flush()
        return points(tmp_path, "train")

    return types.SimpleNamespace(step=step, shown=shown, warnings=warnings)


def test_speed_waiting_and_memory_every_few_steps(watched, capsys):
    watched.step(10, seconds=0.5, waited=0.1)
    watched.step(10, seconds=2.0, waited=0.1)
    # Validation does not count.
    watched.warnings.on_epoch_begin(1)
    watched.step(1, seconds=500.0)
    watched.step(9, seconds=1.0)
    shown = watched.shown()
    # The first step of an epoch starts the clock.
    assert shown["speed/images_per_second"] == [(10, 256.0), (20, 64.0), (30, 128.0)]
    waiting = shown["speed/share_of_time_waiting_for_images"]
    assert waiting == [(10, pytest.approx(0.2)), (20, pytest.approx(0.05)), (30, 0.0)]
    assert all(0.05 < size < 1000 for _, size in shown["memory/process_gigabytes"])
    assert not capsys.readouterr().err and "warnings" not in shown


def test_waiting_for_images_is_named_once_and_not_while_buffers_fill(watched, capsys):
    watched.step(50, waited=0.9)
    assert not capsys.readouterr().err
    watched.step(30, waited=0.9)
    error = capsys.readouterr().err
    assert error.startswith("warning: 90 % of the time is spent waiting for images: ") and error.count("\n") == 1
    ((step, words),) = watched.shown()["warnings"]
    assert step == 60 and words.decode() in error


def test_a_loss_that_does_not_change_is_named(watched, capsys):
    watched.step(200, loss=LN5 * 1.01)
    watched.step(10, loss=1.5)  # counted from the beginning
    watched.step(290, loss=LN5 * 0.99)
    assert not capsys.readouterr().err
    watched.step(10, loss=LN5 * 0.99)
    error = capsys.readouterr().err
    assert "the loss has been 1.593 for 300 steps" in error and "ln 5 is 1.609" in error
    assert "--variant=release2012" in error


def test_a_full_disk_is_named_before_it_is_full(watched, capsys, monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(monitoring.shutil, "disk_usage", lambda path: usage._replace(free=2 * 10**6))
    watched.step(20)
    assert not capsys.readouterr().err
    monkeypatch.setattr(monitoring.shutil, "disk_usage", lambda path: usage._replace(free=2 * 10**6 - 1))
    watched.step(20)
    error = capsys.readouterr().err
    assert error.startswith("warning: 0.00 GB are left on the disk") and error.count("\n") == 1


def test_gpus_and_their_memory(monkeypatch):
    """Those without a part of the network have nothing to do."""
    gpus = [types.SimpleNamespace(name=f"/device:GPU:{number}") for number in range(3)]
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: gpus)
    monkeypatch.setattr(tf.config.experimental, "get_memory_info", lambda name: {"current": int(name[-1])})
    found = monitoring.memory()
    assert found.pop("process") > 10**7 and found == {"GPU:0": 0, "GPU:1": 1, "GPU:2": 2}

    def variable(*devices):
        one = types.SimpleNamespace(device=devices[0])
        several = types.SimpleNamespace(values=tuple(types.SimpleNamespace(device=each) for each in devices))
        return types.SimpleNamespace(value=one if len(devices) == 1 else several)

    names = [f"/job:localhost/replica:0/task:0/device:GPU:{number}" for number in range(3)]
    towers = types.SimpleNamespace(variables=[variable(names[0]), variable(names[2])])
    assert monitoring.idle_gpus(towers) == ["GPU:1"]
    assert monitoring.idle_gpus(types.SimpleNamespace(variables=[variable(*names)])) == []


@pytest.mark.parametrize(("width", "per_line", "lines"), [(1 / 16, 3, 1), (1, 16, 3), (0.5, 16, 2)])
@pytest.mark.parametrize("towers", [1, 2])
def test_one_block_of_filters_per_tower(towers, width, per_line, lines):
    removed = ("conv2", "conv3", "conv4", "conv5", "fc7")
    model = AlexNet(3, towers=towers, width=width, removed_layers=removed, seed=1)
    kernels = [layer.kernel for layer in model.layers if layer.name.startswith("conv1")]
    weights = np.concatenate([kernel.numpy() for kernel in kernels], axis=-1)  # (11, 11, 3, filters)
    grid = monitoring.conv1_grid(model, scale=1)
    assert grid.shape == (2 * lines * 12 + 4, per_line * 12, 3) and grid.dtype == np.uint8
    shades = np.round((weights / np.abs(weights).max() * 0.5 + 0.5) * 255)
    half = weights.shape[-1] // 2
    for index in range(weights.shape[-1]):
        tower, place = divmod(index, half)
        row = tower * (lines * 12 + 4) + place // per_line * 12
        column = place % per_line * 12
        np.testing.assert_allclose(grid[row : row + 11, column : column + 11], shades[..., index], atol=1)
        assert np.all(grid[row + 11, column : column + 11] == 255)
    np.testing.assert_array_equal(monitoring.conv1_grid(model, scale=3)[::3, ::3], grid)


def test_filters_standardized_each_by_itself():
    rng = np.random.default_rng(0)
    towers = [rng.normal(3, 5, (11, 11, 3, 2)).astype(np.float32) for _ in range(2)]
    other = [kernel * np.float32([2, 7]) + np.float32([1, -4]) for kernel in towers]
    np.testing.assert_allclose(
        monitoring.grid(other, 1, "each").astype(int), monitoring.grid(towers, 1, "each"), rtol=0, atol=1
    )
    towers[0][..., 0] = 3.0  # of equal weights: mid-grey
    assert np.all(monitoring.grid(towers, 1, "each")[:11, :11] == 128)
