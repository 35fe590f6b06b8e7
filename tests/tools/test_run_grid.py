import os
import sys

import pytest

from keras_alexnet import rundir
from keras_alexnet.cli import run_command
from keras_alexnet.errors import ArgumentError, UsageError
from keras_alexnet.paper import grid
from tests.runs import ROOT, TINY_RUN
from tests.tools.conftest import load_tool

run_grid = load_tool("run_grid")


def test_a_real_grid_is_trained_and_then_passed_over(small_images, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    flagfile = tmp_path / "tiny.cfg"
    flagfile.write_text("\n".join([*TINY_RUN, "--lr_policy=constant", "--epochs=1", "--noexport"]))
    argv = [str(flagfile), "--seeds=5", f"--out={tmp_path}/out", f"--data_dir={small_images}"]
    assert run_command("run_grid", run_grid.main, argv) == 0
    said = capsys.readouterr().out
    assert "1/1 tiny/seed5: validation top-1 error" in said and "1 of 1 runs are done" in said
    run = rundir.open_run(str(tmp_path / "out" / "tiny" / "seed5"))
    assert (len(run.history), run.config.run.seed, run.config.network.width) == (1, 5, 0.0625)
    assert "validation, center view, 1 model, 9 images" in (tmp_path / "out" / "tiny" / "seed5.log").read_text()
    monkeypatch.setattr(grid, "TRAINER", ("no such program",))
    assert run_command("run_grid", run_grid.main, argv) == 0
    assert "1 runs, 1 done" in capsys.readouterr().out


def test_failures_are_named_at_the_end_and_are_the_exit_code(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(grid, "TRAINER", (sys.executable, str(ROOT / "tests" / "paper" / "fake_trainer.py")))
    for name, rate in (("good", 0.1), ("bad", 666)):
        text = f"--dataset=shapes\n--lr_policy=constant\n--epochs=2\n--learning_rate={rate}"
        (tmp_path / f"{name}.cfg").write_text(text)
    argv = [f"{tmp_path}/bad.cfg", f"{tmp_path}/good.cfg", "--seeds=1", f"--out={tmp_path}/out"]
    assert run_command("run_grid", run_grid.main, argv) == 1
    said = capsys.readouterr()
    assert "1 of 2 runs are done" in said.out
    assert said.err.splitlines() == [
        f"bad/seed1: the loss is nan at step 3 ({tmp_path}/out/bad/seed1.log)",
        "run_grid: 1 of 2 runs failed: bad/seed1; the same command tries them again",
    ]


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["a.cfg"], "--out is missing"),
        (["--out=o"], "no flagfile is given"),
        (["a.cfg", "--out=o", "--seeds=1,1"], "--seeds=1,1: must be different whole numbers"),
        (["a.cfg", "--out=o", "--seeds=x"], "--seeds=x"),
        (["a.cfg", "--out=o", "--seeds=99999999999"], "--seeds=99999999999"),
        (["a.cfg", "--out=o", "--seed=3"], "--seed=3: every run of a grid has its own; give --seeds"),
        (["a.cfg", "--out=o", "--model_dir=x"], "--model_dir=x: every run of a grid has its own; give --out"),
    ],
)
def test_wrong_flags_are_named(argv, words):
    with pytest.raises((UsageError, ArgumentError)) as error:
        run_grid.parse(argv)
    assert words in str(error.value)


def test_flags_of_training_are_passed_on(capsys):
    found, further = run_grid.parse(["a.cfg", "--width=0.5", "b.cfg", "--out=~/o", "--noexport", "--seeds=3,4"])
    assert (found.flagfiles, found.seeds, further) == (("a.cfg", "b.cfg"), (3, 4), ["--width=0.5", "--noexport"])
    assert found.out == os.path.expanduser("~/o")
    with pytest.raises(SystemExit) as ended:
        run_grid.main(["--help"])
    assert ended.value.code == 0 and "--seeds" in capsys.readouterr().out
