"""What every command of the paper does: flags, the JSON that it writes, what it prints; numbers of several seeds."""

import dataclasses
import json
import math
import re
import sys
import types

import pytest

import keras_alexnet
from keras_alexnet import __main__ as package_commands
from keras_alexnet import rundir
from keras_alexnet.cli import run_command
from keras_alexnet.errors import RunError, UsageError
from keras_alexnet.flags import flag
from keras_alexnet.paper import __main__ as paper_commands
from keras_alexnet.paper import experiment
from keras_alexnet.paper.experiment import Result, Table, Verdict


@dataclasses.dataclass(frozen=True)
class Settings(experiment.Settings):
    """Lines."""

    slope: float = flag(2.0, "Of the line.")


def run(settings):
    if not settings.slope:
        return None
    with open(f"{settings.results_dir}/figure9.svg", "w") as file:
        file.write("<svg/>")
    return Result({"slope": settings.slope, "names": ["ä", None]}, "all of it", (("figure9.svg", "A line."),))


@pytest.fixture(autouse=True)
def lines(monkeypatch):
    lines = types.SimpleNamespace(
        TITLE="Figure 9",
        CLAIM="Lines are straight.",
        COST="nothing",
        COMMAND="python -m keras_alexnet.paper.figure9",
        Settings=Settings,
        run=run,
        tables=lambda values: [Table("T", ("", "paper", "ours"), [("slope", "2", str(values["slope"]))], "no unit")],
        verdict=lambda values: Verdict("holds", f"{values['slope']} here"),
    )
    load = experiment.load
    monkeypatch.setattr(experiment, "load", lambda name: lines if name == "figure9" else load(name))


def test_result_is_written_and_printed(tmp_path, capsys):
    assert experiment.main("figure9", [f"--results_dir={tmp_path}/a b", "--slope=3"]) == 0
    path = tmp_path / "a b" / "figure9.json"
    assert capsys.readouterr().out.splitlines() == [
        "T", "", "       paper  ours", "slope      2   3.0", "(no unit)", "", "Holds: 3.0 here.",
        f"all numbers: {path}", f"figure: {tmp_path}/a b/figure9.svg",
    ]  # fmt: skip
    found = experiment.read("figure9", str(tmp_path / "a b"))
    assert found["values"] == {"slope": 3.0, "names": ["ä", None]} and "ä" in path.read_text(encoding="utf-8")
    # As a shell takes it.
    assert found["command"] == f"python -m keras_alexnet.paper.figure9 '--results_dir={tmp_path}/a b' --slope=3"
    assert found["pictures"] == [{"file": "figure9.svg", "shows": "A line."}] and not found["quick"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", found["date"]) and found["keras_alexnet"] == keras_alexnet.__version__
    assert (found["commit"], found["device"]) == (rundir.commit(), rundir.device())


def test_trial_replaces_the_trial_before_and_no_result(tmp_path):
    (tmp_path / "figure9.json").write_text("{}")
    left = tmp_path / "quick" / "figure9" / "of_other_data"
    left.mkdir(parents=True)
    assert experiment.main("figure9", [f"--results_dir={tmp_path}", "--quick"]) == 0
    assert (tmp_path / "figure9.json").read_text() == "{}" and not left.exists()
    assert json.loads((tmp_path / "quick" / "figure9.json").read_text())["quick"]


def test_what_was_not_run_and_what_is_damaged(tmp_path):
    assert experiment.read("figure9", str(tmp_path / "nowhere")) is None
    assert experiment.main("figure9", [f"--results_dir={tmp_path}", "--slope=0"]) == 0 and not list(tmp_path.iterdir())
    (tmp_path / "figure9.json").write_text("{")
    with pytest.raises(RunError, match="figure9.json: is not a result"):
        experiment.read("figure9", str(tmp_path))


def test_wrong_usage_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    for argv, words in (
        ([f"--results_dir={tmp_path}/file"], "file: cannot be written"),
        (["--slop=1"], "'slop'"),
    ):
        assert experiment.main("figure9", argv) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1
    with pytest.raises(SystemExit) as ended:
        experiment.main("figure9", ["--help"])
    assert ended.value.code == 0
    assert re.search(r"Lines are straight.*Cost: nothing.*--slope=2.0", capsys.readouterr().out, re.DOTALL)


def test_commands_are_listed(capsys):
    assert run_command("paper", paper_commands.main, []) == 0
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) == len(experiment.NAMES) + 1
    assert re.search(r"^python -m keras_alexnet.paper.table1 +Table 1: ILSVRC-2010$", shown, re.M)
    assert run_command("keras_alexnet", package_commands.main, ["train"]) == 2
    assert (
        capsys.readouterr().err == "keras_alexnet: train: is unexpected; a command is python -m keras_alexnet.train\n"
    )


@pytest.mark.parametrize(
    ("differences", "text"),
    [
        ([5.0, 5.1, 5.1, 5.0], "+5.05 [+4.96, +5.14]"),
        ([-2.0, -3.0], "-2.50 (2 seeds, no interval)"),  # two seeds are no test
        ([0.0, 0.0, 0.0], "+0.00 [+0.00, +0.00]"),  # without any spread
        ([1.0, 1.0, 1.0], "+1.00 [+1.00, +1.00]"),
        ([1.0, 2.0, 3.0], "+2.00 [-0.48, +4.48]"),
    ],
)
def test_differences_of_pairs(differences, text):
    found = experiment.paired((10 + each, 10.0) for each in differences)
    assert experiment.paired_text(found) == text and (found["p"] is None) == (len(differences) < 3)
    if text.startswith("+2"):  # Student's t with 2 degrees of freedom: F(t) = 1/2 + t / (2 sqrt(2 + t^2))
        assert found["p"] == pytest.approx(1 - 2 * math.sqrt(3) / math.sqrt(2 + 12))
    elif found["p"] is not None:
        assert (found["p"] < 0.05) == (found["low"] * found["high"] > 0)


def test_without_the_extra_it_is_named(monkeypatch):
    assert experiment.mean_and_spread([1.0, 2.0, 3.0]) == "2.00 ± 1.00" and experiment.mean_and_spread([1.0]) == "1.00"
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UsageError, match=r"matplotlib is not installed; pip install 'keras-alexnet\[figures\]'"):
        experiment.pyplot()
