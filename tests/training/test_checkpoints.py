import errno
import os
import threading
import unittest.mock
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from keras_alexnet.errors import RequeueError, RunError
from keras_alexnet.training import checkpoints
from keras_alexnet.training.progress import Progress, checkpoint_paths, epoch_checkpoints, first_readable


def variables(value, size=40_000):
    return {
        "conv1/kernel": tf.Variable(tf.fill((size,), float(value))),
        "velocity/conv1/kernel": tf.Variable(tf.fill((size,), -float(value))),
        "random/0": tf.Variable(tf.constant([2012, value], tf.uint32)),
    }


def opened(folder, value=0, keep=3):
    return checkpoints.Checkpoints(str(folder), variables(value), keep)


def write(folder, epochs, batches=0, keep=3, history=()):
    written = opened(folder, epochs, keep)
    written.write(Progress(epochs=epochs, batches=batches, history=[*history]))
    written.wait()
    return written


def names(folder):
    return [os.path.basename(path) for path in checkpoint_paths(str(folder))]


def test_what_was_written_is_read(tmp_path):
    assert opened(tmp_path / "none").resume() == (None, Progress())
    # Left by a kill while writing.
    (tmp_path / ".writing.data-00000-of-00001").write_bytes(b"half")
    (tmp_path / "epoch-1.data-00000-of-00001").write_bytes(b"its index was not renamed yet")
    write(tmp_path, 1, 5)
    assert names(tmp_path) == ["epoch-1-step-5"] and not list(tmp_path.glob(".writing*"))
    path, progress = opened(tmp_path).resume()
    assert epoch_checkpoints(str(tmp_path)) == [path]  # within the first epoch there are no others
    assert path == str(tmp_path / "epoch-1-step-5") and progress == Progress(epochs=1, batches=5)
    assert tf.train.latest_checkpoint(str(tmp_path)) == path
    np.testing.assert_array_equal(tf.train.load_checkpoint(path).get_tensor("conv1/kernel"), np.full(40_000, 1.0))
    assert checkpoints.read_progress(path) == progress


def test_the_newest_the_best_and_the_last_whole_epoch_are_kept(tmp_path):
    history = [{"epoch": epoch, "val_top1_error": error} for epoch, error in enumerate((50, 30, 40, 30, 35, 36), 5)]
    for epochs in range(5, 11):
        write(tmp_path, epochs, keep=2, history=history[: epochs - 4])
        write(tmp_path, epochs, 7, keep=2, history=history[: epochs - 4])
    assert names(tmp_path) == ["epoch-6", "epoch-10", "epoch-10-step-7"]  # the first of two that are as good
    state = tf.train.get_checkpoint_state(str(tmp_path))
    assert state.model_checkpoint_path == str(tmp_path / "epoch-10-step-7")
    assert state.all_model_checkpoint_paths == [str(tmp_path / name) for name in names(tmp_path)]
    write(tmp_path, 10, 9, keep=1, history=history)
    assert names(tmp_path) == ["epoch-6", "epoch-10", "epoch-10-step-9"]
    assert epoch_checkpoints(str(tmp_path)) == [str(tmp_path / "epoch-10"), str(tmp_path / "epoch-6")]


def test_what_is_written_is_the_moment_of_the_call(tmp_path, monkeypatch):
    changed, save = threading.Event(), tf.raw_ops.SaveV2
    monkeypatch.setattr(tf.raw_ops, "SaveV2", lambda **arguments: changed.wait(30) and save(**arguments))
    own = opened(tmp_path, 1)
    own.write(Progress(epochs=1))
    kernel, velocity = own.variables["conv1/kernel"], own.variables["velocity/conv1/kernel"]
    tf.raw_ops.ResourceApplyKerasMomentum(
        var=kernel.handle, accum=velocity.handle, lr=1.0, grad=tf.ones_like(kernel), momentum=0.9
    )
    own.variables["random/0"].assign([0, 0])
    changed.set()
    own.wait()
    assert not np.any(kernel.numpy() == 1.0)
    again = opened(tmp_path)
    again.resume()
    for name, wanted in variables(1).items():
        np.testing.assert_array_equal(again.variables[name].numpy(), wanted.numpy(), err_msg=name)


