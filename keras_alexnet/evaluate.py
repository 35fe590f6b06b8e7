"""Runs or exported models on a set of images -> top-1 and top-5 error.

    python -m keras_alexnet.evaluate --model_dir=RUN [--views=10]
    python -m keras_alexnet.evaluate --model_dir=RUN --model_dir=OTHER --weights=search --search_split=train

Errors are in percent, ties shared as the release shares them, every image counted once.
"""

import dataclasses
import json
import math
import os
import re
import sys
import time
from pathlib import Path

from keras_alexnet import __version__, flags, rundir
from keras_alexnet import config as configs
from keras_alexnet.cli import run_command, start_tensorflow
from keras_alexnet.errors import ArgumentError, RunError, UsageError, reading
from keras_alexnet.files import atomic_write, progress_bar
from keras_alexnet.flags import flag

NAMED = 5  # files left out that are named on the screen; all of them are in the JSON


@dataclasses.dataclass(frozen=True)
class EvaluateConfig:
    """Evaluation."""

    model_dir: tuple[str, ...] = flag(
        (),
        "A run's folder, or an exported model's (RUN/export/1). Given several times, probabilities are averaged.",
        many=True,
        path=True,
    )
    checkpoint: str = flag("newest", configs.CHECKPOINT_HELP, choices=configs.CHECKPOINT)
    views: int = flag(
        1, "1: the center view. 10: four corners, center and reflections, averaged (section 4.1).", choices=(1, 10)
    )
    dataset: str | None = flag(None, "As in training; default: what the first model was trained with.")
    data_dir: str | None = flag(None, "As in training; default: the first model's.", path=True)
    split: str | None = flag(
        None,
        "folder: the folder in DATA_DIR that holds the class folders (default: val). records and shapes: train or val. "
        "TensorFlow Datasets: in its notation (default: what the first model was validated on).",
    )
    weights: str = flag(
        "equal",
        "equal; one number for each --model_dir, such as 0.3,0.7; or search: as the release searched them, lowest "
        "top-5 and then top-1 error on --search_split.",
    )
    search_split: str | None = flag(
        None,
        "Where weights are searched (default: --split itself, as the release did; its errors are then too low).",
    )
    batch_size: int = flag(120, "Views that a network gets at a time.", low=1, high=4096)
    input_threads: int = flag(0, "Threads of the data graph; 0: one per core.", low=0, high=1024)
    per_class: bool = flag(False, "Errors of every class.")
    confusions: int = flag(0, "So many pairs of classes that were taken for each other.", low=0, high=10**6)
    calibration: bool = flag(False, "How well probabilities say how often they are right.")
    json: str | None = flag(
        None,
        "Where all figures are written (default: evaluation_SPLIT_VIEWSviews.json in the folder of the first run, or "
        "of the run that the first model was exported from, or else here).",
        path=True,
    )


@dataclasses.dataclass(frozen=True)
class Model:
    """A run or an exported model, ready to answer.

    Attributes:
        name: str, the folder.
        class_names: tuple of str.
        config: config.Config that it was trained by.
        size: int, rows and columns of the network's input.
        epochs: int, of its training.
        served: what holds its variables, with the functions center_view and ten_views, see
            `keras_alexnet.serving.signatures.ServedModel`.
    """

    name: str
    class_names: tuple[str, ...]
    config: configs.Config
    size: int
    epochs: int
    served: object


def main(argv):
    """Prints the table, and writes all figures as JSON."""
    config = parse_evaluate(argv, __doc__)
    for folder in config.model_dir:
        if not rundir.is_run(folder) and not os.path.isfile(os.path.join(folder, "saved_model.pb")):
            raise UsageError(
                f"--model_dir={folder}: is neither a run (no {rundir.FLAGS}) nor an exported model (no saved_model.pb)"
            )
    json_folder = _json_folder(config)
    start_tensorflow()
    report = evaluate(config)
    print(as_text(report), flush=True)
    path = config.json or os.path.join(json_folder, _json_name(config, report))
    with atomic_write(path) as file:
        json.dump(report, file, indent=1, ensure_ascii=False)
    print(f"all figures: {path}")


def parse_evaluate(argv, usage):
    """Flags of an evaluation -> EvaluateConfig, checked; raises as `flags.parse`."""
    config = flags.parse(EvaluateConfig, argv, usage)
    if not config.model_dir or not all(config.model_dir):
        raise UsageError("--model_dir is missing: give a run's folder or an exported model's")
    given_weights(config)
    if config.weights == "search" and len(config.model_dir) == 1:
        raise ArgumentError("weights", config.weights, "needs several --model_dir")
    if config.search_split and config.weights != "search":
        raise ArgumentError("search_split", config.search_split, "goes with --weights=search")
    if config.dataset in ("folder", "records") and not config.data_dir:
        raise UsageError(f"--data_dir is missing: --dataset={config.dataset} is read from there")
    return config


