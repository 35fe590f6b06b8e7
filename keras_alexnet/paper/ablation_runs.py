"""The runs of a grid, read back and compared: which are done and what their flagfiles say, and how they ended."""

import dataclasses
import json
import math
import os

from keras_alexnet import config as configs
from keras_alexnet import rundir
from keras_alexnet.errors import RunError, UsageError, reading
from keras_alexnet.files import atomic_write
from keras_alexnet.paper import comparison, grid, hparams

BASELINE = "baseline"
CENTER = "center_view"  # of the baseline, against its ten views
VIEWS = (1, 10)


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """A run that got to its end.

    Attributes:
        folder: str.
        config: keras_alexnet.config.Config.
        epochs: int.
        training_error, error: float, top-1 error of the last epoch in percent: of the images as they were trained on,
            dropout included, and of the validation set by center views.
        constant_error: float, of always answering the most frequent class of the validation set.
        training_images, images: int, of the training and the validation set.
        classes: int.
        fingerprints: (str, str), of the two sets.
    """

    folder: str
    config: configs.Config
    epochs: int
    training_error: float
    error: float
    constant_error: float
    training_images: int
    images: int
    classes: int
    fingerprints: tuple[str, str]


def compare(folder, flagfiles, seeds, data_dir=None):
    """Reads the runs of a grid and compares them with the baseline.

    Args:
        folder: str, the grid's.
        flagfiles: dict of str -> str, name -> path; the baseline's among them.
        seeds: sequence of int.
        data_dir: str, where the images are now; None: where they were.

    Returns:
        dict: `rows`, list of dict: name, seeds, errors and training_errors (percent, one a seed), of the center view's
        row ten_views too; unlearned (seeds whose error is the majority-class baseline's or more); difference (dict of
        mean, low, high, p, seeds and by_seed, points) or None; corrected, p by Holm or None. `missing`, list of (run,
        why); and what the protocol says of the baseline: epochs, images, training_images, classes, flags.

    Raises:
        RunError: no run of the baseline is done.
        UsageError: a flagfile is none of training's.
    """
    found, missing = {name: {} for name in flagfiles}, []
    for name in flagfiles:
        for seed in seeds:
            try:
                ended = read(grid.folder_of(folder, name, seed))
                first = next(iter(found[BASELINE].values()), ended if name == BASELINE else None)
                if first:
                    check(ended, first, flagfiles[name], flagfiles[BASELINE])
                found[name][seed] = ended
            except RunError as error:
                missing.append((f"{name}/seed{seed}", str(error)))
    if not found[BASELINE]:
        why = "; ".join(f"{name} {reason}" for name, reason in missing if name.startswith(f"{BASELINE}/"))
        raise RunError(f"--grid={folder}: no run of the baseline is done ({why}); give --data_dir to train it")
    baseline = {seed: ended.error for seed, ended in found[BASELINE].items()}
    rows = [_row(name, ended, baseline if name != BASELINE else {}) for name, ended in found.items()]
    rows.append(_center_row(found[BASELINE], data_dir, missing))
    corrected = comparison.holm([row["difference"]["p"] if row["difference"] else math.nan for row in rows])
    for row, p in zip(rows, corrected, strict=True):
        row["corrected"] = p
    first = next(iter(found[BASELINE].values()))
    return {
        "rows": _without_nan(rows),
        "missing": missing,
        "epochs": first.epochs,
        "images": first.images,
        "training_images": first.training_images,
        "classes": first.classes,
        "flags": {
            name: value
            for name, value in first.config.resolved
            if name in ("variant", "width", "precision", "batch_size", "learning_rate", "lr_schedule")
        },
    }


def read(folder):
    """Reads a run of a grid.

    Args:
        folder: str.

    Returns:
        FinishedRun.

    Raises:
        RunError: it is not there, not done, or damaged. One line without the folder's name.
    """
    from keras_alexnet.data import statistics

    if not rundir.is_run(folder):
        raise RunError("not there")
    with reading("its files"):
        with open(os.path.join(folder, rundir.FLAGS), encoding="utf-8") as file:
            try:
                config = configs.read_run(file.read())
            except UsageError as error:
                raise RunError(f"{rundir.FLAGS} is no run's: {error}") from None
        if not grid.is_done(folder, config):
            raise RunError(f"unfinished, {grid.epochs_done(folder)} of {config.training.epochs} epochs")
        with open(os.path.join(folder, rundir.VALIDATION), encoding="utf-8") as file:
            summary = json.load(file)
        trained_on = statistics.load(os.path.join(folder, rundir.STATISTICS))
        rows, counts = grid.history(folder), summary["label_counts"]
        return FinishedRun(
            folder=folder,
            config=config,
            epochs=len(rows),
            training_error=rows[-1]["top1_error"],
            error=rows[-1]["val_top1_error"],
            constant_error=100 * (1 - max(counts) / sum(counts)),
            training_images=trained_on.count,
            images=sum(counts),
            classes=len(counts),
            fingerprints=(trained_on.fingerprint, summary["fingerprint"]),
        )


