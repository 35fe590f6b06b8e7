"""Top-k error with the release's rule for ties (src/layer_kernels.cu, kMultiSoftmaxCost)."""

import numpy as np


def top_k_credit(scores, labels, k):
    """Credit of each case: 1 if the label is among the k best classes, a share of 1 if a tie decides.

    Slots = k - classes strictly above the label. The credit is 0 if no slot is left, otherwise slots divided
    by the classes tied with the label (itself included), at most 1.

    Args:
        scores: finite numbers (B, C), larger is better.
        labels: class indices (B,), 0 <= label < C.
        k: number of guesses allowed, at least 1.

    Returns:
        float64 (B,), from 0 to 1.
    """
    scores = np.asarray(scores)
    credit = np.zeros(len(labels))
    for case, label in enumerate(labels):
        above = tied = 0
        for score in scores[case]:
            if score > scores[case, label]:
                above += 1
            elif score == scores[case, label]:
                tied += 1
        slots = k - above
        if slots > 0:
            credit[case] = min(1.0, slots / tied)
    return credit


def top_k_error(scores, labels, k):
    """Top-k error rate (section 1 and tables 1 and 2) in percent, 0 to 100; arguments as in top_k_credit."""
    return 100.0 * (1.0 - top_k_credit(scores, labels, k).mean())
