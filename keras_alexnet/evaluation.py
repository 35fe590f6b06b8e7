"""Models classify every image of a set: errors, errors by class, confusions, calibration, and weights for averages."""

import collections
import dataclasses
import os
import time
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_alexnet import __version__, datasets, export, flags, rundir
from keras_alexnet import config as configs
from keras_alexnet.data import pipeline, shapes, sources, statistics
from keras_alexnet.data.decoding import STORED_SIZE
from keras_alexnet.errors import RunError, UsageError, reading
from keras_alexnet.files import progress_bar
from keras_alexnet.training import metrics
from keras_alexnet.training.trainer import read

NAMED = 5  # classes that are named in an error
_GRID = np.arange(21) / 20  # weights that are tried: 0, 0.05 ... 1
_PASSES = 5


@dataclasses.dataclass(frozen=True)
class Model:
    """A run or an exported model, opened."""

    name: str  # the folder
    class_names: tuple[str, ...]
    config: configs.Config  # of its training
    size: int  # rows and columns of the network's input
    epochs: int  # of its training
    served: object  # a ServedModel or what was loaded of one, see `serving.signatures`


def evaluate(config):
    """Evaluates models on a set of images, by an evaluate.EvaluateConfig.

    Returns the dict of the JSON: set, views, models, weights, result, seconds, and what else was asked for. Raises
    UsageError where a model or a set is missing or they do not go together, and RunError where one cannot be read.
    """
    models = [open_model(folder, config.checkpoint) for folder in config.model_dir]
    class_names = models[0].class_names
    for model in models[1:]:
        if model.class_names != class_names:
            raise UsageError(f"--model_dir={model.name}: has other classes than {models[0].name}; average like models")
        if model.config.data.resize != models[0].config.data.resize:
            problem = f"resizes images in another way than {models[0].name} (--resize)"
            raise UsageError(f"--model_dir={model.name}: {problem}; average like models")
    source, described = _open(config, models, config.split)
    started = time.perf_counter()
    weights, searched, answered = _chosen_weights(config, models, source, described)
    several = len(models) > 1
    batches = []  # for each, the answers of each model, and of the average where there are several
    for probabilities, labels in answered or answers(models, source, config, f"evaluating {described['split']}"):
        if several:
            average = sum(weight * own for weight, own in zip(weights, probabilities, strict=True))
            probabilities = [*probabilities, average]
        batches.append([of_batch(each, labels) for each in probabilities])
    each = [joined(kept) for kept in zip(*batches, strict=True)]
    result = each[-1]
    report = {
        "set": described,
        "views": config.views,
        "models": [
            {"model_dir": model.name, "epochs": model.epochs, "weight": weight, **summary(own)}
            for model, weight, own in zip(models, weights, each[: len(models)], strict=True)
        ],
        "weights": searched or ("equal" if config.weights == "equal" else "given"),
        "result": summary(result),
        "seconds": time.perf_counter() - started,
        "keras_alexnet": __version__,
    }
    if config.per_class:
        report["per_class"] = by_class(result, class_names)
    if config.confusions:
        report["confusions"] = confusions(result, class_names, config.confusions)
    if config.calibration:
        report["calibration"] = calibration(result)
    return report


def open_model(folder, checkpoint="newest"):
    """The Model of a run's folder (see `rundir.open_run` for which checkpoint) or of an exported model's.

    Raises UsageError where it is neither, and RunError where it cannot be read.
    """
    if rundir.is_run(folder):
        run = rundir.open_run(folder, checkpoint)
        served = export.served_model(run)
        names, config, size, epochs = run.class_names, run.config, served.size, len(run.history)
    else:
        metadata = export.read_metadata(folder)
        with reading(folder):
            config = flags.read(configs.Config, metadata["flags"])
            epochs = int(metadata["epochs"])
            # Whatever the metadata say, input and classes are those of the model itself.
            served = tf.saved_model.load(folder)
            size = served.signatures["images"].structured_input_signature[1]["images"].shape[1]
            names = tuple(name.decode() for name in served.names().numpy())
    return Model(folder, names, config, size, epochs, served)


