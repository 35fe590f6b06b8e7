import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import requests
import tensorflow as tf

from keras_alexnet import config as configs
from keras_alexnet import files
from keras_alexnet.errors import UsageError
from keras_alexnet.paper import config, grid, hparams, trainer
from keras_alexnet.training.checkpoints import Checkpoints
from keras_alexnet.training.progress import Progress
from tests.paper import fake_trainer

ROOT = Path(__file__).parents[2]


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(trainer, "TRAINER", (sys.executable, str(ROOT / "tests" / "paper" / "fake_trainer.py")))


@pytest.fixture
def cells(tmp_path):
    """A function: flagfiles (name -> lines) and further flags -> cells of the seeds 1 and 2."""

    def make(further=(), seeds=(1, 2), **flagfiles):
        paths = []
        for name, lines in flagfiles.items():
            paths.append(tmp_path / f"{name}.cfg")
            paths[-1].write_text("\n".join(["--dataset=shapes", "--lr_policy=constant", "--epochs=3", *lines]))
        return grid.cells_of([str(path) for path in paths], seeds, str(tmp_path / "out"), further)

    return make


def starts(out):
    """What the fake trainer was started for, in the order of its names."""
    return {path.parent.name: path.read_text().splitlines() for path in sorted(out.glob("*/starts.txt"))}


