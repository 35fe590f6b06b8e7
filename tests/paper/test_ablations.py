import json
import math
import types

import numpy as np
import pytest
from scipy import stats

from keras_alexnet.paper import ablations, experiment, grid
from tests.paper import fake_trainer
from tests.runs import ROOT

SEEDS = (1, 2, 3)
BASELINE = [30.0, 31.0, 33.0]


@pytest.fixture
def compare(tmp_path, monkeypatch):
    """A function: name -> errors of three seeds, None where a run is missing -> what `compare` says of the grid."""
    monkeypatch.chdir(ROOT)  # flagfiles name each other from here

    def evaluate(config):
        """By ten views the baseline's error is 1.1, 1.2 and 1.3 less."""
        seed = int(config.model_dir[0][-1])
        error = BASELINE[SEEDS.index(seed)] - (0 if config.views == 1 else 1 + 0.1 * seed)
        return {"set": {"images": 20}, "result": {"top1_error": error}}

    def make(damage=lambda folder: None, **errors):
        cells = cells_of(tmp_path, *errors)
        for cell in cells:
            error = errors[cell.stem][SEEDS.index(cell.seed)]
            if error is not None:
                fake_trainer.write(cell.config, cell.config.training.epochs, error)
        damage(tmp_path)
        return ablations.compare(cells, evaluate)

    return make


def cells_of(folder, *names, seeds=SEEDS, further=()):
    return grid.cells_of([f"flags/ablations/{name}.cfg" for name in names], seeds, str(folder), further)


def plus(*more):
    return [error + each for error, each in zip(BASELINE, more, strict=True)]


def row_of(values, name):
    return next(row for row in values["rows"] if row["name"] == name)


def p_of(t):
    """Two-sided p of Student's t with two degrees of freedom, by its closed form."""
    return 1 - abs(t) / math.sqrt(t * t + 2)


def test_differences_are_paired_and_corrected_as_defined(compare):
    errors = {"no_dropout": plus(1.0, 1.2, 0.8), "tanh": plus(-2.0, -2.1, -1.9), "no_conv3": plus(0.4, 0.1, 0.5)}
    values = compare(baseline=BASELINE, **errors)
    found = row_of(values, "no_dropout")["difference"]
    # Randomized blocks in closed form: what is left of the table without the means of its rows and columns.
    table = np.array([BASELINE, *errors.values()])
    left = table - table.mean(0) - table.mean(1, keepdims=True) + table.mean()
    deviation = math.sqrt((left**2).sum() / 6 * 2 / 3)
    assert found["mean"] == pytest.approx(1.0) and found["by_seed"] == pytest.approx([1, 1.2, 0.8])
    assert found["seeds"] == 3 and found["high"] - found["mean"] == pytest.approx(2.446912 * deviation, rel=1e-6)
    means = {"tanh": -2.0, "no_dropout": 1.0, "no_conv3": 1 / 3}
    ps = {name: 2 * stats.t(6).sf(abs(mean) / deviation) for name, mean in means.items()}
    assert [row_of(values, name)["difference"]["p"] for name in ps] == pytest.approx(list(ps.values()))
    ps["center_view"] = p_of(12 * math.sqrt(3))  # a paired t-test of 1.1, 1.2 and 1.3
    ps = dict(sorted(ps.items(), key=lambda item: item[1]))
    # Times 4, 3, 2 and 1: none is above 1, or below the one before.
    expected = [p * (4 - place) for place, p in enumerate(ps.values())]
    assert [row_of(values, name)["corrected"] for name in ps] == pytest.approx(expected)
    assert {name: ablations.judgement(row_of(values, name)) for name in ps} == {
        "tanh": "better", "center_view": "worse", "no_dropout": "worse", "no_conv3": "cannot be told",
    }  # fmt: skip
    assert str(ablations.verdict(values)) == (
        "Does not hold: of 16 ablations (classes: 2, epochs: 10) 12 not run, 1 cannot be told, 2 worse (no dropout "
        "(learning rate / 4), center for ten views), 1 better (tanh for ReLU)."
    )


