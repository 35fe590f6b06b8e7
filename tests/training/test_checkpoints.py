"""Checkpoints: whole or not there, whatever happens while they are written or lie on the disk."""

import errno
import os
import threading
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from keras_alexnet.errors import RunError
from keras_alexnet.training import checkpoints
from keras_alexnet.training.progress import Progress, of_json


def variables(value, size=40_000):
    return {
        "conv1/kernel": tf.Variable(tf.fill((size,), float(value))),
        "velocity/conv1/kernel": tf.Variable(tf.fill((size,), -float(value))),
        "random/0": tf.Variable(tf.constant([2012, value], tf.uint32)),
    }


def write(folder, value, epochs, batches=0, keep=3, history=()):
    written = checkpoints.Checkpoints(str(folder), variables(value), keep)
    written.write(Progress(epochs=epochs, batches=batches, history=[*history]))
    written.wait()
    return written


def names(folder):
    return [os.path.basename(path) for path in checkpoints.paths(str(folder))]


def test_what_was_written_is_read(tmp_path):
    write(tmp_path, 3, 1, 5)
    own = checkpoints.Checkpoints(str(tmp_path), variables(0), 3)
    path, progress = own.resume()
    assert path == str(tmp_path / "epoch-1-step-5") and (progress.epochs, progress.batches) == (1, 5)
    for name, wanted in variables(3).items():
        np.testing.assert_array_equal(own.variables[name].numpy(), wanted.numpy())
    assert not list(tmp_path.glob(".writing*"))


def test_tensorflow_finds_and_reads_it(tmp_path):
    write(tmp_path, 3, 2)
    path = tf.train.latest_checkpoint(str(tmp_path))
    assert path == str(tmp_path / "epoch-2")
    reader = tf.train.load_checkpoint(path)
    np.testing.assert_array_equal(reader.get_tensor("conv1/kernel"), np.full(40_000, 3.0))
    assert of_json(reader.get_tensor("progress").decode()).epochs == 2


def test_nothing_there_is_the_beginning(tmp_path):
    path, progress = checkpoints.Checkpoints(str(tmp_path / "none"), variables(0), 3).resume()
    assert path is None and progress == Progress() and checkpoints.newest(str(tmp_path / "none")) is None


def test_the_newest_and_the_best_are_kept(tmp_path):
    history = [{"epoch": epoch, "val_top1_error": error} for epoch, error in enumerate((50, 30, 40, 30, 35, 36), 1)]
    for epochs in range(1, 7):
        write(tmp_path, epochs, epochs, keep=2, history=history[:epochs])
        write(tmp_path, epochs, epochs, 7, keep=2, history=history[:epochs])
    assert names(tmp_path) == ["epoch-2", "epoch-6", "epoch-6-step-7"]  # the first of two that are as good
    state = tf.train.get_checkpoint_state(str(tmp_path))
    assert state.model_checkpoint_path == str(tmp_path / "epoch-6-step-7")
    assert state.all_model_checkpoint_paths == [str(tmp_path / name) for name in names(tmp_path)]


def test_the_last_whole_epoch_is_kept_and_stands_for_its_run(tmp_path):
    history = [{"epoch": epoch, "val_top1_error": error} for epoch, error in enumerate((30, 40, 50), 1)]
    for epochs, batches in ((1, 0), (2, 0), (3, 0), (3, 5), (3, 9), (3, 12)):
        write(tmp_path, epochs, epochs, batches, keep=2, history=history[:epochs])
    assert names(tmp_path) == ["epoch-1", "epoch-3", "epoch-3-step-9", "epoch-3-step-12"]
    assert checkpoints.of_epochs(str(tmp_path)) == str(tmp_path / "epoch-3")
    assert checkpoints.of_epochs(str(tmp_path), checkpoints.BEST) == str(tmp_path / "epoch-1")


def test_within_the_first_epoch_that_is_all_there_is(tmp_path):
    write(tmp_path, 1, 0, 5)
    assert checkpoints.of_epochs(str(tmp_path)) == str(tmp_path / "epoch-0-step-5")
    assert checkpoints.of_epochs(str(tmp_path), checkpoints.BEST) is None
    assert checkpoints.of_epochs(str(tmp_path / "none"), checkpoints.BEST) is None


def test_epochs_are_ordered_as_numbers(tmp_path):
    for name in ("epoch-9", "epoch-10", "epoch-9-step-100", "epoch-9-step-20", "other-1", "epoch-x"):
        (tmp_path / f"{name}.index").touch()
    assert names(tmp_path) == ["epoch-9", "epoch-9-step-20", "epoch-9-step-100", "epoch-10"]


