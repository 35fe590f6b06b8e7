import json
import types

import pytest

from keras_alexnet.cli import run_command
from keras_alexnet.paper import config, figure1


def curve_of(errors):
    return [{"epoch": (place + 1) / 5, "loss": 1.0, "top1_error": error} for place, error in enumerate(errors)]


def test_the_error_is_the_mean_over_an_epochs_worth():
    curve = curve_of([50, 40, 30, 20, 10, 10, 15])
    points = figure1.smoothed(curve)
    assert [(row["epoch"], error) for row, error in points] == [(1.0, 30.0), (1.2, 22.0), (1.4, 17.0)]
    assert figure1.smoothed(curve[:4]) == []


@pytest.mark.parametrize(
    ("target", "epochs"), [(30.0, 1.0), (29.9, 1.2), (22.0, 1.2), (17.0, 1.4), (16.9, None), (100.0, 1.0)]
)
def test_when_the_target_is_reached(target, epochs):
    assert figure1.epochs_to(curve_of([50, 40, 30, 20, 10, 10, 15]), target) == epochs


def test_one_low_fifth_is_not_enough():
    assert figure1.epochs_to(curve_of([50, 50, 0, 50, 50]), 25.0) is None


class FakeRun:
    """A run whose error falls from 90 by `speed` an epoch, one number an epoch's five fifths share."""

    def __init__(self, speed):
        self.speed, self.curve, self.diverged = speed, [], False
        self.progress = types.SimpleNamespace(epochs=0)

    def train(self, epochs, enough, show):
        while self.progress.epochs < epochs and not enough(self.curve):
            self.progress.epochs += 1
            for _ in range(5):
                place = (len(self.curve) + 1) / 5
                self.curve.append({"epoch": place, "loss": 1.0, "top1_error": 90 - self.speed * self.progress.epochs})
                if enough(self.curve):
                    return


def search(speeds, max_epochs=100, target=25.0, runs=None, first_round=2):
    runs = runs or {0.001 * (place + 1): FakeRun(speed) for place, speed in enumerate(speeds)}
    settings = types.SimpleNamespace(first_round=first_round, max_epochs=max_epochs, target_error=target)
    figure1._search("relu", runs, settings)
    return runs


def test_the_search_halves_the_field():
    # The error at epoch e is 90 - speed * e: nobody is at 25 before epoch 13.
    runs = search([1, 2, 3, 4, 5, 0.5])
    # 6 rates to 2 epochs, 3 to 4, 2 to 8, the best on to 16; 65 / 5 = 13 is where it arrives.
    assert [run.progress.epochs for run in runs.values()] == [2, 2, 4, 8, 13, 2]
    runs = search([1, 2, 3, 4, 5, 0.5], first_round=8)
    assert [run.progress.epochs for run in runs.values()] == [8, 8, 13, 13, 13, 8]  # 16 for three, cut at 13
    assert figure1.epochs_to(runs[0.005].curve, 25.0) == pytest.approx(13.0)


def test_nobody_trains_on_for_longer_than_the_best_took():
    # They arrive after 2.4, 1.8 and 1.4 epochs; who comes later has no more than the best until then.
    runs = search([1, 1, 30, 40, 50, 1], target=20.0, first_round=8)
    assert [run.progress.epochs for run in runs.values()] == [8, 8, 3, 2, 2, 2]
    arrived = [figure1.epochs_to(run.curve, 20.0) for run in runs.values()]
    assert arrived == [None, None, 2.4, 1.8, 1.4, None]


def test_the_search_ends_at_its_limit():
    runs = search([1, 2], max_epochs=5)
    assert [run.progress.epochs for run in runs.values()] == [2, 5]


def test_a_search_that_is_taken_up_ends_as_it_did():
    first = search([1, 2, 3, 4, 5, 0.5])
    epochs = [run.progress.epochs for run in first.values()]
    again = search((), runs=first)
    assert [run.progress.epochs for run in again.values()] == epochs


