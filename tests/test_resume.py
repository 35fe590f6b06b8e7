import itertools
import json
import os
import shutil
import signal
import time
import types

import numpy as np
import pytest

from keras_alexnet import export, files, loop, rundir, train
from keras_alexnet.data import shapes
from keras_alexnet.training import checkpoints, distribution, trainer
from tests.runs import TINY_RUN, assert_same, call, finish, history, newest, refusal, start, state, until
from tests.test_cli import replace_handler


@pytest.fixture
def flags(small_images, tmp_path):
    return [*TINY_RUN, f"--data_dir={small_images}", f"--model_dir={tmp_path / 'run'}", "--noexport", "--epochs=3"]


@pytest.fixture
def command(flags):
    return lambda *more: call(train, *flags, *more)


@pytest.fixture
def stop_after(monkeypatch):
    steps = trainer.Trainer.steps

    def set_up(step, number):
        done = itertools.count(1)

        def stopped(self, *arguments):
            for loss in steps(self, *arguments):
                if next(done) == step:
                    os.kill(os.getpid(), number)
                yield loss

        monkeypatch.setattr(trainer.Trainer, "steps", stopped)

    return set_up


@pytest.mark.usefixtures("default_handlers")
def test_a_signal_keeps_the_step_and_the_run_resumes_to_the_bit(tiny_run, command, stop_after, tmp_path, monkeypatch):
    choose, evaluate = distribution.choose, trainer.Trainer.evaluate

    def choose_and_replace(*arguments):
        found = choose(*arguments)
        replace_handler(signal.SIGTERM)
        return found

    def stopped_evaluate(self, *arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(self, *arguments)

    monkeypatch.setattr(distribution, "choose", choose_and_replace)
    for step, number, where in (
        (2, signal.SIGTERM, "epoch-0-step-2"),
        (3, signal.SIGHUP, "epoch-1-step-2"),
        (1, signal.SIGUSR1, "epoch-1-step-3"),  # after the last step: what is left is the validation
        (0, signal.SIGTERM, "epoch-1-step-3"),  # while validating
        (1, signal.SIGINT, "epoch-2-step-1"),
    ):
        stop_after(step, number)
        with monkeypatch.context() as patch:
            if step == 0:
                patch.setattr(trainer.Trainer, "evaluate", stopped_evaluate)
            code, _, error = command()
        kept = f"the checkpoint {where} is kept; the same command resumes from there\n"
        if number == signal.SIGINT:
            assert (code, error) == (130, f"{kept}command: interrupted\n")
        else:
            assert (code, error) == (75, f"command: stopped by {number.name}; {kept}")
    monkeypatch.undo()
    assert "resuming after epoch 2 and 1 steps" in command()[1]
    assert_same(tmp_path / "run", tiny_run)


def test_a_killed_process_resumes_to_the_bit(tiny_run, flags, command, tmp_path):
    """Points and an epoch of the history that are ahead of the checkpoints are removed."""
    folder = tmp_path / "run"
    process = start(*flags, "--checkpoint_steps=2", env={"TF_CPP_MIN_LOG_LEVEL": "3"})
    until(process, "epoch 1/3")
    while not (folder / "history.csv").exists():
        time.sleep(0.01)
    process.kill()
    assert finish(process)[::2] == (-signal.SIGKILL, "")  # TensorFlow's log is not shown
    # As if the kill had come before the checkpoints of epoch 1 were written.
    for path in (folder / "checkpoints").glob("epoch-1*"):
        path.unlink()
    assert newest(folder).endswith("epoch-0-step-2") and len(history(folder)) == 1
    (folder / ".writing-abc").write_text("half of a history")
    assert command()[0] == 0
    assert_same(folder, tiny_run)
    assert not list(folder.rglob(".writing*"))


def test_what_a_finished_run_still_does(tiny_run, command, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "run", ignore=shutil.ignore_patterns("logs"))
    assert "exported to" not in command("--export")[1]
    path = run / "export" / "1" / export.METADATA
    path.write_text(json.dumps({**json.loads(path.read_text()), "epochs": 2}))  # stopped before the export of the third
    assert f"exported to {run}/export/2\n" in command("--export")[1]
    assert "3 in 1 epochs to go" in command("--dry_run", "--epochs=4")[1]


def test_a_finished_run_and_damaged_files_of_it(tiny_run, flags, command, tmp_path):
    run = shutil.copytree(tiny_run, tmp_path / "run", ignore=shutil.ignore_patterns("export"))
    for content in ("", "junk", "{}", "[1]", '{"label_counts": ["x"], "skipped": [], "fingerprint": ""}'):
        (run / rundir.VALIDATION).write_text(content)
        assert "is done: 3 epochs" in command()[1]
        assert (run / rundir.VALIDATION).read_bytes() == (tiny_run / rundir.VALIDATION).read_bytes()
    # Started by another version; the newest checkpoint is damaged: the epoch after the one before is repeated.
    record = json.loads((run / rundir.PROVENANCE).read_text())[0]
    (run / rundir.PROVENANCE).write_text(json.dumps([{**record, "keras_alexnet": "0.0.9"}]))
    index = run / "checkpoints" / "epoch-3.index"
    index.write_bytes(index.read_bytes()[:20])
    code, shown, error = command()
    assert code == 0 and "changed since the run started: keras_alexnet 0.0.9 -> " in shown
    assert "resuming after epoch 2" in shown and "epoch-3: cannot be read" in error
    assert len(json.loads((run / rundir.PROVENANCE).read_text())) == 2
    assert_same(run, tiny_run)
    (run / rundir.FLAGS).write_bytes(b"--model_dir=\xff\n")
    assert f"{run / rundir.FLAGS}: is not the flags of a run" in refusal(train, *flags, code=1)


@pytest.mark.parametrize(("split", "kind"), [("train", "training"), ("val", "validation")])
def test_a_changed_set_is_refused(split, kind, tiny_run, flags, small_images, tmp_path):
    run, data = shutil.copytree(tiny_run, tmp_path / "run"), shutil.copytree(small_images, tmp_path / "data")
    shapes.draw("blue_disk", 999).save(data / split / "blue_disk" / "0.jpg")
    line = refusal(train, *flags, f"--data_dir={data}", "--epochs=4")
    assert f"the {kind} set has changed; restore it" in line
    assert newest(run).endswith("epoch-3")


def test_devices_are_changed_and_replicas_make_the_steps_of_one(command, tmp_path):
    flags = ["--towers=2", "--groups=2", "--epochs=2"]
    on_two = ["--devices=CPU:0,CPU:1"]
    mirrored = [*on_two, "--strategy=mirrored"]
    for name, *more in (("one",), ("two", *on_two, "--epochs=1"), ("two",), ("mirrored", *mirrored)):
        assert command(f"--model_dir={tmp_path / name}", *flags, *more)[0] == 0
    wanted = state(tmp_path / "one")
    for other in ("two", "mirrored"):
        for ours, theirs in zip(history(tmp_path / other), history(tmp_path / "one"), strict=True):
            # The same operations in another order of adding up: float32 over three steps an epoch.
            assert float(ours["val_loss"]) == pytest.approx(float(theirs["val_loss"]), rel=1e-4)
        own = state(tmp_path / other)
        for name in ("conv1_tower0/kernel", "fc6_tower1/kernel", "fc8/kernel"):
            tolerance = 1e-4 * abs(wanted[name]).max()
            np.testing.assert_allclose(own[name], wanted[name], rtol=0, atol=tolerance, err_msg=name)


def test_checkpoints_by_time_and_the_learning_rate(command, tmp_path, monkeypatch):
    clock = iter(range(0, 10**6, 40))
    monkeypatch.setattr(loop.time, "monotonic", lambda: float(next(clock)))  # 40 seconds between two looks
    written, write = [], checkpoints.Checkpoints.write

    def note(self, progress):
        written.append((progress.epochs, progress.batches))
        write(self, progress)

    monkeypatch.setattr(checkpoints.Checkpoints, "write", note)
    rates = ["--lr_policy=schedule", "--lr_schedule=0:0.02,1:0.01", "--rate_scaling=sqrt"]
    assert command(*rates, "--checkpoint_minutes=1", "--epochs=1")[0] == 0
    assert written == [(0, 2), (1, 0)]  # 40 seconds after the first step, 80 after the second
    assert command(*rates, "--checkpoint_minutes=0", "--epochs=2")[0] == 0
    assert written == [(0, 2), (1, 0), (2, 0)]
    found = [float(row["learning_rate"]) for row in history(tmp_path / "run")]
    assert found == pytest.approx([0.02 / 4, 0.01 / 4], rel=1e-5)  # the batch is a sixteenth of the paper's


def test_workers_that_write_nothing_wait_as_long_for_the_next_checkpoint():
    silent = types.SimpleNamespace(read_averages=lambda progress: None)
    worker = types.SimpleNamespace(distribution=distribution.Distribution(None, 2, 1), trainer=silent, progress=None)
    loop.Loop._save(worker)
    assert worker.saved == pytest.approx(time.monotonic(), abs=60)


def test_a_folder_that_is_being_trained_is_refused(flags, tmp_path):
    (tmp_path / "run").mkdir()
    with files.acquire(str(tmp_path / "run" / train.LOCK)):
        assert f"/run: is being trained by {files.owner(tmp_path / 'run' / train.LOCK)}" in refusal(train, *flags)
    assert os.listdir(tmp_path / "run") == ["lock"]
