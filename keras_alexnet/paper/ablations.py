"""What every part of the network is worth: runs without it against runs with it, on a small set.

The grid is every flagfile of flags/ablations times the seeds, see tools/run_grid.py. Each ablation is compared with the
baseline seed by seed, corrected by Holm's method for the number of comparisons: nothing is called worse or better
unless its corrected p is below 0.05. All that learned share one estimate of the spread (randomized blocks), since three
seeds alone tell it badly. A run that is unfinished, or has other flags than its flagfile, is named and left out. What
RESULTS/ablations.json has of a run with the same flags is not trained again: a grid may take several machines and days.
"""

import dataclasses
import glob
import os
import re
import sys

import numpy as np

from keras_alexnet import cli, config as configs, flags, rundir
from keras_alexnet.data import sources
from keras_alexnet.errors import RunError, UsageError, reading
from keras_alexnet.evaluate import EvaluateConfig
from keras_alexnet.files import read_json
from keras_alexnet.flags import flag
from keras_alexnet.model.variants import REMOVABLE
from keras_alexnet.paper import experiment, grid
from keras_alexnet.paper.experiment import NOT_RUN, Result, Table, Verdict

TITLE = "Ablations: what every part is worth"
CLAIM = (
    "Every part lowers the error, on ImageNet normalization by 1.4 and 1.2 points of top-1 and top-5, "
    "overlapping pooling by 0.4 and 0.3, the second tower by 1.7 and 1.2, color noise by over 1; removing any of the "
    "middle layers costs about 2 (sections 3.2 to 3.4, 4.1 and 7)."
)
COST = "about 3 hours on two CPU cores with bfloat16, if it is started twice (estimated): 50 runs of 4 to 9 minutes"
COMMAND = "python -m keras_alexnet.paper.ablations --data_dir=data/imagenette256 --grid=runs/ablations"

BASELINE = "baseline"
CENTER = "center_view"  # of the baseline, compared with its ten views
LEVEL = 0.05
QUICK = (BASELINE, "no_normalization", "fixed_crops")
QUICK_FLAGS = ("--shapes_train=2", "--shapes_val=1", "--width=0.0625", "--epochs=1", "--batch_size=8")
COLORS = {"worse": "tab:red", "better": "tab:green"}
FAR = 15.0  # points; a mean that is farther from 0 is drawn as a number at the edge


@dataclasses.dataclass(frozen=True)
class Settings(experiment.Settings):
    """Ablations."""

    grid: str = flag("runs/ablations", "The grid's folder, see tools/run_grid.py.", path=True)
    flags_dir: str = flag("flags/ablations", "Holds baseline.cfg and the ablations.", path=True)
    data_dir: str | None = flag(
        None,
        "Prepared images (tools/prepare_dataset.py), to train what grid and RESULTS/ablations.json lack.",
        path=True,
    )
    train: bool = flag(True, "Off: nothing is trained; --data_dir only says where the images of the ten views are.")
    seeds: tuple[int, ...] = flag((2012, 2013, 2014), "At least three for a test.", different=True)
    baseline_seeds: tuple[int, ...] = flag((2015, 2016), "More seeds of the baseline, for its spread; trained first.")

    def __post_init__(self):
        others = not set(self.baseline_seeds) & set(self.seeds)
        self.check("baseline_seeds", others, "must be other seeds than those of --seeds")


