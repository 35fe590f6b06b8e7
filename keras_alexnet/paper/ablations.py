"""What every part of the network is worth: runs without it against runs with it, on a small set.

    python -m keras_alexnet.paper.ablations --data_dir=photos --grid=runs/ablations      # trains what is missing
    python -m keras_alexnet.paper.ablations --grid=runs/ablations                        # reads the runs that exist

The grid is every flagfile of flags/ablations times the seeds, see tools/run_grid.py. Each ablation is compared with the
baseline seed by seed: mean difference, 95 % interval and p of the paired t-test, corrected by Holm's method for the
number of comparisons. Nothing is called worse or better unless its corrected p is below 0.05. A run that is unfinished,
or has other flags than its flagfile, is named and left out.
"""

import dataclasses
import glob
import os
import sys

from keras_alexnet import cli, flags
from keras_alexnet.errors import ArgumentError, UsageError
from keras_alexnet.flags import flag
from keras_alexnet.paper import experiment, grid, stats
from keras_alexnet.paper.experiment import NOT_RUN, Experiment, Result, Table, Verdict

BASELINE = "baseline"
CENTER = "center_view"
LEVEL = 0.05
QUICK = (BASELINE, "no_normalization", "fixed_crops")
QUICK_FLAGS = ("--shapes_train=2", "--shapes_val=1", "--width=0.0625", "--epochs=1", "--batch_size=8")
COLORS = {"worse": "tab:red", "better": "tab:green"}


@dataclasses.dataclass(frozen=True)
class Settings(experiment.Settings):
    """Ablations."""

    grid: str = flag("runs/ablations", "The grid's folder, see tools/run_grid.py.", path=True)
    flags_dir: str = flag("flags/ablations", "Holds baseline.cfg and the ablations.", path=True)
    data_dir: str | None = flag(
        None,
        "Images, DATA_DIR/train/CLASS/* and DATA_DIR/val/CLASS/*: what the grid lacks is trained on them. Without it "
        "nothing is trained.",
        path=True,
    )
    train: bool = flag(True, "Off: nothing is trained; --data_dir only says where the images of the ten views are.")
    seeds: tuple[int, ...] = flag((2012, 2013, 2014), "At least three for a test.")

    def __post_init__(self):
        grid.check_seeds(self.seeds)


# What is left out (name of the flagfile, title), and what that changes on ImageNet, in points of top-1 / top-5 error:
# in the paper, with its section, and in the release, as the difference of two of the authors' notes by ten views.
ABLATIONS = {
    # 42.03 - 40.66 and 19.36 - 18.21; the normalization within maps is gone too.
    "no_normalization": ("no normalization", "+1.4 / +1.2 (section 3.3)", "+1.37 / +1.15 (148 - 145)"),
    # 41.06 - 40.66 and 18.51 - 18.21
    "no_overlapping_pooling": ("no overlap of pools", "+0.4 / +0.3 (section 3.4)", "+0.40 / +0.30 (147 - 145)"),
    # 39.17 - 37.47 and 18.23 - 17.00
    "half_tower": ("one half-width tower", "+1.7 / +1.2 (section 3.2)", "+1.70 / +1.23 (145-half - 145-2010)"),
    # 41.83 - 40.66 and 19.33 - 18.21
    "separate_towers": ("towers apart to fc8", "-", "+1.17 / +1.12 (150 - 145)"),
    "no_color_noise": ("no color noise", "over +1 / - (section 4.1)", "-"),
    "fixed_crops": ("no random crops", '"substantial overfitting" (section 4.1)', "-"),
    "no_dropout": ("no dropout (a quarter of the learning rate)", '"substantial overfitting" (section 4.2)', "-"),
    "tanh": ("tanh for ReLU", "slower, no error given (section 3.1)", "-"),
    **{f"no_{name}": (f"no {name}", "about +2 / - (section 7)", "-") for name in ("conv2", "conv3", "conv4", "conv5")},
    "no_fc7": ("no fc7", "about +2 / - (section 7)", "-"),
    # No run of its own: the baseline by its center view against the same by ten views. 39.0 - 37.5 and 18.3 - 17.0;
    # 39.02 - 37.47 and 18.30 - 17.00.
    CENTER: ("center for ten views", "+1.5 / +1.3 (section 6)", "+1.55 / +1.30 (145-2010)"),
}


