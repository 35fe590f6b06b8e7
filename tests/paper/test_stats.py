"""Differences over seeds held against closed forms, and Holm's correction by hand."""

import math
import sys

import numpy as np
import pytest

from keras_alexnet.errors import UsageError
from keras_alexnet.paper import stats


def test_paired_difference_by_hand():
    """Differences 1, 2, 3: mean 2, standard error 1 / sqrt(3); Student's t with 2 degrees of freedom."""
    found = stats.paired([11.0, 12.0, 13.0], [10.0, 10.0, 10.0])
    assert (found.mean, found.seeds) == (2.0, 3)
    # t for 2 degrees of freedom has a closed form: F(t) = 1/2 + t / (2 sqrt(2 + t^2)).
    t = 2 * math.sqrt(3)
    assert found.p == pytest.approx(2 * (0.5 - t / (2 * math.sqrt(2 + t * t))))
    reach = 4.302653 / math.sqrt(3)  # the table's 97.5 % point
    assert (found.low, found.high) == pytest.approx((2 - reach, 2 + reach), rel=1e-6)
    assert not found.certain and found.as_text() == "+2.00 [-0.48, +4.48]"
    # At 99 %: the table's 99.5 % point.
    assert stats.reach_at(reach, 3, 0.01) == pytest.approx(9.924843 / math.sqrt(3), rel=1e-6)


@pytest.mark.parametrize(
    ("values", "others", "expected"),
    [
        ([15.0, 15.1, 15.2, 15.1], [10.0, 10.0, 10.1, 10.1], (5.05, True, "+5.05 [+4.96, +5.14]")),
        ([10.0, 10.0, 10.1, 10.1], [15.0, 15.1, 15.2, 15.1], (-5.05, True, "-5.05 [-5.14, -4.96]")),
        # Two seeds are no test.
        ([1.0, 2.0], [3.0, 5.0], (-2.5, False, "-2.50 (2 seeds, no interval)")),
        ([1.0], [3.0], (-2.0, False, "-2.00 (1 seed, no interval)")),
        # Without any spread.
        ([5.0, 6.0, 7.0], [5.0, 6.0, 7.0], (0.0, False, "+0.00 [+0.00, +0.00]")),
        ([5.0, 6.0, 7.0], [4.0, 5.0, 6.0], (1.0, True, "+1.00 [+1.00, +1.00]")),
    ],
)
def test_differences(values, others, expected):
    found = stats.paired(values, others)
    assert (round(found.mean, 9), found.certain, found.as_text()) == expected
    assert (found.p is None) == (len(values) < 3) and (found.p is None or (found.p < 0.05) == found.certain)


def test_coverage_of_the_interval():
    """Of intervals of three normal differences around 0, one in twenty leaves 0 out."""
    rng = np.random.default_rng(0)
    certain = [stats.paired(rng.normal(size=3), np.zeros(3)).certain for _ in range(1000)]
    assert abs(np.mean(certain) - 0.05) < 4 * math.sqrt(0.05 * 0.95 / 1000)


def test_holm_by_hand():
    """Sorted 0.01, 0.02, 0.03, 0.5 times 4, 3, 2, 1, never falling."""
    assert stats.holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert stats.holm([0.6, 0.9]) == [1.0, 1.0]
    with_none = stats.holm([None, 0.02, 0.03])
    assert with_none[0] is None and with_none[1:] == pytest.approx([0.04, 0.04])
    assert stats.holm([]) == []


def test_mean_and_spread():
    assert stats.mean_and_spread([1.0, 2.0, 3.0]) == "2.00 ± 1.00"
    assert stats.mean_and_spread([1.0]) == "1.00"


def test_without_scipy_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(UsageError, match="scipy is not installed; pip install"):
        stats.paired([1.0, 2.0, 3.0], [1.0, 1.0, 1.0])