# What is left out (name of the flagfile, title), and what that changes on ImageNet, in points of top-1 / top-5 error:
# in the paper, with its section, and in the release, as the difference of two of the authors' notes by ten views.
ABLATIONS = {
    # 148 is without the normalization within maps too.
    "no_normalization": ("no normalization", "+1.4 / +1.2 (section 3.3)", "+1.37 / +1.15 (148 - 145)"),
    "no_overlapping_pooling": ("no overlap of pools", "+0.4 / +0.3 (section 3.4)", "+0.40 / +0.30 (147 - 145)"),
    "half_tower": ("one tower (half of conv1-4)", "+1.7 / +1.2 (section 3.2)", "+1.70 / +1.23 (145-half - 145-2010)"),
    "separate_towers": ("towers apart to fc8", "-", "+1.17 / +1.12 (150 - 145)"),
    "no_color_noise": ("no color noise", "over +1 / - (section 4.1)", "-"),
    "fixed_crops": ("no random crops", '"substantial overfitting" (section 4.1)', "-"),
    "no_dropout": ("no dropout (learning rate / 4)", '"substantial overfitting" (section 4.2)', "-"),
    "tanh": ("tanh for ReLU", "slower, no error given (section 3.1)", "-"),
    **{f"no_{name}": (f"no {name}", "about +2 / - (section 7)", "-") for name in REMOVABLE},
    "as_published": ("the variant as published", "-", "-"),
    "inverted_dropout": ("dropout as Keras has it", "-", "-"),
    # No run of its own: the baseline by its center view against the same by ten views.
    CENTER: ("center for ten views", "+1.5 / +1.3 (section 6)", "+1.55 / +1.30 (145-2010)"),
}


def run(settings):
    paths = sorted(glob.glob(os.path.join(glob.escape(settings.flags_dir), "*.cfg")))
    found = {os.path.splitext(os.path.basename(path))[0]: path for path in paths}
    settings.check("flags_dir", BASELINE in found, f"must be a folder with a {BASELINE}.cfg")
    names = [name for name in (BASELINE, *_every(found)) if name in found]
    folder, seeds, more = flags.required(settings, "grid"), settings.seeds, settings.baseline_seeds
    further = [f"--data_dir={settings.data_dir}"] if settings.data_dir else []
    if settings.quick:
        if settings.data_dir:
            print("--quick trains on a few drawn shapes: --data_dir and --grid are ignored")
        names = [name for name in QUICK if name in found]
        folder, seeds, more = os.path.join(settings.results_dir, "ablations"), seeds[:2], ()
        further = ["--dataset=shapes", f"--data_dir={folder}/shapes", "--precision=float32", *QUICK_FLAGS]
    cells = grid.cells_of([found[BASELINE]], (*seeds, *more), folder, further)
    cells += grid.cells_of([found[name] for name in names if name != BASELINE], seeds, folder, further)
    stored = {} if settings.quick else earlier(settings.results_dir)
    known = known_runs(cells, stored, settings.data_dir)
    if known:
        print(f"{len(known)} runs are taken from {settings.results_dir}/ablations.json")
    left = [cell for cell in cells if cell.name not in known]
    trains = left and (settings.quick or (settings.data_dir and settings.train))
    if not trains and not known and not os.path.isdir(folder):
        raise UsageError(f"--grid={folder}: is not a folder; give --data_dir to train its runs")
    experiment.pyplot()
    if trains:
        failed, elsewhere = grid.run(left)
        for cell, why in {**elsewhere, **failed}.items():
            print(f"{cell.name}: {why}", file=sys.stderr)
    cli.start_tensorflow()  # until here the GPUs are free for the trainers
    from keras_alexnet import evaluation  # TensorFlow, which `--help` does not wait for

    values = compare(cells, evaluation.evaluate, None if settings.quick else settings.data_dir, known)
    numbers = ", ".join(f"{name} {value}" for name, value in values["flags"].items())
    made = sorted({f"{each['commit']} on {each['device']}" for each in values["runs"].values()})
    protocol = (
        f"{values['training_images']} training and {values['images']} validation images, {values['classes']} classes; "
        f"one network by its center view after {values['epochs']} epochs; {numbers}; seeds of the baseline: "
        f"{', '.join(map(str, values['rows'][0]['seeds']))}; randomized blocks over seeds, Holm's correction; each "
        f"ablation as its flagfile in flags/ablations says; trained by {'; '.join(made)}"
    )
    if not settings.quick:  # those of other seeds and flagfiles, and of other machines meanwhile, stay in the file
        values["runs"] = earlier(settings.results_dir) | values["runs"]
    caption = (
        "Points of top-1 error above the baseline of the same seed: single seeds gray, means with 95 % intervals. Red "
        "is worse and green better with a corrected p below 0.05; black cannot be told."
    )
    return Result(values, protocol, {"ablations.svg": (draw(values), caption)})


