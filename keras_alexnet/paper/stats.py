"""What several seeds say: means, spreads, and whether a difference is larger than the spread."""

import statistics

from keras_alexnet.errors import UsageError

LEAST_SEEDS = 3  # fewer say nothing about a spread


def paired(pairs):
    """How much the first of each pair of values is above the second; a pair for each seed.

    Returns:
        dict: mean; low and high, the mean's 95 % confidence interval (Student's t), and the two-sided p of the paired
        t-test, all None with fewer than LEAST_SEEDS; seeds, their number; by_seed, list of float.
    """
    by_seed = [value - other for value, other in pairs]
    mean, low, high, p = statistics.fmean(by_seed), None, None, None
    if len(by_seed) >= LEAST_SEEDS and min(by_seed) == max(by_seed):  # the test would divide by zero
        low, high, p = mean, mean, float(mean == 0)
    elif len(by_seed) >= LEAST_SEEDS:
        test = scipy_stats().ttest_1samp(by_seed, 0.0)
        (low, high), p = map(float, test.confidence_interval(0.95)), float(test.pvalue)
    return {"mean": mean, "low": low, "high": high, "p": p, "seeds": len(by_seed), "by_seed": by_seed}


def as_text(difference):
    """A difference as of `paired`, such as "+1.37 [+0.20, +2.54]"."""
    mean, low, high, seeds = (difference[name] for name in ("mean", "low", "high", "seeds"))
    if low is None:
        return f"{mean:+.2f} ({seeds} seed{'s' * (seeds > 1)}, no interval)"
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"


def holm(ps):
    """Holm's correction of several p (SciPy has none): list in the same order, each at most 1; None stays None."""
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


def scipy_stats():
    """The module scipy.stats. Raises UsageError where SciPy is not installed."""
    try:
        # SciPy is an optional dependency (extra `figures`): whoever only trains does without it.
        from scipy import stats
    except ImportError:
        raise UsageError("scipy is not installed; pip install 'keras-alexnet[figures]'") from None
    return stats
