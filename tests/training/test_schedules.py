import pytest

from keras_alexnet.training.schedules import SCALINGS, Plateau, parse, rates_after

RELEASE = parse("51:1e-4, 23:bias=0.002,23:0.001,68:conv1=0.00001,72:conv1=0,78:0.00001")


@pytest.mark.parametrize(
    ("baseline", "patience", "errors", "expected"),
    [
        # Three drops by ten and then the end.
        (99.0, 2, [90, 80, *[80] * 50], [0.01] * 4 + [0.001] * 2 + [0.0001] * 2 + [0.00001] * 2),
        # An improvement starts the wait anew.
        (99.0, 3, [90, 91, 91, 89, 89, 90, 88, 88, 88], [0.01] * 9),
        # Errors of the majority-class baseline, as the published start gives for many epochs, are not a plateau.
        (80.0, 2, [80, 85] * 20 + [79] * 4, [0.01] * 43 + [0.001]),
    ],
)
def test_plateau(baseline, patience, errors, expected):
    plateau, rates = Plateau(0.01, baseline, patience, cuts_left=3), []
    for error in errors:
        rates.append(plateau.rate)
        if not plateau.after_epoch(error):
            break
    assert rates == pytest.approx(expected)


def test_the_releases_schedule():
    for epochs, rate, bias, conv1 in (
        (22, 1e-2, 2e-2, 1e-2),
        (23, 1e-3, 2e-3, 1e-3),
        (68, 1e-4, 2e-3, 1e-5),
        (72, 1e-4, 2e-3, 0.0),
        (78, 1e-5, 2e-3, 0.0),
    ):
        now, multipliers = rates_after(epochs, RELEASE, 0.01, 2.0)
        assert [now, now * multipliers["bias"], now * multipliers["conv1"]] == pytest.approx([rate, bias, conv1])


def test_no_schedule_a_learning_rate_of_0_and_scalings():
    assert rates_after(50, (), 0.01, 2.0) == (0.01, {"bias": 2.0})
    assert rates_after(1, ((1, "bias", 0.1),), 0.0, 2.0) == (0.0, {"bias": 0.0})
    assert [SCALINGS[name](4.0) for name in ("none", "linear", "sqrt")] == [1.0, 4.0, 2.0]