def earlier(results_dir):
    """The runs in RESULTS/ablations.json: dict of a cell's name -> as of `read`."""
    try:
        return dict(experiment.read("ablations", results_dir)["values"]["runs"])
    except (RunError, KeyError, TypeError, ValueError):  # there is none, it is damaged or of an earlier version
        return {}


def known_runs(cells, stored, data_dir):
    """Those of `stored`, as of `earlier`, that stand for cells which are not done: of the same flags and images."""
    usual, found = _flags_of(flags.read(configs.Config, {})), {}
    for cell in cells:
        run = stored.get(cell.name, {"flags": ""})
        given = re.split(r" (?=--)", run["flags"])
        then = usual | dict(each[2:].split("=", 1) for each in given if each)  # a flag added since: its default
        if run["flags"] and then == _flags_of(cell.config) and not cell.done:
            found[cell.name] = run
    if found and data_dir:
        now = [source.fingerprint() for source in sources.open_training(cells[0].config.data)]
        found = {name: run for name, run in found.items() if run["fingerprints"] == now}
    return found


def compare(cells, evaluate, data_dir=None, known=None):
    """Reads the runs of a grid and compares them with the baseline; None as data_dir: the images are where they were.

    `known`: as of `known_runs`, what need not be read.

    Returns:
        dict: `rows`, list of dict: name, seeds, errors and training_errors (percent, one a seed), of the center view's
        row ten_views too; unlearned (seeds whose error is not below the majority-class baseline's); difference, see
        experiment.paired, or None; corrected, p by Holm or None. `missing`, list of (run, why); `runs`, as `known`,
        with `views`, errors by the center view and by ten, where they were asked for; and more.
    """
    runs, missing, first, known = {cell.stem: {} for cell in cells}, [], None, known or {}
    for cell in sorted(cells, key=lambda cell: cell.stem != BASELINE):
        try:
            run = known.get(cell.name) or read(cell)
            first = first or run
            if run["fingerprints"] != first["fingerprints"]:
                raise RunError("has other images than the baseline")
            runs[cell.stem][cell.seed] = run
        except RunError as error:
            missing.append((cell.name, str(error)))
    if not runs[BASELINE]:
        why = "; ".join(f"{name} {reason}" for name, reason in missing if name.startswith(f"{BASELINE}/"))
        raise RunError(f"--grid: no run of the baseline is done ({why}); give --data_dir to train it")
    counts, baseline, rows, views = first["label_counts"], runs[BASELINE], [], {}
    majority = 100 * (1 - max(counts) / sum(counts)) - 0.001  # history.csv has six digits
    for name, own in runs.items():
        pairs = [(run["error"], baseline[seed]["error"]) for seed, run in own.items() if seed in baseline]
        errors, training_errors = ([run[key] for run in own.values()] for key in ("error", "training_error"))
        row = {"name": name, "seeds": list(own), "errors": errors, "training_errors": training_errors}
        row["unlearned"] = [seed for seed, run in own.items() if run["error"] >= majority]
        rows.append({**row, "difference": experiment.paired(pairs) if pairs and name != BASELINE else None})
    pool(rows)
    for seed, run in baseline.items():
        try:
            run["views"] = run.get("views") or [error_by_views(run, n, evaluate, data_dir) for n in (1, 10)]
            views[seed] = run["views"]
        except (RunError, UsageError) as error:
            missing.append((f"ten views of {BASELINE}/seed{seed}", str(error)))
    center, ten = ([errors[place] for errors in views.values()] for place in (0, 1))
    row = {"name": CENTER, "seeds": list(views), "errors": center, "ten_views": ten, "unlearned": []}
    rows.append({**row, "difference": experiment.paired(views.values()) if views else None})
    corrected = holm([row["difference"] and row["difference"]["p"] for row in rows])
    seeds = len({cell.seed for cell in cells if cell.stem != BASELINE})
    shown = ("batch_size", "learning_rate", "lr_schedule", "precision", "variant", "width")
    return {
        "rows": [{**row, "corrected": p} for row, p in zip(rows, corrected, strict=True)],
        "missing": missing,
        "runs": {f"{name}/seed{seed}": run for name, own in runs.items() for seed, run in own.items()},
        "epochs": first["epochs"],
        "images": sum(counts),
        "training_images": first["training_images"],
        "classes": len(counts),
        "flags": {name: text for name, text in flags.as_text(cells[0].config).items() if name in shown},
        "least_effect": least_effect([run["error"] for run in baseline.values()], len(rows) - 2, seeds),
    }


