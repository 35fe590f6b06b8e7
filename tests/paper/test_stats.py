"""Differences over seeds held against closed forms, and Holm's correction by hand."""

import math
import sys

import numpy as np
import pytest

from keras_alexnet.errors import UsageError
from keras_alexnet.paper import stats


def test_paired_difference_by_hand():
    """Differences 1, 2, 3: mean 2, standard error 1 / sqrt(3); Student's t with 2 degrees of freedom."""
    found = stats.paired([(11.0, 10.0), (12.0, 10.0), (13.0, 10.0)])
    assert (found["mean"], found["seeds"], found["by_seed"]) == (2.0, 3, [1.0, 2.0, 3.0])
    # t for 2 degrees of freedom has a closed form: F(t) = 1/2 + t / (2 sqrt(2 + t^2)).
    t = 2 * math.sqrt(3)
    assert found["p"] == pytest.approx(2 * (0.5 - t / (2 * math.sqrt(2 + t * t))))
    reach = 4.302653 / math.sqrt(3)  # the table's 97.5 % point
    assert (found["low"], found["high"]) == pytest.approx((2 - reach, 2 + reach), rel=1e-6)
    assert stats.as_text(found) == "+2.00 [-0.48, +4.48]"


@pytest.mark.parametrize(
    ("differences", "text"),
    [
        ([5.0, 5.1, 5.1, 5.0], "+5.05 [+4.96, +5.14]"),
        ([-5.0, -5.1, -5.1, -5.0], "-5.05 [-5.14, -4.96]"),
        ([-2.0, -3.0], "-2.50 (2 seeds, no interval)"),  # two seeds are no test
        ([-2.0], "-2.00 (1 seed, no interval)"),
        ([0.0, 0.0, 0.0], "+0.00 [+0.00, +0.00]"),  # without any spread
        ([1.0, 1.0, 1.0], "+1.00 [+1.00, +1.00]"),
    ],
)
def test_differences(differences, text):
    found = stats.paired((each, 0.0) for each in differences)
    assert stats.as_text(found) == text and (found["p"] is None) == (len(differences) < 3)
    if found["p"] is not None:
        assert (found["p"] < 0.05) == (found["low"] * found["high"] > 0)


def test_coverage_of_the_interval():
    """Of intervals of three normal differences around 0, one in twenty leaves 0 out."""
    rng = np.random.default_rng(0)
    found = [stats.paired((each, 0.0) for each in rng.normal(size=3)) for _ in range(1000)]
    certain = [each["low"] * each["high"] > 0 for each in found]
    assert abs(np.mean(certain) - 0.05) < 4 * math.sqrt(0.05 * 0.95 / 1000)


def test_holm_by_hand():
    """Sorted 0.01, 0.02, 0.03, 0.5 times 4, 3, 2, 1, never falling."""
    assert stats.holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert stats.holm([0.6, 0.9]) == [1.0, 1.0] and stats.holm([None, 0.02]) == [None, 0.02]


def test_without_scipy_the_extra_is_named(monkeypatch):
    assert stats.mean_and_spread([1.0, 2.0, 3.0]) == "2.00 ± 1.00" and stats.mean_and_spread([1.0]) == "1.00"
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(UsageError, match="scipy is not installed; pip install"):
        stats.paired([(1.0, 1.0), (2.0, 1.0), (3.0, 1.0)])
