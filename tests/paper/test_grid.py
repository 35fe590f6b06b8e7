import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import tensorflow as tf
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from keras_alexnet import files
from keras_alexnet.errors import UsageError
from keras_alexnet.paper import grid
from keras_alexnet.training.checkpoints import Checkpoints
from keras_alexnet.training.progress import Progress
from tests.paper import fake_trainer

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.usefixtures("default_handlers")
FAKE = str(ROOT / "tests" / "paper" / "fake_trainer.py")


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(grid, "TRAINER", (sys.executable, FAKE))


@pytest.fixture
def cells(tmp_path):
    """A function: flagfiles (name -> lines) and further flags -> cells of the seeds 1 and 2."""

    def make(further=(), seeds=(1, 2), out="out", **flagfiles):
        paths = []
        for name, lines in flagfiles.items():
            paths.append(tmp_path / f"{name}.cfg")
            paths[-1].write_text("\n".join(["--dataset=shapes", "--lr_policy=constant", "--epochs=3", *lines]))
        return grid.cells_of([str(path) for path in paths], seeds, str(tmp_path / out), further)

    return make


def starts(out):
    """What the trainer was started for: dict of flagfile -> list of str."""
    return {path.parent.name: path.read_text().splitlines() for path in sorted(out.glob("*/starts.txt"))}


def test_every_cell_is_trained_seed_by_seed_and_a_second_time_none(fake, cells, tmp_path, capsys):
    found = cells(a=[], b=["--dropout=0"])
    assert [cell.name for cell in found] == ["a/seed1", "b/seed1", "a/seed2", "b/seed2"]
    assert grid.run(found) == ({}, {})
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("out: 4 runs, 0 done")
    assert [line.split(":")[0] for line in lines[1:]] == [f"{n + 1}/4 {cell.name}" for n, cell in enumerate(found)]
    assert "validation top-1 error 31.00 %" in lines[1] and "; 3 left, about 0 min" in lines[1]
    assert "validation top-1 error 34.00 %" in lines[4] and "left" not in lines[4]
    once = {"a": ["seed1 after 0", "seed2 after 0"], "b": ["seed1 after 0", "seed2 after 0"]}
    assert starts(tmp_path / "out") == once
    assert (tmp_path / "out" / "a" / "seed1.log").read_text() == f"training {tmp_path}/out/a/seed1\n"
    # Done: passed over. More epochs: resumed.
    assert grid.run(found) == ({}, {}) and starts(tmp_path / "out") == once
    grid.run(cells(["--epochs=4"], a=[], seeds=[1]))
    assert starts(tmp_path / "out")["a"] == [*once["a"], "seed1 after 3"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_trainer_and_leaves_a_run_to_resume(fake, cells, tmp_path, number):
    (cell,) = cells(["--momentum=0.5"], a=[], seeds=[1])
    pids = []

    def interrupt():
        while not cell.epochs:
            time.sleep(0.02)
        pids.append(int((tmp_path / "out" / "a" / "pid.txt").read_text()))
        os.kill(os.getpid(), number)

    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        grid.run([cell])
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)
    files.acquire(cell.lock).close()  # nobody holds it
    assert cell.epochs == 1 and not cell.done


def test_cells_of_another_runner_are_passed_over_and_early_ends_named(fake, cells, tmp_path, monkeypatch):
    found = cells(a=["--batch_size=7"], b=[], seeds=[1])
    for cell in found:
        os.makedirs(os.path.dirname(cell.folder))
    with files.acquire(found[1].lock):
        failed, elsewhere = grid.run(found)
    assert [(cell.name, why) for cell, why in failed.items()] == [("a/seed1", "ended after 2 of 3 epochs")]
    assert starts(tmp_path / "out") == {"a": ["seed1 after 0"]}
    assert list(elsewhere) == found[1:]
    assert elsewhere[found[1]].startswith(f"is being trained by another runner ({socket.gethostname()}, process ")
    monkeypatch.setattr(grid, "train", lambda *_: -9)
    assert grid.run(found[1:])[0] == {found[1]: "was killed by signal 9"}


