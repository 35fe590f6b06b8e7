"""Top-k error with the release's rule for ties (src/layer_kernels.cu, kMultiSoftmaxCost)."""

import numpy as np


def top_k_credit(scores, labels, k):
    """Credit of each case: 1 if the label is among the k best classes, a share of 1 if a tie decides.

    Slots = k - classes strictly above the label. The credit is 0 if no slot is left, otherwise slots divided
    by the classes tied with the label (itself included), at most 1. Scores are (B, C), larger is better.
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