def given_weights(config):
    """One number for each model, tuple of float; () for "equal" and "search". Raises ArgumentError."""
    if config.weights in ("equal", "search"):
        return ()
    try:
        weights = tuple(float(part) for part in config.weights.split(","))
    except ValueError:
        weights = ()
    if not weights or not all(weight >= 0 for weight in weights) or not 0 < sum(weights) < math.inf:
        problem = "must be equal, search, or numbers from 0 on such as 0.3,0.7, not all 0"
        raise ArgumentError("weights", config.weights, problem)
    if len(weights) != len(config.model_dir):
        problem = f"has {len(weights)} numbers for {len(config.model_dir)} --model_dir; give one for each"
        raise ArgumentError("weights", config.weights, problem)
    return weights


def evaluate(config):
    """Evaluates models as a config says.

    Args:
        config: EvaluateConfig.

    Returns:
        dict, as it is written to the JSON: set, views, models, weights, results, seconds, and what else was asked for.

    Raises:
        UsageError: a model or a set is not there, or they do not go together.
        RunError: an image could not be read, or a checkpoint.
    """
    from keras_alexnet.training import scores

    models = [open_model(folder, config.checkpoint) for folder in config.model_dir]
    class_names = models[0].class_names
    for model in models[1:]:
        if model.class_names != class_names:
            raise UsageError(f"--model_dir={model.name}: has other classes than {models[0].name}; average like models")
    source, described = _open(config, models, config.split)
    started = time.perf_counter()
    weights, searched, answered = _chosen_weights(config, models, source, described)
    several = len(models) > 1
    batches = [[] for _ in range(len(models) + several)]  # of each model, and of the average where it is another
    for probabilities, labels in answered or answers(models, source, config, f"evaluating {described['split']}"):
        rows = [*probabilities, _averaged(weights, probabilities)] if several else probabilities
        for kept, row in zip(batches, rows, strict=True):
            kept.append(scores.of_batch(row, labels))
    each = [scores.joined(kept) for kept in batches]
    result = each[-1]
    seconds = time.perf_counter() - started
    report = {
        "set": described,
        "views": config.views,
        "models": [
            {"model_dir": model.name, "epochs": model.epochs, "weight": weight, **scores.summary(own)}
            for model, weight, own in zip(models, weights, each[: len(models)], strict=True)
        ],
        "weights": searched or ("equal" if config.weights == "equal" else "given"),
        "result": scores.summary(result),
        "seconds": seconds,
        "keras_alexnet": __version__,
    }
    if config.per_class:
        report["per_class"] = scores.by_class(result, class_names)
    if config.confusions:
        report["confusions"] = scores.confusions(result, class_names, config.confusions)
    if config.calibration:
        report["calibration"] = scores.calibration(result)
    return report


def open_model(folder, checkpoint="newest"):
    """A run's checkpoint or an exported model.

    Args:
        folder: str.
        checkpoint: which, of a run, see `keras_alexnet.rundir.open_run`.

    Returns:
        Model.

    Raises:
        UsageError: it is neither, or an export of somebody else.
        RunError: it cannot be read.
    """
    from keras_alexnet import export

    if rundir.is_run(folder):
        run = rundir.open_run(folder, checkpoint)
        served = export.served_model(run)
        names, config, size, epochs = run.class_names, run.config, served.size, len(run.history)
    else:
        import tensorflow as tf

        metadata = export.read_metadata(folder)
        with reading(folder):
            config = flags.read(configs.Config, metadata["flags"])
            epochs = int(metadata["epochs"])
            # What decides is the model itself.
            served = tf.saved_model.load(folder)
            size = served.signatures["images"].structured_input_signature[1]["images"].shape[1]
            names = tuple(name.decode() for name in served.names().numpy())
    return Model(folder, names, config, size, epochs, served)