def test_the_trainer_of_a_killed_runner_keeps_its_run_until_it_ends(fake, cells, tmp_path):
    (cell,) = cells(["--momentum=0.5"], a=[], seeds=[1])
    code = (
        "import sys\nfrom keras_alexnet.paper import grid\ngrid.TRAINER = (sys.executable, sys.argv[1])\n"
        "grid.run(grid.cells_of([sys.argv[2]], [1], sys.argv[3], ['--momentum=0.5']))"
    )
    runner = subprocess.Popen([sys.executable, "-c", code, FAKE, tmp_path / "a.cfg", tmp_path / "out"], cwd=ROOT)
    while not cell.epochs:
        time.sleep(0.02)
    runner.kill()
    runner.wait()
    assert list(grid.run([cell])[1]) == [cell]
    os.kill(int((tmp_path / "out" / "a" / "pid.txt").read_text()), signal.SIGKILL)
    while (lock := files.acquire(cell.lock)) is None:
        time.sleep(0.02)
    lock.close()


def test_done_is_what_checkpoint_and_history_agree_on(cells):
    (cell,) = cells(a=[], seeds=[1])
    assert not cell.done
    for missing, epochs in ((None, 3), ("history.csv", 0), ("checkpoints/epoch-3.index", 0)):
        fake_trainer.write(cell.config, 3)
        if missing:
            Path(cell.folder, missing).unlink()
        assert cell.epochs == epochs and cell.done == (epochs == 3)
    (cell,) = cells(["--lr_policy=plateau"], a=[], seeds=[2])
    fake_trainer.write(cell.config, 2)
    for finished in (False, True):  # the plateau policy ends a run before its last epoch
        written = Checkpoints(os.path.join(cell.folder, "checkpoints"), {"number": tf.Variable(1.0)}, keep=1)
        written.write(Progress(epochs=2, finished=finished))
        written.wait()
        assert cell.done == finished


def test_hparams_are_written_once(fake, cells, tmp_path):
    found = cells(a=[], b=["--dropout=0"], seeds=[1])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / grid.HPARAMS_FILE).write_bytes(b"the columns of version 0.1")
    assert grid.run(found) == grid.run(found) == ({}, {})
    assert not (tmp_path / "out" / grid.HPARAMS_FILE).exists()
    for cell, error in zip(found, (31, 33), strict=True):
        (path,) = Path(cell.folder, "logs", "hparams").iterdir()
        events = [event for event in tf.compat.v1.train.summary_iterator(str(path)) if event.summary.value]
        values = {value.tag: value for event in events for value in event.summary.value}
        shown = HParamsPluginData.FromString(values["_hparams_/session_start_info"].metadata.plugin_data.content)
        assert shown.session_start_info.group_name == f"out/{cell.name}"
        hparams = shown.session_start_info.hparams
        assert hparams["dropout"].number_value == 0.5 * (cell.stem == "a") and hparams["seed"].string_value == "1"
        assert hparams["reflections"].bool_value and not {"model_dir", "data_dir", "devices"} & set(hparams)
        numbers = {name: tf.make_ndarray(each.tensor) for name, each in values.items() if not name.startswith("_")}
        errors = {"val_top1_error": error, "best_val_top1_error": error}
        # 3 epochs of 100 images, 50 a second
        assert numbers == {**errors, "val_loss": 0.75, "training_minutes": 0.1} and events[-1].step == 3


def test_wrong_grids_are_refused_before_anything_is_trained(cells, tmp_path):
    (cell,) = cells(a=[], seeds=[1])
    with pytest.raises(UsageError, match=r"no.cfg: is not a flagfile"):
        grid.cells_of(["no.cfg"], [1], "out")
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a.cfg").write_text("--dataset=shapes\n")
    with pytest.raises(UsageError, match=r"x/a.cfg: .*a.cfg has the same name, and both runs would be a"):
        grid.cells_of([str(tmp_path / "a.cfg"), str(tmp_path / "x" / "a.cfg")], [1], "out")
    with pytest.raises(UsageError, match=r"a.cfg: .*'widht'"):
        cells(["--widht=2"], a=[])
    with pytest.raises(UsageError, match=r"a.cfg: lr_schedule "):
        cells(["--lr_policy=schedule"], a=[])
    fake_trainer.write(cell.config, 3)
    with pytest.raises(UsageError, match=r"a/seed1: holds a run with other flags, --width=0.5 \(the run has 1.0\)"):
        grid.run(cells(["--width=0.5"], a=[]))
    assert not cells(["--epochs=9"], a=[], seeds=[1])[0].changes  # more epochs resume the run
