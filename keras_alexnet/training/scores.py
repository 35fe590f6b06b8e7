"""What an evaluation says of answers: errors by class, confusions, calibration; and weights for several models."""

import dataclasses

import numpy as np

from keras_alexnet.training import metrics

_GRID = np.arange(21) / 20  # weights that are tried: 0, 0.05 ... 1
_PASSES = 5


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
    best = _errors(np.tensordot(weights, probabilities, 1), labels)
    for _ in range(_PASSES):
        changed = False
        for model, own in enumerate(probabilities):
            others = np.tensordot(np.delete(weights, model), np.delete(probabilities, model, axis=0), 1)
            for weight in _GRID:
                if not weight and not np.delete(weights, model).any():
                    continue  # a sum of nothing
                found = _errors(others + weight * own, labels)
                if found < best:
                    best, weights[model], changed = found, weight, True
        if not changed:
            break
    return weights / weights.sum()


def _errors(scores, labels):
    """(top-5 error, top-1 error), percent; what is compared first stands first."""
    credits = (metrics.top_k_credit(scores.astype(np.float32), labels, k).numpy() for k in (5, 1))
    return tuple(100.0 * (1.0 - float(credit.mean(dtype=np.float64))) for credit in credits)