def answers(models, source, config, label):
    """The probabilities that models give to every image of a source, once, in its order.

    Args:
        models: list of Model.
        source: see `keras_alexnet.data.sources`.
        config: EvaluateConfig.
        label: str, of the progress bar.

    Yields:
        (list of float32 (B, classes), one a model; int32 (B,), labels as the models have them).

    Raises:
        RunError: an image could not be read, or another number of images came than the source has.
    """
    import numpy as np

    from keras_alexnet.data import pipeline
    from keras_alexnet.data.decoding import STORED_SIZE
    from keras_alexnet.training.trainer import read

    # What each model looks at, and what it does with it.
    if config.views == 10:
        looks = [(STORED_SIZE, model.served.ten_views) for model in models]
    else:
        looks = [(model.size, model.served.center_view) for model in models]
    sizes = tuple(sorted({size for size, _ in looks}))
    places = np.array([models[0].class_names.index(name) for name in source.class_names], np.int32)
    show, seen = progress_bar(label), 0
    images_at_a_time = max(1, config.batch_size // config.views)
    for images, labels in read(
        pipeline.evaluation_batches(source, sizes, batch_size=images_at_a_time, threads=config.input_threads)
    ):
        probabilities = [answer(images[sizes.index(size)]).numpy() for size, answer in looks]
        seen += len(labels)
        show(seen, source.count)
        yield probabilities, places[labels.numpy()]
    if seen != source.count:
        raise RunError(f"{source.name}: {seen} images came instead of {source.count}; look for files that have changed")


def as_text(report):
    """The tables, str."""
    about, models = report["set"], report["models"]
    protocol = "center view" if report["views"] == 1 else "10 views (corners, center, reflections), averaged"
    left_out = about["left_out"]
    named = f"; {len(left_out)} left out: {', '.join(left_out[:NAMED])}" + " ..." * (len(left_out) > NAMED)
    lines = [
        f"set:    {about['dataset']} {about['split']}, {about['images']} images of {about['classes']} classes"
        + (named if left_out else ""),
        f"views:  {protocol}",
        f"models: {len(models)}" + f", {_said_of(report['weights'])}" * (len(models) > 1),
        "",
    ]
    rows = [(f"{model['model_dir']}, epoch {model['epochs']}", model["weight"], model) for model in models]
    if len(models) > 1:
        rows.append((f"average of {len(models)}", None, report["result"]))
    width = max(len(name) for name, _, _ in rows)
    lines.append(f"{'':<{width}}  {'weight':>6}  top-1 error  top-5 error    loss  mean squared error")
    for name, weight, values in rows:
        shown = "" if weight is None else f"{weight:.3f}"
        lines.append(
            f"{name:<{width}}  {shown:>6}  {values['top1_error']:>9.2f} %  {_top5(values, about)}  "
            f"{values['loss']:>6.4f}  {values['mean_squared_error']:>18.6f}"
        )
    for title, table in (
        ("errors by class", _by_class),
        ("most frequent confusions", _confusions),
        ("calibration", _calibration),
    ):
        rows = table(report)
        if rows:
            lines += ["", f"{title}:", *rows]
    return "\n".join(lines)


def _by_class(report):
    if "per_class" not in report:
        return []
    rows = report["per_class"]
    width = max(len(row["class_name"]) for row in rows)
    return [
        f"  {'':<{width}}  images  top-1 error  top-5 error",
        *(
            f"  {row['class_name']:<{width}}  {row['images']:>6}"
            + (f"  {row['top1_error']:>9.2f} %  {_top5(row, report['set'])}" if row["images"] else "")
            for row in rows
        ),
    ]


def _confusions(report):
    return [
        f"  {row['images']:>6} images, {row['percent']:>5.1f} % of {row['class_name']}, taken for {row['taken_for']}"
        for row in report.get("confusions", ())
    ]


def _calibration(report):
    if "calibration" not in report:
        return []
    found = report["calibration"]
    return [
        f"  expected error {found['expected_calibration_error']:.4f}, "
        f"largest {found['maximum_calibration_error']:.4f}, {len(found['bins'])} bins",
        "  probability    images  mean probability  share of right answers",
        *(
            f"  {row['from']:.3f}-{row['to']:.3f}  {row['images']:>8}  {row['confidence']:>16.4f}  "
            f"{row['accuracy']:.4f}"
            for row in found["bins"]
            if row["images"]
        ),
    ]


def _top5(values, about):
    """Among five classes every answer is one of the best five."""
    return f"{values['top5_error']:>9.2f} %" if about["model_classes"] > 5 else f"{'-':>9}  "


def _said_of(weights):
    if not isinstance(weights, dict):
        return f"{weights} weights"
    same = ", the images that are evaluated" if weights["same_images"] else ""
    return f"weights searched on {weights['dataset']} {weights['split']} ({weights['images']} images{same})"


def _averaged(weights, probabilities):
    return sum(weight * own for weight, own in zip(weights, probabilities, strict=True))


def _chosen_weights(config, models, source, described):
    """What the models count in the average.

    Returns:
        (list of float that add up to 1; what a search was made on, or None; the answers to the images that are
        evaluated, where the search was made on them, or None).
    """
    if config.weights == "equal" or len(models) == 1:
        return [1 / len(models)] * len(models), None, None
    if config.weights != "search":
        given = given_weights(config)
        return [weight / sum(given) for weight in given], None, None
    import numpy as np

    from keras_alexnet.training import scores

    evaluated = described["split"]
    if config.search_split:
        source, described = _open(config, models, config.search_split)
    answered = list(answers(models, source, config, f"searching weights on {described['split']}"))
    probabilities = np.stack([np.concatenate([own[index] for own, _ in answered]) for index in range(len(models))])
    found = scores.search_weights(probabilities, np.concatenate([labels for _, labels in answered]))
    same = described["split"] == evaluated
    return found.tolist(), {**described, "same_images": same}, answered if same else None


def _open(config, models, split):
    """The source to evaluate, without what is no image, and what the report says of it."""
    from keras_alexnet.data import sources, statistics

    data = models[0].config.data
    if config.dataset:
        data = dataclasses.replace(data, dataset=config.dataset, data_dir=config.data_dir, val_split=None)
    elif config.data_dir:
        data = dataclasses.replace(data, data_dir=config.data_dir)
    if data.dataset == "folder":
        split = split or "val"
        source = sources.list_split(Path(data.data_dir), split)
    elif data.dataset in ("records", "shapes"):
        split = split or "val"
        if split not in ("train", "val"):
            raise UsageError(f"--split={split}: --dataset={data.dataset} has train and val")
        if data.dataset == "shapes":
            _check_shapes(data)
        source = sources.open_training(data)[split == "val"]
    elif split:
        source = sources.open_tfds_split(data.dataset, data.data_dir, split, data.shuffle_buffer)
    else:
        source = sources.open_training(data)[1]
        split = source.name.removeprefix(f"{data.dataset} ")
    unknown = sorted(set(source.class_names) - set(models[0].class_names))
    if unknown:
        raise UsageError(
            f"--split={split}: the model does not know {len(unknown)} of its classes, such as {unknown[0]!r}; it knows "
            + ", ".join(models[0].class_names[:NAMED])
            + " ..." * (len(models[0].class_names) > NAMED)
        )
    left_out = source.other_files
    if not source.label_counts:  # of prepared records it is known that they are images
        skipped = _skipped(models, source)
        if skipped is None:
            skipped = statistics.summarize(source, config.input_threads, progress_bar(f"looking at {split}")).skipped
        source, left_out = source.without(skipped), (*left_out, *skipped)
    return source, {
        "dataset": data.dataset,
        "data_dir": data.data_dir,
        "split": split,
        "images": source.count,
        "classes": len(source.class_names),
        "model_classes": len(models[0].class_names),
        "left_out": list(left_out),
    }


def _skipped(models, source):
    """What a run has found to be no image in this very set, or None."""
    for model in models:
        try:
            with open(os.path.join(model.name, rundir.VALIDATION), encoding="utf-8") as file:
                summary = json.load(file)
            if summary["fingerprint"] == source.fingerprint():
                return summary["skipped"]
        except (OSError, ValueError, KeyError, TypeError):
            continue  # an exported model has no such file
    return None


def _check_shapes(data):
    """Evaluation looks at the pictures that there are; it draws none."""
    from keras_alexnet.data import shapes

    folder = data.data_dir or os.path.join("data", "shapes")
    if not os.path.isfile(os.path.join(folder, shapes.INFO)):
        raise UsageError(f"--data_dir={folder}: holds no built-in shapes; name the folder that training drew them into")


def _run_of(folder):
    """The run that a folder is or was exported from, or None."""
    above = os.path.dirname(os.path.dirname(os.path.abspath(folder)))
    return next((each for each in (folder, above) if rundir.is_run(each)), None)


def _json_folder(config):
    """Where the figures are to be written; looked at before any image is."""
    folder = os.path.dirname(config.json) or "." if config.json else _run_of(config.model_dir[0]) or "."
    is_folder = config.json and os.path.isdir(config.json)
    if not os.path.isdir(folder) or not os.access(folder, os.W_OK) or is_folder:
        raise UsageError(
            f"--json={config.json or folder}: cannot be written there; name a file in a folder that can be"
        )
    return folder


def _json_name(config, report):
    first, several = config.model_dir[0], len(config.model_dir)
    split = re.sub(r"\W+", "-", report["set"]["split"]).strip("-")
    version = "" if rundir.is_run(first) else f"_version{os.path.basename(os.path.abspath(first))}"
    return f"evaluation_{split}_{config.views}views{version}" + f"_{several}models" * (several > 1) + ".json"


if __name__ == "__main__":
    sys.exit(run_command("evaluate", main, sys.argv[1:]))