def test_the_least_effect_is_what_four_of_five_tests_find():
    spread = math.sqrt(2)  # of 30 and 32
    least = ablations.least_effect([30.0, 32.0], rows=1, seeds=3)  # two networks with three seeds, and the ten views
    power = stats.nct(2, least / (spread * math.sqrt(2 / 3))).sf(stats.t(2).ppf(1 - 0.05 / 2 / 2))
    assert power == pytest.approx(0.8, abs=0.02)
    assert ablations.least_effect([30.0, 32.0], rows=12, seeds=3) < least  # all rows tell the spread
    assert ablations.least_effect([30.0], rows=12, seeds=3) is None
    assert ablations.least_effect([30.0, 32.0], rows=0, seeds=3) is None
    assert ablations.least_effect([30.0, 32.0], rows=12, seeds=2) is None


def test_tables(compare):
    values = compare(
        baseline=BASELINE, no_normalization=[31.0, 32.5, 33.5], tanh=[50.0, 55.0, 48.0], no_fc7=[None, 30.0, 34.0]
    )
    costs, fit, left_out = ablations.tables(json.loads(json.dumps(values, allow_nan=False)))
    rows = {row[0]: row[1:] for row in costs.rows}
    assert len(rows) == 17 and rows["baseline"][2] == "31.33 ± 1.53"
    assert rows["no normalization"] == (
        "+1.4 / +1.2 (section 3.3)", "+1.37 / +1.15 (148 - 145)", "32.33 ± 1.26", "+1.00 [-0.24, +2.24]",
        "0.074", "0.074", "cannot be told",
    )  # fmt: skip
    untested = ("32.00 ± 2.83", "+0.00 (2 seeds, no interval)", "-", "-", "no test: 2 of at least 3 seeds")
    assert rows["no fc7"][2:] == untested and rows["no conv4"][2:] == ("not run",) * 5
    assert rows["center for ten views"][2:4] == ("31.33 ± 1.53 (ten views 30.13 ± 1.43)", "+1.20 [+0.95, +1.45]")
    assert costs.note.endswith("no better than the majority-class baseline: tanh/seed1, tanh/seed2")
    assert fit.rows[0] == ("baseline", "25.00", "31.33", "+6.33")
    assert left_out.rows == [["no_fc7/seed1", "is missing"]]


def test_effects_of_the_release_are_differences_of_its_notes():
    notes = {  # ten views, top-1 and top-5; "c": by the center view
        "145": (40.66, 18.21), "147": (41.06, 18.51), "148": (42.03, 19.36), "150": (41.83, 19.33),
        "145-2010": (37.47, 17.00), "145-half": (39.17, 18.23), "145-2010 c": (39.02, 18.30),
    }  # fmt: skip
    for title, _, release in ablations.ABLATIONS.values():
        if release != "-":
            numbers, _, pair = release.partition(" (")
            left, _, right = pair.rstrip(")").partition(" - ")
            left, right = (left, right) if right else (f"{left} c", left)
            top1, top5 = (a - b for a, b in zip(notes[left], notes[right], strict=True))
            assert numbers == f"{top1:+.2f} / {top5:+.2f}", title
    flagfiles = {path.stem for path in (ROOT / "flags" / "ablations").glob("*.cfg")}
    assert flagfiles == {"baseline", *ablations.ABLATIONS} - {"center_view"}


