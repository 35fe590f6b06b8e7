"""What several seeds say: means, spreads, and whether a difference is more than the spread.

Intervals need SciPy (extra `figures`).
"""

import dataclasses
import math

from keras_alexnet.errors import UsageError

LEAST_SEEDS = 3  # fewer say nothing about a spread


@dataclasses.dataclass(frozen=True)
class Difference:
    """A paired difference over seeds.

    Attributes:
        mean: float, in the unit of what was compared.
        low, high: float, the 95 % confidence interval of the mean (Student's t), nan with fewer than LEAST_SEEDS.
        p: float, two-sided p of the paired t-test, nan with fewer.
        seeds: int.
    """

    mean: float
    low: float
    high: float
    p: float
    seeds: int

    @property
    def certain(self):
        """Whether the interval leaves 0 out, bool."""
        return self.low > 0 or self.high < 0

    def as_text(self):
        """Such as "+1.37 [+0.20, +2.54]"."""
        if math.isnan(self.low):
            return f"{self.mean:+.2f} ({self.seeds} seed{'s' * (self.seeds > 1)}, no interval)"
        return f"{self.mean:+.2f} [{self.low:+.2f}, {self.high:+.2f}]"


def paired(values, others):
    """How much `values` are above `others`, seed by seed.

    Args:
        values, others: sequences of float of one length, at least 1, in the same order of seeds.

    Returns:
        Difference.

    Raises:
        UsageError: SciPy is not installed.
    """
    differences = [value - other for value, other in zip(values, others, strict=True)]
    count, mean = len(differences), sum(differences) / len(differences)
    if count < LEAST_SEEDS:
        return Difference(mean, math.nan, math.nan, math.nan, count)
    stats = _stats()
    error = _deviation(differences) / math.sqrt(count)
    reach = float(stats.t.ppf(0.975, count - 1)) * error
    if error == 0:
        return Difference(mean, mean, mean, 1.0 if mean == 0 else 0.0, count)
    p = float(2 * stats.t.sf(abs(mean / error), count - 1))
    return Difference(mean, mean - reach, mean + reach, p, count)


def reach_at(reach, seeds, level):
    """How long half of an interval is at another level.

    Args:
        reach: float, half of a 95 % interval over so many seeds.
        seeds: int, at least LEAST_SEEDS.
        level: float, such as 0.05 for 95 %.

    Returns:
        float, in the unit of `reach`.
    """
    stats = _stats()
    return reach * float(stats.t.ppf(1 - level / 2, seeds - 1) / stats.t.ppf(0.975, seeds - 1))


def holm(ps):
    """Holm's correction of several p: the same order, each at most 1; nan stays nan.

    Args:
        ps: sequence of float.

    Returns:
        list of float.
    """
    known = sorted((p, place) for place, p in enumerate(ps) if not math.isnan(p))
    corrected, least = [math.nan] * len(ps), 0.0
    for rank, (p, place) in enumerate(known):
        least = max(least, min(1.0, (len(known) - rank) * p))
        corrected[place] = least
    return corrected


def mean_and_spread(values):
    """Such as "18.21 ± 0.30": mean and standard deviation (n - 1); the value alone where there is one."""
    mean = sum(values) / len(values)
    return f"{mean:.2f} ± {_deviation(values):.2f}" if len(values) > 1 else f"{mean:.2f}"


def _deviation(values):
    mean = sum(values) / len(values)
    return math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))


def _stats():
    try:
        from scipy import stats
    except ImportError:
        raise UsageError("scipy is not installed; pip install 'keras-alexnet[figures]'") from None
    return stats
