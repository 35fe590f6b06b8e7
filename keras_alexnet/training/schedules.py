"""How the learning rate changes: by ten on a plateau (section 5), or by epoch, as its authors did by hand."""

import dataclasses
import math
import re

from keras_alexnet.errors import ArgumentError

PAPER_BATCH = 128  # section 5
# What the learning rates are multiplied by, of the batch over the paper's.
SCALINGS = {"none": lambda ratio: 1.0, "linear": lambda ratio: ratio, "sqrt": math.sqrt}


@dataclasses.dataclass
class Plateau:
    """Section 5: "divide the learning rate by 10 when the validation error rate stopped improving", three times.

    The paper does not say how long its authors waited. No epoch is counted before the error first falls below that of
    the majority-class baseline, or the flat start of the published initialization would use up all drops.
    """

    rate: float  # the learning rate now
    constant_error: float  # percent, of always answering the most frequent class
    patience: int = 5  # epochs without a new lowest error before the learning rate drops
    cuts_left: int = 3  # training ends where the next drop would be
    best: float = math.inf  # lowest error so far; `constant_error` until it is beaten
    waited: int = 0  # epochs since then

    def __post_init__(self):
        self.best = min(self.best, self.constant_error)

    def after_epoch(self, error):
        """Takes in an epoch's validation error in percent; returns False when training is to end."""
        if error < self.best:
            self.best, self.waited = error, 0
        elif self.best < self.constant_error:
            self.waited += 1
        if self.waited < self.patience:
            return True
        if self.cuts_left == 0:
            return False
        self.rate, self.waited, self.cuts_left = self.rate / 10, 0, self.cuts_left - 1
        return True


def parse(text):
    """The text of --lr_schedule -> tuple of (after_epoch, label, learning rate), in the order of the epochs.

    The label is "" for all kernels, "bias" for all biases, or the start of layer names. Raises ArgumentError where an
    entry is malformed or freezes everything.
    """
    entries = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        match = re.fullmatch(r"(\d{1,6}):(?:([a-z][a-z0-9_]*)=)?([0-9.eE+-]+)", part)
        try:
            rate = float(match[3])
        except (TypeError, ValueError):
            rate = math.nan
        if not (math.isfinite(rate) and rate >= 0):
            raise ArgumentError("lr_schedule", text, f"{part!r} is not AFTER_EPOCH:[LAYERS=]RATE, such as 25:0.001")
        if not rate and not match[2]:
            raise ArgumentError("lr_schedule", text, f"{part!r} freezes everything; end with --epochs instead")
        entries.append((int(match[1]), match[2] or "", rate))
    return tuple(sorted(entries, key=lambda entry: entry[0]))


def rates_after(epochs, schedule, learning_rate, bias_multiplier):
    """The learning rates of a schedule (entries as of `parse`) after so many epochs.

    Without an entry the kernels have `learning_rate`, and the biases `bias_multiplier` times theirs. Returns (learning
    rate of the kernels, dict of label -> factor on it, "bias" always). A learning rate set for biases or layers stays
    when that of the kernels changes: the release had one for each.
    """
    rate, own = learning_rate, {}
    for after_epoch, label, value in schedule:
        if after_epoch > epochs:
            break
        if label:
            own[label] = value
        else:
            rate = value
    multipliers = {**dict.fromkeys(layer_labels(schedule), 1.0), "bias": bias_multiplier}
    return rate, multipliers | {label: value / rate if rate else 0.0 for label, value in own.items()}


def layer_labels(schedule):
    """The starts of layer names that have entries in a schedule: set of str."""
    return {label for _, label, _ in schedule} - {"", "bias"}
