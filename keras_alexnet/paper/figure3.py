"""Figure 3: the filters of the first layer, and how sensitive to color each tower's are.

A filter's color share is how much of its energy, the sum of its squared weights, lies outside the gray axis R = G = B:
0 for a filter that sees brightness only, 1 for one that sees color only; 2/3 on average for random weights.
"""

import collections
import dataclasses
import os

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

    model_dir: tuple[str, ...] = flag((), "A run's folder; again for runs of other seeds.", many=True, path=True)
    normalize: str = flag(
        "jointly",
        "jointly: all filters are scaled by one factor. each: every filter by its own mean and spread.",
        choices=("jointly", "each"),
    )


def run(settings):
    for folder in flags.required(settings, "model_dir"):
        rundir.check_run(folder)
    different = {os.path.realpath(folder) for folder in settings.model_dir}
    settings.check("model_dir", len(different) == len(settings.model_dir), "names a run twice")
    experiment.pyplot()  # which fails now where Matplotlib is missing, and not after the work
    cli.start_tensorflow()
    permutations, runs, pixels = PERMUTATIONS // (100 if settings.quick else 1), [], None
    for folder in settings.model_dir:
        opened = rundir.open_run(folder)
        config, classes = opened.config, opened.class_names
        network, seed, epochs = config.network, config.run.seed, len(opened.history)
        trained, start = filters.conv1_towers(rundir.build(opened)), None
        if opened.history and not config.training.initial_weights:
            start = filters.conv1_towers(rundir.build_model(network, len(classes), seed, devices=()))
        if not runs:
            pixels = filters.grid(trained, SCALE, settings.normalize, smooth=True)
        name = f"{network.variant}, width {network.width:g}, {epochs} epochs, seed {seed}"
        about = f"{sum(kernel.shape[-1] for kernel in trained)} filters, {opened.statistics.count:,} training images"
        about += f" of {len(classes)} classes"
        has_towers = network.groups == 2  # two towers have two groups, and groups compute the same
        runs.append({**compare(trained, start, permutations), "name": name, "about": about, "towers": has_towers})
    alike = collections.Counter(each["name"] for each in runs)
    for each, folder in zip(runs, settings.model_dir, strict=True):
        each["name"] += f", {folder}" * (alike[each["name"]] > 1)
    described = "; ".join(f"{each['name']}: {each['about']}" for each in runs)
    test = f"permutation test of the difference of the towers' means, two-sided, {permutations:,} permutations"
    scaled = "one by one" if settings.normalize == "each" else "by one common factor"
    of = " of the first run" * (len(runs) > 1)
    grid = pixels, f"The filters of conv1{of}, scaled {scaled}: tower 0 above, tower 1 below."
    shares = "Color share of every filter, tower 0 (blue) above tower 1; bars: means, dashed: random weights."
    figures = {"figure3.png": grid, "figure3_color.svg": (draw(runs), shares)}
    return Result({"runs": runs}, f"{described}; {test}", figures)


def draw(runs):
    """The color shares of all towers, those of the first run above."""
    figure, axes = experiment.panel(6.4, 1.2 + 0.8 * len(runs))
    towers = [shares for each in runs for shares in each["shares"]]
    for place, shares in enumerate(towers):
        # Spread in height, always the same way, so that dots of similar filters can be told apart.
        heights = place + 0.5 * (np.arange(len(shares)) * 0.618 % 1 - 0.5)
        axes.plot(shares, heights, "o", color=f"C{place % 2}", markersize=4, alpha=0.7, markeredgewidth=0)
        axes.plot([np.mean(shares)] * 2, [place - 0.35, place + 0.35], color="black", linewidth=1.8)
    axes.axvline(RANDOM, color="0.5", linestyle="--", linewidth=0.8)
    axes.hlines(np.arange(1, len(runs)) * 2 - 0.5, 0, 1, color="0.85", linewidth=0.6)
    axes.set_yticks(np.arange(len(runs)) * 2 + 0.5, [each["name"].replace(", ", "\n", 1) for each in runs], fontsize=8)
    # As in the image of the filters tower 0 is above.
    axes.set(xlim=(0, 1), ylim=(len(towers) - 0.5, -0.5), xlabel="color share (0: gray, 1: color only)")
    return figure


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
    shares, moves, tests = [], [], []
    for run in values["runs"]:
        for tower, own in enumerate(run["shares"]):
            name = f"{run['name']}, tower {tower}"
            numbers = (f"{np.mean(own):.3f}", f"{np.median(own):.3f}", f"{min(own):.3f} to {max(own):.3f}")
            shares.append((name, PAPER[tower], *numbers))
            moved = run["moved"] and (f"{run['moved'][tower]:.2f}", f"{run['cosine'][tower]:.3f}")
            moves.append((name, *(moved or ("-", "-"))))
        pairs = (("", "trained", judge(run)[1]), ("start_", "at the random start", "-"))
        for key, when, words in pairs[: 1 + (run["start_p"] is not None)]:
            cells = f"{run[key + 'difference']:+.3f}", f"{run[key + 'p']:.4f}", words
            tests.append((f"{run['name']}, {when}", *cells))
    shares.append(("random weights", "-", f"{RANDOM:.3f}", f"{RANDOM:.3f}", "-"))
    of_shares = "Chance decides which of the two towers is the gray one; the paper's is its GPU 1."
    of_tests = (
        "p tells whether these two towers differ, not why: the filters of a tower learn together. It is not "
        "corrected for the number of runs."
    )
    of_color = "", "paper", "ours: mean", "ours: median", "ours: range"
    of_moves = "", "distance over the start's norm", "cosine with the start"
    return [
        Table("Color share of the filters: 0 gray, 1 color only", of_color, shares, of_shares),
        Table("Are the towers different?", ("", "tower 1 minus tower 0, means", "p", ""), tests, of_tests),
        Table("How far the filters have moved from their random start, medians", of_moves, moves),
    ]


def verdict(values):
    """The paper's claim is of every run: it holds where it does in all that can be judged."""
    judged = [judge(run) for run in values["runs"]]
    known = [holds for holds, _ in judged if holds is not None]
    outcome = "cannot be told" if not known else "holds" if all(known) else "does not hold"
    counts = collections.Counter(words for _, words in judged)
    said = "; ".join(f"in {count} {words}" for words, count in counts.most_common())
    alike = "the towers are built alike and see the same images, only their random numbers differ"
    found = f"one gray and one colored tower in {sum(known)} of {len(known)} runs" if known else "no run can be judged"
    alone = "; the paper's claim is of every run, which one run cannot confirm" * (known == [True])
    return Verdict(outcome, f"{found} ({said}); {alike}{alone}")


def judge(run):
    """(whether the towers of a run are as the paper has them, or None; why)."""
    if not run["towers"]:
        return None, "the network has one tower, and the halves of its filters mean nothing"
    if run["cosine"] and min(run["cosine"]) > AT_START:
        return None, "the filters are still what they were at the random start"
    least, most = sorted(float(np.mean(shares)) for shares in run["shares"])
    if run["p"] >= CERTAIN:
        return False, "the towers differ no more than by chance"
    if least >= RANDOM:
        return False, "both towers see more color than random filters do"
    if least < RANDOM / 2 and most >= RANDOM:
        return True, "one tower is mostly gray, the other sees color"
    return False, "the towers differ, but not as gray and colored"


if __name__ == "__main__":
    raise SystemExit(experiment.main("figure3"))