def run(settings):
    """Trains what the grid lacks and compares its runs: Result."""
    with cli.quiet_start():
        # What needs TensorFlow or the extra `figures` is missing before the training, and not after it. The GPUs are
        # free until TensorFlow is started, which is done when the trainers have ended.
        from keras_alexnet.paper import ablation_runs
    cells, folder = _cells_of(settings)
    if settings.quick or (settings.data_dir and settings.train):
        failed, elsewhere = grid.run(cells, grid.train_here if settings.quick else grid.train_in_process)
        for cell, why in {**elsewhere, **failed}.items():
            print(f"{cell.name}: {why}", file=sys.stderr)
    elif not os.path.isdir(folder):
        raise UsageError(f"--grid={folder}: is not a folder; give --data_dir to train its runs")
    cli.start_tensorflow()
    values = ablation_runs.compare(cells, None if settings.quick else settings.data_dir)
    rows = {row["name"]: row for row in values["rows"] if row["difference"]}
    shown = [(title, rows[name]) for name, (title, _, _) in _every(rows).items() if name in rows]
    ablation_runs.draw(
        [(title, row["difference"], COLORS.get(judgement(row), "black")) for title, row in shown],
        os.path.join(settings.results_dir, "ablations.svg"),
    )
    caption = (
        "Points of top-1 error above the baseline of the same seed: single seeds gray, means with 95 % intervals. Red "
        "is worse and green better with a corrected p below 0.05; black cannot be told."
    )
    return Result(values, _protocol(values), (("ablations.svg", caption),))


def judgement(row):
    """What the seeds say of a row, str: "worse", "better", "cannot be told", or why there was no test."""
    if not row["errors"]:
        return NOT_RUN
    if row["difference"] is None:
        return "no baseline"
    if row["corrected"] is None:
        return f"no test: {row['difference']['seeds']} of at least {stats.LEAST_SEEDS} seeds"
    if row["corrected"] >= LEVEL:
        return "cannot be told"
    return "worse" if row["difference"]["mean"] > 0 else "better"


def tables(values):
    """The costs, the overfitting, and the runs that are missing: list of Table."""
    rows = {row["name"]: row for row in values["rows"]}
    every = _every(rows)
    costs = [("baseline", "-", "-", stats.mean_and_spread(rows[BASELINE]["errors"]), "-", "-", "-", "-")]
    costs += [(title, paper, release, *_cost(rows.get(name))) for name, (title, paper, release) in every.items()]
    trained = {BASELINE: "baseline", **{name: each[0] for name, each in every.items() if name != CENTER}}
    found = [
        Table(
            "What leaving one thing out costs: top-1 error",
            ("", "paper", "release", "ours: error, %", "difference", "p", "p, Holm", "verdict"),
            tuple(costs),
            _note(values),
        ),
        Table(
            "Overfitting: top-1 error of the last epoch, %, means over seeds",
            ("", "training", "validation", "validation - training"),
            tuple((title, *_overfitting(rows.get(name))) for name, title in trained.items()),
            "training: as the images were trained on, with crops, noise and dropout where there are any, during the "
            "epoch",
        ),
    ]
    missing = tuple(map(tuple, values["missing"]))
    return [*found, Table("Runs that are not in the tables", ("", "why"), missing)] if missing else found


def verdict(values):
    """Whether every part lowers the error: Verdict."""
    rows, titles = {row["name"]: row for row in values["rows"]}, {}
    every = _every(rows)
    for name, (title, _, _) in every.items():
        titles.setdefault(judgement(rows[name]) if name in rows else NOT_RUN, []).append(title)
    worse, better = titles.get("worse", ()), titles.get("better", ())
    outcome = "holds" if len(worse) == len(every) else "does not hold" if better else "cannot be told"
    numbers = [f"{len(each)} {word}" for word, each in titles.items() if word not in ("worse", "better")]
    numbers += [
        f"{len(each)} {word} ({', '.join(each)})" for word, each in titles.items() if word in ("worse", "better")
    ]
    return Verdict(outcome, f"of {len(every)} ablations {', '.join(numbers)}")


