import math
import shutil
import types

import pytest
import tensorflow as tf

from keras_alexnet.training import watch

LN5 = math.log(5)


@pytest.fixture
def watching(tmp_path, monkeypatch):
    """A function that makes a Watch and a clock; and what TensorBoard got."""
    clock = types.SimpleNamespace(now=0.0)
    monkeypatch.setattr(watch.time, "perf_counter", lambda: clock.now)
    writer = tf.summary.create_file_writer(str(tmp_path / "logs"))
    averages = types.SimpleNamespace(images=0, count=lambda: averages.images)
    trainer = types.SimpleNamespace(averages=averages, waited=0.0)
    curves = types.SimpleNamespace(trainer=trainer, train_writer=writer, step=0, every=10)
    found = watch.Watch(curves, str(tmp_path), 10**6, LN5, 5, 30, "paper")
    found.on_epoch_begin(0)

    def step(count=1, seconds=1.0, waited=0.0, loss=1.0):
        for _ in range(count):
            clock.now, trainer.waited = clock.now + seconds, trainer.waited + waited
            averages.images, curves.step = averages.images + 128, curves.step + 1
            found.on_train_batch_end(0, {"loss": loss})

    def points():
        writer.flush()
        (path,) = (tmp_path / "logs").iterdir()
        shown = {}
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for value in event.summary.value:
                shown.setdefault(value.tag, []).append((event.step, tf.make_ndarray(value.tensor)[()]))
        return shown

    return types.SimpleNamespace(step=step, points=points, watch=found)


def test_speed_waiting_and_memory_every_few_steps(watching, capsys):
    watching.step(10, seconds=0.5, waited=0.1)
    watching.step(10, seconds=2.0, waited=0.1)
    points = watching.points()
    # The first step of an epoch starts the clock.
    assert points["speed/images_per_second"] == [(10, 256.0), (20, 64.0)]
    waiting = points["speed/share_of_time_waiting_for_images"]
    assert [(step, pytest.approx(share)) for step, share in waiting] == [(10, 0.2), (20, 0.05)]
    assert all(0.05 < size < 1000 for _, size in points["memory/process_gigabytes"])
    assert not capsys.readouterr().err and "warnings" not in points


def test_validation_is_no_time_of_training(watching):
    watching.step(10, seconds=1.0)
    watching.step(1, seconds=0.0)
    watching.watch.on_epoch_begin(1)
    watching.step(1, seconds=500.0)
    watching.step(8, seconds=1.0)
    assert watching.points()["speed/images_per_second"][-1] == (20, 128.0)


def test_waiting_for_images_is_named_once_and_not_while_buffers_fill(watching, capsys):
    watching.step(50, waited=0.9)
    assert not capsys.readouterr().err
    watching.step(30, waited=0.9)
    error = capsys.readouterr().err
    assert error.startswith("warning: 90 % of the time goes by waiting for images: ") and error.count("\n") == 1
    assert "tools/prepare_dataset.py" in error
    ((step, words),) = watching.points()["warnings"]
    assert step == 60 and words.decode() in error


def test_a_loss_that_stands_still_is_named(watching, capsys):
    watching.step(200, loss=LN5 * 1.01)
    watching.step(10, loss=1.5)  # it moved: counted from the beginning
    watching.step(290, loss=LN5 * 0.99)
    assert not capsys.readouterr().err
    watching.step(10, loss=LN5 * 0.99)
    error = capsys.readouterr().err
    assert "for 300 steps the loss has stood at 1.593" in error and "ln 5 is 1.609" in error
    assert "--variant=release2012" in error


def test_a_full_disk_is_seen_before_it_is_full(watching, capsys, monkeypatch):
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(watch.shutil, "disk_usage", lambda path: usage._replace(free=2 * 10**6))
    watching.step(20)
    assert not capsys.readouterr().err
    monkeypatch.setattr(watch.shutil, "disk_usage", lambda path: usage._replace(free=2 * 10**6 - 1))
    watching.step(20)
    error = capsys.readouterr().err
    assert error.startswith("warning: 0.00 GB are left on the disk") and error.count("\n") == 1


def test_gpus_without_a_part_of_the_network_are_idle(monkeypatch):
    gpus = [types.SimpleNamespace(name=f"/device:GPU:{number}") for number in range(3)]
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: gpus)

    def variable(*devices):
        one = types.SimpleNamespace(device=devices[0])
        several = types.SimpleNamespace(values=tuple(types.SimpleNamespace(device=each) for each in devices))
        return types.SimpleNamespace(value=one if len(devices) == 1 else several)

    start = "/job:localhost/replica:0/task:0/device:GPU:"
    assert watch.idle(types.SimpleNamespace(variables=[variable(f"{start}0"), variable(f"{start}2")])) == ["GPU:1"]
    assert watch.idle(types.SimpleNamespace(variables=[variable(f"{start}0", f"{start}1", f"{start}2")])) == []
