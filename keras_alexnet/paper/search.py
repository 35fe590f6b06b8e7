"""Exact nearest neighbors, and how good a ranking is: precision at 1, 5 and 10, and average precision.

Vectors at the same distance, of which short binary codes have many, count as the mean over all orders that they could
stand in (McSherry and Najork, 2008): else the order of the files would decide.
"""

import math
import statistics
import time

import numpy as np

AT = (1, 5, 10)  # places that precision is given at
_QUERIES = 256  # rows of distances that are in memory at a time
_VECTORS = 8192  # vectors that are in memory in double precision


class Search:
    """Compares queries with every vector.

    Args:
        vectors: float32 (N, D), compared by Euclidean distance, or uint8 (N, D), bits packed by eight, compared by
            Hamming distance.
    """

    def __init__(self, vectors):
        self.vectors, self.binary = vectors, vectors.dtype == np.uint8
        if self.binary:
            # The words at the same place of all vectors lie side by side.
            self.columns = np.ascontiguousarray(_words(vectors).T)
        else:
            self.squares = np.einsum("ij,ij->i", vectors, vectors)

    def distances(self, queries):
        """Queries (Q, D) -> for each its distances from all vectors, (N,): an iterator of float64 or uint16."""
        measure = self._hamming if self.binary else self._euclidean
        for start in range(0, len(queries), _QUERIES):
            yield from measure(queries[start : start + _QUERIES])

    def nearest(self, query, count):
        """Query (D,) -> (distances, places) of the nearest vectors, at most `count`, nearest first."""
        count = min(count, len(self.vectors))
        # Of numbers the squared distances less that of the query from 0.
        order = self._hamming(query[None])[0] if self.binary else self.squares - 2 * (self.vectors @ query)
        places = np.argpartition(order, count - 1)[:count]
        # float32 finds them; their distances are computed in float64.
        (distances,) = Search(self.vectors[places]).distances(query[None])
        ascending = np.argsort(distances, kind="stable")
        return distances[ascending], places[ascending]

    def _euclidean(self, queries):
        queries = queries.astype(np.float64)
        found = np.empty((len(queries), len(self.vectors)))
        for start in range(0, len(self.vectors), _VECTORS):
            part = self.vectors[start : start + _VECTORS].astype(np.float64)
            squares = (queries**2).sum(axis=1)[:, None] + (part**2).sum(axis=1) - 2 * queries @ part.T
            found[:, start : start + _VECTORS] = np.sqrt(np.maximum(squares, 0))
        return found

    def _hamming(self, queries):
        found = np.zeros((len(queries), len(self.vectors)), np.uint16)
        for column, words in zip(self.columns, _words(queries).T, strict=True):
            found += np.bitwise_count(column ^ words[:, None])
        return found


def evaluate(vectors, labels, queries, query_labels, same=False):
    """How often the nearest are of the query's class.

    Args:
        vectors, queries: as of `Search`.
        labels, query_labels: int (N,) and (Q,).
        same: bool, the queries are the vectors, and each is searched among the others.

    Returns:
        (float64 (Q, 3), float64 (Q,)), the `scores` of every query.
    """
    found = []
    for place, distances in enumerate(Search(vectors).distances(queries)):
        relevant = labels == query_labels[place]
        if same:
            distances, relevant = np.delete(distances, place), np.delete(relevant, place)
        found.append(scores(distances, relevant))
    return tuple(np.array(each) for each in zip(*found, strict=True))


def chance(labels, query_labels, same=False):
    """As `evaluate`, of a ranking that knows nothing: everything is at one distance."""
    nothing, asked = np.zeros((len(labels), 1), np.uint8), np.zeros((len(query_labels), 1), np.uint8)
    return evaluate(nothing, labels, asked, query_labels, same)


def scores(distances, relevant):
    """Precision and average precision of a ranking, as expected when equal distances are put into a random order.

    A place in a group of n equal distances, r of them relevant, holds a relevant one with probability r / n; it then
    has before it the R of the groups before and, of the i - 1 places before it in its own, (i - 1)(r - 1) / (n - 1).

    Args:
        distances: (N,).
        relevant: bool (N,), one or more of them.

    Returns:
        (list of float, the relevant among the first 1, 5, 10, divided by 1, 5, 10, also where there are not so many;
        float, the mean over the relevant of the precision at their places).
    """
    _, sizes = np.unique(distances, return_counts=True)
    starts = np.cumsum(sizes) - sizes
    hits = np.add.reduceat(relevant[np.argsort(distances)].astype(np.int64), starts)
    # From here on a number for each place.
    before = np.repeat(np.cumsum(hits) - hits, sizes)
    start, n, r = (np.repeat(each, sizes) for each in (starts, sizes, hits))
    place = np.arange(1, len(distances) + 1)
    i = place - start
    expected = before + i * r / n
    at_hit = before + 1 + (i - 1) * (r - 1) / np.maximum(n - 1, 1)
    average = (r / n * at_hit / place).sum() / relevant.sum()
    return [expected[min(at, len(place)) - 1] / at for at in AT], average


def mean_difference(differences):
    """The mean over queries and its standard error, None with one query: dict of float."""
    error = float(differences.std(ddof=1) / math.sqrt(len(differences))) if len(differences) > 1 else None
    return {"difference": float(differences.mean()), "standard_error": error}


def milliseconds(function, inputs):
    """The median time of a call, float: the processor's, of all threads, which other programs do not add to."""
    function(inputs[0])  # what is done once only does not count
    times = []
    for each in inputs:
        started = time.process_time_ns()
        function(each)
        times.append(time.process_time_ns() - started)
    return statistics.median(times) / 1e6


def _words(codes):
    """uint8 (N, D) -> the same bits as the widest whole numbers that divide a row."""
    return np.ascontiguousarray(codes).view(f"u{math.gcd(codes.shape[1], 8)}")
