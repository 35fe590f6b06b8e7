"""What every part of the network is worth: runs without it, against runs with it, on a small set.

    python -m keras_alexnet.paper.ablations --data_dir=photos --grid=runs/ablations      # trains what is missing
    python -m keras_alexnet.paper.ablations --grid=runs/ablations                        # looks at what is there

The grid is every flagfile of flags/ablations times the seeds, see tools/run_grid.py. Each ablation is compared with the
baseline seed by seed: mean difference, 95 % interval and p of the paired t-test, corrected by Holm's method for the
number of comparisons. Nothing is called worse or better on less than a corrected p of 0.05. A run that is not done, or
is not what its flagfile says, is named and left out.
"""

import dataclasses
import glob
import math
import os
import sys

from keras_alexnet.cli import run_command, start_tensorflow
from keras_alexnet.errors import UsageError
from keras_alexnet.paper import comparison, config, grid, results, trainer
from keras_alexnet.paper.ablation_runs import BASELINE, CENTER, compare

TITLE = "Ablations: what every part is worth"
CLAIM = (
    "Every part lowers the error on ImageNet: normalization by 1.4 and 1.2 points of top-1 and top-5, overlapping "
    "pooling by 0.4 and 0.3, the second tower by 1.7 and 1.2, color noise by over 1; removing any of the middle layers "
    "costs about 2 (sections 3.2 to 3.4, 4.1 and 7)."
)
COMMAND = "python -m keras_alexnet.paper.ablations --data_dir=photos --grid=runs/ablations"
COST = "two hours on two CPU cores: 42 runs of 2,934 photographs, 2 to 4 minutes each"
LEVEL = 0.05
QUICK = (BASELINE, "no_normalization", "fixed_crops")


@dataclasses.dataclass(frozen=True)
class Ablation:
    """What is left out, and what that does on ImageNet, points of top-1 / top-5 error.

    Attributes:
        name: str, of the flagfile.
        title: str.
        paper: str, with its section.
        release: str, the difference of two of the authors' notes, by ten views.
    """

    name: str
    title: str
    paper: str = "-"
    release: str = "-"


ABLATIONS = (
    # 42.03 - 40.66 and 19.36 - 18.21; the normalization within maps is gone too.
    Ablation("no_normalization", "no normalization", "+1.4 / +1.2 (section 3.3)", "+1.37 / +1.15 (148 - 145)"),
    # 41.06 - 40.66 and 18.51 - 18.21
    Ablation("no_overlapping_pooling", "no overlap of pools", "+0.4 / +0.3 (section 3.4)", "+0.40 / +0.30 (147 - 145)"),
    # 39.17 - 37.47 and 18.23 - 17.00
    Ablation("half_tower", "one half-width tower", "+1.7 / +1.2 (section 3.2)", "+1.70 / +1.23 (145-half - 145-2010)"),
    # 41.83 - 40.66 and 19.33 - 18.21
    Ablation("separate_towers", "towers apart to fc8", "-", "+1.17 / +1.12 (150 - 145)"),
    Ablation("no_color_noise", "no color noise", "over +1 / - (section 4.1)"),
    Ablation("fixed_crops", "no random crops", '"substantial overfitting" (section 4.1)'),
    Ablation("no_dropout", "no dropout (a quarter of the rate)", '"substantial overfitting" (section 4.2)'),
    Ablation("tanh", "tanh for ReLU", "slower, no error given (section 3.1)"),
    Ablation("no_conv2", "no conv2", "about +2 / - (section 7)"),
    Ablation("no_conv3", "no conv3", "about +2 / - (section 7)"),
    Ablation("no_conv4", "no conv4", "about +2 / - (section 7)"),
    Ablation("no_conv5", "no conv5", "about +2 / - (section 7)"),
    Ablation("no_fc7", "no fc7", "about +2 / - (section 7)"),
    # No run of its own: the baseline by its center view against the same by ten views. 39.0 - 37.5 and 18.3 - 17.0;
    # 39.02 - 37.47 and 18.30 - 17.00.
    Ablation(CENTER, "center for ten views", "+1.5 / +1.3 (section 6)", "+1.55 / +1.30 (145-2010)"),
)


