import numpy as np
import pytest

from keras_alexnet.training import metrics
from tests.reference.errors import top_k_credit


@pytest.mark.parametrize("k", [1, 5])
def test_credit_with_ties_is_the_releases(k):
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 4, size=(200, 9)).astype(np.float32)  # few values, so that many tie
    labels = rng.integers(0, 9, size=200).astype(np.int32)
    np.testing.assert_allclose(metrics.top_k_credit(scores, labels, k), top_k_credit(scores, labels, k), rtol=1e-6)
    # A non-finite score is never right.
    scores = np.array([[np.nan, np.nan], [np.nan, 1.0]], np.float32)
    np.testing.assert_array_equal(metrics.top_k_credit(scores, np.array([0, 0]), 1), [0.0, 0.0])


@pytest.mark.parametrize("counts", [(50,) * 6, (9, 3), (419, 380, 391, 357)])
def test_one_answer_to_all_has_the_majoritys_error_to_the_bit(counts):
    """A rounding between them would make a flat start a plateau."""
    averages, labels = metrics.Averages(), np.repeat(np.arange(len(counts)), counts)
    for some in np.split(labels, range(7, len(labels), 7)):
        values = metrics.per_image(
            np.tile(np.eye(len(counts), dtype=np.float32)[np.argmax(counts)], (len(some), 1)), some
        )
        averages.add(metrics.sums(values, np.ones(len(some), np.float32)))
    assert averages.result()["top1_error"] == metrics.majority_error(counts)


def test_loss_and_squared_error_are_their_formulas_of_logits_and_of_probabilities():
    logits = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float64) * 3
    labels = np.array([0, 1, 2, 3, 0, 1, 2, 3], np.int32)
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    values = metrics.per_image(logits.astype(np.float32), labels)
    np.testing.assert_allclose(values["loss"], -np.log(probabilities[np.arange(8), labels]), rtol=1e-5)
    expected = ((probabilities - np.eye(4)[labels]) ** 2).mean(axis=1)
    np.testing.assert_allclose(values["mean_squared_error"], expected, rtol=1e-5)
    np.testing.assert_array_equal(values["top5_error"], np.zeros(8))  # of four classes
    for name, value in metrics.of_probabilities(probabilities.astype(np.float32), labels).items():
        np.testing.assert_allclose(value, values[name], rtol=1e-4, atol=1e-6)
    # A probability of 0 costs much and not infinitely much.
    assert 80 < metrics.of_probabilities(np.array([[0, 1]], np.float32), np.array([0]))["loss"][0] < 100
