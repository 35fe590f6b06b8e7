"""Figure 3: the filters of the first layer, and how sensitive to color each tower's are.

A filter's color share is how much of its energy, the sum of its squared weights, lies outside the gray axis R = G = B:
0 for a filter that sees brightness only, 1 for one that sees color only; 2/3 on average for random weights.
"""

import dataclasses
import os
import sys

import numpy as np

from keras_alexnet import cli, flags, rundir
from keras_alexnet.flags import flag
from keras_alexnet.model import filters
from keras_alexnet.paper import experiment
from keras_alexnet.paper.experiment import Result, Table, Verdict

TITLE = "Figure 3: the filters of the first layer"
CLAIM = (
    "The kernels on GPU 1 are largely color-agnostic, those on GPU 2 largely color-specific; this specialization "
    "occurs during every run and is independent of any particular random weight initialization (section 6.1, Figure "
    "3)."
)
COST = "10 seconds on one CPU core, once there is a run"
COMMAND = "python -m keras_alexnet.paper.figure3 --model_dir=RUN"

RANDOM = 2 / 3  # the mean color share of random weights
PERMUTATIONS, SEED = 10_000, 2012
CERTAIN = 0.05  # a p below this is more than chance
AT_START = 0.9  # a filter whose cosine with its own start is higher has hardly learned
SCALE = 5  # pixels per weight
PAPER = ("largely color-agnostic", "largely color-specific")


@dataclasses.dataclass(frozen=True)
class Settings(experiment.Settings):
    """Figure 3."""

    model_dir: str | None = flag(None, "A run's folder.", path=True)
    normalize: str = flag(
        "jointly",
        "jointly: all filters are scaled by one factor. each: every filter by its own mean and spread.",
        choices=("jointly", "each"),
    )