def pool(rows):
    """Replaces interval and p in the differences of rows as of `compare` by those of randomized blocks.

    An error is a sum of what the network, the seed and chance add, and chance has the same deviation in all rows. Rows
    with a seed that did not learn keep their own paired t-test, since their errors lie far apart, or all at chance.
    """
    compared = [row for row in rows if row["difference"] or row["name"] == BASELINE]
    learned = [row for row in compared if not row["unlearned"] and len(row["errors"]) >= experiment.LEAST_SEEDS]
    tested = [row for row in learned if row["difference"]]
    cells = [(row["name"], seed) for row in learned for seed in row["seeds"]]
    levels = [row["name"] for row in tested] + sorted({seed for _, seed in cells})
    errors, free = np.concatenate([row["errors"] for row in learned] or [[]]), len(cells) - len(levels)
    if free < 1 or not tested or learned[0]["name"] != BASELINE:
        return
    design = np.array([[level in cell for level in levels] for cell in cells], float)
    estimates, left = np.linalg.lstsq(design, errors, rcond=None)[:2]
    inverse, t = np.linalg.inv(design.T @ design), experiment.optional("scipy.stats").t(free)
    for place, row in enumerate(tested):
        mean, deviation = float(estimates[place]), float(np.sqrt(left.sum() / free * inverse[place, place]))
        reach = float(deviation * t.ppf(0.975))
        p = float(2 * t.sf(abs(mean) / deviation)) if deviation else float(mean == 0)
        row["difference"] |= {"mean": mean, "low": mean - reach, "high": mean + reach, "p": p}


def least_effect(errors, rows, seeds, draws=10_000):
    """The points of difference that four of five grids would find, by simulation from the errors of a baseline's seeds.

    `rows` ablations with `seeds` seeds each, one of which has an effect; its p is corrected for all of them and for the
    ten views. The deviation is that of the errors, with the seeds' share, which blocks take away. None with one error,
    without ablations, and with fewer than LEAST_SEEDS.
    """
    if len(errors) < 2 or not rows or seeds < experiment.LEAST_SEEDS:
        return None
    shape = (draws, rows + 1, seeds)  # the baseline first, then the ablation with an effect
    drawn = np.random.default_rng(0).normal(scale=np.std(errors, ddof=1), size=shape)
    means, free = drawn.mean(2), rows * (seeds - 1)
    left = drawn - means[..., None] - drawn.mean(1, keepdims=True) + drawn.mean((1, 2), keepdims=True)
    t = float(experiment.optional("scipy.stats").t(free).ppf(1 - LEVEL / (rows + 1) / 2))
    needed = t * np.sqrt((left**2).sum((1, 2)) / free * 2 / seeds)
    return float(np.quantile(needed - means[:, 1] + means[:, 0], 0.8))


def holm(ps):
    """Holm's correction of several p (SciPy has none): list in the same order, each at most 1; None stays None."""
    known = sorted((p, place) for place, p in enumerate(ps) if p is not None)
    corrected, least = [None] * len(ps), 0.0
    for rank, (p, place) in enumerate(known):
        least = max(least, min(1.0, (len(known) - rank) * p))
        corrected[place] = least
    return corrected


