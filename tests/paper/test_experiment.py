import dataclasses
import json
import math
import re
import sys
import types

import pytest

import keras_alexnet
from keras_alexnet import __main__ as package_commands, rundir
from keras_alexnet.cli import run_command
from keras_alexnet.errors import RunError, UsageError
from keras_alexnet.flags import flag
from keras_alexnet.paper import __main__ as paper_commands, experiment
from keras_alexnet.paper.experiment import Result, Table, Verdict
from tests.runs import ROOT


@dataclasses.dataclass(frozen=True)
class Settings(experiment.Settings):
    """Lines."""

    slope: float = flag(2.0, "Of the line.")


def run(settings):
    if not settings.slope:
        return None
    figure, axes = experiment.panel(1, 1)
    axes.plot([0, settings.slope])
    return Result({"slope": settings.slope, "names": ["ä", None]}, "all of it", {"figure9.svg": (figure, "A line.")})


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
        ([f"--results_dir={tmp_path}/file"], "file: cannot be created (File exists)"),
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


@pytest.mark.parametrize(
    ("command", "flags", "words"),
    [
        ("ablations", "--seeds=1,1", "--seeds=1,1: must be different whole numbers"),
        ("ablations", "--baseline_seeds=2012", "--baseline_seeds=2012: must be other seeds than those of --seeds"),
        ("ablations", "--grid=", "--grid is missing"),
        ("ablations", "--flags_dir=nowhere", "--flags_dir=nowhere: must be a folder with a baseline.cfg"),
        ("ablations", "--grid=nowhere", "--grid=nowhere: is not a folder; give --data_dir"),
        ("ablations", "--grid=tests", "--grid: no run of the baseline is done (baseline/seed2012 is missing; "),
        ("cifar10_lrn", "--networks=17pct", "--networks=17pct"),
        ("cifar10_lrn", "--networks=19pct,19pct", "--networks=19pct,19pct"),
        ("cifar10_lrn", "--crop_border=9", "--crop_border=9"),
        ("figure1", "--tanh_rates=0.1,0.1", "--tanh_rates=0.1,0.1: must be different numbers above 0"),
        ("figure1", "--relu_rates=0.0", "--relu_rates=0.0: must be different numbers above 0"),
        ("figure3", "", "--model_dir is missing"),
        ("figure4", "{model}", "--data_dir is missing"),
        ("figure4", "{model} {data} --split=../val", "--split=../val: must be the name"),
        ("figure4", "{model} {data} --index_split=val", "--index_split=val: is --split too"),
        ("initialization", "{data} --measure=50,0", "--measure=50,0: must be rising numbers of steps such as 0,50,150"),
        ("initialization", "{data} --measure=0,300", "--measure=0,300: there are 200 steps"),
        ("retrieval", "{model} {data} --codes=8,12", "--codes=8,12: must be different multiples of 8"),
        ("retrieval", "{model} {data} --index={tmp}/i.txt", "must end in .npz"),
        ("retrieval", "{model} {data} --index={tmp}/i.npz --quick", "--quick takes a few images"),
        ("retrieval", "{model} {data} --query={tmp}/none.jpg", "none.jpg: is not a file"),
        ("retrieval", "{model} --query=README.md --index={tmp}/none.npz", "none.npz: there is no such index"),
        ("retrieval", "{model} {data} --query_split=test", "--query_split=test: there is no folder"),
        ("transfer", "", "--data_dir is missing"),
        ("transfer", "{data} --images_per_class=5,5", "--images_per_class=5,5: must be different whole numbers"),
        ("transfer", "{data} --images_per_class=7", "--images_per_class=7: must be at most 6, as many as"),
        ("transfer", "{data} --images_per_class=2 --model_dir=nowhere", "--model_dir=nowhere: is not a run"),
        ("table1", "--cnn={tmp}", ": is neither a run"),
        ("table1", "--cnn={run} --cnn={run}", "one too many"),
        ("table1", "--cnn={run}", "--split=test: --data_dir="),  # the table is of the test set
        ("table1", "--cnn=", "--cnn=: must be a run's folder"),
        ("table2", "--cnn={run} --cnn={run}/", "is given twice"),
        ("figure3", "--model_dir={run} --model_dir={run}/", "names a run twice"),
        ("table2", "--cnn={run} --test_split=test", "--test_split=test: --data_dir="),
        ("table2", "--cnn={run} --dataset=imagenet2012 --test_split=test", "not public"),
    ],
)
def test_wrong_flags_are_named(command, flags, words, tiny_run, small_images, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)  # flagfiles name each other from here
    model, data = f"--model_dir={tiny_run}", f"--dataset=folder --data_dir={small_images}"
    data = data if command == "initialization" else data.partition(" ")[2]
    argv = flags.format(model=model, data=data, run=tiny_run, tmp=tmp_path).split()
    code = 1 if "no run of the baseline" in words else 2
    assert experiment.main(command, [*argv, f"--results_dir={tmp_path}"]) == code
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert words in line and not list(tmp_path.iterdir())
