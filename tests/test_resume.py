"""Runs that are stopped and resumed: the same numbers, the same curves, nothing twice."""

import json
import os
import shutil
import signal

import numpy as np
import pytest

from keras_alexnet import datasets, files, loop, rundir, train
from keras_alexnet.cli import run_command
from keras_alexnet.data import shapes
from keras_alexnet.training import checkpoints, trainer
from tests.runs import TINY_RUN, assert_same, finish, history, newest, start, state, until


@pytest.fixture
def command(small_images):
    def run(folder, *flags):
        argv = [*TINY_RUN, f"--data_dir={small_images}", f"--model_dir={folder}", "--noexport", "--epochs=3", *flags]
        return run_command("train", train.main, argv)

    return run


class Killed(BaseException):
    """What stands for SIGKILL within a process."""


@pytest.fixture
def stop_after(monkeypatch):
    """A function: after so many steps from now on a signal arrives; SIGKILL is an exception that nobody catches."""
    steps = trainer.Trainer.steps

    def set_up(step, number):
        def stopped(self, *arguments):
            for loss in steps(self, *arguments):
                stopped.steps += 1
                if stopped.steps == step and number == signal.SIGKILL:
                    raise Killed
                if stopped.steps == step:
                    os.kill(os.getpid(), number)
                yield loss

        stopped.steps = 0
        monkeypatch.setattr(trainer.Trainer, "steps", stopped)

    return set_up