def run(settings):
    rundir.check_run(flags.required(settings, "model_dir"))
    experiment.pyplot()  # which fails now where Matplotlib is missing, and not after the work
    cli.start_tensorflow()

    opened = rundir.open_run(settings.model_dir)
    network, names, seed = opened.config.network, opened.class_names, opened.config.run.seed
    trained, start = filters.conv1_towers(rundir.build(opened)), None
    if opened.history and not opened.config.training.initial_weights:
        start = filters.conv1_towers(rundir.build_model(network, len(names), seed, devices=()))
    values = {
        **compare(trained, start, PERMUTATIONS // (100 if settings.quick else 1)),
        "towers": network.towers == 2 or network.groups == 2,  # groups compute the same as towers
        "epochs": len(opened.history),
        "model": os.path.basename(os.path.normpath(opened.model_dir)),
    }
    pixels = filters.grid(trained, SCALE, settings.normalize, smooth=True)
    experiment.write_pixels(pixels, os.path.join(settings.results_dir, "figure3.png"))
    figure, axes = experiment.panel(6.4, 2.4)
    for tower, shares in enumerate(values["shares"]):
        # Spread in height, always the same way, so that dots of similar filters can be told apart.
        heights = tower + 0.5 * (np.arange(len(shares)) * 0.618 % 1 - 0.5)
        axes.plot(shares, heights, "o", color=f"C{tower}", markersize=4, alpha=0.7, markeredgewidth=0)
        axes.plot([np.mean(shares)] * 2, [tower - 0.35, tower + 0.35], color="black", linewidth=1.8)
    axes.axvline(RANDOM, color="0.5", linestyle="--", linewidth=0.8)
    axes.set_yticks([0, 1], ["tower 0", "tower 1"])
    # As in the image of the filters tower 0 is above.
    axes.set(xlim=(0, 1), ylim=(1.5, -0.5), xlabel="color share (0: gray, 1: color only)")
    experiment.write_figure(figure, os.path.join(settings.results_dir, "figure3_color.svg"))
    protocol = (
        f"{sum(kernel.shape[-1] for kernel in trained)} filters of one run, {network.variant}, width "
        f"{network.width:g}, {opened.config.data.dataset} with {opened.statistics.count:,} training images of "
        f"{len(names)} classes, {values['epochs']} epochs, seed {seed}; permutation test of the difference of the "
        f"towers' means, two-sided, {values['permutations']:,} permutations"
    )
    scaled = "one by one" if settings.normalize == "each" else "by one common factor"
    grid = "figure3.png", f"The filters of conv1, scaled {scaled}: tower 0 above, tower 1 below."
    colors = "figure3_color.svg", "Color share of every filter by tower; bars: means, dashed: random weights (2/3)."
    return Result(values, protocol, (grid, colors))


def compare(trained, start, permutations):
    """The color shares of both towers, and medians of how far their filters have moved; None without a known start.

    `trained` and `start` are lists of two float32 (11, 11, 3, filters).
    """
    shares = [color_shares(kernel) for kernel in trained]
    difference, p = permutation_test(shares, permutations)
    start_difference = start_p = moved = cosine = None
    if start:
        start_difference, start_p = permutation_test([color_shares(kernel) for kernel in start], permutations)
        moved, cosine = [], []
        for kernels in zip(trained, start, strict=True):
            now, was = (kernel.reshape(-1, kernel.shape[-1]).astype(np.float64) for kernel in kernels)
            length, start_length = np.linalg.norm(now, axis=0), np.linalg.norm(was, axis=0)
            moved.append(float(np.median(np.linalg.norm(now - was, axis=0) / start_length)))
            cosine.append(float(np.median((now * was).sum(0) / np.maximum(length * start_length, 1e-30))))
    numbers = {"difference": difference, "p": p, "start_difference": start_difference, "start_p": start_p}
    numbers |= {"permutations": permutations, "moved": moved, "cosine": cosine}
    return {"shares": [each.tolist() for each in shares], **numbers}


def color_shares(kernel):
    """How much of each filter's energy is outside the gray axis, 0 to 1; filters of zeros are left out."""
    kernel = np.asarray(kernel, np.float64)
    energy = np.square(kernel).sum((0, 1, 2))
    outside = np.square(kernel - kernel.mean(axis=2, keepdims=True)).sum((0, 1, 2))
    return outside[energy > 0] / energy[energy > 0]


def permutation_test(shares, permutations=PERMUTATIONS):
    """(mean of the second group minus mean of the first, two-sided p), floats; fewer than two values tell nothing."""
    if min(map(len, shares)) < 2:
        return 0.0, 1.0
    # All ways to form the groups are tried where they are fewer.
    test = experiment.optional("scipy.stats").permutation_test(
        shares[::-1],
        lambda second, first, axis: second.mean(axis) - first.mean(axis),
        n_resamples=permutations,
        rng=np.random.default_rng(SEED),
    )
    return float(test.statistic), float(test.pvalue)


def tables(values):
    shares, moves = [], []
    for tower, own in enumerate(values["shares"]):
        numbers = (f"{np.mean(own):.3f}", f"{np.median(own):.3f}", f"{min(own):.3f} to {max(own):.3f}")
        shares.append((f"tower {tower}", PAPER[tower], *numbers))
        moved = values["moved"] and (f"{values['moved'][tower]:.2f}", f"{values['cosine'][tower]:.3f}")
        moves.append((f"tower {tower}", *(moved or ("-", "-"))))
    shares.append(("random weights", "-", f"{RANDOM:.3f}", f"{RANDOM:.3f}", "-"))
    tests = [("trained", f"{values['difference']:+.3f}", f"{values['p']:.4f}"), ("at the random start", "-", "-")]
    if values["start_p"] is not None:
        tests[1] = ("at the random start", f"{values['start_difference']:+.3f}", f"{values['start_p']:.4f}")
    of_shares = "Chance decides which of the two towers is the gray one; the paper's is its GPU 1."
    of_tests = (
        "p tells whether these two towers differ, not why: the filters of a tower learn together. The paper's claim is "
        "of every run; one run cannot confirm it."
    )
    of_color = "", "paper", "ours: mean", "ours: median", "ours: range"
    of_moves = "", "distance over the start's norm", "cosine with the start"
    return [
        Table("Color share of the filters: 0 gray, 1 color only", of_color, shares, of_shares),
        Table("Are the towers different?", ("", "tower 1 minus tower 0, means", "p"), tests, of_tests),
        Table("How far the filters have moved from their random start, medians", of_moves, moves),
    ]


def verdict(values):
    if not values["towers"]:
        return Verdict("cannot be told", "the network has one tower; the halves of its filters mean nothing")
    if values["cosine"] and min(values["cosine"]) > AT_START:
        return Verdict("cannot be told", "the filters are still what they were at the random start")
    outcome = "does not hold"
    least, most = sorted(float(np.mean(shares)) for shares in values["shares"])
    if values["p"] >= CERTAIN:
        words = "the towers differ no more than by chance"
    elif least < RANDOM / 2 and most >= RANDOM:
        outcome, words = "holds", "one tower is mostly gray, the other sees color"
    elif least >= RANDOM:
        words = "both towers see more color than random filters do"
    else:
        words = "the towers differ, but not as gray and colored"
    means = " and ".join(f"{np.mean(shares):.2f}" for shares in values["shares"])
    alike = "the towers are built alike and see the same images, only their random numbers differ"
    return Verdict(outcome, f"in this run {words} (mean color shares {means}, p = {values['p']:.4f}); {alike}")


if __name__ == "__main__":
    sys.exit(experiment.main("figure3"))