def read(cell):
    """What the folder of a finished run says, dict for JSON; errors in percent after the last epoch, by center views.

    Raises RunError, one line without the folder's name, where there is none.
    """
    if not rundir.is_run(cell.folder):
        raise RunError("is missing")
    if cell.changes:
        raise RunError(f"has other flags than its flagfile: {', '.join(cell.changes)}")
    wanted = cell.config.training.epochs
    if not cell.done or cell.epochs > wanted:
        raise RunError(f"has {cell.epochs} of {wanted} epochs")
    with reading("its files"), np.load(os.path.join(cell.folder, rundir.STATISTICS)) as trained_on:
        validation = read_json(os.path.join(cell.folder, rundir.VALIDATION))
        last, made = cell.history[-1], read_json(os.path.join(cell.folder, rundir.PROVENANCE))[0]
        return {
            "folder": cell.folder,
            "flags": " ".join(f"--{name}={value}" for name, value in _flags_of(cell.config).items()),
            "commit": made.get("commit", "unknown"),
            "device": made.get("device", "unknown"),
            "epochs": cell.epochs,
            "error": last["val_top1_error"],
            "training_error": last["top1_error"],
            "training_images": int(trained_on["count"]),
            "label_counts": validation["label_counts"],
            "fingerprints": [str(trained_on["fingerprint"]), validation["fingerprint"]],
        }


def _flags_of(config):
    """The flags that affect a run, wherever its images are: dict of str -> str."""
    return {name: str(value) for name, value in grid.settings_of(config).items() if name != "data_dir"}


def error_by_views(run, views, evaluate, data_dir=None):
    """The validation error of a run as of `read` by the center view (1) or by ten views, in percent."""
    report = evaluate(EvaluateConfig(model_dir=(run["folder"],), views=views, data_dir=data_dir))
    found, images = report["set"], sum(run["label_counts"])
    if found["images"] != images:
        raise UsageError(f"--data_dir={found['data_dir']}: holds {found['images']} images and not {images}")
    return report["result"]["top1_error"]


def draw(values):
    rows = {row["name"]: row for row in values["rows"] if row["difference"]}
    rows = [(title, rows[name]) for name, (title, _, _) in _every(rows).items() if name in rows]
    figure, axes = experiment.panel(4.4, 1.0 + 0.36 * max(1, len(rows)))  # narrow enough for a phone
    ends = [0.0]  # of the axis: all seeds and intervals, except where the mean is far
    for each in (row["difference"] for _, row in rows if abs(row["difference"]["mean"]) <= FAR):
        # The interval of three seeds can be far longer than everything else; it is cut off then.
        interval = [max(-20.0, min(20.0, each[end])) for end in ("low", "high") if each[end] is not None]
        ends += each["by_seed"] + interval
    margin = 0.06 * (max(ends) - min(ends)) or 1.0
    low, high = min(ends) - margin, max(ends) + margin
    for place, (_, row) in enumerate(rows):
        each, color = row["difference"], COLORS.get(judgement(row), "black")
        mean = each["mean"]
        if not low <= mean <= high:
            edge, side, arrow = (high, "right", "→") if mean > high else (low, "left", "←")
            axes.annotate(f"{mean:+.1f} {arrow}", (edge, place), ha=side, va="center", color=color)
            continue
        axes.plot(each["by_seed"], [place] * each["seeds"], "o", color="0.65", markersize=4, zorder=2)
        if each["low"] is not None:
            axes.plot([each["low"], each["high"]], [place, place], color=color, linewidth=1.4, zorder=1)
        axes.plot([mean], [place], "D", color=color, markersize=6, zorder=3)
    axes.axvline(0, color="0.4", linewidth=0.8, zorder=0)
    axes.set(xlim=(low, high), ylim=(len(rows) - 0.5, -0.5), xlabel="points of top-1 error\nabove the baseline")
    axes.set_yticks(range(len(rows)), [title for title, _ in rows])
    axes.tick_params(axis="y", length=0)
    return figure


def judgement(row):
    """What the seeds say of a row, str: "worse", "better", "cannot be told", or why there was no test."""
    if not row["errors"]:
        return NOT_RUN
    if row["difference"] is None:
        return "no baseline"
    if row["corrected"] is None:
        return f"no test: {row['difference']['seeds']} of at least {experiment.LEAST_SEEDS} seeds"
    if row["corrected"] >= LEVEL:
        return "cannot be told"
    return "worse" if row["difference"]["mean"] > 0 else "better"


