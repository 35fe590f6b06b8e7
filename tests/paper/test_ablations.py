import json
import math
import shutil
import xml.etree.ElementTree
from pathlib import Path

import pytest
from scipy import stats

from keras_alexnet import config as configs
from keras_alexnet import evaluate
from keras_alexnet.cli import run_command
from keras_alexnet.errors import RunError, UsageError
from keras_alexnet.paper import ablation_runs, ablations, config
from tests.paper import fake_trainer

ROOT = Path(__file__).parents[2]
SEEDS = (1, 2, 3)
BASELINE = [30.0, 31.0, 33.0]


@pytest.fixture
def grid(tmp_path, monkeypatch):
    """A function: name -> errors of three seeds, or None where a run is missing -> what `compare` says of the grid."""
    monkeypatch.chdir(ROOT)  # flagfiles name each other from here
    ten = {seed: {1: error, 10: error - 1 - 0.1 * seed} for seed, error in zip(SEEDS, BASELINE, strict=True)}
    monkeypatch.setattr(ablation_runs, "by_views", lambda ended, data_dir: ten[ended.config.run.seed])

    def make(compared=True, **errors):
        flagfiles = {name: f"flags/ablations/{name}.cfg" for name in errors}
        for name, each in errors.items():
            for seed, error in zip(SEEDS, each, strict=True):
                if error is not None:
                    fake_trainer.write(recipe_of(tmp_path, name, seed), 10, error)
        return ablations.compare(str(tmp_path), flagfiles, SEEDS) if compared else flagfiles

    return make


def recipe_of(folder, name, seed, *further):
    argv = [f"--flagfile=flags/ablations/{name}.cfg", "--data_dir=photos", f"--seed={seed}", *further]
    return configs.parse_train([*argv, f"--model_dir={folder / name / f'seed{seed}'}"], "")


def row_of(values, name):
    return next(row for row in values["rows"] if row["name"] == name)


def p_of(t):
    """Two-sided p of Student's t with two degrees of freedom, by its closed form."""
    return 1 - abs(t) / math.sqrt(t * t + 2)


def test_differences_are_paired_and_corrected_as_defined(grid):
    plus = {"no_dropout": [1.0, 1.2, 0.8], "tanh": [-2.0, -2.1, -1.9], "no_conv3": [2.0, -1.0, 0.0]}
    values = grid(
        baseline=BASELINE,
        **{name: [error + more for error, more in zip(BASELINE, each, strict=True)] for name, each in plus.items()},
    )
    found = row_of(values, "no_dropout")["difference"]
    t = 1.0 / (0.2 / math.sqrt(3))
    assert (
        found["mean"] == pytest.approx(1.0) and found["seeds"] == 3 and found["by_seed"] == pytest.approx([1, 1.2, 0.8])
    )
    assert found["p"] == pytest.approx(p_of(t))
    assert found["high"] - found["mean"] == pytest.approx(4.302653 * 0.2 / math.sqrt(3), rel=1e-6)
    for name, each in plus.items():
        errors = [error + more for error, more in zip(BASELINE, each, strict=True)]
        assert row_of(values, name)["difference"]["p"] == pytest.approx(stats.ttest_rel(errors, BASELINE).pvalue)
    # By size: tanh, center view (0.1, 1.2 on average), no_dropout, no_conv3.
    ps = {"tanh": p_of(20 * math.sqrt(3)), "center_view": p_of(12 * math.sqrt(3)), "no_dropout": p_of(t)}
    ps["no_conv3"] = row_of(values, "no_conv3")["difference"]["p"]
    assert list(ps.values()) == sorted(ps.values())
    expected, least = {}, 0.0
    for place, (name, p) in enumerate(ps.items()):
        least = max(least, min(1.0, (4 - place) * p))
        expected[name] = least
    assert {name: row_of(values, name)["corrected"] for name in ps} == pytest.approx(expected)
    assert {name: ablations.judged(row_of(values, name)) for name in ps} == {
        "tanh": "better", "center_view": "worse", "no_dropout": "worse", "no_conv3": "cannot be told",
    }  # fmt: skip
    assert ablations.verdict(values) == (
        "Worse: no dropout (a quarter of the rate), center for ten views. Better: tanh for ReLU. Cannot be told: no "
        "conv3. Not run: no normalization, no overlap of pools, one half-width tower, towers apart to fc8, no color "
        "noise, no random crops, no conv2, no conv4, no conv5, no fc7."
    )


def test_a_p_below_the_level_is_not_enough_among_many(grid):
    same = [[error + more for error, more in zip(BASELINE, (1.5, 1.0, 0.8), strict=True)] for _ in range(4)]
    p = p_of(1.1 / math.sqrt(0.13 / 3))  # 0.034
    alone = grid(baseline=BASELINE, no_conv2=same[0])
    assert row_of(alone, "no_conv2")["difference"]["p"] == pytest.approx(p)
    assert ablations.judged(row_of(alone, "no_conv2")) == "worse"  # the center view has a smaller p
    among = grid(baseline=BASELINE, no_conv2=same[0], no_conv3=same[1])
    assert row_of(among, "no_conv2")["corrected"] == pytest.approx(2 * p)  # of three, two are left
    assert ablations.judged(row_of(among, "no_conv2")) == "cannot be told"


