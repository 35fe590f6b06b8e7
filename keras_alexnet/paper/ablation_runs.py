"""The finished runs of a grid: read, compared with the baseline, and drawn."""

import dataclasses
import json
import os
import typing

from keras_alexnet import evaluation, flags, rundir
from keras_alexnet.data import statistics
from keras_alexnet.errors import RunError, UsageError, reading
from keras_alexnet.evaluate import EvaluateConfig
from keras_alexnet.paper import grid, plots, stats

BASELINE = "baseline"
CENTER = "center_view"  # of the baseline, compared with its ten views
FAR = 15.0  # points; a mean that is farther from 0 is drawn as a number at the edge


class FinishedRun(typing.NamedTuple):
    """A run that reached its end, as its folder has it."""

    folder: str
    history: list  # dict of float, one an epoch
    validation: dict  # label_counts and fingerprint of the validation set
    statistics: statistics.Statistics  # of the training set

    @property
    def error(self):
        """Top-1 error on the validation set after the last epoch, in percent, by center views."""
        return self.history[-1]["val_top1_error"]

    @property
    def fingerprints(self):
        """Of the training and the validation set, (str, str)."""
        return self.statistics.fingerprint, self.validation["fingerprint"]


def compare(cells, data_dir=None):
    """Reads the runs of a grid and compares them with the baseline.

    Args:
        cells: sequence of grid.Cell; the baseline's among them.
        data_dir: str, where the images are now; None: where they were.

    Returns:
        dict: `rows`, list of dict: name, seeds, errors and training_errors (percent, one a seed), of the center view's
        row ten_views too; unlearned (seeds whose error is not below the majority-class baseline's); difference (dict of
        mean, low, high, p, seeds and by_seed, points) or None; corrected, p by Holm or None. `missing`, list of (run,
        why); and what the protocol says of the baseline: epochs, images, training_images, classes, flags.

    Raises:
        RunError: no run of the baseline is done.
    """
    runs, missing, first = {cell.stem: {} for cell in cells}, [], None
    for cell in sorted(cells, key=lambda cell: cell.stem != BASELINE):
        try:
            run = read(cell)
            first = first or run
            if run.fingerprints != first.fingerprints:
                raise RunError("has other images than the baseline")
            runs[cell.stem][cell.seed] = run
        except RunError as error:
            missing.append((cell.name, str(error)))
    baseline = runs[BASELINE]
    if not baseline:
        why = "; ".join(f"{name} {reason}" for name, reason in missing if name.startswith(f"{BASELINE}/"))
        raise RunError(f"--grid: no run of the baseline is done ({why}); give --data_dir to train it")
    rows = [_row(name, each, {} if name == BASELINE else baseline) for name, each in runs.items()]
    rows.append(_center_row(baseline, data_dir, missing))
    corrected = stats.holm([row["difference"] and row["difference"]["p"] for row in rows])
    config, counts = cells[0].config, first.validation["label_counts"]
    shown = ("batch_size", "learning_rate", "lr_schedule", "precision", "variant", "width")
    return {
        "rows": [{**row, "corrected": p} for row, p in zip(rows, corrected, strict=True)],
        "missing": missing,
        "epochs": len(first.history),
        "images": sum(counts),
        "training_images": first.statistics.count,
        "classes": len(counts),
        "flags": {name: text for name, text in flags.as_text(config).items() if name in shown},
    }


def read(cell):
    """The finished run of a cell. Raises RunError, one line without the folder's name, where there is none."""
    if not rundir.is_run(cell.folder):
        raise RunError("is missing")
    changed = grid.changes(cell)
    if changed:
        raise RunError(f"has other flags than its flagfile: {', '.join(changed)}")
    epochs, wanted = grid.epochs_done(cell.folder), cell.config.training.epochs
    if not cell.done or epochs > wanted:
        raise RunError(f"has {epochs} of {wanted} epochs")
    with reading("its files"):
        with open(os.path.join(cell.folder, rundir.VALIDATION), encoding="utf-8") as file:
            validation = json.load(file)
        trained_on = statistics.load(os.path.join(cell.folder, rundir.STATISTICS))
    return FinishedRun(cell.folder, grid.history(cell.folder), validation, trained_on)