def tables(values):
    rows, costs, overfitting = {row["name"]: row for row in values["rows"]}, [], []
    for name, (title, paper, release) in {BASELINE: ("baseline", "-", "-"), **_every(rows)}.items():
        row, cells, fit = rows.get(name), (NOT_RUN,) * 5, (NOT_RUN,) * 3
        if row and row["errors"]:
            error, difference, shown = experiment.mean_and_spread(row["errors"]), row["difference"], ("-", "-", "-")
            if name == CENTER:
                error += f" (ten views {experiment.mean_and_spread(row['ten_views'])})"
            else:
                means = [sum(row[key]) / len(row[key]) for key in ("training_errors", "errors")]
                fit = *(f"{mean:.2f}" for mean in means), f"{means[1] - means[0]:+.2f}"
            if difference:
                ps = difference["p"], row["corrected"]
                shown = ("-" if p is None else f"{p:.3f}" if p >= 0.001 else "< 0.001" for p in ps)
                shown = experiment.paired_text(difference), *shown
            cells = (error, *shown, "-" if name == BASELINE else judgement(row))
        costs.append((title, paper, release, *cells))
        if name != CENTER:
            overfitting.append((title, *fit))
    of_costs = ("", "paper", "release", "ours: error, %", "difference", "p", "p, Holm", "verdict")
    of_fit = ("", "training", "validation", "validation - training")
    how = "training: as the images were trained on, with crops, noise and dropout where there are any, during the epoch"
    found = [
        Table("What leaving one thing out costs: top-1 error", of_costs, costs, _note(values)),
        Table("Overfitting: top-1 error of the last epoch, %, means over seeds", of_fit, overfitting, how),
    ]
    missing = values["missing"]
    return [*found, Table("Runs that are not in the tables", ("", "why"), missing)] if missing else found


def verdict(values):
    rows, titles, claimed = {row["name"]: row for row in values["rows"]}, {}, set()
    for name, (title, paper, _) in _every(rows).items():
        word = judgement(rows[name]) if name in rows else NOT_RUN
        titles.setdefault(word, []).append(title)
        claimed |= {word} if paper != "-" else set()
    outcome = "holds" if claimed == {"worse"} else "does not hold" if "better" in claimed else "cannot be told"
    named = {word: f" ({', '.join(each)})" * (word in COLORS) for word, each in titles.items()}
    numbers = [f"{len(titles[word])} {word}{named[word]}" for word in sorted(titles, key=lambda word: word in COLORS)]
    where = f"classes: {values['classes']}, epochs: {values['epochs']}"
    return Verdict(outcome, f"of {len(_every(rows))} ablations ({where}) {', '.join(numbers)}")


def _every(names):
    """ABLATIONS, and what further flagfiles name."""
    return {**ABLATIONS, **{name: (name, "-", "-") for name in names if name not in (*ABLATIONS, BASELINE)}}


def _note(values):
    blocks = "randomized blocks (of a paired t-test where a seed did not learn, and of the last row)"
    test = blocks if "least_effect" in values else "the paired t-test"  # of version 0.1
    note = (
        "paper and release: points of top-1 / top-5 error on ImageNet; ours: after the last epoch, center view, mean ± "
        "standard deviation over seeds; difference to the baseline of the same seed (of the last row: to ten views of "
        f"the same runs) in points, mean [95 % interval]; p of {test}, and corrected by Holm for all rows"
    )
    if values.get("least_effect"):
        note += f"; four of five such grids would find an effect of {values['least_effect']:.1f} points (simulated)"
    unlearned = [f"{row['name']}/seed{seed}" for row in values["rows"] for seed in row["unlearned"]]
    return note + f"; no better than the majority-class baseline: {', '.join(unlearned)}" * bool(unlearned)


if __name__ == "__main__":
    raise SystemExit(experiment.main("ablations"))
