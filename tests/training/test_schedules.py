import pytest

from keras_alexnet.training.schedules import Plateau, rates_after

RELEASE = (
    (23, "", 1e-3),
    (23, "bias", 2e-3),
    (51, "", 1e-4),
    (68, "conv1", 1e-5),
    (72, "conv1", 0.0),
    (78, "", 1e-5),
)


def rates_of(plateau, errors):
    """The rate of each epoch, until the plateau ends the training."""
    rates = []
    for error in errors:
        rates.append(plateau.rate)
        if not plateau.after_epoch(error):
            break
    return rates


def test_three_cuts_by_ten_and_then_the_end():
    rates = rates_of(Plateau(0.01, 99.0, patience=2, cuts_left=3), [90, 80, *[80] * 50])
    assert rates == pytest.approx([0.01] * 4 + [0.001] * 2 + [0.0001] * 2 + [0.00001] * 2)


def test_an_improvement_starts_the_wait_anew():
    rates = rates_of(Plateau(0.01, 99.0, patience=3), [90, 91, 91, 89, 89, 90, 88, 88, 88])
    assert rates == [0.01] * 9


def test_a_flat_start_uses_up_nothing():
    """Errors of a majority-class baseline, as the published start gives for many epochs, are not a plateau."""
    plateau = Plateau(0.01, 80.0, patience=2)
    assert rates_of(plateau, [80.0, 85.0] * 20) == [0.01] * 40
    assert rates_of(plateau, [79.0, 79.0, 79.0, 79.0]) == pytest.approx([0.01, 0.01, 0.01, 0.001])


@pytest.mark.parametrize(
    "epochs, rate, bias, conv1",
    [
        (0, 1e-2, 2e-2, 1e-2),
        (22, 1e-2, 2e-2, 1e-2),
        (23, 1e-3, 2e-3, 1e-3),
        (51, 1e-4, 2e-3, 1e-4),
        (68, 1e-4, 2e-3, 1e-5),
        (72, 1e-4, 2e-3, 0.0),
        (78, 1e-5, 2e-3, 0.0),
        (93, 1e-5, 2e-3, 0.0),
    ],
)
def test_the_releases_schedule(epochs, rate, bias, conv1):
    now, multipliers = rates_after(epochs, RELEASE, 0.01, 2.0)
    assert now == pytest.approx(rate)
    assert now * multipliers["bias"] == pytest.approx(bias)
    assert now * multipliers["conv1"] == pytest.approx(conv1)


def test_without_a_schedule_the_rate_stays():
    assert rates_after(50, (), 0.01, 2.0) == (0.01, {"bias": 2.0})