def test_the_tables(grid):
    values = grid(
        baseline=BASELINE, no_normalization=[31.0, 32.5, 33.5], tanh=[50.0, 55.0, 48.0], no_fc7=[None, 30.0, 34.0]
    )
    costs, fit, left_out = ablations.tables(values)
    rows = {row[0]: row[1:] for row in costs.rows}
    assert len(rows) == 15 and costs.columns[1:3] == ("paper", "release")
    assert rows["baseline"][2] == "31.33 ± 1.53"
    assert rows["no normalization"] == (
        "+1.4 / +1.2 (section 3.3)", "+1.37 / +1.15 (148 - 145)", "32.33 ± 1.26", "+1.00 [-0.24, +2.24]",
        "0.074", "0.074", "cannot be told",
    )  # fmt: skip
    assert rows["no fc7"][2:] == (
        "32.00 ± 2.83",
        "+0.00 (2 seeds, no interval)",
        "-",
        "-",
        "no test: 2 of at least 3 seeds",
    )
    assert rows["no conv4"][2:] == ("not run",) * 5
    assert rows["center for ten views"][2:4] == ("31.33 ± 1.53 (ten views 30.13 ± 1.43)", "+1.20 [+0.95, +1.45]")
    assert (
        "no better than a majority-class baseline: tanh/seed1, tanh/seed2" in costs.note
        and "tanh/seed3" not in costs.note
    )
    assert fit.rows[0] == ("baseline", "25.00", "31.33", "+6.33")
    assert left_out.rows == (("no_fc7/seed1", "not there"),)
    assert json.loads(json.dumps(values, allow_nan=False)) == json.loads(json.dumps(values))
    # As the report reads them.
    assert ablations.tables(json.loads(json.dumps(values)))[0] == costs


def test_nothing_was_run():
    assert ablations.verdict(None) == "not run"
    costs, fit = ablations.tables(None)
    assert all(row[3] == "not run" for row in costs.rows) and all(row[1:] == ("not run",) * 3 for row in fit.rows)
    assert [row[1] for row in costs.rows if row[0] == "one half-width tower"] == ["+1.7 / +1.2 (section 3.2)"]


def test_the_releases_effects_are_differences_of_its_notes():
    notes = {  # ten views, top-1 and top-5; "c": by the center view
        "145": (40.66, 18.21), "147": (41.06, 18.51), "148": (42.03, 19.36), "150": (41.83, 19.33),
        "145-2010": (37.47, 17.00), "145-half": (39.17, 18.23), "145-2010 c": (39.02, 18.30),
    }  # fmt: skip
    for each in ablations.ABLATIONS:
        if each.release != "-":
            numbers, _, pair = each.release.partition(" (")
            left, _, right = pair.rstrip(")").partition(" - ")
            left, right = (left, right) if right else (f"{left} c", left)
            top1, top5 = (a - b for a, b in zip(notes[left], notes[right], strict=True))
            assert numbers == f"{top1:+.2f} / {top5:+.2f}", each
    assert {path.stem for path in (ROOT / "flags" / "ablations").glob("*.cfg")} == {
        "baseline",
        *(each.name for each in ablations.ABLATIONS if each.name != "center_view"),
    }


def test_runs_that_are_not_what_they_should_be_are_named_and_left_out(grid, tmp_path):
    errors = {name: [40.0, 40.0, 40.0] for name in ("tanh", "no_conv2", "no_dropout", "no_fc7")}
    flagfiles = grid(compared=False, baseline=BASELINE, **errors)
    fake_trainer.write(recipe_of(tmp_path, "tanh", 1), 4)
    fake_trainer.write(recipe_of(tmp_path, "tanh", 2, "--momentum=0.8"), 10)
    fake_trainer.write(recipe_of(tmp_path, "tanh", 3, "--activation=relu"), 10)
    fake_trainer.write(recipe_of(tmp_path, "no_conv2", 1, "--epochs=11"), 11)
    (tmp_path / "no_conv2" / "seed2" / "flags.cfg").write_text("--nonsense=1\n")
    (tmp_path / "no_conv2" / "seed3" / "validation.json").write_text("{")
    other = json.loads((tmp_path / "no_fc7" / "seed2" / "validation.json").read_text()) | {"fingerprint": "other"}
    (tmp_path / "no_fc7" / "seed2" / "validation.json").write_text(json.dumps(other))
    values = ablations.compare(str(tmp_path), flagfiles, SEEDS)
    told = dict(values["missing"])
    assert told["tanh/seed1"] == "unfinished, 4 of 10 epochs"
    assert told["tanh/seed2"] == "does not differ from the baseline as flags/ablations/tanh.cfg does: --momentum=0.8"
    assert told["tanh/seed3"].endswith("does: --activation=relu")
    assert told["no_conv2/seed1"].endswith("does: --epochs=11")
    assert "nonsense" in told["no_conv2/seed2"] and "cannot be read" in told["no_conv2/seed3"]
    assert told["no_fc7/seed2"] == "is of other images than the baseline"
    assert len(told) == 7 and not row_of(values, "tanh")["errors"]
    assert row_of(values, "no_fc7")["seeds"] == [1, 3] and row_of(values, "no_fc7")["difference"]["by_seed"] == [10, 7]


