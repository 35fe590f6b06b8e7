"""Figure 3: the filters of the first layer, and how sensitive to color each tower's are.

    python -m keras_alexnet.paper.figure3 --model_dir=RUN [--normalize=each]

A filter's color share is how much of its energy, the sum of its squared weights, lies outside the gray axis R = G = B:
0 for a filter that sees brightness only, 1 for one that sees color only. Random weights have 2/3 on average, two of
three directions. Whether the towers differ by more than the luck of the draw is tested by dealing the filters out to
them anew, 10,000 times.
"""

import os
import sys

import numpy as np

from keras_alexnet import rundir
from keras_alexnet.cli import run_command, start_tensorflow
from keras_alexnet.errors import RunError, reading
from keras_alexnet.paper import config, results

TITLE = "Figure 3: the filters of the first layer"
CLAIM = (
    "The kernels on GPU 1 are largely color-agnostic, those on GPU 2 largely color-specific; this specialization "
    "occurs during every run and is independent of any particular random weight initialization (section 6.1, Figure 3)."
)
COMMAND = "python -m keras_alexnet.paper.figure3 --model_dir=RUN"
COST = "10 seconds on one CPU core, once there is a run"
RANDOM = 2 / 3  # the mean color share of random weights
PERMUTATIONS, SEED = 10_000, 2012
CERTAIN = 0.05  # a p below this is more than chance
AT_START = 0.9  # a filter whose cosine with its own start is higher has hardly learned
SCALE = 4  # screen pixels per weight
PAPER = ("largely color-agnostic", "largely color-specific")


