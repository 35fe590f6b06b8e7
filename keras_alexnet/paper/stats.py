"""What several seeds say: means, spreads, and whether a difference is larger than the spread."""

import dataclasses
import statistics

from keras_alexnet.errors import UsageError

LEAST_SEEDS = 3  # fewer say nothing about a spread


@dataclasses.dataclass(frozen=True)
class Difference:
    """A paired difference over seeds.

    Attributes:
        mean: float, in the unit of what was compared.
        low, high: float, the 95 % confidence interval of the mean (Student's t), None with fewer than LEAST_SEEDS.
        p: float, two-sided p of the paired t-test, None with fewer than LEAST_SEEDS.
        seeds: int.
    """

    mean: float
    low: float | None
    high: float | None
    p: float | None
    seeds: int

    @property
    def certain(self):
        """Whether the interval excludes 0, bool."""
        return self.low is not None and (self.low > 0 or self.high < 0)

    def as_text(self):
        """Such as "+1.37 [+0.20, +2.54]"."""
        if self.low is None:
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
    count, mean = len(differences), statistics.fmean(differences)
    if count < LEAST_SEEDS:
        return Difference(mean, None, None, None, count)
    if min(differences) == max(differences):  # the test would divide by zero
        return Difference(mean, mean, mean, float(mean == 0), count)
    test = _scipy_stats().ttest_1samp(differences, 0.0)
    interval = test.confidence_interval(0.95)
    return Difference(mean, float(interval.low), float(interval.high), float(test.pvalue), count)


def reach_at(reach, seeds, level):
    """Half the width of an interval at another level.

    Args:
        reach: float, half the width of a 95 % interval.
        seeds: int, that it is of, at least LEAST_SEEDS.
        level: float, such as 0.01 for 99 %.

    Returns:
        float, in the unit of `reach`.
    """
    t = _scipy_stats().t(seeds - 1)
    return reach * float(t.ppf(1 - level / 2) / t.ppf(0.975))


def holm(ps):
    """Holm's correction of several p (SciPy has none): the same order, each at most 1; None stays None.

    Args:
        ps: sequence of float or None.

    Returns:
        list of float or None.
    """
    known = sorted((p, place) for place, p in enumerate(ps) if p is not None)
    corrected, least = [None] * len(ps), 0.0
    for rank, (p, place) in enumerate(known):
        least = max(least, min(1.0, (len(known) - rank) * p))
        corrected[place] = least
    return corrected


def mean_and_spread(values):
    """Such as "18.21 ± 0.30": mean and standard deviation (n - 1); the value alone where there is one."""
    mean = statistics.fmean(values)
    return f"{mean:.2f} ± {statistics.stdev(values):.2f}" if len(values) > 1 else f"{mean:.2f}"


def _scipy_stats():
    try:
        # SciPy is an optional dependency (extra `figures`): whoever only trains or reads a report does without it.
        from scipy import stats
    except ImportError:
        raise UsageError("scipy is not installed; pip install 'keras-alexnet[figures]'") from None
    return stats
