"""Exact search and scores of rankings, held against plain loops."""

import itertools
from fractions import Fraction

import numpy as np
import pytest

from keras_alexnet.paper import retrieval


def scores_of(relevant):
    """From the definition: precision at 1, 5, 10, and the mean, over the relevant, of the precision at their places."""
    places = [place for place, is_one in enumerate(relevant, 1) if is_one]
    average = sum(Fraction(sum(relevant[:place]), place) for place in places) / len(places)
    return [Fraction(sum(relevant[:at]), at) for at in (1, 5, 10)], average


def every_order(distances, relevant):
    """All orders in which equal distances may stand."""
    groups = [
        [own for own, each in zip(relevant, distances, strict=True) if each == value]
        for value in sorted(set(distances))
    ]
    for orders in itertools.product(*(itertools.permutations(group) for group in groups)):
        yield [each for order in orders for each in order]


@pytest.mark.parametrize("ties", [False, True])
def test_scores_are_the_mean_over_all_orders_of_equal_distances(ties):
    rng = np.random.default_rng(1)
    for _ in range(3):
        distances = rng.integers(0, 4, 8) if ties else rng.random(40)
        relevant = rng.random(len(distances)) < 0.3
        relevant[0] = True
        found = [scores_of(order) for order in every_order(distances.tolist(), relevant.tolist())]
        precision, average = retrieval.scores(distances, relevant)
        assert average == pytest.approx(float(sum(each for _, each in found) / len(found)), rel=1e-12)
        expected = [float(sum(each) / len(found)) for each in zip(*(each for each, _ in found), strict=True)]
        assert precision == pytest.approx(expected, rel=1e-12)


def distances_of(query, vectors):
    """Euclidean, or of uint8 Hamming, in float64."""
    if query.dtype == np.uint8:
        query, vectors = np.unpackbits(query).astype(float), np.unpackbits(vectors, axis=1).astype(float)
        return np.abs(vectors - query).sum(axis=1)
    return np.sqrt(((vectors.astype(np.float64) - query) ** 2).sum(axis=1))


@pytest.mark.parametrize("binary", [0, 1, 6, 8])  # bytes of a code
def test_every_vector_is_compared(binary, monkeypatch):
    monkeypatch.setattr(retrieval, "_VECTORS", 64)
    monkeypatch.setattr(retrieval, "_QUERIES", 7)
    rng = np.random.default_rng(2)
    rows = rng.integers(0, 256, (320, binary), np.uint8) if binary else rng.normal(size=(320, 24)).astype(np.float32)
    queries, vectors = rows[:20], rows[20:]
    found = retrieval.Search(vectors)
    for query, row in zip(queries, found.distances(queries), strict=True):
        expected = distances_of(query, vectors)
        np.testing.assert_allclose(row, expected, rtol=1e-9)
        distances, places = found.nearest(query, 7)
        np.testing.assert_allclose(distances, np.sort(expected)[:7], rtol=1e-9)
        np.testing.assert_allclose(expected[places], distances, rtol=1e-9)
    assert len(found.nearest(queries[0], 1000)[0]) == 300


@pytest.mark.parametrize("same", [False, True])
def test_evaluation_from_the_definition(same):
    rng = np.random.default_rng(4)
    labels, vectors = rng.permutation(np.arange(30) % 3), rng.normal(size=(30, 24)).astype(np.float32)
    queries = slice(None) if same else slice(0, 7)
    precision, average = retrieval.evaluate(vectors, labels, vectors[queries], labels[queries], same)
    for row in range(len(precision)):
        others = [place for place in range(30) if not same or place != row]
        order = np.argsort(distances_of(vectors[row], vectors[others]))
        expected = scores_of((labels[others] == labels[row])[order].tolist())
        assert average[row] == pytest.approx(float(expected[1]))
        assert precision[row] == pytest.approx(list(map(float, expected[0])))
