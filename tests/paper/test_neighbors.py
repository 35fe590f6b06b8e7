import builtins
import itertools
from fractions import Fraction

import numpy as np
import pytest

pytest.importorskip("faiss", reason="faiss is not installed (extra retrieval)")

from keras_alexnet.errors import UsageError
from keras_alexnet.paper import neighbors


def precision_of(relevant, at):
    """From the definition: the relevant among the first `at`, over `at`."""
    return Fraction(sum(relevant[:at]), at)


def average_precision_of(relevant):
    """From the definition: the mean, over the relevant, of the precision at their places."""
    places = [place for place, is_one in enumerate(relevant, 1) if is_one]
    return sum((Fraction(sum(relevant[:place]), place) for place in places), Fraction(0)) / len(places)


def every_order(distances, relevant):
    """All orders in which equal distances may stand."""
    groups = [
        [own for own, distance in zip(relevant, distances, strict=True) if distance == value]
        for value in sorted(set(distances))
    ]
    for orders in itertools.product(*(itertools.permutations(group) for group in groups)):
        yield [each for order in orders for each in order]


def mean(values):
    values = list(values)
    return float(sum(values, Fraction(0)) / len(values))


def test_scores_without_ties():
    rng = np.random.default_rng(1)
    relevant = rng.random((20, 40)) < 0.3
    distances = np.sort(rng.random((20, 40)), axis=1)
    precision, average = neighbors.scores(distances, relevant)
    for row in range(20):
        flags = relevant[row].tolist()
        assert precision[row] == pytest.approx([float(precision_of(flags, at)) for at in (1, 5, 10)])
        assert average[row] == pytest.approx(float(average_precision_of(flags)))


@pytest.mark.parametrize("seed", range(4))
def test_scores_with_ties_are_the_mean_over_all_orders(seed):
    rng = np.random.default_rng(seed)
    distances = np.sort(rng.integers(0, 4, 9))
    relevant = rng.random(9) < 0.4
    relevant[rng.integers(9)] = True
    precision, average = neighbors.scores(distances[None], relevant[None])
    orders = list(every_order(distances.tolist(), relevant.tolist()))
    assert average[0] == pytest.approx(mean(map(average_precision_of, orders)), rel=1e-12)
    for column, at in enumerate((1, 5, 10)):
        assert precision[0, column] == pytest.approx(mean(precision_of(order, at) for order in orders), rel=1e-12)


def test_chance_is_everything_at_one_distance():
    labels, asked = np.array([0, 0, 0, 1, 1, 2, 2, 2]), np.array([0, 1, 2])
    precision, average = neighbors.chance(labels, asked)
    assert precision[:, 0] == pytest.approx([3 / 8, 2 / 8, 3 / 8])
    relevant = (labels == 1).tolist()
    assert average[1] == pytest.approx(mean(map(average_precision_of, itertools.permutations(relevant))))
    precision, _ = neighbors.chance(labels, labels, same=True)
    assert precision[:, 0] == pytest.approx([2 / 7] * 3 + [1 / 7] * 2 + [2 / 7] * 3)


def test_the_nearest_by_numbers():
    rng = np.random.default_rng(2)
    vectors, queries = (rng.normal(size=(count, 24)).astype(np.float32) for count in (300, 40))
    wide = np.sqrt(np.square(queries[:, None].astype(np.float64) - vectors[None]).sum(axis=2))
    for part in (queries, queries[:1]):  # one query and many are two ways in the library
        distances, places = neighbors.open_search(vectors)(part, 7)
        np.testing.assert_array_equal(places, np.argsort(wide[: len(part)], axis=1)[:, :7])
        np.testing.assert_allclose(distances, np.sort(wide[: len(part)], axis=1)[:, :7], rtol=1e-4)


def test_the_nearest_by_bits():
    rng = np.random.default_rng(3)
    vectors, queries = (rng.integers(0, 256, (count, 4), dtype=np.uint8) for count in (200, 5))
    bits = [np.unpackbits(each, axis=1).astype(int) for each in (queries, vectors)]
    expected = np.abs(bits[0][:, None] - bits[1][None]).sum(axis=2)
    distances, places = neighbors.open_search(vectors)(queries, 200)
    np.testing.assert_array_equal(distances, np.take_along_axis(expected, places, axis=1))
    np.testing.assert_array_equal(distances, np.sort(expected, axis=1))


def test_a_larger_index_is_the_same_repeated():
    vectors = np.eye(3, 8, dtype=np.float32)
    distances, places = neighbors.open_search(vectors, 8)(vectors[:1], 20)
    assert sorted(places[0][distances[0] == 0].tolist()) == [0, 3, 6] and places.shape == (1, 8)


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("same", [False, True])
def test_evaluation_from_the_definition(binary, same):
    rng = np.random.default_rng(4)
    labels = rng.permutation(np.arange(30) % 3)
    if binary:
        vectors = rng.integers(0, 256, (30, 4), dtype=np.uint8)
        bits = np.unpackbits(vectors, axis=1).astype(int)
    else:
        vectors = bits = rng.normal(size=(30, 5)).astype(np.float32)
    queries = slice(None) if same else slice(0, 7)
    precision, average = neighbors.evaluate(vectors, labels, vectors[queries], labels[queries], same)
    for row in range(len(vectors[queries])):
        others = [place for place in range(30) if not same or place != row]
        distances = np.square(bits[others] - bits[row]).sum(axis=1)
        # By the probability that a place holds a relevant one, group by group, counted out by simulation of one order:
        # numbers have no ties here, and of bits the expected precision is checked.
        order = np.argsort(distances, kind="stable")
        relevant = (labels[others] == labels[row])[order].tolist()
        if not binary:
            assert average[row] == pytest.approx(float(average_precision_of(relevant)))
        for column, at in enumerate((1, 5, 10)):
            assert precision[row, column] == pytest.approx(expected_precision(np.sort(distances), relevant, at))


def expected_precision(distances, relevant, at):
    """Whole groups before place `at`, and of the group that it divides as much as goes in."""
    hits = 0.0
    for value in np.unique(distances):
        group = np.flatnonzero(distances == value)
        inside = np.clip(at - group[0], 0, len(group))
        hits += inside * np.mean([relevant[place] for place in group])
    return hits / at


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    real = builtins.__import__

    def without(name, *others, **more):
        if name == "faiss":
            raise ImportError(name)
        return real(name, *others, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match=r"keras-alexnet\[retrieval\]"):
        neighbors.faiss()


def test_milliseconds_are_the_median(monkeypatch):
    times = iter([0, 1_000_000, 10_000_000, 10_500_000, 20_000_000, 29_000_000])
    monkeypatch.setattr(neighbors.time, "process_time_ns", lambda: next(times))
    called = []
    assert neighbors.milliseconds(called.append, ["a", "b", "c"]) == 1
    assert called == ["a", "a", "b", "c"]
