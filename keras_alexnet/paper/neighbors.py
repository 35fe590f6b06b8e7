"""Exact nearest neighbors, and how good a ranking is: precision at a few places, and average precision.

The search is faiss' (extra `retrieval`), which compares with every row: IndexFlatL2 for numbers, IndexBinaryFlat for
packed bits. Rows at the same distance, of which short binary codes have many, count as the mean over all orders that
they could stand in: else the order of the files would decide.
"""

import statistics
import time

import numpy as np

from keras_alexnet.errors import UsageError

AT = (1, 5, 10)  # places that precision is given at
_QUERIES = 256  # whole rankings that are in memory at a time


def faiss():
    """The library. Raises UsageError where it is not installed."""
    try:
        import faiss as library
    except ImportError:
        raise UsageError("faiss is not installed; pip install 'keras-alexnet[retrieval]'") from None
    return library


def open_search(vectors, rows=None):
    """What finds the nearest of some vectors.

    Args:
        vectors: float32 (N, D), or uint8 (N, D), bits packed by eight.
        rows: int, at least N: the vectors are repeated until there are so many, to see how long a larger search takes.

    Returns:
        function of (queries (Q, D) of the same dtype, count) -> (distances (Q, count), Euclidean float32 or Hamming
        int32; places int64 (Q, count)), nearest first.
    """
    library = faiss()
    binary = vectors.dtype == np.uint8
    width = vectors.shape[1]
    index = library.IndexBinaryFlat(8 * width) if binary else library.IndexFlatL2(width)
    while index.ntotal < (rows or len(vectors)):
        index.add(np.ascontiguousarray(vectors[: (rows or len(vectors)) - index.ntotal]))

    def search(queries, count):
        distances, places = index.search(np.ascontiguousarray(queries), min(count, index.ntotal))
        # Of large batches faiss takes |a|^2 - 2ab + |b|^2, which may end a little below 0.
        return (distances if binary else np.sqrt(np.maximum(distances, 0))), places

    return search


def evaluate(vectors, labels, queries, query_labels, same=False):
    """How often the nearest are of the query's class.

    Args:
        vectors, queries: as of `open_search`.
        labels: int (N,), classes of the vectors.
        query_labels: int (Q,).
        same: bool, the queries are the vectors, and none is to find itself.

    Returns:
        (precision: float64 (Q, 3), at the places AT; average precision: float64 (Q,)), over the whole ranking.
    """
    search, found = open_search(vectors), []
    for start in range(0, len(queries), _QUERIES):
        part = slice(start, start + _QUERIES)
        distances, places = search(queries[part], len(vectors))
        if same:
            others = places != np.arange(len(queries))[part, None]
            distances, places = (each[others].reshape(len(places), -1) for each in (distances, places))
        found.append(scores(distances, labels[places] == query_labels[part, None]))
    return tuple(np.concatenate(each) for each in zip(*found, strict=True))


def scores(distances, relevant):
    """Precision and average precision of rankings, as expected when equal distances are put into a random order.

    A place in a group of n equal distances, r of them relevant, holds a relevant one with probability r / n; it then
    has before it the R of the groups before and, of the i - 1 places before it in its own, (i - 1)(r - 1) / (n - 1)
    (McSherry and Najork, 2008). Everything at one distance gives what chance gives.

    Args:
        distances: (Q, N), ascending.
        relevant: bool (Q, N), in the same order.

    Returns:
        (float64 (Q, 3), the relevant among the first 1, 5, 10, divided by 1, 5, 10, also where there are not so many;
        float64 (Q,), the mean over the relevant of the precision at their places; not a number where none is).
    """
    queries, count = relevant.shape
    begins = np.ones(relevant.shape, bool)
    begins[:, 1:] = distances[:, 1:] != distances[:, :-1]
    starts = np.flatnonzero(begins)  # rows after each other: every row begins a group
    sizes = np.diff(starts, append=relevant.size)
    hits = np.add.reduceat(relevant.ravel().astype(np.int64), starts)
    upto = np.cumsum(relevant, axis=1).ravel()

    def of_each(groups):
        return np.repeat(groups, sizes).reshape(queries, count)

    n, r = of_each(sizes), of_each(hits)
    before = of_each(upto[starts] - relevant.ravel()[starts])
    place = np.arange(1, count + 1)
    i = place - of_each(starts % count)
    expected = before + i * r / n
    precision = np.stack([expected[:, min(at, count) - 1] / at for at in AT], axis=1)
    at_hit = before + 1 + (i - 1) * (r - 1) / np.maximum(n - 1, 1)
    with np.errstate(invalid="ignore"):
        average = (r / n * at_hit / place).sum(axis=1) / relevant.sum(axis=1)
    return precision, average


def chance(labels, query_labels, same=False):
    """As `evaluate`, of a ranking that knows nothing."""
    relevant = labels[None] == query_labels[:, None]
    if same:
        relevant = relevant[~np.eye(len(labels), dtype=bool)].reshape(len(labels), -1)
    return scores(np.zeros(relevant.shape), relevant)


def milliseconds(function, inputs):
    """The median time of a call, float: the processor's, of all threads, which other programs' work does not add to.

    Args:
        function: of one input.
        inputs: sequence, each is used once.
    """
    function(inputs[0])  # what is done once only does not count
    times = []
    for each in inputs:
        started = time.process_time_ns()
        function(each)
        times.append(time.process_time_ns() - started)
    return statistics.median(times) / 1e6