def error_by_views(run, views, data_dir=None):
    """The validation error of a run by the center view or by ten views, in percent.

    Args:
        run: FinishedRun.
        views: 1 or 10.
        data_dir: str, where the images are now; None: where they were.

    Raises:
        UsageError: the images are missing, or others.
        RunError: they cannot be read.
    """
    report = evaluation.evaluate(EvaluateConfig(model_dir=(run.folder,), views=views, data_dir=data_dir))
    found, images = report["set"], sum(run.validation["label_counts"])
    if found["images"] != images:
        raise UsageError(f"--data_dir={found['data_dir']}: holds {found['images']} images and not {images}")
    return report["result"]["top1_error"]


def draw(rows, path):
    """Draws paired differences as SVG, narrow enough for a phone.

    Args:
        rows: list of (title, difference: dict as of `compare`, color).
        path: str.
    """
    low, high = _limits([difference for _, difference, _ in rows])
    figure, axes = plots.panel(4.4, 1.0 + 0.36 * max(1, len(rows)))
    for place, (_, difference, color) in enumerate(rows):
        mean = difference["mean"]
        if not low <= mean <= high:
            edge, side, text = (high, "right", f"{mean:+.1f} →") if mean > high else (low, "left", f"{mean:+.1f} ←")
            axes.annotate(text, (edge, place), ha=side, va="center", color=color)
            continue
        axes.plot(difference["by_seed"], [place] * difference["seeds"], "o", color="0.65", markersize=4, zorder=2)
        if difference["low"] is not None:
            axes.plot([difference["low"], difference["high"]], [place, place], color=color, linewidth=1.4, zorder=1)
        axes.plot([mean], [place], "D", color=color, markersize=6, zorder=3)
    axes.axvline(0, color="0.4", linewidth=0.8, zorder=0)
    axes.set_xlim(low, high)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_yticks(range(len(rows)), [title for title, _, _ in rows])
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("points of top-1 error above the baseline")
    plots.write(figure, path)


def _row(name, runs, baseline):
    """A row of `compare`. Args: runs, baseline: dict of seed -> FinishedRun."""
    pairs = [(run.error, baseline[seed].error) for seed, run in runs.items() if seed in baseline]
    return {
        "name": name,
        "seeds": list(runs),
        "errors": [each.error for each in runs.values()],
        "training_errors": [each.history[-1]["top1_error"] for each in runs.values()],
        "unlearned": [seed for seed, each in runs.items() if each.error >= _majority_error(each)],
        "difference": _difference(pairs),
    }


def _majority_error(run):
    """The error of the majority-class baseline on the validation set of a run, in percent."""
    counts = run.validation["label_counts"]
    return 100 * (1 - max(counts) / sum(counts))


def _center_row(baselines, data_dir, missing):
    """The row of the baseline's center view, compared with its ten views; both evaluated in the same way."""
    found = {}
    for seed, run in baselines.items():
        try:
            found[seed] = [error_by_views(run, views, data_dir) for views in (1, 10)]
        except (RunError, UsageError) as error:
            missing.append((f"ten views of {BASELINE}/seed{seed}", str(error)))
    center, ten = ([errors[place] for errors in found.values()] for place in (0, 1))
    row = {"name": CENTER, "seeds": list(found), "errors": center, "ten_views": ten, "unlearned": []}
    return {**row, "difference": _difference(found.values())}


def _difference(pairs):
    """The paired difference of (error, error of the baseline), one a seed: dict as of `compare`, None of no pairs."""
    if not pairs:
        return None
    errors, others = zip(*pairs, strict=True)
    by_seed = [error - other for error, other in pairs]
    return {**dataclasses.asdict(stats.paired(errors, others)), "by_seed": by_seed}


def _limits(differences):
    """The ends of the axis: all seeds and intervals, except where the mean is FAR from 0."""
    ends = [0.0]
    for each in (each for each in differences if abs(each["mean"]) <= FAR):
        ends += each["by_seed"]
        # The interval of three seeds can be far longer than everything else; it is cut off then.
        ends += [max(-20.0, min(20.0, each[end])) for end in ("low", "high") if each[end] is not None]
    margin = 0.06 * (max(ends) - min(ends)) or 1.0
    return min(ends) - margin, max(ends) + margin