def test_what_is_written_is_the_moment_of_the_call(tmp_path, monkeypatch):
    """The numbers go on changing while the thread writes: held up here until they have."""
    changed, save = threading.Event(), tf.raw_ops.SaveV2

    def late(**arguments):
        assert changed.wait(30)
        return save(**arguments)

    monkeypatch.setattr(tf.raw_ops, "SaveV2", late)
    own = checkpoints.Checkpoints(str(tmp_path), variables(1), 3)
    own.write(Progress(epochs=1))
    kernel, velocity = own.variables["conv1/kernel"], own.variables["velocity/conv1/kernel"]
    tf.raw_ops.ResourceApplyKerasMomentum(
        var=kernel.handle, accum=velocity.handle, lr=1.0, grad=tf.ones_like(kernel), momentum=0.9
    )
    own.variables["random/0"].assign([0, 0])
    changed.set()
    own.wait()
    assert not np.any(kernel.numpy() == 1.0)
    again = checkpoints.Checkpoints(str(tmp_path), variables(0), 3)
    again.resume()
    for name, wanted in variables(1).items():
        np.testing.assert_array_equal(again.variables[name].numpy(), wanted.numpy(), err_msg=name)


def test_any_flipped_byte_is_found_or_does_no_harm(tmp_path, capfd):
    """Of both files: either the checksums find it and the one before is taken, or all numbers are as they were."""
    write(tmp_path, 1, 1)
    write(tmp_path, 2, 2)
    rng, found = np.random.default_rng(0), 0
    for suffix in (".index", ".data-00000-of-00001"):
        path = Path(f"{tmp_path / 'epoch-2'}{suffix}")
        whole = path.read_bytes()
        for place in rng.integers(0, len(whole), 30):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
            own = checkpoints.Checkpoints(str(tmp_path), variables(0), 3)
            taken, progress = own.resume()
            value = progress.epochs
            assert os.path.basename(taken) == f"epoch-{value}"
            np.testing.assert_array_equal(own.variables["conv1/kernel"].numpy(), np.full(40_000, value, np.float32))
            found += value == 1
        path.write_bytes(whole)
    assert found > 40
    said = capfd.readouterr().err
    assert said.count("trying the one before") == found and "epoch-2: cannot be read" in said


@pytest.mark.parametrize("left", [0, 20, 1000])
def test_a_shortened_file_gives_way_to_the_one_before(tmp_path, left):
    write(tmp_path, 1, 1)
    write(tmp_path, 2, 2)
    data = tmp_path / "epoch-2.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:left])
    own = checkpoints.Checkpoints(str(tmp_path), variables(0), 3)
    assert own.resume()[1].epochs == 1 and own.variables["conv1/kernel"][0] == 1.0
    # What is written next is the newest, and what could not be read is gone.
    own.write(Progress(epochs=1, batches=4))
    own.wait()
    assert names(tmp_path) == ["epoch-1", "epoch-1-step-4"]


def test_none_that_can_be_read_is_an_error(tmp_path):
    write(tmp_path, 1, 1)
    (tmp_path / "epoch-1.index").write_bytes(b"nothing")
    with pytest.raises(RunError, match="no checkpoint can be read"):
        checkpoints.Checkpoints(str(tmp_path), variables(0), 3).resume()


def test_another_network_is_named_and_nothing_changed(tmp_path):
    write(tmp_path, 1, 1)
    other = {**variables(0, size=7), "fc8/kernel": tf.Variable([1.0])}
    with pytest.raises(checkpoints.ChangedError) as error:
        checkpoints.Checkpoints(str(tmp_path), other, 3).resume()
    words = str(error.value)
    assert "conv1/kernel is [40000] and not [7]" in words and "fc8/kernel is missing and not [1]" in words
    assert np.all(other["conv1/kernel"].numpy() == 0.0)


def test_a_full_disk_is_said_and_leaves_what_was_there(tmp_path, monkeypatch):
    own = write(tmp_path, 1, 1)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", full)
    own.write(Progress(epochs=2))
    with pytest.raises(RunError, match=r"could not be written \(No space left on device\); the checkpoint epoch-1 is"):
        own.wait()
    monkeypatch.undo()
    assert sorted(os.listdir(tmp_path)) == ["checkpoint", "epoch-1.data-00000-of-00001", "epoch-1.index"]
    own.write(Progress(epochs=2))
    own.wait()
    assert names(tmp_path) == ["epoch-1", "epoch-2"]


def test_a_kill_while_writing_leaves_no_half_checkpoint(tmp_path):
    write(tmp_path, 1, 1)
    (tmp_path / ".writing.data-00000-of-00001").write_bytes(b"half")
    (tmp_path / "epoch-2.data-00000-of-00001").write_bytes(b"its index was not renamed yet")
    assert names(tmp_path) == ["epoch-1"]
    write(tmp_path, 2, 2)
    assert names(tmp_path) == ["epoch-1", "epoch-2"] and not list(tmp_path.glob(".writing*"))


def test_progress_is_read_as_it_was_written_and_of_other_versions():
    progress = Progress(3, 45, 2, 1.5, [{"epoch": 1, "val_top1_error": 50.0}], {"rate": 0.1}, files={"train/x": 9})
    assert of_json(progress.to_json()) == progress
    assert of_json('{"epochs": 2, "variable": 1}') == Progress(epochs=2)
    with pytest.raises(ValueError, match="no progress"):
        of_json("[]")