def answers(models, source, config, label):
    """The probabilities that models give to every image of a source, once, in its order.

    Yields (list of float32 (B, classes), one for each model; int32 (B,), labels as the models have them). Raises
    RunError where an image cannot be read, or another number of images comes than the source has.
    """
    inputs = [(model.size, model.served.center_view) for model in models]
    if config.views == 10:
        inputs = [(STORED_SIZE, model.served.ten_views) for model in models]
    sizes = tuple(sorted({size for size, _ in inputs}))
    own_labels = np.array([models[0].class_names.index(name) for name in source.class_names], np.int32)
    show, seen = progress_bar(label), 0
    batch_size = max(1, config.batch_size // config.views)
    batches = pipeline.evaluation_batches(source, sizes, batch_size=batch_size, threads=config.input_threads)
    for images, labels in read(batches):
        probabilities = [classify(images[sizes.index(size)]).numpy() for size, classify in inputs]
        seen += len(labels)
        show(seen, source.count)
        yield probabilities, own_labels[labels.numpy()]
    if seen != source.count:
        raise RunError(f"{source.name}: {seen} images came instead of {source.count}; look for files that have changed")


def _chosen_weights(config, models, source, described):
    """The models' weights in the average, list of float that add up to 1.

    After a search also the set it was made on (dict), and, where that is the evaluated set, its answers; else None.
    """
    if config.weights != "search":
        given = config.given_weights() or [1] * len(models)
        return [weight / sum(given) for weight in given], None, None
    evaluated = described["split"]
    if config.search_split:
        source, described = _open(config, models, config.search_split)
    answered = list(answers(models, source, config, f"searching weights on {described['split']}"))
    probabilities = np.stack([np.concatenate([own[index] for own, _ in answered]) for index in range(len(models))])
    found = search_weights(probabilities, np.concatenate([labels for _, labels in answered]))
    same = described["split"] == evaluated
    return found.tolist(), {**described, "same_images": same}, answered if same else None


def _open(config, models, split):
    """The source to evaluate, without the files that are not images, and what the report says of it."""
    data, own_classes = models[0].config.data, models[0].class_names
    if config.dataset:
        data = dataclasses.replace(data, dataset=config.dataset, data_dir=config.data_dir, val_split=None)
    elif config.data_dir:
        data = dataclasses.replace(data, data_dir=config.data_dir)
    data = datasets.find_imagenet(data)
    if data.dataset in ("folder", "records", "shapes"):
        split = split or "val"
    if data.dataset == "folder":
        source = sources.list_split(Path(data.data_dir), split)
    elif data.dataset in ("records", "shapes"):
        if split not in ("train", "val"):
            raise UsageError(f"--split={split}: --dataset={data.dataset} has train and val")
        folder = sources.shapes_folder(data)
        if data.dataset == "shapes" and not os.path.isfile(os.path.join(folder, shapes.INFO)):
            raise UsageError(  # evaluation draws no images
                f"--data_dir={folder}: is not a folder of built-in shapes; name the one that training drew them into"
            )
        source = sources.open_training(data)[split == "val"]
    elif split:
        source = sources.open_tfds_split(data.dataset, data.data_dir, split, data.shuffle_buffer)
    else:
        source = sources.open_training(data)[1]
        split = source.name.removeprefix(f"{data.dataset} ")
    source = sources.with_resize(source, data)
    unknown = sorted(set(source.class_names) - set(own_classes))
    if unknown:
        known = ", ".join(own_classes[:NAMED]) + " ..." * (len(own_classes) > NAMED)
        problem = f"the model does not know {len(unknown)} of its classes, such as {unknown[0]!r}; it knows {known}"
        raise UsageError(f"--split={split}: {problem}")
    left_out = source.other_files
    if not source.label_counts:  # prepared records have them, and hold nothing but images
        # A run knows which files of its own validation set are not images.
        summaries = (datasets.read_summary(os.path.join(model.name, rundir.VALIDATION)) for model in models)
        summary = next((each for each in summaries if each and each.fingerprint == source.fingerprint()), None)
        skipped = (summary or statistics.summarize(source, config.input_threads)).skipped
        source, left_out = source.without(skipped), (*left_out, *skipped)
    return source, {
        "dataset": data.dataset,
        "data_dir": data.data_dir,
        "split": split,
        "images": source.count,
        "classes": len(source.class_names),
        "model_classes": len(own_classes),
        "left_out": list(left_out),
    }


def of_batch(probabilities, labels):
    """What is kept of the answers to N images: probabilities (N, classes), labels int (N,).

    dict of arrays (N,): labels; predicted, int, the most probable class, of equal ones the first; confidence, its
    probability; and float32 by the names in `metrics.NAMES`.
    """
    probabilities, labels = np.asarray(probabilities, np.float32), np.asarray(labels, np.int32)
    values = metrics.of_probabilities(probabilities, labels)
    return {
        "labels": labels,
        "predicted": probabilities.argmax(axis=1),
        "confidence": probabilities.max(axis=1),
        **{name: value.numpy() for name, value in values.items()},
    }


def joined(batches):
    """The answers to several batches as one."""
    return {name: np.concatenate([each[name] for each in batches]) for name in batches[0]}


def summary(answers):
    """Means over all images: dict of float by the names in `metrics.NAMES`; errors in percent."""
    return {name: _mean(answers[name]) for name in metrics.NAMES}


def by_class(answers, class_names):
    """A dict for each class: class_name, images, and the errors in percent, None where it has no images."""
    rows = []
    for label, name in enumerate(class_names):
        own = answers["labels"] == label
        errors = {key: _mean(answers[key][own]) for key in ("top1_error", "top5_error")}
        rows.append({"class_name": name, "images": int(own.sum()), **errors})
    return rows


def confusions(answers, class_names, most):
    """The pairs of a class and another that it was taken for, the most frequent first: at most `most` dicts.

    Each has class_name, taken_for, images, and percent of the class.
    """
    labels, wrong = answers["labels"], answers["labels"] != answers["predicted"]
    pairs = zip(labels[wrong].tolist(), answers["predicted"][wrong].tolist(), strict=True)
    totals, rows = np.bincount(labels, minlength=len(class_names)), []
    # Of equally frequent pairs in the order of the labels.
    frequent = sorted(collections.Counter(pairs).items(), key=lambda item: (-item[1], item[0]))[:most]
    for (label, predicted), count in frequent:
        row = {"class_name": class_names[label], "taken_for": class_names[predicted], "images": count}
        rows.append({**row, "percent": float(100 * count / totals[label])})
    return rows


def calibration(answers, bins=15):
    """How well the probability of the best answer predicts how often it is right, over equal parts of 0..1 ("bins").

    dict: expected_calibration_error, the distance of confidence and accuracy averaged over the images, and
    maximum_calibration_error, the largest of a bin, both in 0..1; bins, a list of dict with from, to, images,
    confidence, accuracy (None in a bin without images).
    """
    right = 1 - answers["top1_error"] / 100
    # A bin excludes its lower end and includes its upper one.
    places = np.clip(np.ceil(answers["confidence"] * bins).astype(int) - 1, 0, bins - 1)
    rows = []
    for place in range(bins):
        own = places == place
        row = {"from": place / bins, "to": (place + 1) / bins, "images": int(own.sum())}
        rows.append({**row, "confidence": _mean(answers["confidence"][own]), "accuracy": _mean(right[own])})
    distances = [(abs(row["confidence"] - row["accuracy"]), row["images"]) for row in rows if row["images"]]
    return {
        "expected_calibration_error": sum(distance * (count / len(right)) for distance, count in distances),
        "maximum_calibration_error": max(distance for distance, _ in distances),
        "bins": rows,
    }


def search_weights(probabilities, labels):
    """Weights for the average of several models' probabilities, as the release searches them (`avg-valid.py`).

    All begin at 0.5; one after the other takes the best of 0, 0.05 ... 1 while the rest stays, in at most five passes,
    until a pass changes nothing. Best is the lowest top-5 error, and of equal ones the lowest top-1 error, which the
    release does not use: with five classes or fewer the top-5 error is always 0.

    Args:
        probabilities: float32 (models, N, classes).
        labels: int (N,).

    Returns:
        float64 (models,), their sum 1.
    """

    def errors(scores):
        credits = (metrics.top_k_credit(scores.astype(np.float32), labels, k).numpy() for k in (5, 1))
        return tuple(100.0 * (1.0 - float(credit.mean(dtype=np.float64))) for credit in credits)

    weights = np.full(len(probabilities), 0.5)
    best, before = errors(np.tensordot(weights, probabilities, 1)), None
    for _ in range(_PASSES):
        if np.array_equal(weights, before):
            break
        before = weights.copy()
        for model, own in enumerate(probabilities):
            others = np.tensordot(np.delete(weights, model), np.delete(probabilities, model, axis=0), 1)
            for weight in _GRID:
                if not weight and not np.delete(weights, model).any():
                    continue  # a sum of nothing
                found = errors(others + weight * own)
                if found < best:
                    best, weights[model] = found, weight
    return weights / weights.sum()


def _mean(values):
    """The mean as float, added up in float64; None of no values."""
    return float(values.mean(dtype=np.float64)) if len(values) else None
