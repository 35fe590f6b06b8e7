"""Evaluates models on a set: errors, errors by class, confusions, calibration, and weights for averaging models."""

import collections
import dataclasses
import os
import time

import numpy as np
import tensorflow as tf

from keras_alexnet import __version__, config as configs, datasets, export, flags, rundir
from keras_alexnet.data import imagenet, pipeline, records, shapes, sources, statistics
from keras_alexnet.data.decoding import STORED_SIZE
from keras_alexnet.errors import RunError, UsageError, reading
from keras_alexnet.files import progress_bar
from keras_alexnet.model import variants
from keras_alexnet.serving import signatures
from keras_alexnet.training import metrics
from keras_alexnet.training.trainer import read

NAMED = 5  # classes that are named in an error


@dataclasses.dataclass(frozen=True)
class Model:
    """An opened run or exported model."""

    name: str  # folder
    class_names: tuple[str, ...]
    config: configs.Config  # of the training
    size: int  # rows and columns of the network's input
    epochs: int  # of the training
    served: object  # a ServedModel or a loaded SavedModel of one, see `serving.signatures`


def evaluate(config):
    """Evaluates models on a set of images, as an evaluate.EvaluateConfig says.

    Returns the dict of the JSON file: set, views, models, weights, result, seconds, and requested details. Raises
    UsageError where a model or the set is missing or they do not match, and RunError where one cannot be read.
    """
    models = [open_model(folder, config.checkpoint) for folder in config.model_dir]
    class_names = models[0].class_names
    for model in models[1:]:
        if model.class_names != class_names:
            problem = f"has other classes than {models[0].name}; give models of the same classes"
            raise UsageError(f"--model_dir={model.name}: {problem}")
        for name, attribute in (("resize", "resize"), ("orientation", "served_orientation")):
            if getattr(model.config.data, attribute) != getattr(models[0].config.data, attribute):
                problem = f"was trained with another --{name} than {models[0].name}; evaluate them one by one"
                raise UsageError(f"--model_dir={model.name}: {problem}")
    source, described = open_set(config, models, config.split)
    started = time.perf_counter()
    weights, searched, answered = _chosen_weights(config, models, source, described)
    answered = answered or answers(models, source, config, f"evaluating {described['split']}")
    if len(models) > 1:  # the average comes last
        answered = (
            ([*each, sum(weight * own for weight, own in zip(weights, each, strict=True))], labels)
            for each, labels in answered
        )
    joined_answers = joined(answered)
    result = joined_answers[-1]
    report = {
        "set": described,
        "views": config.views,
        "models": [
            {"model_dir": model.name, "epochs": model.epochs, "weight": weight, **summary(own)}
            for model, weight, own in zip(models, weights, joined_answers[: len(models)], strict=True)
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
    """Opens a run's folder (see `rundir.open_run` for the checkpoint) or an exported model's; returns the Model.

    Raises UsageError where the folder is neither, and RunError where it cannot be read.
    """
    if rundir.is_run(folder):
        run = rundir.open_run(folder, checkpoint)
        return of_run(run, signatures.of_run(run))
    metadata = export.read_metadata(folder)
    with reading(folder):
        config = flags.read(configs.Config, metadata["flags"])
        epochs = int(metadata["epochs"])
        # Input size and classes are those of the model itself, whatever the metadata say.
        served = tf.saved_model.load(folder)
        size = served.signatures["images"].structured_input_signature[1]["images"].shape[1]
        names = tuple(name.decode() for name in served.names().numpy())
    return Model(folder, names, config, size, epochs, served)


def of_run(run, served):
    """The Model of a rundir.Run; `served` may be None where nothing is asked of it, as by `open_set`."""
    size = variants.VARIANTS[run.config.network.variant].input_size
    return Model(run.model_dir, run.class_names, run.config, size, len(run.history), served)


def answers(models, source, config, label):
    """Yields the probabilities that models give to each image of a source, batch by batch, in the source's order.

    A batch is (list of float32 (B, classes), one for each model; int32 (B,), the models' labels). Raises RunError where
    an image cannot be read, or the number of images differs from the source's.
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
        raise RunError(f"{source.name}: {seen} images were read instead of {source.count}; look for changed files")


def _chosen_weights(config, models, source, described):
    """(weights, set, answers): the models' weights in the average, list of float whose sum is 1.

    The other two are None without a search; else the dict of the set that was searched on, and the answers if that set
    is the evaluated one.
    """
    if config.weights != "search":
        given = config.given_weights() or [1] * len(models)
        return [weight / sum(given) for weight in given], None, None
    evaluated = source.fingerprint()
    if config.search_split:
        source, described = open_set(config, models, config.search_split)
    answered = list(answers(models, source, config, f"searching weights on {described['split']}"))
    probabilities = np.stack([np.concatenate([own[index] for own, _ in answered]) for index in range(len(models))])
    found = search_weights(probabilities, np.concatenate([labels for _, labels in answered]))
    same = source.fingerprint() == evaluated
    return found.tolist(), {**described, "same_images": same}, answered if same else None


def open_set(config, models, split, may_download=True):
    """(source, dict): the source to evaluate, without files that are not images, and its entry in the report.

    `config`: an evaluate.EvaluateConfig, or another with its dataset, data_dir and input_threads; `models`: list of
    Model with the same classes; `split`: str or None, as the flag. Raises UsageError, also of a set of TensorFlow
    Datasets that is not prepared yet, unless it may be downloaded.
    """
    data, own_classes = models[0].config.data, models[0].class_names
    if config.dataset:
        other = {"dataset": config.dataset, "data_dir": config.data_dir, "train_split": None, "val_split": None}
        data = dataclasses.replace(data, **other)
    elif config.data_dir:
        data = dataclasses.replace(data, data_dir=config.data_dir)
    data = datasets.find_imagenet(data)
    if data.dataset == "folder":
        own = models[0].config.data
        is_new = not sources.is_own(data.data_dir, own) and sources.is_unsplit(data.data_dir)
        split = split or ("." if is_new else "val")
        source = sources.list_split(data.data_dir, split, *sources.splitting(data.data_dir, own))
    elif data.dataset in ("records", "shapes"):
        split = split or "val"
        if split not in ("train", "val"):
            raise UsageError(f"--split={split}: --dataset={data.dataset} has train and val")
        folder = sources.shapes_folder(data)
        if data.dataset == "shapes" and not os.path.isfile(os.path.join(folder, shapes.INFO)):
            problem = "is not a folder of built-in shapes; name the folder that training drew them into"
            raise UsageError(f"--data_dir={folder}: {problem}")
        source = sources.open_training(data)[split == "val"]
    else:
        if not may_download and not records.is_prepared(data.dataset, data.data_dir):
            raise UsageError(f"--dataset={data.dataset}: is not prepared here")
        source = records.open_tfds_split(data.dataset, data.data_dir, split or data.val_split, data.shuffle_buffer)
        split = split or source.name.removeprefix(f"{data.dataset} ")
    source = sources.with_decoding(source, data)
    source = match_classes(source, split, own_classes)
    left_out = source.other_files
    if not source.label_counts:  # prepared records have counts, and hold images only
        # The folder of a run names the files of its validation set that are not images.
        summaries = (datasets.read_summary(os.path.join(model.name, rundir.VALIDATION)) for model in models)
        summary = next((each for each in summaries if each and each.fingerprint == source.fingerprint()), None)
        skipped = (summary or statistics.summarize(source, config.input_threads)).skipped
        source, left_out = source.without(skipped), (*left_out, *skipped)
    about = {"dataset": data.dataset, "data_dir": data.data_dir, "split": split}
    counts = {"images": source.count, "classes": len(source.class_names), "model_classes": len(own_classes)}
    return source, {**about, **counts, "left_out": list(left_out)}


def match_classes(source, split, known):
    """A source with its classes named as a model names them, see `imagenet.as_known`. Raises UsageError of others."""
    names = imagenet.as_known(source.class_names, known)
    unknown = sorted(set(names) - set(known))
    if unknown:
        some = ", ".join(known[:NAMED]) + " ..." * (len(known) > NAMED)
        problem = f"the model does not know {len(unknown)} classes of the set, such as {unknown[0]!r}; it knows {some}"
        raise UsageError(f"--split={split}: {problem}")
    return dataclasses.replace(source, class_names=names)


def sample(config, model, count, seed=2012):
    """The center views of images of a set, see `open_set`, drawn at random: uint8 (N, size, size, 3).

    A set of TensorFlow Datasets is downloaded only if config.dataset names it.
    """
    source, _ = open_set(config, [model], config.split, may_download=bool(config.dataset))
    names = np.array(source.names())
    drawn = np.random.default_rng(seed).permutation(len(names))[:count]
    source = source.without(np.delete(names, drawn).tolist())
    batches = pipeline.evaluation_batches(source, (model.size,), batch_size=32, threads=config.input_threads)
    return np.concatenate([images.numpy() for (images,), _ in read(batches)])


def of_batch(probabilities, labels):
    """The answers to N images: dict of arrays (N,), from probabilities (N, classes) and labels int (N,).

    Keys: labels; predicted, int, the most probable class (of equal ones the first); confidence, its probability; and
    the float32 metrics in `metrics.NAMES`.
    """
    probabilities, labels = np.asarray(probabilities, np.float32), np.asarray(labels, np.int32)
    values = metrics.of_probabilities(probabilities, labels)
    return {
        "labels": labels,
        "predicted": probabilities.argmax(axis=1),
        "confidence": probabilities.max(axis=1),
        **{name: value.numpy() for name, value in values.items()},
    }


def joined(answered):
    """The answers of each model to all images, list of dict as of `of_batch`, from batches as of `answers`."""
    batches = [[of_batch(each, labels) for each in probabilities] for probabilities, labels in answered]
    models = zip(*batches, strict=True)
    return [{name: np.concatenate([each[name] for each in own]) for name in own[0]} for own in models]


def summary(answers):
    """The means over all images of the metrics in `metrics.NAMES`: dict of float; errors in percent."""
    return {name: _mean(answers[name]) for name in metrics.NAMES}


def by_class(answers, class_names):
    """The errors by class: list of dict with class_name, images, and errors in percent (None without images)."""
    rows = []
    for label, name in enumerate(class_names):
        own = answers["labels"] == label
        errors = {key: _mean(answers[key][own]) for key in ("top1_error", "top5_error")}
        rows.append({"class_name": name, "images": int(own.sum()), **errors})
    return rows


def confusions(answers, class_names, most):
    """The `most` most frequent pairs of a class and the wrong class predicted for it, most frequent first.

    Returns a list of dict with class_name, taken_for, images, and percent of the class.
    """
    labels, wrong = answers["labels"], answers["labels"] != answers["predicted"]
    pairs = zip(labels[wrong].tolist(), answers["predicted"][wrong].tolist(), strict=True)
    totals, rows = np.bincount(labels, minlength=len(class_names)), []
    # Equally frequent pairs are in the order of the labels.
    frequent = sorted(collections.Counter(pairs).items(), key=lambda item: (-item[1], item[0]))[:most]
    for (label, predicted), count in frequent:
        row = {"class_name": class_names[label], "taken_for": class_names[predicted], "images": count}
        rows.append({**row, "percent": float(100 * count / totals[label])})
    return rows


def calibration(answers, bins=15):
    """Compares the confidence of the predictions with their accuracy, in equal bins of 0..1.

    Returns a dict: expected_calibration_error, the distance of confidence and accuracy averaged over the images, and
    maximum_calibration_error, the largest of a bin, both in 0..1; bins, list of dict with from, to, images, confidence,
    accuracy (None in a bin without images).
    """
    accuracy = 1 - answers["top1_error"] / 100
    # A bin excludes its lower end and includes its upper end.
    places = np.clip(np.ceil(answers["confidence"] * bins).astype(int) - 1, 0, bins - 1)
    rows = []
    for place in range(bins):
        own = places == place
        row = {"from": place / bins, "to": (place + 1) / bins, "images": int(own.sum())}
        rows.append({**row, "confidence": _mean(answers["confidence"][own]), "accuracy": _mean(accuracy[own])})
    distances = [(abs(row["confidence"] - row["accuracy"]), row["images"]) for row in rows if row["images"]]
    return {
        "expected_calibration_error": sum(distance * (count / len(accuracy)) for distance, count in distances),
        "maximum_calibration_error": max(distance for distance, _ in distances),
        "bins": rows,
    }


def search_weights(probabilities, labels):
    """Weights for the average of several models' probabilities, searched as in the release (`avg-valid.py`).

    All weights start at 0.5. A pass sets each weight in turn to the best of 0, 0.05 ... 1 while the others stay; passes
    end when one changes nothing, or after five. Best is the lowest top-5 error, then the lowest top-1 error. (The
    release uses the top-5 error only, which is always 0 with five classes or fewer.)

    Probabilities are float32 (models, N, classes), labels int (N,). Returns float64 (models,) whose sum is 1.
    """

    def errors(scores):
        credits = (metrics.top_k_credit(scores.astype(np.float32), labels, k).numpy() for k in (5, 1))
        return tuple(100.0 * (1.0 - float(credit.mean(dtype=np.float64))) for credit in credits)

    weights = np.full(len(probabilities), 0.5)
    best, before = errors(np.tensordot(weights, probabilities, 1)), None
    for _ in range(5):
        if np.array_equal(weights, before):
            break
        before = weights.copy()
        for model, own in enumerate(probabilities):
            others = np.tensordot(np.delete(weights, model), np.delete(probabilities, model, axis=0), 1)
            for weight in np.arange(21) / 20:
                if not weight and not np.delete(weights, model).any():
                    continue  # all weights would be 0
                found = errors(others + weight * own)
                if found < best:
                    best, weights[model] = found, weight
    return weights / weights.sum()


def _mean(values):
    """The mean, computed in float64: float, or None without values."""
    return float(values.mean(dtype=np.float64)) if len(values) else None