@pytest.fixture
def default_ctrl_c():
    """A shell's background jobs, which these tests may be, ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_a_signal_keeps_the_step_and_the_run_resumes_to_the_bit(
    tiny_run, command, stop_after, default_ctrl_c, tmp_path, monkeypatch, capsys
):
    folder = tmp_path / "run"
    for step, number, where in (
        (2, signal.SIGTERM, "epoch 0 and 2 steps"),
        (3, signal.SIGHUP, "epoch 1 and 2 steps"),
        (1, signal.SIGUSR1, "epoch 1 and 3 steps"),  # after the last step: what is left is the validation
    ):
        stop_after(step, number)
        assert command(folder) == 75
        error = capsys.readouterr().err.splitlines()[-1]
        kept = f"the checkpoint after {where} is kept; the same command resumes from there"
        assert error == f"train: stopped by {number.name}; {kept}"

    def stopped(self, *arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(self, *arguments)

    evaluate = trainer.Trainer.evaluate
    monkeypatch.undo()
    monkeypatch.setattr(trainer.Trainer, "evaluate", stopped)
    assert command(folder) == 75
    assert "the checkpoint after epoch 1 and 3 steps is kept" in capsys.readouterr().err
    monkeypatch.undo()
    stop_after(1, signal.SIGINT)
    assert command(folder) == 130
    assert "the checkpoint after epoch 2 and 1 steps is kept" in capsys.readouterr().err
    monkeypatch.undo()
    assert command(folder) == 0
    assert "resuming after epoch 2 and 1 steps" in capsys.readouterr().out
    assert_same(folder, tiny_run)


def test_a_signal_before_the_first_step_is_one_line(command, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(datasets, "prepare_datasets", lambda *arguments: os.kill(os.getpid(), signal.SIGTERM))
    assert command(tmp_path / "run") == 75
    assert capsys.readouterr().err == "train: stopped by SIGTERM before the first step; the same command starts again\n"


def test_what_came_after_the_last_checkpoint_is_repeated_and_shown_once(tiny_run, command, stop_after, tmp_path):
    """Points and an epoch of the history that are ahead of the checkpoints are removed."""
    folder = tmp_path / "run"
    stop_after(4, signal.SIGKILL)
    with pytest.raises(Killed):
        command(folder)
    shutil.rmtree(folder / "checkpoints")  # the run starts again
    (folder / ".writing-abc").write_text("half of a history")
    stop_after(5, signal.SIGKILL)
    with pytest.raises(Killed):
        command(folder, "--checkpoint_steps=2")
    assert newest(folder).endswith("epoch-1-step-1")
    # As if the kill had come before the checkpoints of epoch 1 were written.
    for path in (folder / "checkpoints").glob("epoch-1*"):
        path.unlink()
    assert len(history(folder)) == 1
    stop_after(0, signal.SIGKILL)
    assert command(folder, "--checkpoint_steps=2") == 0
    assert_same(folder, tiny_run)
    assert not list(folder.rglob(".writing*"))


def test_a_killed_process_resumes_to_the_bit(tiny_run, small_images, command, tmp_path):
    folder = tmp_path / "run"
    flags = [*TINY_RUN, f"--data_dir={small_images}", f"--model_dir={folder}", "--noexport", "--epochs=3"]
    process = start(*flags, "--checkpoint_steps=2", env={"TF_CPP_MIN_LOG_LEVEL": "3"})
    until(process, "Epoch 2/3")
    process.kill()
    assert finish(process)[::2] == (-signal.SIGKILL, "")  # TensorFlow's log is not shown
    assert newest(folder)
    assert command(folder) == 0
    assert_same(folder, tiny_run)


def test_a_finished_run_and_damaged_files_of_it(tiny_run, command, small_images, tmp_path, capsys):
    folder = tmp_path / "run"
    shutil.copytree(tiny_run, folder, ignore=shutil.ignore_patterns("export"))
    for content in ("", "junk", "{}", "[1]", None, '{"label_counts": ["x"], "skipped": [], "fingerprint": ""}'):
        (folder / rundir.VALIDATION).write_text(content or "")
        if content is None:
            (folder / rundir.VALIDATION).unlink()
        assert command(folder) == 0
        assert (folder / rundir.VALIDATION).read_bytes() == (tiny_run / rundir.VALIDATION).read_bytes()
    assert "is done: 3 epochs" in capsys.readouterr().out
    # Other versions than those that it was started with.
    path = folder / rundir.PROVENANCE
    record = json.loads(path.read_text())[0]
    path.write_text(json.dumps([{**record, "keras_alexnet": "0.0.9"}]))
    # The newest checkpoint is damaged: the one before is taken, and the epoch after it repeated.
    index = folder / "checkpoints" / "epoch-3.index"
    index.write_bytes(index.read_bytes()[:20])
    assert command(folder) == 0
    shown = capsys.readouterr()
    assert "note: the run was started with keras_alexnet 0.0.9 and now" in shown.out
    assert "resuming after epoch 2" in shown.out and "epoch-3: cannot be read" in shown.err
    assert len(json.loads(path.read_text())) == 2
    assert_same(folder, tiny_run)
    (folder / rundir.FLAGS).write_bytes(b"--model_dir=\xff\n")
    assert command(folder) == 1
    error = capsys.readouterr().err
    assert f"{folder / rundir.FLAGS}: is not the flags of a run" in error and error.count("\n") == 1


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_changed_set_is_refused(split, tiny_run, command, small_images, tmp_path, capsys):
    shutil.copytree(tiny_run, tmp_path / "run")
    shutil.copytree(small_images, tmp_path / "data")
    shapes.draw("blue_disk", 999).save(tmp_path / "data" / split / "blue_disk" / "0.jpg")
    assert command(tmp_path / "run", f"--data_dir={tmp_path / 'data'}", "--epochs=4") == 2
    kind = {"train": "training", "val": "validation"}[split]
    assert f"is of another {kind} set than there is now; restore it" in capsys.readouterr().err
    assert newest(tmp_path / "run").endswith("epoch-3")


def test_a_run_changes_its_device_and_back(command, tmp_path):
    """One device instead of two after the first epoch; mirrored on two devices."""
    flags = ["--towers=2", "--groups=2", "--epochs=2"]
    assert command(tmp_path / "one", *flags) == 0
    assert command(tmp_path / "two", *flags, "--epochs=1", "--devices=CPU:0,CPU:1") == 0
    assert command(tmp_path / "two", *flags) == 0
    mirrored = ["--strategy=mirrored", "--devices=CPU:0,CPU:1"]
    assert command(tmp_path / "mirrored", *flags, *mirrored) == 0
    for other in ("two", "mirrored"):
        for ours, theirs in zip(history(tmp_path / other), history(tmp_path / "one"), strict=True):
            # The same operations in another order of adding up: float32 over three steps an epoch.
            assert float(ours["val_loss"]) == pytest.approx(float(theirs["val_loss"]), rel=1e-4)
        own, wanted = state(tmp_path / other), state(tmp_path / "one")
        for name in wanted:
            if name.endswith("kernel") and not name.startswith("velocity"):
                tolerance = 1e-4 * abs(wanted[name]).max()
                np.testing.assert_allclose(own[name], wanted[name], rtol=0, atol=tolerance, err_msg=name)


def test_checkpoints_by_time_and_the_learning_rate(command, tmp_path, monkeypatch):
    clock = iter(range(0, 10**6, 40))  # seconds between two looks
    monkeypatch.setattr(loop.time, "monotonic", lambda: float(next(clock)))
    written, write = [], checkpoints.Checkpoints.write
    monkeypatch.setattr(
        checkpoints.Checkpoints,
        "write",
        lambda self, progress: written.append((progress.epochs, progress.batches)) or write(self, progress),
    )
    rates = ["--lr_policy=schedule", "--lr_schedule=0:0.02,1:0.01", "--rate_scaling=sqrt"]
    assert command(tmp_path / "run", *rates, "--checkpoint_minutes=1", "--epochs=1") == 0
    assert written == [(0, 2), (1, 0)]  # 40 seconds after the first step, 80 after the second
    written.clear()
    assert command(tmp_path / "run", *rates, "--checkpoint_minutes=0", "--epochs=2") == 0
    assert written == [(2, 0)]
    found = [float(row["learning_rate"]) for row in history(tmp_path / "run")]
    assert found == pytest.approx([0.02 / 4, 0.01 / 4], rel=1e-5)  # the batch is a sixteenth of the paper's


def test_a_folder_that_is_being_trained_is_refused(command, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    with files.acquire(str(tmp_path / "run" / train.LOCK)):
        assert command(tmp_path / "run") == 2
    error = capsys.readouterr().err.strip()
    assert f"--model_dir={tmp_path / 'run'}: is being trained by " in error and f"process {os.getpid()}, since" in error
    assert os.listdir(tmp_path / "run") == ["lock"]