def _cells_of(settings):
    """The cells of the grid, the baseline's first, and its folder."""
    paths = sorted(glob.glob(os.path.join(glob.escape(settings.flags_dir), "*.cfg")))
    found = {os.path.splitext(os.path.basename(path))[0]: path for path in paths}
    if BASELINE not in found:
        raise ArgumentError("flags_dir", settings.flags_dir, f"must be a folder with a {BASELINE}.cfg")
    names = [name for name in (BASELINE, *_every(found)) if name in found]
    folder, seeds = flags.required(settings, "grid"), settings.seeds
    further = [f"--data_dir={settings.data_dir}"] if settings.data_dir else []
    if settings.quick:
        if settings.data_dir:
            print("--quick trains on a few drawn shapes: --data_dir and --grid are ignored", flush=True)
        folder, names, seeds = os.path.join(settings.results_dir, "ablations"), QUICK, seeds[:2]
        further = ["--dataset=shapes", f"--data_dir={folder}/shapes", "--precision=float32", *QUICK_FLAGS]
    return grid.cells_of([found[name] for name in names], seeds, folder, further), folder


def _every(names):
    """ABLATIONS, and what further flagfiles name."""
    return {**ABLATIONS, **{name: (name, "-", "-") for name in names if name not in (*ABLATIONS, BASELINE)}}


def _cost(row):
    """The cells of a row that were measured here."""
    if not row or not row["errors"]:
        return (NOT_RUN,) * 5
    error, difference = stats.mean_and_spread(row["errors"]), row["difference"]
    if row["name"] == CENTER:
        error += f" (ten views {stats.mean_and_spread(row['ten_views'])})"
    if difference is None:
        return error, "-", "-", "-", judgement(row)
    text = stats.Difference(**{name: each for name, each in difference.items() if name != "by_seed"}).as_text()
    return error, text, _p(difference["p"]), _p(row["corrected"]), judgement(row)


def _p(p):
    return "-" if p is None else f"{p:.3f}" if p >= 0.001 else "< 0.001"


def _overfitting(row):
    if not row or not row["errors"]:
        return (NOT_RUN,) * 3
    training, error = (sum(row[key]) / len(row[key]) for key in ("training_errors", "errors"))
    return f"{training:.2f}", f"{error:.2f}", f"{error - training:+.2f}"


def _note(values):
    note = (
        "paper and release: points of top-1 / top-5 error on ImageNet; ours: after the last epoch, center view, mean ± "
        "standard deviation over seeds; difference to the baseline of the same seed (of the last row: to ten views of "
        "the same runs) in points, mean [95 % interval]; p of the paired t-test, and corrected by Holm for all rows"
    )
    tested = [row["difference"] for row in values["rows"] if row["difference"] and row["difference"]["low"] is not None]
    if tested:
        reach, seeds = sorted((each["high"] - each["mean"], each["seeds"]) for each in tested)[len(tested) // 2]
        least = stats.reach_at(reach, seeds, LEVEL / len(tested))
        note += f"; with these seeds and so many rows a difference is certain from about {least:.1f} points on"
    unlearned = [f"{row['name']}/seed{seed}" for row in values["rows"] for seed in row["unlearned"]]
    return note + f"; no better than the majority-class baseline: {', '.join(unlearned)}" * bool(unlearned)


def _protocol(values):
    settings = ", ".join(f"{name} {value}" for name, value in values["flags"].items())
    seeds = ", ".join(str(seed) for seed in values["rows"][0]["seeds"])
    return (
        f"{values['training_images']} training and {values['images']} validation images, {values['classes']} classes; "
        f"one network by its center view after {values['epochs']} epochs; {settings}; seeds of the baseline: {seeds}; "
        "paired t-test over seeds, Holm's correction; each ablation as its flagfile in flags/ablations says"
    )


EXPERIMENT = Experiment(
    name="ablations",
    title="Ablations: what every part is worth",
    claim="Every part lowers the error on ImageNet: normalization by 1.4 and 1.2 points of top-1 and top-5, "
    "overlapping pooling by 0.4 and 0.3, the second tower by 1.7 and 1.2, color noise by over 1; removing any of the "
    "middle layers costs about 2 (sections 3.2 to 3.4, 4.1 and 7).",
    cost="two hours on two CPU cores: 42 runs of 2,934 images, 2 to 4 minutes each",
    command="python -m keras_alexnet.paper.ablations --data_dir=photos --grid=runs/ablations",
    settings=Settings,
    run=run,
    tables=tables,
    verdict=verdict,
)

if __name__ == "__main__":
    sys.exit(experiment.main(EXPERIMENT))