def check(ended, baseline, flagfile, baseline_flagfile):
    """A run has to differ from the baseline as its flagfile does, and in nothing else.

    Args:
        ended, baseline: FinishedRun.
        flagfile, baseline_flagfile: str, paths.

    Raises:
        RunError: it does not, or is of other images. One line without the folder's name.
        UsageError: a flagfile is none of training's.
    """
    said = _differences(*(_recipe_of(each, baseline.config) for each in (flagfile, baseline_flagfile)))
    found = _differences(ended.config, baseline.config)
    wrong = sorted(name for name in said.keys() | found.keys() if said.get(name) != found.get(name))
    if wrong:
        told = ", ".join(f"--{name}={dict(ended.config.resolved)[name]}" for name in wrong)
        raise RunError(f"does not differ from the baseline as {flagfile} does: {told}")
    if ended.fingerprints != baseline.fingerprints:
        raise RunError("is of other images than the baseline")


def by_views(ended, data_dir=None):
    """The validation error of a run by the center view and by ten views, evaluated once and kept in its folder.

    Args:
        ended: FinishedRun.
        data_dir: str, where the images are now; None: where they were.

    Returns:
        dict of 1 and 10 -> float, top-1 error in percent.

    Raises:
        UsageError: the images are not there.
        RunError: they cannot be read.
    """
    return {views: _evaluated(ended, views, data_dir)["result"]["top1_error"] for views in VIEWS}


def _evaluated(ended, views, data_dir):
    from keras_alexnet import evaluate

    path = os.path.join(
        ended.folder, f"ablations_{views}views.json"
    )  # not what an evaluation of other images writes to
    newest = os.path.join(ended.folder, rundir.CHECKPOINTS, "checkpoint")
    if os.path.isfile(path) and os.path.getmtime(path) >= os.path.getmtime(newest):
        with reading(path), open(path, encoding="utf-8") as file:
            kept = json.load(file)
            if kept["views"] == views and kept["set"]["images"] == ended.images and len(kept["models"]) == 1:
                return kept
    argv = [f"--model_dir={ended.folder}", f"--views={views}", *([f"--data_dir={data_dir}"] if data_dir else [])]
    report = evaluate.evaluate(configs.parse_evaluate(argv, ""))
    if report["set"]["images"] != ended.images:
        found = report["set"]
        raise UsageError(f"--data_dir={found['data_dir']}: holds {found['images']} images and not {ended.images}")
    with atomic_write(path) as file:
        json.dump(report, file, indent=1, ensure_ascii=False)
    return report


def _recipe_of(flagfile, baseline):
    """A flagfile's config with the data of a run, which no flagfile names."""
    data = baseline.data
    argv = [f"--flagfile={flagfile}", "--model_dir=.", f"--dataset={data.dataset}", f"--data_dir={data.data_dir or ''}"]
    try:
        return configs.parse_train(argv, "")
    except UsageError as error:
        raise UsageError(f"{flagfile}: {error}") from None


def _differences(config, other):
    """What is learned with in one and not in the other, dict of flag -> the first one's value; seeds aside."""
    own, others = hparams.settings_of(config), hparams.settings_of(other)
    return {name: value for name, value in own.items() if name != "seed" and value != others[name]}


def _row(name, ended, baseline):
    """A row of `compare`, of a dict of seed -> FinishedRun."""
    seeds = [seed for seed in ended if seed in baseline]
    errors = {seed: each.error for seed, each in ended.items()}
    return {
        "name": name,
        "seeds": list(ended),
        "errors": list(errors.values()),
        "training_errors": [each.training_error for each in ended.values()],
        "unlearned": [seed for seed, each in ended.items() if each.error >= each.constant_error],
        "difference": _difference([errors[seed] for seed in seeds], [baseline[seed] for seed in seeds]),
    }


def _center_row(baselines, data_dir, missing):
    """The row of the baseline's center view, against its ten views; both evaluated in the same way."""
    found = {}
    for seed, ended in baselines.items():
        try:
            found[seed] = by_views(ended, data_dir)
        except (RunError, UsageError) as error:
            missing.append((f"ten views of {BASELINE}/seed{seed}", str(error)))
    center, ten = ([each[views] for each in found.values()] for views in VIEWS)
    return {
        "name": CENTER,
        "seeds": list(found),
        "errors": center,
        "ten_views": ten,
        "unlearned": [],
        "difference": _difference(center, ten),
    }


def _difference(errors, others):
    if not errors:
        return None
    by_seed = [error - other for error, other in zip(errors, others, strict=True)]
    return {**dataclasses.asdict(comparison.paired(errors, others)), "by_seed": by_seed}


def _without_nan(found):
    """JSON has no nan: None in its place."""
    if isinstance(found, dict):
        return {name: _without_nan(each) for name, each in found.items()}
    if isinstance(found, list):
        return [_without_nan(each) for each in found]
    return None if isinstance(found, float) and math.isnan(found) else found