def test_any_flipped_byte_or_shortened_file_is_found_or_does_no_harm(tmp_path, capfd):
    write(tmp_path, 1)
    write(tmp_path, 2)
    rng, found = np.random.default_rng(0), 0
    for suffix in (".index", ".data-00000-of-00001"):
        path = Path(f"{tmp_path / 'epoch-2'}{suffix}")
        whole = path.read_bytes()
        flipped = [whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :] for at in rng.integers(0, len(whole), 30)]
        for content in (*flipped, b"", whole[:20], whole[: len(whole) // 2]):
            path.write_bytes(content)
            own = opened(tmp_path)
            value = own.resume()[1].epochs
            np.testing.assert_array_equal(own.variables["conv1/kernel"].numpy(), np.full(40_000, value, np.float32))
            found += value == 1
        path.write_bytes(whole)
    assert found > 45
    shown = capfd.readouterr().err
    assert shown.count("trying the checkpoint before") == found and "epoch-2: cannot be read" in shown
    write(tmp_path, 1, 4)  # is now the newest; what could not be read is removed
    assert names(tmp_path) == ["epoch-1", "epoch-1-step-4"]
    for path in tmp_path.glob("*.index"):
        path.write_bytes(b"nothing")
    with pytest.raises(RunError, match="cannot be read .*; no other checkpoint can be used"):
        own.resume()


def test_another_network_is_named_and_nothing_changed(tmp_path):
    write(tmp_path, 1)
    other = {**variables(0, size=7), **{f"fc{index}": tf.Variable([1.0]) for index in range(5)}}
    with pytest.raises(RunError, match=r"\(40000,\) instead of \(7,\); fc0 is missing .*; and 2 more"):
        checkpoints.Checkpoints(str(tmp_path), other, 3).resume()
    assert np.all(other["conv1/kernel"].numpy() == 0.0)
    tf.train.Checkpoint(value=tf.Variable(1.0)).write(str(tmp_path / "epoch-2"))
    weights = checkpoints.Checkpoints(str(tmp_path / "weights"), {"conv1/kernel": variables(0)["conv1/kernel"]}, 3)
    weights.write(Progress(epochs=1))
    weights.wait()
    for folder in (tmp_path, tmp_path / "weights"):
        with pytest.raises(RunError, match="was not written by this version's training"):
            opened(folder).resume()


def test_a_failure_to_write_is_named_and_leaves_what_was_there(tmp_path, monkeypatch):
    own, words = write(tmp_path, 1), "No space left on device"
    errors = [OSError(errno.ENOSPC, words), tf.errors.ResourceExhaustedError(None, None, words), ValueError(words)]
    for module, name, error in zip((os, tf.raw_ops, tf.raw_ops), ("replace", "SaveV2", "SaveV2"), errors, strict=True):
        with monkeypatch.context() as patch:
            patch.setattr(module, name, unittest.mock.Mock(side_effect=error))
            own.write(Progress(epochs=2))
            with pytest.raises(RunError, match=r"not be written \(.*No space.*\); the checkpoint epoch-1 is kept"):
                own.wait()
        assert sorted(os.listdir(tmp_path)) == ["checkpoint", "epoch-1.data-00000-of-00001", "epoch-1.index"]
    own.write(Progress(epochs=2))
    own.wait()
    assert names(tmp_path) == ["epoch-1", "epoch-2"]


def test_a_signal_while_a_checkpoint_is_read_is_no_damage():
    def read(path):
        raise RequeueError("stopped by SIGTERM")

    with pytest.raises(RequeueError):
        first_readable(["epoch-2", "epoch-1"], read)
