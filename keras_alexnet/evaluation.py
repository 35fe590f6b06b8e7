"""Models answer to every image of a set: errors, errors by class, confusions, calibration, and weights for averages."""

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
            kept.append(of_batch(row, labels))
    each = [joined(kept) for kept in batches]
    result = each[-1]
    seconds = time.perf_counter() - started
    report = {
        "set": described,
        "views": config.views,
        "models": [
            {"model_dir": model.name, "epochs": model.epochs, "weight": weight, **summary(own)}
            for model, weight, own in zip(models, weights, each[: len(models)], strict=True)
        ],
        "weights": searched or ("equal" if config.weights == "equal" else "given"),
        "result": summary(result),
        "seconds": seconds,
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
    if rundir.is_run(folder):
        run = rundir.open_run(folder, checkpoint)
        served = export.served_model(run)
        names, config, size, epochs = run.class_names, run.config, served.size, len(run.history)
    else:
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
        given = config.given_weights()
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
    data = models[0].config.data
    if config.dataset:
        data = dataclasses.replace(data, dataset=config.dataset, data_dir=config.data_dir, val_split=None)
    elif config.data_dir:
        data = dataclasses.replace(data, data_dir=config.data_dir)
    data = datasets.find_imagenet(data)
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
        # A run knows which files of its own validation set are not images.
        known = (datasets.read_summary(os.path.join(model.name, rundir.VALIDATION)) for model in models)
        known = next((each for each in known if each and each.fingerprint == source.fingerprint()), None)
        bar = progress_bar(f"reading {split}")
        skipped = (known or statistics.summarize(source, config.input_threads, bar)).skipped
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


def _check_shapes(data):
    """Evaluation draws no images."""
    folder = sources.shapes_folder(data)
    if not os.path.isfile(os.path.join(folder, shapes.INFO)):
        raise UsageError(
            f"--data_dir={folder}: is not a folder of built-in shapes; name the one that training drew them into"
        )


@dataclasses.dataclass(frozen=True)
class Answers:
    """What is kept of the answers to a set, image by image.

    Attributes:
        labels, predicted: int32 (N,), the true class and the best answer (of equal ones the first).
        confidence: float32 (N,), the probability of the best answer.
        values: dict of float32 (N,) by the names in `metrics.NAMES`.
    """

    labels: np.ndarray
    predicted: np.ndarray
    confidence: np.ndarray
    values: dict[str, np.ndarray]


def of_batch(probabilities, labels):
    """Answers to a batch: float32 (B, classes), int (B,)."""
    probabilities = np.asarray(probabilities, np.float32)
    values = metrics.of_probabilities(probabilities, np.asarray(labels))
    return Answers(
        np.asarray(labels, np.int32),
        probabilities.argmax(axis=1).astype(np.int32),
        probabilities.max(axis=1),
        {name: value.numpy() for name, value in values.items()},
    )


def joined(batches):
    """The answers to several batches, one after the other."""
    return Answers(
        *(
            np.concatenate([getattr(batch, name) for batch in batches])
            for name in ("labels", "predicted", "confidence")
        ),
        {name: np.concatenate([batch.values[name] for batch in batches]) for name in metrics.NAMES},
    )


def summary(answers):
    """Means over all images: dict of float by the names in `metrics.NAMES`; errors in percent."""
    return {name: float(value.mean(dtype=np.float64)) for name, value in answers.values.items()}


def by_class(answers, class_names):
    """Errors of the images of each class.

    Returns:
        list of dict, one a class in the order of the labels: class_name, images, top1_error and top5_error in percent,
        None for a class without images.
    """
    rows = []
    for label, name in enumerate(class_names):
        own = answers.labels == label
        errors = {
            key: float(answers.values[key][own].mean(dtype=np.float64)) if own.any() else None
            for key in ("top1_error", "top5_error")
        }
        rows.append({"class_name": name, "images": int(own.sum()), **errors})
    return rows


def confusions(answers, class_names, most):
    """The most frequent pairs of a class and another that it was taken for.

    Returns:
        list of dict, at most `most`, the most frequent first: class_name, taken_for, images, and percent of the class.
    """
    pairs = answers.labels.astype(np.int64) * len(class_names) + answers.predicted
    pairs, counts = np.unique(pairs[answers.labels != answers.predicted], return_counts=True)
    totals = np.bincount(answers.labels, minlength=len(class_names))
    rows = []
    for place in np.argsort(-counts, kind="stable")[:most]:
        label, predicted = divmod(int(pairs[place]), len(class_names))
        rows.append(
            {
                "class_name": class_names[label],
                "taken_for": class_names[predicted],
                "images": int(counts[place]),
                "percent": float(100 * counts[place] / totals[label]),
            }
        )
    return rows


def calibration(answers, bins=15):
    """How well the probability of the best answer says how often it is right.

    Args:
        answers: Answers.
        bins: int, equal parts of 0..1.

    Returns:
        dict: expected_calibration_error, the mean distance of confidence and accuracy over the images' bins, weighted
        by their images; maximum_calibration_error, the largest; both in 0..1; bins, a list of dict with from, to,
        images, confidence, accuracy (None where there are no images).
    """
    right = 1 - answers.values["top1_error"] / 100
    # A bin holds what is above its lower end, up to and with its upper one.
    places = np.clip(np.ceil(answers.confidence * bins).astype(int) - 1, 0, bins - 1)
    rows, expected, largest = [], 0.0, 0.0
    for place in range(bins):
        own = places == place
        row = {"from": place / bins, "to": (place + 1) / bins, "images": int(own.sum())}
        if own.any():
            confidence, accuracy = (float(each[own].mean(dtype=np.float64)) for each in (answers.confidence, right))
            distance = abs(confidence - accuracy)
            expected += distance * own.mean()
            largest = max(largest, distance)
        else:
            confidence = accuracy = None
        rows.append({**row, "confidence": confidence, "accuracy": accuracy})
    return {"expected_calibration_error": float(expected), "maximum_calibration_error": float(largest), "bins": rows}


def search_weights(probabilities, labels):
    """Weights for the sum of several models' probabilities, as the release searches them (`avg-valid.py`).

    All begin at 0.5; one after the other takes the best of 0, 0.05 ... 1 while the rest stays, in at most five passes,
    until a pass changes nothing. Best is the lowest top-5 error, and where that is equal the lowest top-1 error, which
    the release does not look at: with five classes or fewer nothing else is left.

    Args:
        probabilities: float32 (models, N, classes).
        labels: int (N,).

    Returns:
        float64 (models,), their sum 1.
    """
    weights = np.full(len(probabilities), 0.5)
    best = _ensemble_errors(np.tensordot(weights, probabilities, 1), labels)
    for _ in range(_PASSES):
        changed = False
        for model, own in enumerate(probabilities):
            others = np.tensordot(np.delete(weights, model), np.delete(probabilities, model, axis=0), 1)
            for weight in _GRID:
                if not weight and not np.delete(weights, model).any():
                    continue  # a sum of nothing
                found = _ensemble_errors(others + weight * own, labels)
                if found < best:
                    best, weights[model], changed = found, weight, True
        if not changed:
            break
    return weights / weights.sum()


def _ensemble_errors(scores, labels):
    """(top-5 error, top-1 error), percent; what is compared first stands first."""
    credits = (metrics.top_k_credit(scores.astype(np.float32), labels, k).numpy() for k in (5, 1))
    return tuple(100.0 * (1.0 - float(credit.mean(dtype=np.float64))) for credit in credits)