def main(argv):
    settings = config.parse_figure3(argv, __doc__)
    config.check_there("model_dir", settings.model_dir, "a run's, or an exported model's")
    rundir.check_run(settings.model_dir)
    results.folder_for(settings.results_dir)
    start_tensorflow()
    run = rundir.open_run(settings.model_dir)
    trained, start = filters_of(run)
    values = compare(run, trained, start, PERMUTATIONS // (100 if settings.quick else 1))
    draw_filters(trained, settings.normalize, os.path.join(settings.results_dir, "figure3.png"))
    draw_shares(values, os.path.join(settings.results_dir, "figure3_color.svg"))
    network = run.config.network
    filters = sum(len(shares) for shares in values["shares"])
    protocol = (
        f"{filters} filters of one run, {network.variant}, width {network.width:g}, {run.config.data.dataset} with "
        f"{run.statistics.count:,} training images of {len(run.class_names)} classes, {values['epochs']} epochs, seed "
        f"{run.config.run.seed}; permutation test of the difference of the towers' means, two-sided, "
        f"{values['permutations']:,} permutations"
    )
    one_by_one = "one by one" if settings.normalize == "each" else "by one common factor"
    path = results.write(
        settings.results_dir,
        "figure3",
        values,
        protocol=protocol,
        argv=argv,
        pictures=[
            ("figure3.png", f"The filters of conv1, scaled {one_by_one}: tower 0 above, tower 1 below."),
            (
                "figure3_color.svg",
                "Color share of every filter by tower; bars: means, dashed: random weights (2/3).",
            ),
        ],
        quick=settings.quick,
    )
    results.say(sys.modules[__name__], values, path)


def filters_of(run):
    """The filters of a run's conv1 by tower, trained and as its seed begins them.

    Args:
        run: keras_alexnet.rundir.Run.

    Returns:
        (trained, start): lists of two float32 (11, 11, 3, filters); start is None where the run began with weights
        from elsewhere.

    Raises:
        RunError: the checkpoint cannot be read, or conv1 has filters of another shape.
    """
    from keras_alexnet.model import weights
    from keras_alexnet.training.filters import conv1_towers

    with reading(run.checkpoint):
        stored = weights.read(run.checkpoint)
    for name, value in stored.items():
        if name.startswith("conv1") and name.endswith("/kernel") and value.shape[:-1] != (11, 11, 3):
            shape = "x".join(map(str, value.shape[:-1]))
            raise RunError(f"{run.model_dir}: its {name} has filters of {shape}; Figure 3 is of 11x11x3")
    model = rundir.build_model(run.config.network, len(run.class_names), run.config.run.seed, devices=())
    start = conv1_towers(model)
    with reading(run.checkpoint):
        weights.assign(stored, model)
    if run.config.training.initial_weights or not run.history:
        start = None
    return conv1_towers(model), start


def compare(run, trained, start, permutations):
    """What the filters say.

    Args:
        run: keras_alexnet.rundir.Run.
        trained, start: as of `filters_of`.
        permutations: int.

    Returns:
        dict: `shares`, a list of color shares for each tower; `difference`, the mean of tower 1 minus that of tower 0,
        and `p`, by `permutations` permutations; `start_difference` and `start_p`, the same of the start, or None;
        `moved` and `cosine`, for each tower the median over its filters of the distance from the start over the start's
        norm, and of the cosine with it, or None; `towers`, whether there are two (or two groups, which are the same);
        `epochs`; and `model`, the folder's name.
    """
    shares = [color_shares(kernel) for kernel in trained]
    difference, p = permutation_test(*shares, permutations)
    moved = cosine = start_difference = start_p = None
    if start is not None:
        start_difference, start_p = permutation_test(*map(color_shares, start), permutations)
        pairs = list(zip(map(_rows, trained), map(_rows, start), strict=True))
        norm = np.linalg.norm
        moved = [float(np.median(norm(now - was, axis=1) / norm(was, axis=1))) for now, was in pairs]
        cosine = [
            float(np.median((now * was).sum(1) / np.maximum(norm(now, axis=1) * norm(was, axis=1), 1e-30)))
            for now, was in pairs
        ]
    network = run.config.network
    return {
        "shares": [each.tolist() for each in shares],
        "difference": difference,
        "p": p,
        "permutations": permutations,
        "start_difference": start_difference,
        "start_p": start_p,
        "moved": moved,
        "cosine": cosine,
        "towers": network.towers == 2 or network.groups == 2,
        "epochs": len(run.history),
        "model": os.path.basename(os.path.normpath(run.model_dir)),
    }


def color_shares(kernel):
    """How much of each filter's energy is outside the gray axis.

    Args:
        kernel: float (rows, columns, 3, filters), RGB.

    Returns:
        float64 (filters,), 0 (gray) to 1; nan for a filter of zeros.
    """
    kernel = np.asarray(kernel, np.float64)
    gray = kernel.mean(axis=2, keepdims=True)
    with np.errstate(invalid="ignore"):
        return np.square(kernel - gray).sum((0, 1, 2)) / np.square(kernel).sum((0, 1, 2))


def permutation_test(values, others, permutations=PERMUTATIONS, seed=SEED):
    """Whether two groups differ in their means by more than dealing them out at random does.

    Args:
        values, others: float (N,) and (M,); what is nan does not count.
        permutations: int >= 1.
        seed: int.

    Returns:
        (mean of others minus mean of values, two-sided p, in 1 / (permutations + 1) .. 1), floats.
    """
    values, others = (each[~np.isnan(each)] for each in map(np.asarray, (values, others)))
    if not len(values) or not len(others):
        return 0.0, 1.0
    pool, count = np.concatenate([values, others]), len(values)
    difference = others.mean() - values.mean()
    dealt = np.random.default_rng(seed).permuted(np.tile(pool, (permutations, 1)), axis=1)
    differences = dealt[:, count:].mean(axis=1) - dealt[:, :count].mean(axis=1)
    # The same filters in another order add up to the same but for rounding, and are as far apart.
    as_far = int((np.abs(differences) >= abs(difference) - 1e-12).sum())
    return float(difference), (as_far + 1) / (permutations + 1)


def tables(values):
    """What the report shows, see `results`."""
    rows, moves = [], []
    for tower in (0, 1):
        mean, median, least, most = ("", "", "", "")
        if values:
            shares = np.array(values["shares"][tower])
            mean, median = f"{np.nanmean(shares):.3f}", f"{np.nanmedian(shares):.3f}"
            least, most = f"{np.nanmin(shares):.3f}", f"{np.nanmax(shares):.3f}"
        rows.append(
            (
                f"tower {tower}",
                PAPER[tower],
                *((mean, median, f"{least} to {most}") if values else (results.NOT_RUN,) * 3),
            )
        )
        known = values and values["moved"]
        moves.append(
            (
                f"tower {tower}",
                f"{values['moved'][tower]:.2f}" if known else "-" if values else results.NOT_RUN,
                f"{values['cosine'][tower]:.3f}" if known else "-" if values else results.NOT_RUN,
            )
        )
    rows.append(("random weights", "-", f"{RANDOM:.3f}", f"{RANDOM:.3f}", "-"))
    differences = [
        (label, *_tested(values, before)) for label, before in (("trained", ""), ("at the random start", "start_"))
    ]
    return [
        results.Table(
            "Color share of the filters: 0 gray, 1 color only",
            ("", "paper", "ours: mean", "ours: median", "ours: range"),
            tuple(rows),
            "Which of the two towers is the gray one is for the random numbers to say; the paper's is its GPU 1.",
        ),
        results.Table(
            "Are the towers different?",
            ("", "tower 1 minus tower 0, means", "p"),
            tuple(differences),
            "p says whether these two towers differ, not why: the filters of a tower learn together. The paper's claim "
            "is of every run; one run cannot bear it out.",
        ),
        results.Table(
            "How far the filters have moved from their random start, medians",
            ("", "distance over the start's norm", "cosine with the start"),
            tuple(moves),
        ),
    ]


def verdict(values):
    """Whether the claim holds, str."""
    if values is None:
        return results.NOT_RUN
    if not values["towers"]:
        return "Cannot be told: the network has one tower; the halves of its filters mean nothing."
    if values["cosine"] and min(values["cosine"]) > AT_START:
        return "Cannot be told: the filters are still what they were at the random start."
    means = [float(np.nanmean(shares)) for shares in values["shares"]]
    said = f"mean color shares {means[0]:.2f} and {means[1]:.2f}, p = {values['p']:.4f}"
    alike = "The towers are built alike and see the same pictures: only their random numbers differ."
    if values["p"] >= CERTAIN:
        return f"Does not hold in this run: the towers are no more different than chance has it ({said}). {alike}"
    if min(means) < RANDOM / 2 and max(means) >= RANDOM:
        return f"Holds in this run: one tower is mostly gray, the other sees color ({said}). {alike}"
    if min(means) >= RANDOM:
        return f"Does not hold in this run: both towers see more color than random filters do ({said}). {alike}"
    return f"Does not hold in this run: the towers differ, but not as gray and colored ({said}). {alike}"


def draw_filters(towers, normalize, path):
    """Writes the filters as PNG."""
    from keras_alexnet.paper import pictures
    from keras_alexnet.training.filters import grid

    pictures.write_pixels(grid(towers, SCALE, normalize), path)


def draw_shares(values, path):
    """Writes the color shares as SVG: a line of dots for each tower."""
    from keras_alexnet.paper import pictures

    figure, axes = pictures.panel(6.4, 2.4)
    for tower, shares in enumerate(values["shares"]):
        # Spread in height, always the same way, so that dots of like filters can be told apart.
        heights = tower + 0.5 * (np.arange(len(shares)) * 0.618 % 1 - 0.5)
        axes.plot(shares, heights, "o", color=f"C{tower}", markersize=4, alpha=0.7, markeredgewidth=0)
        axes.plot([np.nanmean(shares)] * 2, [tower - 0.35, tower + 0.35], color="black", linewidth=1.8)
    axes.axvline(RANDOM, color="0.5", linestyle="--", linewidth=0.8)
    axes.set_yticks([0, 1], ["tower 0", "tower 1"])
    axes.set_ylim(1.5, -0.5)  # as in the picture of the filters: tower 0 above
    axes.set_xlim(0, 1)
    axes.set_xlabel("color share (0: gray, 1: color only)")
    pictures.write(figure, path)


def _tested(values, before):
    """Difference and p as text."""
    if not values:
        return (results.NOT_RUN,) * 2
    difference, p = values[f"{before}difference"], values[f"{before}p"]
    return ("-", "-") if p is None else (f"{difference:+.3f}", f"{p:.4f}")


def _rows(kernel):
    """(11, 11, 3, filters) -> float64 (filters, 363)."""
    return np.moveaxis(np.asarray(kernel, np.float64), -1, 0).reshape(kernel.shape[-1], -1)


if __name__ == "__main__":
    sys.exit(run_command("figure3", main, sys.argv[1:]))