def test_without_a_baseline_there_is_nothing_to_compare_with(grid):
    with pytest.raises(RunError, match=r"no run of the baseline is done \(baseline/seed1 not there; .*give --data_dir"):
        grid(baseline=[None] * 3, tanh=[40.0, 41.0, 42.0])


def test_the_picture_shows_seeds_and_what_is_far_off_as_a_number(grid, tmp_path):
    values = grid(baseline=BASELINE, no_conv2=[31.0, 32.5, 34.0], tanh=[80.0, 79.0, 78.0])
    ablations.draw(values, str(tmp_path / "a.svg"))
    root = xml.etree.ElementTree.parse(tmp_path / "a.svg").getroot()
    texts = ["".join(each.itertext()).strip() for each in root.iter("{http://www.w3.org/2000/svg}text")]
    assert {"no conv2", "tanh for ReLU", "center for ten views", "+47.7 →"} <= set(texts)
    assert not any("no dropout" in each for each in texts)
    width = float(root.get("width").removesuffix("pt"))
    assert width < 340  # 10 pt letters on a phone of 360 pixels
    ablations.draw(values, str(tmp_path / "b.svg"))
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_ten_views_are_evaluated_once_and_kept_with_the_run(run_of_three_epochs, tmp_path, monkeypatch, small_pictures):
    folder = tmp_path / "run"
    shutil.copytree(run_of_three_epochs, folder, ignore=shutil.ignore_patterns("export", "evaluation*"))
    ended = ablation_runs.read(str(folder))
    assert (ended.epochs, ended.images, ended.training_images, ended.classes) == (3, 9, 18, 3)
    assert ended.constant_error == pytest.approx(200 / 3)
    found = ablation_runs.by_views(ended)
    argv = [f"--model_dir={folder}", "--views=10"]
    assert found[10] == evaluate.evaluate(configs.parse_evaluate(argv, ""))["result"]["top1_error"]
    assert found[1] == pytest.approx(ended.error, abs=1e-3)
    monkeypatch.setattr(evaluate, "evaluate", lambda config: pytest.fail("evaluated again"))
    assert ablation_runs.by_views(ended) == found
    # A run that went on since is evaluated again; photographs that are not there are said so.
    monkeypatch.undo()
    (folder / "ablations_10views.json").unlink()
    with pytest.raises(UsageError, match="nowhere"):
        ablation_runs.by_views(ended, "nowhere")


def test_a_quick_run_from_start_to_end_and_again(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    argv = ["--quick", f"--results_dir={tmp_path}"]
    assert run_command("ablations", ablations.main, argv) == 0
    first = json.loads((tmp_path / "quick" / "ablations.json").read_text())
    assert first["quick"] and "20 training and 10 validation images, 10 classes" in first["protocol"]
    assert [(row["name"], row["seeds"]) for row in first["values"]["rows"]] == [
        (name, [2012, 2013]) for name in ("baseline", "no_normalization", "fixed_crops", "center_view")
    ]
    assert not first["values"]["missing"] and "No test: no normalization, no random crops, center" in (
        capsys.readouterr().out
    )
    assert (tmp_path / "quick" / "ablations.svg").read_text().startswith("<?xml")
    assert (tmp_path / "quick" / "ablations" / "grid" / "baseline" / "seed2013.log").stat().st_size
    assert run_command("ablations", ablations.main, argv) == 0
    assert "6 runs, 6 done" in capsys.readouterr().out
    assert json.loads((tmp_path / "quick" / "ablations.json").read_text())["values"] == first["values"]


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["--seeds=1,1"], 2, "--seeds=1,1: give different whole numbers"),
        (["--seeds="], 2, "--seeds="),
        (["--grid="], 2, "--grid is missing"),
        (["--flags_dir=nowhere"], 2, "--flags_dir=nowhere: holds no baseline.cfg"),
        (["--grid=nowhere"], 2, "--grid=nowhere: there is no such folder; give --data_dir"),
        (["--grid=tests"], 1, "--grid=tests: no run of the baseline is done (baseline/seed2012 not there; "),
    ],
)
def test_bad_input_is_one_line(argv, code, words, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert run_command("ablations", ablations.main, [*argv, f"--results_dir={tmp_path}"]) == code
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1 and not list(tmp_path.iterdir())


def test_train_is_a_switch():
    assert config.parse_ablations(["--notrain"], "usage").train is False
    assert config.parse_ablations([], "usage").seeds == (2012, 2013, 2014)