def test_runs_that_are_not_what_they_should_be_are_named_and_left_out(compare):
    def damage(folder):
        for seed, epochs, flag in ((1, 4, "--seed=1"), (2, 10, "--momentum=0.8"), (3, 10, "--activation=relu")):
            fake_trainer.write(cells_of(folder, "tanh", seeds=[seed], further=[flag])[0].config, epochs)
        fake_trainer.write(cells_of(folder, "no_conv2", seeds=[1])[0].config, 11)
        (folder / "no_conv2" / "seed2" / "flags.cfg").write_text("--nonsense=1\n")
        (folder / "no_conv2" / "seed3" / "validation.json").write_text("{")
        other = folder / "no_fc7" / "seed2" / "validation.json"
        other.write_text(other.read_text().replace("validation", "other"))

    errors = {name: [40.0, 40.0, 40.0] for name in ("tanh", "no_conv2", "no_fc7")}
    values = compare(damage, baseline=BASELINE, **errors)
    why = dict(values["missing"])
    assert why["tanh/seed1"] == "has 4 of 10 epochs" and why["no_conv2/seed1"] == "has 11 of 10 epochs"
    assert why["tanh/seed2"] == "has other flags than its flagfile: --momentum=0.9 (the run has 0.8)"
    assert why["tanh/seed3"].endswith("--activation=tanh (the run has relu)")
    assert "nonsense" in why["no_conv2/seed2"] and "cannot be read" in why["no_conv2/seed3"]
    assert why["no_fc7/seed2"] == "has other images than the baseline"
    assert len(why) == 7 and not row_of(values, "tanh")["errors"]
    assert row_of(values, "no_fc7")["difference"]["by_seed"] == [10, 7]


def test_what_the_results_have_is_not_trained_again(compare, tmp_path, monkeypatch):
    """Runs whose folders are gone, or are on another machine."""
    values = compare(baseline=BASELINE, tanh=plus(1, 2, 3))
    (tmp_path / "ablations.json").write_text(json.dumps({"values": values}))
    stored, cells = ablations.earlier(str(tmp_path)), cells_of(tmp_path / "gone", "baseline", "tanh")
    known = ablations.known_runs(cells, stored, None)
    assert len(known) == 6 and "--activation=tanh" in known["tanh/seed2"]["flags"]
    again = ablations.compare(cells, None, known=known)
    assert json.loads(json.dumps(again)) == json.loads(json.dumps(values))
    spaced = cells_of(tmp_path / "gone", "tanh", further=["--lr_schedule=7:0.003, 9:0.0005"])
    flags = " ".join(f"--{name}={value}" for name, value in ablations._flags_of(spaced[1].config).items())
    assert list(ablations.known_runs(spaced, {"tanh/seed2": {"flags": flags}}, None)) == ["tanh/seed2"]
    there, other = (cells_of(tmp_path, "tanh", further=each) for each in ([], ["--momentum=0.8"]))
    assert not ablations.known_runs(there, stored, None)  # the grid's own runs come first
    assert not ablations.known_runs(other, stored, None)
    images = types.SimpleNamespace(fingerprint=lambda: "other")
    monkeypatch.setattr(ablations.sources, "open_training", lambda data: (images, images))
    assert not ablations.known_runs(cells, stored, "data")
    (tmp_path / "ablations.json").write_text("[")
    assert ablations.earlier(str(tmp_path)) == ablations.earlier(str(tmp_path / "gone")) == {}


def test_a_trial_from_start_to_end(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(ablations, "QUICK", ("baseline",))
    assert experiment.main("ablations", ["--quick", f"--results_dir={tmp_path}", "--data_dir=unused", "--seeds=1"]) == 0
    found = json.loads((tmp_path / "quick" / "ablations.json").read_text())
    assert found["quick"] and "20 training and 10 validation images, 10 classes" in found["protocol"]
    assert [(row["name"], len(row["errors"])) for row in found["values"]["rows"]] == [
        ("baseline", 1), ("center_view", 1),
    ]  # fmt: skip
    said = capsys.readouterr().out
    assert "--data_dir and --grid are ignored" in said and "1/1 baseline/seed1: validation top-1" in said
    assert "told: of 16 ablations (classes: 10, epochs: 1) 15 not run, 1 no test: 1 of at least 3 seeds." in said
    assert not found["values"]["missing"] and (tmp_path / "quick" / "ablations.svg").stat().st_size
