"""Runs that are ended in their middle and go on: the same numbers, the same curves, nothing twice."""

import json
import os
import shutil
import signal

import numpy as np
import pytest
import tensorflow as tf

from keras_alexnet import evaluate, export, files, session, train
from keras_alexnet import rundir
from keras_alexnet.cli import run_command
from keras_alexnet.training import checkpoints, loop
from tests.conftest import TINY_RUN, history
from tests.test_train import points


@pytest.fixture
def command(small_pictures):
    def run(folder, *flags):
        argv = [*TINY_RUN, f"--data_dir={small_pictures}", f"--model_dir={folder}", "--noexport", "--epochs=3", *flags]
        return run_command("train", train.main, argv)

    return run


@pytest.fixture
def ended_at(monkeypatch):
    """A function: after so many steps of this process a signal comes, or it dies as from SIGKILL."""

    class Killed(BaseException):
        pass

    steps = loop.Trainer.steps

    def set_up(step, number):
        def ended(self, *arguments):
            for done, loss in enumerate(steps(self, *arguments), 1):
                ended.steps += 1
                if ended.steps == step and number == signal.SIGKILL:
                    raise Killed
                if ended.steps == step:
                    os.kill(os.getpid(), number)
                yield loss
                assert done

        ended.steps = 0
        monkeypatch.setattr(loop.Trainer, "steps", ended)

    set_up.Killed = Killed
    set_up.undo = lambda: monkeypatch.setattr(loop.Trainer, "steps", steps)
    return set_up


def assert_same(folder, other):
    """Weights, velocities, random states, history and curves to the bit; what a clock measured aside."""
    first, second = (
        tf.train.load_checkpoint(checkpoints.newest(str(each / "checkpoints"))) for each in (folder, other)
    )
    assert first.get_variable_to_shape_map() == second.get_variable_to_shape_map()
    for name in set(first.get_variable_to_shape_map()) - {"progress"}:
        np.testing.assert_array_equal(first.get_tensor(name), second.get_tensor(name), err_msg=name)
    for a, b in zip(history(folder), history(other), strict=True):
        assert {**a, "images_per_second": 0} == {**b, "images_per_second": 0}
    for split in ("train", "val"):
        ours, theirs = ({**points(each, split)} for each in (folder, other))
        ours.pop("warnings", None)  # of what was done to the one
        assert set(ours) == set(theirs)
        clocks = {tag for tag in ours if tag.startswith(("speed/", "memory/"))} | {"images_per_second"}
        for tag in set(ours) - clocks:
            assert [step for step, _ in ours[tag]] == [step for step, _ in theirs[tag]], tag
            for (_, value), (_, wanted) in zip(ours[tag], theirs[tag], strict=True):
                np.testing.assert_array_equal(value, wanted, err_msg=tag)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_keeps_the_step_and_the_run_goes_on_as_if_nothing_was(
    number, run_of_three_epochs, command, ended_at, tmp_path, capsys
):
    for step, where in ((2, "epoch 0 and 2 steps"), (3, "epoch 1 and 2 steps"), (1, "epoch 1 and 3 steps")):
        ended_at(step, number)
        assert command(tmp_path / "run") == 75
        error = capsys.readouterr().err.strip()
        assert error == (
            f"train: ended by {number.name}; the checkpoint after {where} is kept; the same command goes on from there"
        )
    ended_at.undo()
    # The third ended after an epoch's last step: what is left of it is its validation.
    assert command(tmp_path / "run") == 0
    assert "going on after epoch 1 and 3 steps" in capsys.readouterr().out
    assert_same(tmp_path / "run", run_of_three_epochs)


def test_ctrl_c_keeps_the_step_too(command, ended_at, tmp_path, capsys):
    ended_at(1, signal.SIGINT)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert command(tmp_path / "run") == 130
    finally:
        signal.signal(signal.SIGINT, before)
    assert "the checkpoint after epoch 0 and 1 steps is kept" in capsys.readouterr().err


