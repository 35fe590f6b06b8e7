import csv
import sys
from pathlib import Path

import pytest

from keras_alexnet import rundir
from keras_alexnet.cli import run_command
from keras_alexnet.paper import trainer
from tests.conftest import TINY_RUN
from tests.tools.conftest import load_tool

ROOT = Path(__file__).parents[2]
run_grid = load_tool("run_grid")


def test_a_real_grid_is_trained_and_then_passed_over(small_pictures, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    flagfile = tmp_path / "tiny.cfg"
    flagfile.write_text("\n".join([*TINY_RUN, "--lr_policy=constant", "--epochs=1", "--noexport"]))
    argv = [str(flagfile), "--seeds=5", f"--out={tmp_path}/out", f"--data_dir={small_pictures}"]
    assert run_command("run_grid", run_grid.main, argv) == 0
    said = capsys.readouterr().out
    assert "1/1 tiny/seed5: validation top-1 error" in said and "1 of 1 runs are done" in said
    run = rundir.open_run(str(tmp_path / "out" / "tiny" / "seed5"))
    assert (len(run.history), run.config.run.seed, run.config.network.width) == (1, 5, 0.0625)
    with open(tmp_path / "out" / "tiny" / "seed5" / "history.csv", newline="") as file:
        assert len(list(csv.DictReader(file))) == 1
    assert "validation, center view, 1 model, 9 images" in (tmp_path / "out" / "tiny" / "seed5.log").read_text()
    monkeypatch.setattr(trainer, "TRAINER", ("no such program",))
    assert run_command("run_grid", run_grid.main, argv) == 0
    assert "1 runs, 1 done" in capsys.readouterr().out


def test_failures_are_named_at_the_end_and_are_the_exit_code(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(trainer, "TRAINER", (sys.executable, str(ROOT / "tests" / "paper" / "fake_trainer.py")))
    for name, rate in (("good", 0.1), ("bad", 666)):
        text = f"--dataset=shapes\n--lr_policy=constant\n--epochs=2\n--learning_rate={rate}"
        (tmp_path / f"{name}.cfg").write_text(text)
    argv = [f"{tmp_path}/bad.cfg", f"{tmp_path}/good.cfg", "--seeds=1,2", f"--out={tmp_path}/out"]
    assert run_command("run_grid", run_grid.main, argv) == 1
    said = capsys.readouterr()
    assert "2 of 4 runs are done" in said.out
    assert said.err.splitlines() == [
        f"bad/seed1: the loss is nan at step 3 ({tmp_path}/out/bad/seed1.log)",
        f"bad/seed2: the loss is nan at step 3 ({tmp_path}/out/bad/seed2.log)",
        "run_grid: 2 of 4 runs failed: bad/seed1, bad/seed2; the same command tries them again",
    ]


def test_help_and_wrong_usage(capsys):
    with pytest.raises(SystemExit) as ended:
        run_grid.main(["--help"])
    assert ended.value.code == 0 and "--seeds" in capsys.readouterr().out
    assert run_command("run_grid", run_grid.main, ["no.cfg", "--out=out"]) == 2
    assert capsys.readouterr().err.startswith("run_grid: no.cfg: there is no such flagfile")
