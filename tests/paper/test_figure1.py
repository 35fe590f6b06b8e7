import contextlib
import json
import types

import pytest

from keras_alexnet.paper import experiment, figure1


def curve_of(errors):
    return [{"epoch": (place + 1) / 5, "loss": 1.0, "top1_error": error} for place, error in enumerate(errors)]


def test_the_error_is_the_mean_over_an_epochs_worth():
    curve = curve_of([50, 40, 30, 20, 10, 10, 15])
    assert figure1.smoothed(curve) == [(1.0, 30.0), (1.2, 22.0), (1.4, 17.0)] and not figure1.smoothed(curve[:4])
    for target, epochs in ((30.0, 1.0), (29.9, 1.2), (22.0, 1.2), (17.0, 1.4), (16.9, None), (100.0, 1.0)):
        assert figure1.epochs_to(curve, target) == epochs
    assert figure1.epochs_to(curve_of([50, 50, 0, 50, 50]), 25.0) is None  # one low fifth is not enough


class FakeTraining:
    """Its error falls from 90 by `speed` an epoch; the five points of an epoch share one error."""

    def __init__(self, speed, last=None):
        self.speed, self.last, self.progress = speed, last, types.SimpleNamespace(epochs=0, history=[], finished=False)

    def train(self, epochs, enough, show):
        curve = self.progress.history
        while self.progress.epochs < epochs and not enough(curve):
            if self.progress.epochs == self.last:
                self.progress.finished = True
                return
            self.progress.epochs += 1
            error = 90 - self.speed * self.progress.epochs
            for _ in range(5):
                curve.append({"epoch": (len(curve) + 1) / 5, "loss": 1.0, "top1_error": error})
                if enough(curve):
                    return


# The error at epoch e is 90 - speed * e: with a target of 25 nobody is there before epoch 13.
@pytest.mark.parametrize(
    ("speeds", "settings", "epochs"),
    [
        # 6 learning rates to 2 epochs, 3 to 4, 2 to 8, the best on to 16; 65 / 5 = 13 is where it reaches the target.
        ([1, 2, 3, 4, 5, 0.5], {"first_round": 2}, [2, 2, 4, 8, 13, 2]),
        ([1, 2, 3, 4, 5, 0.5], {"first_round": 8}, [8, 8, 13, 13, 13, 8]),  # 16 for three, cut at 13
        # They reach it after 2.4, 1.8 and 1.4 epochs; who comes later has no more than the best until then.
        ([1, 1, 30, 40, 50, 1], {"target_error": 20.0, "first_round": 8}, [8, 8, 3, 2, 2, 2]),
        ([1, 2], {"max_epochs": 5, "first_round": 2}, [2, 5]),
    ],
)
def test_the_search_halves_the_field_and_resumes(speeds, settings, epochs, monkeypatch):
    settings, rates = figure1.Settings(**settings), [0.001 * (place + 1) for place in range(len(speeds))]
    trainings = {rate: FakeTraining(speed) for rate, speed in zip(rates, speeds, strict=True)}
    train, calls = FakeTraining.train, []

    def interrupted(training, *arguments):
        calls.append(training)
        if len(calls) in (4, 7):
            raise KeyboardInterrupt
        train(training, *arguments)

    monkeypatch.setattr(FakeTraining, "train", interrupted)
    for _ in range(4):  # at most two are interrupted; a search that resumes ends as one that was not
        with contextlib.suppress(KeyboardInterrupt):
            figure1.search("relu", trainings, settings)
    assert [training.progress.epochs for training in trainings.values()] == epochs


def test_a_learning_rate_that_diverges_comes_last():
    settings = figure1.Settings(relu_rates=(0.1, 0.2), tanh_rates=(0.3, 0.4), max_epochs=4, first_round=2)
    # After the first round 0.4 is the better one of two; when it diverges in the second, 0.3 goes on.
    fates = {0.1: (1, None), 0.2: (9, 1), 0.3: (1, None), 0.4: (9, 2)}
    trainings = {rate: FakeTraining(*fate) for rate, fate in fates.items()}
    values = figure1.compare(settings, lambda activation, rate, seed: trainings[rate])
    assert [training.progress.epochs for training in trainings.values()] == [4, 1, 4, 2]
    assert [values[name]["best_rate"] for name in figure1.NAMES] == [0.1, 0.3]
    assert [trial["diverged"] for trial in values["tanh"]["trials"]] == [False, True]


def test_the_best_learning_rates_are_compared():
    speeds, started = {0.1: 4, 0.2: 10, 0.3: 2, 0.4: 5}, []

    def start(activation, learning_rate, seed):
        started.append((activation, learning_rate, seed))
        return FakeTraining(speeds[learning_rate] * (1 if seed == 2012 else 0.5))

    values = figure1.compare(figure1.Settings(relu_rates=(0.1, 0.2), tanh_rates=(0.3, 0.4), repeats=2), start)
    assert started[2] == ("relu", 0.2, 2013) and started[5] == ("tanh", 0.4, 2013)
    # 65 / 10 = 6.5: the fifths of epoch 7 have an error of 20, those of epoch 6 30, and half of each is 25.
    assert values["relu"]["epochs"] == pytest.approx([6.6, 13.0]) and values["relu"]["best_rate"] == 0.2
    assert values["tanh"]["epochs"] == pytest.approx([13, 26]) and values["factor"] == pytest.approx(39 / 19.6)
    assert figure1.verdict(values).outcome == "holds" and "2 seeds" in figure1.verdict(values).numbers
    assert str(figure1.verdict(values | {"is_papers": False})) == "Cannot be told: the images are not all of CIFAR-10."
    values["factor"] = 1.2
    assert str(figure1.verdict(values)) == "Does not hold: tanh takes 1.2 times as long here, 2 seeds."
    values["factor"], values["tanh"]["epochs"] = None, [13.0, None]
    assert figure1.verdict(values).outcome == "cannot be told"
    factor, rates = figure1.tables(values)
    assert factor.rows == [("tanh / ReLU", "6", "-", "not reached")]
    assert rates.rows[1] == ("tanh", "0.4", "13.0, not reached")


def test_a_trial_from_start_to_end(tmp_path, capsys):
    assert experiment.main("figure1", ["--dataset=shapes", "--quick", f"--results_dir={tmp_path}"]) == 0
    content = json.loads((tmp_path / "quick" / "figure1.json").read_text())
    assert content["quick"] and "ReLU 0.001, 0.002; tanh 0.004, 0.008" in content["protocol"]
    for activation, rates in (("relu", [0.001, 0.002]), ("tanh", [0.004, 0.008])):
        trials = content["values"][activation]["trials"]
        assert [trial["learning_rate"] for trial in trials] == rates
        # Two epochs of five points, unless the target came first.
        assert all(0 < len(trial["curve"]) <= 10 for trial in trials)
    assert (tmp_path / "quick" / "figure1.svg").read_text().startswith("<?xml")
    assert capsys.readouterr().out.endswith(f"figure: {tmp_path}/quick/figure1.svg\n")
    assert len(list((tmp_path / "quick" / "figure1").iterdir())) == 4