def values_of(relu, tanh):
    def own(rate, epochs):
        trial = {"learning_rate": rate, "diverged": False, "epochs": epochs, "curve": curve_of([60] * 4 + [30] * 6)}
        return {"best_rate": rate, "epochs": epochs, "trials": [trial]}

    factor = None if None in relu + tanh else sum(tanh) / len(tanh) / (sum(relu) / len(relu))
    return {"relu": own(0.002, relu), "tanh": own(0.001, tanh), "target_error": 25.0, "factor": factor}


def test_tables_and_verdict():
    values = values_of([5.0, 7.0], [36.0])
    factor, rates = figure1.tables(values)
    assert factor.rows == (("tanh / ReLU", "6", "-", "6.0"),)
    assert rates.rows == (("ReLU", "0.002", "5.0, 7.0"), ("tanh", "0.001", "36.0"))
    assert figure1.verdict(values).startswith("Holds") and "6.0 times" in figure1.verdict(values)
    assert figure1.verdict(values_of([5.0], [6.0])).startswith("Does not hold here")
    unreached = values_of([5.0], [None])
    assert figure1.verdict(unreached).startswith("Cannot be told")
    assert figure1.tables(unreached)[0].rows[0][3] == "not reached"
    assert figure1.tables(unreached)[1].rows[1][2] == "not reached"


def test_not_run():
    assert figure1.verdict(None) == "not run"
    factor, rates = figure1.tables(None)
    assert factor.rows[0] == ("tanh / ReLU", "6", "-", "not run")
    assert all(row[1:] == ("not run", "not run") for row in rates.rows)


def test_a_trial_run_from_start_to_end_and_again(tmp_path, capsys):
    argv = ["--dataset=shapes", "--quick", f"--results_dir={tmp_path}"]
    assert run_command("figure1", figure1.main, argv) == 0
    about = json.loads((tmp_path / "quick" / "figure1.json").read_text())
    assert about["quick"] and about["pictures"][0]["file"] == "figure1.svg"
    settings = config.parse_figure1([], "usage")
    rates = {"relu": list(settings.relu_rates), "tanh": list(settings.tanh_rates)}
    for activation in figure1.ACTIVATIONS:
        assert [trial["learning_rate"] for trial in about["values"][activation]["trials"]] == rates[activation][:2]
        # 200 pictures in batches of 16: two epochs of five fifths, unless the target came first.
        assert all(0 < len(trial["curve"]) <= 10 for trial in about["values"][activation]["trials"])
    assert (tmp_path / "quick" / "figure1.svg").read_text().startswith("<?xml")
    assert run_command("figure1", figure1.main, argv) == 0
    assert json.loads((tmp_path / "quick" / "figure1.json").read_text())["values"] == about["values"]
    assert run_command("figure1", figure1.main, [*argv, "--precision=mixed_bfloat16"]) == 2
    assert "holds another trial: precision mixed_bfloat16 (there: float32)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--relu_rates=0.1,x", "--relu_rates=0.1,x: give different numbers above 0"),
        ("--tanh_rates=0.1,0.1", "--tanh_rates=0.1,0.1: give different numbers above 0"),
        ("--relu_rates=-1", "--relu_rates=-1: give different numbers above 0"),
        ("--dataset=mnist", "dataset"),
        ("--target_error=101", "target_error"),
        ("--repeats=0", "repeats"),
    ],
)
def test_bad_flags_are_named(flag, words, capsys):
    assert run_command("figure1", figure1.main, [flag]) == 2
    assert words in capsys.readouterr().err


def test_defaults_are_four_rates_for_each():
    settings = config.parse_figure1([], "usage")
    assert settings.relu_rates == (0.001, 0.002, 0.004, 0.008)
    assert settings.tanh_rates == (0.004, 0.008, 0.016, 0.032)
    assert settings.target_error == 25.0 and settings.repeats == 1