def main(argv):
    settings = config.parse_ablations(argv, __doc__)
    results.folder_for(settings.results_dir)
    folder, flagfiles, seeds, further = _grid(settings)
    if settings.quick and settings.data_dir:
        print("--quick trains on a few drawn shapes: --data_dir and --grid are not looked at", flush=True)
    if settings.quick or (settings.data_dir and settings.train):
        train = trainer.here if settings.quick else trainer.in_a_process
        outcome = grid.run(grid.cells_of(flagfiles.values(), seeds, folder, further), train=train, say=_say)
        for cell, why in {**outcome.elsewhere, **outcome.failed}.items():
            print(f"{cell.name}: {why}", file=sys.stderr)
    elif not os.path.isdir(folder):
        raise UsageError(f"--grid={folder}: there is no such folder; give --data_dir, and its runs are trained")
    start_tensorflow()
    values = compare(folder, flagfiles, seeds, None if settings.quick else settings.data_dir)
    draw(values, os.path.join(settings.results_dir, "ablations.svg"))
    path = results.write(
        settings.results_dir,
        "ablations",
        values,
        protocol=_protocol(values),
        argv=argv,
        pictures=[
            (
                "ablations.svg",
                "Points of top-1 error above the baseline of the same seed: single seeds gray, means with 95 % "
                "intervals. Red is worse and green better with a corrected p below 0.05; black cannot be told.",
            )
        ],
        quick=settings.quick,
    )
    results.say(sys.modules[__name__], values, path)


def judged(row):
    """What the seeds allow to say of a row, str: "worse", "better", "cannot be told", or why there was no test."""
    if not row["errors"]:
        return results.NOT_RUN
    if row["difference"] is None:
        return "no baseline"
    if row["corrected"] is None:
        return f"no test: {row['difference']['seeds']} of at least {comparison.LEAST_SEEDS} seeds"
    if row["corrected"] >= LEVEL:
        return "cannot be told"
    return "worse" if row["difference"]["mean"] > 0 else "better"


def tables(values):
    """What the report shows, see `results`."""
    rows = {row["name"]: row for row in values["rows"]} if values else {}
    first = results.Table(
        "What leaving one thing out costs: top-1 error",
        ("", "paper", "release", "ours: error, %", "difference", "p", "p, Holm", "verdict"),
        (
            ("baseline", "-", "-", _error_of(rows.get(BASELINE)), "-", "-", "-", "-"),
            *((each.title, each.paper, each.release, *_shown(rows.get(each.name))) for each in _every(rows)),
        ),
        _note(values),
    )
    second = results.Table(
        "Overfitting: top-1 error of the last epoch, %, means over seeds",
        ("", "training", "validation", "validation - training"),
        tuple(
            (title, *_fit(rows.get(name)))
            for name, title in [(BASELINE, "baseline"), *((each.name, each.title) for each in _every(rows))]
            if name != CENTER
        ),
        "training: as the images were trained on, with crops, noise and dropout where there are any, during the epoch",
    )
    if not values or not values["missing"]:
        return [first, second]
    left_out = tuple((name, why) for name, why in values["missing"])
    return [first, second, results.Table("Runs that are not in the tables", ("", "why"), left_out)]


def verdict(values):
    """What can be told at this scale, and no more, str."""
    if values is None:
        return results.NOT_RUN
    rows = {row["name"]: row for row in values["rows"]}
    said = {}
    for each in _every(rows):
        word = judged(rows[each.name]) if each.name in rows else results.NOT_RUN
        said.setdefault(word.partition(":")[0], []).append(each.title)
    order = ("worse", "better", "cannot be told", "no test", "no baseline", results.NOT_RUN)
    parts = [f"{word.capitalize()}: {', '.join(said[word])}." for word in order if word in said]
    return " ".join(parts)


def draw(values, path):
    """Writes the paired differences as SVG, narrow enough for a phone; what is far off is a number at the edge."""
    from keras_alexnet.paper import pictures

    rows = {row["name"]: row for row in values["rows"]}
    shown = [(each.title, rows[each.name]) for each in _every(rows) if each.name in rows]
    shown = [(title, row) for title, row in shown if row["difference"]]
    low, high = _limits([row["difference"] for _, row in shown])
    figure, axes = pictures.panel(4.4, 1.0 + 0.36 * max(1, len(shown)))
    for place, (_, row) in enumerate(shown):
        difference, color = row["difference"], {"worse": "tab:red", "better": "tab:green"}.get(judged(row), "black")
        mean = difference["mean"]
        if not low <= mean <= high:
            edge, side = (high, "right") if mean > high else (low, "left")
            axes.annotate(
                f"{mean:+.1f} {'→' if mean > high else '←'}", (edge, place), ha=side, va="center", color=color
            )
            continue
        axes.plot(difference["by_seed"], [place] * difference["seeds"], "o", color="0.65", markersize=4, zorder=2)
        if difference["low"] is not None:
            ends = [max(low, difference["low"]), min(high, difference["high"])]
            axes.plot(ends, [place, place], "-", color=color, linewidth=1.4, zorder=1)
        axes.plot([mean], [place], "D", color=color, markersize=6, zorder=3)
    axes.axvline(0, color="0.4", linewidth=0.8, zorder=0)
    axes.set_xlim(low, high)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.set_yticks(range(len(shown)), [title for title, _ in shown])
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("points of top-1 error above the baseline")
    pictures.write(figure, path)


