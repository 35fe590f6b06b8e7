import pytest

from keras_alexnet.training.schedules import SCALINGS, Plateau, parse, rates_after

RELEASE = parse("23:0.001,23:bias=0.002,51:1e-4, 68:conv1=0.00001,72:conv1=0,78:0.00001")


def rates_of(plateau, errors):
    """The learning rate of each epoch, until the plateau ends the training."""
    rates = []
    for error in errors:
        rates.append(plateau.rate)
        if not plateau.after_epoch(error):
            break
    return rates


@pytest.mark.parametrize(
    ("settings", "errors", "expected"),
    [
        # Three drops by ten and then the end.
        ((99.0, 2, 3), [90, 80, *[80] * 50], [0.01] * 4 + [0.001] * 2 + [0.0001] * 2 + [0.00001] * 2),
        # An improvement starts the wait anew.
        ((99.0, 3, 3), [90, 91, 91, 89, 89, 90, 88, 88, 88], [0.01] * 9),
        # Errors of the majority-class baseline, as the published start gives for many epochs, are not a plateau.
        ((80.0, 2, 3), [80, 85] * 20, [0.01] * 40),
        ((80.0, 2, 3), [80, 85, 79, 79, 79, 79], [0.01] * 5 + [0.001]),
    ],
)
def test_plateau(settings, errors, expected):
    baseline, patience, cuts = settings
    assert rates_of(Plateau(0.01, baseline, patience, cuts), errors) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("epochs", "rate", "bias", "conv1"),
    [
        (0, 1e-2, 2e-2, 1e-2),
        (22, 1e-2, 2e-2, 1e-2),
        (23, 1e-3, 2e-3, 1e-3),
        (51, 1e-4, 2e-3, 1e-4),
        (68, 1e-4, 2e-3, 1e-5),
        (72, 1e-4, 2e-3, 0.0),
        (78, 1e-5, 2e-3, 0.0),
    ],
)
def test_the_releases_schedule(epochs, rate, bias, conv1):
    now, multipliers = rates_after(epochs, RELEASE, 0.01, 2.0)
    assert now == pytest.approx(rate)
    assert now * multipliers["bias"] == pytest.approx(bias)
    assert now * multipliers["conv1"] == pytest.approx(conv1)


def test_without_a_schedule_the_rate_stays_and_with_a_rate_of_0_biases_do_not_move():
    assert rates_after(50, (), 0.01, 2.0) == (0.01, {"bias": 2.0})
    assert rates_after(1, ((1, "bias", 0.1),), 0.0, 2.0) == (0.0, {"bias": 0.0})


def test_entries_are_in_the_order_of_the_epochs():
    assert parse("51:1e-4, 23:bias=0.002,23:0.001") == ((23, "bias", 0.002), (23, "", 0.001), (51, "", 0.0001))


def test_scalings():
    assert [SCALINGS[name](4.0) for name in ("none", "linear", "sqrt")] == [1.0, 4.0, 2.0]
