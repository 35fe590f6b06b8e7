import math
import types

import pytest
import tensorflow as tf

from keras_alexnet.config import RunConfig
from keras_alexnet.errors import RunError
from keras_alexnet.training import metrics, monitoring
from keras_alexnet.training.progress import Progress
from tests.runs import points

LN5 = math.log(5)


@pytest.fixture
def watched(tmp_path, monkeypatch):
    """A Monitor with a clock: a function of steps, and what TensorBoard got."""
    clock = types.SimpleNamespace(now=0.0)
    monkeypatch.setattr(monitoring.time, "perf_counter", lambda: clock.now)
    run = RunConfig(model_dir=str(tmp_path), summary_steps=10)
    config = types.SimpleNamespace(run=run, network=types.SimpleNamespace(variant="paper"))
    model = types.SimpleNamespace(variables=[], count_params=lambda: 10**6 // 8)
    trainer = types.SimpleNamespace(averages=metrics.Averages(), waited=0.0, model=model)
    monitor = monitoring.Monitor(config, trainer, Progress(), [4] * 5, 30)
    monitor.on_epoch_begin(0)

    def step(count=1, seconds=1.0, waited=0.0, loss=1.0):
        for _ in range(count):
            clock.now, trainer.waited = clock.now + seconds, trainer.waited + waited
            trainer.averages.add([128 * loss, 0, 0, 0, 128])
            is_read = monitor.begun is None or (monitor.step + 1) % run.summary_steps == 0
            monitor.on_train_batch_end(0, trainer.averages.sums() if is_read else None)

    def shown():
        monitor.flush(Progress())
        return points(tmp_path, "train")

    return types.SimpleNamespace(step=step, shown=shown, monitor=monitor)


def test_speed_waiting_and_memory_every_few_steps(watched, capsys):
    watched.step(10, seconds=0.5, waited=0.1)
    watched.step(10, seconds=2.0, waited=0.1)
    watched.monitor.on_epoch_begin(1)  # validation does not count
    watched.step(1, seconds=500.0)
    watched.step(9, seconds=1.0)
    shown = watched.shown()
    # The first step of an epoch starts the clock.
    assert shown["speed/images_per_second"] == [(10, 256.0), (20, 64.0), (30, 128.0)]
    waiting = shown["speed/waiting_for_images"]
    assert waiting == [(10, pytest.approx(0.2)), (20, pytest.approx(0.05)), (30, 0.0)]
    assert all(0.05 < size < 1000 for _, size in shown["memory/process_gigabytes"])
    assert not capsys.readouterr().err and "warnings" not in shown


def test_what_goes_wrong_is_named_once(watched, capsys, monkeypatch):
    watched.step(50, waited=0.9)  # while buffers are filled
    assert not capsys.readouterr().err
    watched.step(30, waited=0.9)
    error = capsys.readouterr().err
    assert error.startswith("warning: 90 % of the time is spent waiting for images; ") and error.count("\n") == 1
    ((step, words),) = watched.shown()["warnings"]
    assert step == 60 and words.decode() in error
    # The loss is that of the majority-class baseline for ten epochs of 30 steps.
    for count, loss in ((200, LN5 * 1.01), (10, 1.5), (290, LN5 * 0.99)):
        watched.monitor.trainer.averages.reset()
        watched.monitor.on_epoch_begin(1)
        watched.step(count, loss=loss)
    assert not capsys.readouterr().err
    watched.step(10, loss=LN5 * 0.99)
    error = capsys.readouterr().err
    assert "for 300 steps the loss has been 1.593" in error and "--variant=release2012" in error
    for free in (2 * 10**6, 2 * 10**6 - 1):  # two checkpoints
        assert not capsys.readouterr().err
        monkeypatch.setattr(monitoring.shutil, "disk_usage", lambda path, free=free: types.SimpleNamespace(free=free))
        watched.step(20)
    assert capsys.readouterr().err.startswith("warning: 0.00 GB are left on the disk")


def test_gpus_and_their_memory(monkeypatch):
    gpus = [types.SimpleNamespace(name=f"/device:GPU:{number}") for number in range(3)]
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind: gpus)
    monkeypatch.setattr(tf.config.experimental, "get_memory_info", lambda name: {"current": int(name[-1])})
    found = monitoring.memory()
    assert found.pop("process") > 10**7 and found == {"GPU:0": 0, "GPU:1": 1, "GPU:2": 2}
    values = [types.SimpleNamespace(device=f"/job:localhost/replica:0/task:0/device:GPU:{index}") for index in range(3)]
    towers = [types.SimpleNamespace(value=values[0]), types.SimpleNamespace(value=values[2])]
    assert monitoring.idle_gpus(types.SimpleNamespace(variables=towers)) == ["GPU:1"]
    replicated = types.SimpleNamespace(value=types.SimpleNamespace(values=tuple(values)))
    assert monitoring.idle_gpus(types.SimpleNamespace(variables=[replicated])) == []


def test_what_a_step_and_smaller_ones_hold(tiny_model):
    sizes = [sum(monitoring.on_paper(tiny_model, 500 // part, size).values()) for size in (4, 2) for part in (1, 2)]
    first, *others = (f"{size / 1000:.2f} GB with --batch_size=" for size in sizes)
    with pytest.raises(RunError) as error, monitoring.memory_errors(tiny_model, 1000, "float32", 2):
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating")
    assert str(error.value).startswith(f"out of memory (OOM when allocating); a step takes at least {first}1000 ")
    assert all(words in str(error.value) for words in others)
    with pytest.raises(tf.errors.ResourceExhaustedError), monitoring.memory_errors(tiny_model, 1000, "float32", 2):
        raise tf.errors.ResourceExhaustedError(None, None, "logs/train; No space left on device")
