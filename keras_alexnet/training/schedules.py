"""Learning rate policies: drops on a plateau (section 5), or a schedule by epoch, like the authors' changes by hand."""

import dataclasses
import math
import re

from keras_alexnet.errors import ArgumentError

PAPER_BATCH = 128  # section 5
# Factor on the learning rates, as a function of the batch size divided by PAPER_BATCH.
SCALINGS = {"none": lambda ratio: 1.0, "linear": lambda ratio: ratio, "sqrt": math.sqrt}


@dataclasses.dataclass
class Plateau:
    """Section 5: "divide the learning rate by 10 when the validation error rate stopped improving", three times.

    The paper does not say how long its authors waited. Epochs count only after the error has first fallen below that of
    the majority-class baseline; otherwise the flat start of the published initialization would use up all drops.
    """

    rate: float  # current learning rate
    constant_error: float  # error in percent of the majority-class baseline
    patience: int = 5  # epochs without a new lowest error before the learning rate drops
    cuts_left: int = 3  # without drops left, training ends at the next plateau
    best: float = math.inf  # lowest error so far, at most `constant_error`
    waited: int = 0  # epochs since the lowest error

    def __post_init__(self):
        self.best = min(self.best, self.constant_error)

    def after_epoch(self, error):
        """Updates the state with an epoch's validation error in percent; returns False if training should end."""
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
    """Parses --lr_schedule into a tuple of (after_epoch, label, learning rate), sorted by epoch.

    The label is "" for all kernels, "bias" for all biases, or a prefix of layer names. Raises ArgumentError where an
    entry is malformed or freezes all layers.
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
    """The learning rates of a schedule, as returned by `parse`, after `epochs` epochs.

    Without entries, kernels have `learning_rate` and biases `bias_multiplier` times that. Returns (learning rate of the
    kernels, dict of label -> factor on it, which always has "bias"). A learning rate set for biases or layers does not
    change with that of the kernels, as in the release, where each layer has its own.
    """
    rates = {"": learning_rate} | {label: rate for after, label, rate in schedule if after <= epochs}
    rate = rates.pop("")
    multipliers = {**dict.fromkeys(layer_labels(schedule), 1.0), "bias": bias_multiplier}
    return rate, multipliers | {label: value / rate if rate else 0.0 for label, value in rates.items()}


def layer_labels(schedule):
    """The prefixes of layer names in a schedule: set of str."""
    return {label for _, label, _ in schedule} - {"", "bias"}