def test_what_came_after_the_last_checkpoint_is_made_again_and_shown_once(
    run_of_three_epochs, command, ended_at, tmp_path
):
    """Killed where no checkpoint was: points and an epoch of the history that are ahead of it go."""
    flags = ["--checkpoint_steps=2"]
    for step in (1, 5):
        ended_at(step, signal.SIGKILL)
        with pytest.raises(ended_at.Killed):
            command(tmp_path / "run", *flags)
    # The checkpoint of the end of epoch 1, as if the kill had come before it was written.
    newest = checkpoints.newest(str(tmp_path / "run" / "checkpoints"))
    assert os.path.basename(newest) == "epoch-1-step-1"
    for path in (tmp_path / "run" / "checkpoints").glob("epoch-1*"):
        path.unlink()
    assert len(history(tmp_path / "run")) == 1
    ended_at.undo()
    assert command(tmp_path / "run", *flags) == 0
    assert_same(tmp_path / "run", run_of_three_epochs)


def test_without_any_checkpoint_it_begins_again(run_of_three_epochs, command, ended_at, tmp_path):
    ended_at(4, signal.SIGKILL)
    with pytest.raises(ended_at.Killed):
        command(tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    (tmp_path / "run" / ".writing-abc").write_text("half of a history")
    ended_at.undo()
    assert command(tmp_path / "run") == 0
    assert_same(tmp_path / "run", run_of_three_epochs)
    assert not list((tmp_path / "run").rglob(".writing*"))


def test_a_signal_while_validating_leaves_the_epoch_unfinished(
    run_of_three_epochs, command, tmp_path, monkeypatch, capsys
):
    evaluate = loop.Trainer.evaluate

    def asked(self, *arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(self, *arguments)

    monkeypatch.setattr(loop.Trainer, "evaluate", asked)
    assert command(tmp_path / "run") == 75
    assert "the checkpoint after epoch 0 and 3 steps is kept" in capsys.readouterr().err
    monkeypatch.undo()
    assert command(tmp_path / "run") == 0
    assert_same(tmp_path / "run", run_of_three_epochs)


def test_checkpoints_by_time(command, tmp_path, monkeypatch):
    clock = iter(range(0, 10**6, 40))  # seconds between two looks
    monkeypatch.setattr(session.time, "monotonic", lambda: float(next(clock)))
    made = []
    write = checkpoints.Checkpoints.write
    monkeypatch.setattr(
        checkpoints.Checkpoints,
        "write",
        lambda self, progress: made.append((progress.epochs, progress.batches)) or write(self, progress),
    )
    assert command(tmp_path / "run", "--checkpoint_minutes=1", "--epochs=1") == 0
    assert made == [(0, 2), (1, 0)]  # 40 seconds after the first step, 80 after the second
    made.clear()
    assert command(tmp_path / "run", "--checkpoint_minutes=0", "--epochs=2") == 0
    assert made == [(2, 0)]


def test_a_folder_that_is_being_trained_in_is_refused(command, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    with files.acquire(str(tmp_path / "run" / train.LOCK)):
        assert command(tmp_path / "run") == 2
    error = capsys.readouterr().err.strip()
    assert f"--model_dir={tmp_path / 'run'}: is being trained by " in error and f"process {os.getpid()}, since" in error
    assert os.listdir(tmp_path / "run") == ["lock"]


def test_a_dry_run_writes_nothing_and_says_what_it_would_take(command, tmp_path, capsys):
    assert command(tmp_path / "run", "--dry_run") == 0
    said = capsys.readouterr().out
    assert "steps:      3 an epoch, 9 in 3 epochs to go" in said and "nothing was written" in said
    parameters = 225_515
    # Weights and velocities, for three checkpoints, those of the last and the best epoch and one being written.
    assert f"disk:       {8 * parameters * 6 / 1e9:.2f} GB for 3 checkpoints" in said
    assert not list(tmp_path.iterdir())


def test_a_dry_run_of_shapes_draws_them_elsewhere(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    argv = ["--dataset=shapes", "--shapes_train=2", "--shapes_val=1", "--width=0.0625", "--batch_size=8", "--dry_run"]
    assert run_command("train", train.main, [*argv, "--model_dir=run"]) == 0
    assert "20 images of 10 classes" in capsys.readouterr().out and not list(tmp_path.iterdir())


def test_a_dry_run_names_a_disk_without_room(command, tmp_path, capsys, monkeypatch):
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=10**6))
    assert command(tmp_path / "run", "--dry_run") == 2
    assert "0.00 GB are free and 0.01 GB are needed; make room" in capsys.readouterr().err


def test_the_folder_says_what_it_was_trained_with_and_on(run_of_three_epochs):
    (record,) = json.loads((run_of_three_epochs / rundir.PROVENANCE).read_text())
    assert record["packages"]["tensorflow"] == tf.__version__ and record["device"].endswith(tf.__version__)
    assert record["training_set"]["images"] == 18 and record["validation_set"]["images"] == 9
    with np.load(run_of_three_epochs / "statistics.npz", allow_pickle=False) as statistics:
        assert record["training_set"]["fingerprint"] == str(statistics["fingerprint"])


def test_going_on_with_other_versions_is_noted(command, tmp_path, capsys, monkeypatch):
    assert command(tmp_path / "run", "--epochs=1") == 0
    path = tmp_path / "run" / rundir.PROVENANCE
    (record,) = json.loads(path.read_text())
    path.write_text(json.dumps([{**record, "keras_alexnet": "0.0.9"}]))
    capsys.readouterr()
    assert command(tmp_path / "run", "--epochs=2") == 0
    assert "note: the run was begun with keras_alexnet 0.0.9 and now" in capsys.readouterr().out
    assert len(json.loads(path.read_text())) == 2


def test_the_best_epoch_is_evaluated_and_exported_where_it_is_asked_for(run_of_three_epochs, tmp_path):
    shutil.copytree(run_of_three_epochs, tmp_path / "run")
    errors = [float(row["val_top1_error"]) for row in history(tmp_path / "run")]
    best = 1 + errors.index(min(errors))
    assert best < 3  # or there were nothing to tell apart
    assert rundir.open_run(str(tmp_path / "run")).checkpoint.endswith("epoch-3")
    assert rundir.open_run(str(tmp_path / "run"), "best").checkpoint.endswith(f"epoch-{best}")
    argv = [f"--model_dir={tmp_path / 'run'}", "--checkpoint=best", f"--json={tmp_path / 'best.json'}"]
    assert run_command("evaluate", evaluate.main, argv) == 0
    found = json.loads((tmp_path / "best.json").read_text())
    row = history(tmp_path / "run")[best - 1]
    assert found["result"]["loss"] == pytest.approx(float(row["val_loss"]), rel=1e-4)
    assert found["models"][0]["epochs"] == best
    shutil.rmtree(tmp_path / "run" / "export")
    assert run_command("export", export.main, argv[:2]) == 0
    assert export.read_metadata(str(tmp_path / "run" / "export" / "1"))["epochs"] == best


@pytest.mark.parametrize(("rule", "factor"), [("none", 1.0), ("linear", 8 / 128), ("sqrt", (8 / 128) ** 0.5)])
def test_rates_follow_the_batch_by_rule(rule, factor, command, tmp_path):
    flags = ["--epochs=1", f"--rate_scaling={rule}", "--lr_policy=schedule", "--lr_schedule=0:0.02,0:bias=0.01"]
    assert command(tmp_path / "run", *flags) == 0
    assert float(history(tmp_path / "run")[0]["learning_rate"]) == pytest.approx(0.02 * factor, rel=1e-5)
