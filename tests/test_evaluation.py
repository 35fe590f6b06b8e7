import itertools

import numpy as np
import pytest

from keras_alexnet.training import scores
from tests.reference.errors import top_k_credit

NAMES = ["a", "b", "c", "d"]


def some(count, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(count, classes)) * 2
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return probabilities.astype(np.float32), rng.integers(0, classes, count).astype(np.int32)


@pytest.fixture
def answers():
    probabilities, labels = some(50)
    return scores.joined(
        [scores.of_batch(probabilities[:32], labels[:32]), scores.of_batch(probabilities[32:], labels[32:])]
    )


def test_the_summary_is_over_images_whatever_the_batches(answers):
    probabilities, labels = some(50)
    found = scores.summary(answers)
    assert found["top1_error"] == pytest.approx(100 - 100 * top_k_credit(probabilities, labels, 1).mean(), rel=1e-5)
    assert found["loss"] == pytest.approx(-np.log(probabilities[np.arange(50), labels]).mean(), rel=1e-5)
    assert found["top5_error"] == 0


def test_errors_by_class(answers):
    rows = scores.by_class(answers, [*NAMES, "never"])
    assert [row["class_name"] for row in rows] == [*NAMES, "never"]
    assert sum(row["images"] for row in rows) == 50
    for label, row in enumerate(rows[:4]):
        own = answers.labels == label
        assert row["images"] == own.sum()
        assert row["top1_error"] == pytest.approx(100 * (answers.predicted[own] != label).mean())
    assert rows[4] == {"class_name": "never", "images": 0, "top1_error": None, "top5_error": None}


def test_confusions_count_pairs(answers):
    rows = scores.confusions(answers, NAMES, 100)
    expected = {}
    for label, predicted in zip(answers.labels, answers.predicted, strict=True):
        if label != predicted:
            expected[NAMES[label], NAMES[predicted]] = expected.get((NAMES[label], NAMES[predicted]), 0) + 1
    assert {(row["class_name"], row["taken_for"]): row["images"] for row in rows} == expected
    assert [row["images"] for row in rows] == sorted(expected.values(), reverse=True)
    assert rows[0]["percent"] == pytest.approx(
        100 * rows[0]["images"] / (answers.labels == NAMES.index(rows[0]["class_name"])).sum()
    )
    assert scores.confusions(answers, NAMES, 2) == rows[:2]


def test_calibration_by_hand():
    probabilities = np.array([[0.55, 0.45], [0.95, 0.05], [0.9, 0.1], [0.2, 0.8]], np.float32)
    found = scores.calibration(scores.of_batch(probabilities, np.array([0, 0, 1, 1])), bins=10)
    # bins: (0.5, 0.6] one right at 0.55; (0.7, 0.8] one right at 0.8; (0.8, 0.9] one wrong at 0.9; (0.9, 1] right, 0.95
    assert [row["images"] for row in found["bins"]] == [0, 0, 0, 0, 0, 1, 0, 1, 1, 1]
    assert found["expected_calibration_error"] == pytest.approx((0.45 + 0.2 + 0.9 + 0.05) / 4, abs=1e-6)
    assert found["maximum_calibration_error"] == pytest.approx(0.9, abs=1e-6)
    assert found["bins"][0]["accuracy"] is None


def test_perfect_certainty_is_calibrated():
    found = scores.calibration(scores.of_batch(np.eye(4, dtype=np.float32), np.arange(4)))
    assert found["expected_calibration_error"] == 0 and found["bins"][-1]["images"] == 4


def error_of(weights, probabilities, labels):
    total = np.tensordot(weights, probabilities, 1)
    return tuple(100 - 100 * top_k_credit(total.astype(np.float32), labels, k).mean() for k in (5, 1))


@pytest.mark.parametrize("classes", [4, 12])
def test_searched_weights_are_no_worse_than_any_step_from_them(classes):
    _, labels = some(80, classes)
    probabilities = np.stack([some(80, classes, seed)[0] for seed in (1, 2, 3)])
    probabilities[1, np.arange(80), labels] += np.random.default_rng(9).uniform(0, 0.8, 80)  # one that knows something
    found = scores.search_weights(probabilities, labels)
    assert found.sum() == pytest.approx(1) and (found >= 0).all()
    best = error_of(found, probabilities, labels)
    assert best <= error_of(np.full(3, 1 / 3), probabilities, labels)
    np.testing.assert_allclose(found, searched_by_hand(probabilities, labels))


def searched_by_hand(probabilities, labels):
    """`avg-valid.py` in words: begin at 0.5, one coordinate after the other, 0 to 1 in twenty steps, five passes."""
    weights = [0.5] * len(probabilities)
    best = error_of(weights, probabilities, labels)
    for _ in range(5):
        for model, step in itertools.product(range(len(weights)), range(21)):
            tried = [step / 20 if other == model else weight for other, weight in enumerate(weights)]
            if any(tried) and error_of(tried, probabilities, labels) < best:
                best, weights = error_of(tried, probabilities, labels), tried
    return np.array(weights) / sum(weights)


def test_a_model_that_knows_nothing_is_left_out():
    labels = np.arange(40, dtype=np.int32) % 4
    right = np.full((40, 4), 0.1, np.float32)
    right[np.arange(40), labels] = 0.7
    wrong = np.full((40, 4), 0.05, np.float32)
    wrong[np.arange(40), (labels + 1) % 4] = 0.85
    found = scores.search_weights(np.stack([right, wrong]), labels)
    assert found[0] > found[1]
    assert error_of(found, np.stack([right, wrong]), labels)[1] == 0
