import math
import sys

import numpy as np
import pytest

from keras_alexnet.errors import UsageError
from keras_alexnet.paper import comparison


def test_a_paired_difference_by_hand():
    """Differences 1, 2, 3: mean 2, standard error 1 / sqrt(3); Student's t with 2 degrees of freedom."""
    found = comparison.paired([11.0, 12.0, 13.0], [10.0, 10.0, 10.0])
    assert (found.mean, found.seeds) == (2.0, 3)
    # t for 2 degrees of freedom has a closed form: F(t) = 1/2 + t / (2 sqrt(2 + t^2)).
    t = 2 * math.sqrt(3)
    assert found.p == pytest.approx(2 * (0.5 - t / (2 * math.sqrt(2 + t * t))))
    reach = 4.302653 / math.sqrt(3)  # the table's 97.5 % point
    assert (found.low, found.high) == pytest.approx((2 - reach, 2 + reach), rel=1e-6)
    assert not found.certain
    assert found.as_text() == "+2.00 [-0.48, +4.48]"


def test_a_difference_that_is_more_than_the_spread():
    found = comparison.paired([15.0, 15.1, 15.2, 15.1], [10.0, 10.0, 10.1, 10.1])
    assert found.certain and found.p < 0.001
    assert comparison.paired([10.0, 10.0, 10.1, 10.1], [15.0, 15.1, 15.2, 15.1]).mean == pytest.approx(-found.mean)


def test_two_seeds_are_no_test():
    found = comparison.paired([1.0, 2.0], [3.0, 5.0])
    assert found.mean == -2.5 and math.isnan(found.p) and not found.certain
    assert found.as_text() == "-2.50 (2 seeds, no interval)"
    assert comparison.paired([1.0], [3.0]).as_text() == "-2.00 (1 seed, no interval)"


def test_differences_without_any_spread():
    same = comparison.paired([5.0, 6.0, 7.0], [5.0, 6.0, 7.0])
    assert (same.low, same.high, same.p, same.certain) == (0.0, 0.0, 1.0, False)
    moved = comparison.paired([5.0, 6.0, 7.0], [4.0, 5.0, 6.0])
    assert (moved.low, moved.high, moved.p, moved.certain) == (1.0, 1.0, 0.0, True)


def test_coverage_of_the_interval():
    """Of intervals of three normal differences around 0, one in twenty leaves 0 out."""
    rng = np.random.default_rng(0)
    certain = [comparison.paired(rng.normal(size=3), np.zeros(3)).certain for _ in range(2000)]
    assert abs(np.mean(certain) - 0.05) < 4 * math.sqrt(0.05 * 0.95 / 2000)


def test_holm_by_hand():
    """Sorted 0.01, 0.02, 0.03, 0.5 times 4, 3, 2, 1, never falling."""
    assert comparison.holm([0.03, 0.01, 0.5, 0.02]) == pytest.approx([0.06, 0.04, 0.5, 0.06])
    assert comparison.holm([0.6, 0.9]) == [1.0, 1.0]
    with_none = comparison.holm([math.nan, 0.02, 0.03])
    assert math.isnan(with_none[0]) and with_none[1:] == pytest.approx([0.04, 0.04])
    assert comparison.holm([]) == []


def test_mean_and_spread():
    assert comparison.mean_and_spread([1.0, 2.0, 3.0]) == "2.00 ± 1.00"
    assert comparison.mean_and_spread([1.0]) == "1.00"


def test_without_scipy_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(UsageError, match="scipy is not installed; pip install"):
        comparison.paired([1.0, 2.0, 3.0], [1.0, 1.0, 1.0])


def test_other_lengths_are_refused():
    with pytest.raises(ValueError, match="zip"):
        comparison.paired([1.0, 2.0], [1.0])