@pytest.fixture(autouse=True)
def heeds_ctrl_c():
    """What a shell starts in the background ignores Ctrl-C, and so would these tests and what they start."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_every_cell_is_trained_seed_by_seed_and_a_second_time_nothing(fake, cells, tmp_path):
    lines = []
    found = cells(a=[], b=["--dropout=0"])
    assert [cell.name for cell in found] == ["a/seed1", "b/seed1", "a/seed2", "b/seed2"]
    outcome = grid.run(found, say=lines.append)
    assert (outcome.done, outcome.failed, outcome.elsewhere) == (4, {}, {})
    assert lines[0].endswith("out: 4 runs, 0 done")
    assert [line.split(":")[0] for line in lines[1:]] == [f"{n + 1}/4 {cell.name}" for n, cell in enumerate(found)]
    assert "validation top-1 error 31.00 %" in lines[1] and "; 3 left, about 0 min" in lines[1]
    assert "validation top-1 error 34.00 %" in lines[4] and "left" not in lines[4]
    once = {"a": ["seed1 after 0", "seed2 after 0"], "b": ["seed1 after 0", "seed2 after 0"]}
    assert starts(tmp_path / "out") == once
    assert (tmp_path / "out" / "a" / "seed1.log").read_text() == f"training {tmp_path}/out/a/seed1\n"
    # Done: passed over. More epochs: they go on.
    assert grid.run(cells(a=[], b=["--dropout=0"]), say=lines.append).done == 4
    assert starts(tmp_path / "out") == once
    grid.run(cells(["--epochs=4"], a=[], seeds=[1]), say=lines.append)
    assert starts(tmp_path / "out")["a"] == [*once["a"], "seed1 after 3"]


def test_a_failed_cell_is_named_and_the_others_go_on(fake, cells, tmp_path):
    found = cells(a=["--learning_rate=666"], b=[], c=["--batch_size=7"], seeds=[1])
    outcome = grid.run(found, say=lambda line: None)
    assert {cell.name: why for cell, why in outcome.failed.items()} == {
        "a/seed1": "the loss is nan at step 3",
        "c/seed1": "ended after 2 of 3 epochs",
    }
    assert outcome.done == 1


def test_a_cut_grid_has_whole_seeds_and_is_taken_up_where_it_was(fake, cells, tmp_path):
    found = cells(a=[], b=[], c=[])
    done = []

    def three(argv, log, lock):
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append(trainer.in_a_process(argv, log, lock))
        return done[-1]

    with pytest.raises(KeyboardInterrupt):
        grid.run(found, train=three, say=lambda line: None)
    assert [cell.name for cell in found if grid.is_done(cell.folder, cell.config)] == [
        "a/seed1", "b/seed1", "c/seed1", "a/seed2",
    ]  # fmt: skip
    assert grid.run(found, say=lambda line: None).done == 6
    assert all(len(each) == 2 for each in starts(tmp_path / "out").values())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_the_trainer_and_leaves_a_run_to_go_on_with(fake, cells, tmp_path, number):
    (cell,) = cells(["--momentum=0.5"], a=[], seeds=[1])

    def interrupt():
        while not grid.epochs_done(cell.folder):
            time.sleep(0.02)
        pids.append(int((tmp_path / "out" / "a" / "pid.txt").read_text()))
        os.kill(os.getpid(), number)

    pids = []
    threading.Thread(target=interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        grid.run([cell], say=lambda line: None)
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)
    files.acquire(cell.lock).close()  # nobody has it
    assert grid.epochs_done(cell.folder) == 1
    (again,) = cells(a=["--momentum=0.5"], seeds=[1])
    assert not grid.is_done(again.folder, again.config)


def test_two_runners_at_once_train_each_cell_once(fake, cells, tmp_path):
    found = cells(a=[], b=[], c=[], seeds=[1, 2, 3])
    outcomes = []
    both = [threading.Thread(target=lambda: outcomes.append(grid.run(found, say=lambda line: None))) for _ in range(2)]
    for each in both:
        each.start()
    for each in both:
        each.join()
    assert starts(tmp_path / "out") == {name: starts_of(name, tmp_path) for name in "abc"}
    assert all(len(set(each)) == len(each) == 3 for each in starts(tmp_path / "out").values())
    assert max(outcome.done for outcome in outcomes) == 9 and not any(outcome.failed for outcome in outcomes)


def starts_of(name, tmp_path):
    return (tmp_path / "out" / name / "starts.txt").read_text().splitlines()


def test_what_another_runner_has_is_passed_over_and_named(fake, cells, tmp_path):
    found = cells(a=[], b=[], seeds=[1])
    for cell in found:
        os.makedirs(os.path.dirname(cell.folder))
    with files.acquire(found[1].lock):
        outcome = grid.run(found, say=lambda line: None)
    assert outcome.done == 1 and starts(tmp_path / "out") == {"a": ["seed1 after 0"]}
    assert [(cell.name, why.split(",")[0]) for cell, why in outcome.elsewhere.items()] == [
        ("b/seed1", socket.gethostname())
    ]
    assert grid.run(found, say=lambda line: None).done == 2


def test_a_killed_runners_trainer_keeps_its_run_until_it_ends(fake, cells, tmp_path):
    (cell,) = cells(["--momentum=0.5"], a=[], seeds=[1])
    program = (
        "import sys\nfrom keras_alexnet.paper import grid, trainer\n"
        "trainer.TRAINER = (sys.executable, sys.argv[1])\n"
        "grid.run(grid.cells_of([sys.argv[2]], [1], sys.argv[3], ['--momentum=0.5']))"
    )
    fake_path, flagfile = ROOT / "tests" / "paper" / "fake_trainer.py", tmp_path / "a.cfg"
    runner = subprocess.Popen([sys.executable, "-c", program, fake_path, flagfile, tmp_path / "out"], cwd=ROOT)
    while not grid.epochs_done(cell.folder):
        time.sleep(0.02)
    runner.kill()
    runner.wait()
    assert list(grid.run([cell], say=lambda line: None).elsewhere) == [cell]
    trainer_pid = int((tmp_path / "out" / "a" / "pid.txt").read_text())
    os.kill(trainer_pid, signal.SIGKILL)
    while (lock := files.acquire(cell.lock)) is None:
        time.sleep(0.02)
    lock.close()


@pytest.mark.parametrize(("missing", "epochs"), [(None, 3), ("history.csv", 0), ("checkpoints/epoch-3.index", 0)])
def test_done_is_what_checkpoint_and_history_agree_on(cells, missing, epochs):
    (cell,) = cells(a=[], seeds=[1])
    assert not grid.is_done(cell.folder, cell.config)
    fake_trainer.write(cell.config, 3)
    if missing:
        Path(cell.folder, missing).unlink()
    assert grid.epochs_done(cell.folder) == epochs and grid.is_done(cell.folder, cell.config) == (epochs == 3)


@pytest.mark.parametrize("finished", [True, False])
def test_a_run_that_the_plateau_ended_is_done_before_its_last_epoch(cells, finished):
    (cell,) = cells(["--lr_policy=plateau"], a=[], seeds=[1])
    fake_trainer.write(cell.config, 2)
    written = Checkpoints(os.path.join(cell.folder, "checkpoints"), {"number": tf.Variable(1.0)}, keep=1)
    written.write(Progress(epochs=2, finished=finished))
    written.wait()
    assert grid.is_done(cell.folder, cell.config) == finished


def test_the_hparams_of_every_run_show_in_tensorboard_once(fake, cells, tmp_path):
    found = cells(a=[], b=["--dropout=0"], c=["--learning_rate=666"])
    for _ in range(2):
        grid.run(found, say=lambda line: None)
    out = tmp_path / "out"
    assert len(list(out.glob("*tfevents*"))) == 1 and len(list(out.glob("a/seed1/logs/hparams/*"))) == 1
    from tensorboard import default, program

    board = program.TensorBoard(plugins=default.get_plugins())
    board.configure(argv=[None, f"--logdir={out}", "--load_fast=false", "--host=127.0.0.1", "--port=0"])
    url = f"{board.launch()}data/plugin/hparams"
    experiment, runs = {}, []
    for _ in range(100):
        experiment = requests.post(f"{url}/experiment", json={"experimentName": ""}, timeout=10).json()
        columns = [{"metric": each["name"]} for each in experiment.get("metricInfos", ())]
        asked = {"allowedStatuses": ["STATUS_UNKNOWN"], "colParams": columns, "startIndex": 0, "sliceSize": 99}
        runs = requests.post(f"{url}/session_groups", json=asked, timeout=10).json().get("sessionGroups", [])
        if len(runs) >= 4:
            break
        time.sleep(0.2)
    assert {each["name"]: each["domainDiscrete"] for each in experiment["hparamInfos"]} == {
        "dropout": [0.0, 0.5],
        "learning_rate": [0.01, 666.0],
        "seed": [1.0, 2.0],
    }
    shown = {
        each["name"]: (
            each["hparams"]["dropout"],
            each["hparams"]["seed"],
            {metric["name"]["tag"]: metric["value"] for metric in each["metricValues"]},
        )
        for each in runs
    }
    assert shown == {
        f"{name}/seed{seed}": (dropout, seed, {"val_top1_error": 30 + seed + more, "val_loss": 0.75})
        for name, dropout, more in (("a", 0.5, 0), ("b", 0.0, 2))
        for seed in (1, 2)
    }


def test_hparams_follow_a_run_that_goes_on(fake, cells, tmp_path):
    grid.run(cells(a=[], seeds=[1]), say=lambda line: None)
    path = Path(hparams.path_of(str(tmp_path / "out" / "a" / "seed1")))
    before = path.read_bytes()
    grid.run(cells(["--epochs=5"], a=[], seeds=[1]), say=lambda line: None)
    assert path.read_bytes() != before
    steps = [event.step for event in tf.compat.v1.train.summary_iterator(str(path)) if event.summary.value]
    assert steps == [0, 5, 5]


def test_hparams_are_typed_and_leave_out_where_a_run_lives():
    argv = ["--dataset=shapes", "--model_dir=here", "--removed_layers=conv3", "--noreflections", "--seed=7"]
    settings = hparams.settings_of(configs.parse_train(argv, ""))
    assert settings["reflections"] is False and settings["seed"] == 7.0 and settings["removed_layers"] == "conv3"
    assert settings["lr_schedule"] == "-" and settings["epochs"] == 90.0
    assert not {"model_dir", "data_dir", "devices", "export"} & settings.keys()


def test_wrong_grids_are_refused_before_anything_is_trained(cells, tmp_path):
    (cell,) = cells(a=[], seeds=[1])
    with pytest.raises(UsageError, match=r"no.cfg: there is no such flagfile"):
        grid.cells_of(["no.cfg"], [1], "out")
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "a.cfg").write_text("--dataset=shapes\n")
    with pytest.raises(UsageError, match=r"x/a.cfg: .*a.cfg has the same name, and both runs would be a"):
        grid.cells_of([str(tmp_path / "a.cfg"), str(tmp_path / "x" / "a.cfg")], [1], "out")
    with pytest.raises(UsageError, match=r"a.cfg: .*'widht'"):
        cells(["--widht=2"], a=[])
    fake_trainer.write(cell.config, 3)
    with pytest.raises(UsageError, match=r"a/seed1: holds a run with other flags: --width=0.5 \(the run has 1.0\)"):
        cells(["--width=0.5"], a=[])
    assert cells(["--epochs=9"], a=[], seeds=[1])  # which does not change what was learned


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["a.cfg"], "--out is missing"),
        (["--out=o"], "no flagfile is given"),
        (["a.cfg", "--out=o", "--seeds=1,1"], "--seeds=1,1: give different whole numbers"),
        (["a.cfg", "--out=o", "--seeds=x"], "--seeds=x"),
        (["a.cfg", "--out=o", "--seeds=99999999999"], "--seeds=99999999999"),
        (["a.cfg", "--out=o", "--seed=3"], "--seed=3: every run of a grid has its own; give --seeds"),
        (["a.cfg", "--out=o", "--model_dir=x"], "--model_dir=x: every run of a grid has its own; give --out"),
    ],
)
def test_wrong_flags_are_named(argv, words):
    with pytest.raises(UsageError) as error:
        config.parse_grid(argv, "usage")
    assert words in str(error.value)


def test_flags_of_training_are_passed_on():
    found = config.parse_grid(["a.cfg", "--width=0.5", "b.cfg", "--out=~/o", "--noexport", "--seeds=3,4"], "usage")
    assert (found.flagfiles, found.seeds, found.further) == (("a.cfg", "b.cfg"), (3, 4), ("--width=0.5", "--noexport"))
    assert found.out == os.path.expanduser("~/o")