def _grid(settings):
    """Where the grid is and what it is of: (folder, dict of name -> flagfile, seeds, further flags of training)."""
    paths = sorted(glob.glob(os.path.join(glob.escape(settings.flags_dir), "*.cfg")))
    found = {os.path.splitext(os.path.basename(path))[0]: path for path in paths}
    if BASELINE not in found:
        raise UsageError(
            f"--flags_dir={settings.flags_dir}: holds no {BASELINE}.cfg; name the project's flags/ablations"
        )
    names = [BASELINE, *(each.name for each in _every(found) if each.name in found)]
    flagfiles = {name: found[name] for name in names}
    if not settings.quick:
        further = [f"--data_dir={settings.data_dir}"] if settings.data_dir else []
        return settings.grid, flagfiles, settings.seeds, further
    folder = os.path.join(settings.results_dir, "ablations")
    further = ["--dataset=shapes", f"--data_dir={os.path.join(folder, 'shapes')}", "--shapes_train=2", "--shapes_val=1"]
    further += ["--width=0.0625", "--epochs=1", "--batch_size=8", "--precision=float32"]
    few = {name: path for name, path in flagfiles.items() if name in QUICK}
    return os.path.join(folder, "grid"), few, settings.seeds[:2], further


def _every(names):
    """The ablations that are known, and those of further flagfiles: list of Ablation."""
    known = {BASELINE, *(each.name for each in ABLATIONS)}
    return [*ABLATIONS, *(Ablation(name, name) for name in names if name not in known)]


def _error_of(row):
    return comparison.mean_and_spread(row["errors"]) if row and row["errors"] else results.NOT_RUN


def _shown(row):
    """The cells of a row that are ours."""
    if not row or not row["errors"]:
        return (results.NOT_RUN,) * 5
    difference, error = row["difference"], _error_of(row)
    if row["name"] == CENTER:
        error += f" (ten views {comparison.mean_and_spread(row['ten_views'])})"
    if difference is None:
        return error, "-", "-", "-", judged(row)
    numbers = {name: math.nan if value is None else value for name, value in difference.items() if name != "by_seed"}
    return error, comparison.Difference(**numbers).as_text(), _p(difference["p"]), _p(row["corrected"]), judged(row)


def _p(p):
    return "-" if p is None else f"{p:.3f}" if p >= 0.001 else "< 0.001"


def _fit(row):
    if not row or not row["errors"]:
        return (results.NOT_RUN,) * 3
    training, error = (sum(row[key]) / len(row[key]) for key in ("training_errors", "errors"))
    return f"{training:.2f}", f"{error:.2f}", f"{error - training:+.2f}"


def _note(values):
    note = (
        "paper and release: points of top-1 / top-5 error on ImageNet; ours: after the last epoch, center view, mean ± "
        "standard deviation over seeds; difference to the baseline of the same seed (of the last row: to ten views of "
        "the same runs) in points, mean [95 % interval]; p of the paired t-test, and corrected by Holm for all rows"
    )
    told = _certain_from(values)
    if told:
        note += f"; with these seeds and so many rows a difference is certain from about {told:.1f} points on"
    unlearned = [f"{row['name']}/seed{seed}" for row in (values["rows"] if values else ()) for seed in row["unlearned"]]
    if unlearned:
        note += f"; no better than a majority-class baseline: {', '.join(unlearned)}"
    return note


def _certain_from(values):
    """From how many points on a row of median spread is certain after Holm's correction; None where not known."""
    if not values:
        return None
    found = [row["difference"] for row in values["rows"] if row["difference"] and row["difference"]["low"] is not None]
    spreads = sorted((each["high"] - each["mean"], each["seeds"]) for each in found)
    if not spreads:
        return None
    reach, seeds = spreads[len(spreads) // 2]
    return comparison.reach_at(reach, seeds, LEVEL / len(spreads))


def _limits(differences):
    """The ends of the axis: of all seeds and intervals, but those of means that are more than 15 points away."""
    near = [each for each in differences if abs(each["mean"]) <= 15]
    ends = [0.0]
    for each in near:
        ends += each["by_seed"]
        # An interval of three seeds can be far longer than all else; its ends are then cut off.
        ends += [max(-20.0, min(20.0, each[end])) for end in ("low", "high") if each[end] is not None]
    margin = 0.06 * (max(ends) - min(ends)) or 1.0
    return min(ends) - margin, max(ends) + margin


def _say(line):
    print(line, flush=True)


def _protocol(values):
    flags = ", ".join(f"{name} {value}" for name, value in values["flags"].items())
    seeds = ", ".join(str(seed) for seed in values["rows"][0]["seeds"])
    return (
        f"{values['training_images']} training and {values['images']} validation images, {values['classes']} classes; "
        f"one network by its center view after {values['epochs']} epochs; {flags}; seeds of the baseline: {seeds}; "
        "paired t-test over seeds, Holm's correction; each ablation as its flagfile in flags/ablations says"
    )


if __name__ == "__main__":
    sys.exit(run_command("ablations", main, sys.argv[1:]))
