"""What Figure 4 shows: pictures drawn at random with their answers and neighbors, and the same of their whole split."""

import os

import numpy as np

from keras_alexnet import evaluate as evaluation
from keras_alexnet.errors import UsageError

BEST = 5
_QUERIES = 256  # rows of distances that are in memory at a time
_ROWS = 8192  # vectors that are there in double precision


def predictions(settings, model, asked):
    """The left panel, and the errors of the whole split.

    Args:
        settings: config.Figure4Config.
        model: evaluate.Model.
        asked: sources.FolderSource without what is no picture.

    Returns:
        dict: `predictions`, one a picture: file, class_name, true_probability, and best, the most probable classes;
        `only`; `shown` and `split`, pictures and errors in percent.

    Raises:
        UsageError: there is no error to show.
        RunError: a picture could not be read.
    """
    from keras_alexnet.training import scores

    answered = list(evaluation.answers([model], asked, settings.evaluation, f"answering {asked.name}"))
    probabilities = np.concatenate([own for (own,), _ in answered])
    labels = np.concatenate([each for _, each in answered])
    answers = scores.of_batch(probabilities, labels)
    candidates = np.arange(len(labels))
    if settings.only == "errors":
        candidates = np.flatnonzero(answers.predicted != labels)
        if not len(candidates):
            raise UsageError(f"--only=errors: there are none in {len(labels)} pictures of {asked.name}; leave it out")
    rng = np.random.default_rng(settings.seed)
    chosen = rng.choice(candidates, min(settings.pictures, len(candidates)), replace=False)
    rows = []
    for place in chosen:
        own = probabilities[place]
        rows.append(
            {
                "file": _below(asked, place),
                "class_name": model.class_names[labels[place]],
                "true_probability": float(own[labels[place]]),
                "best": [
                    {"class_name": model.class_names[label], "probability": float(own[label])}
                    for label in np.argsort(-own, kind="stable")[:BEST]
                ],
            }
        )
    return {
        "predictions": rows,
        "only": settings.only,
        "shown": {"pictures": len(chosen), **_errors(scores.of_batch(probabilities[chosen], labels[chosen]))},
        "split": {"pictures": len(labels), **_errors(answers)},
    }


def neighbors(settings, queries, index, small_queries, small_index):
    """The right panel, and the same of the whole split.

    Args:
        settings: config.Figure4Config.
        queries, index: features.Index.
        small_queries, small_index: float32 (Q, P) and (N, P), the pixels of the same pictures.

    Returns:
        dict: `rows`, one a row of the panel; `neighbors`, how many there are in one; `shares`, of neighbors of the same
        class, [the nearest, all of them], 0..1, by features, pixels and chance; `shown_shares`, by features, of the
        rows; `features_against_pixels`, the difference of shares and its standard error; `pixel_ranks`, of the nearest
        by features in the order of pixels: median, and the share that pixels find too.
    """
    names = np.array(index.class_names)
    own, theirs = np.array(queries.class_names)[queries.labels], names[index.labels]
    count = min(settings.neighbors, len(index.files))
    # Another draw than of the left panel, which is not to change this one.
    chosen = np.random.default_rng([settings.seed, 1]).choice(len(own), min(settings.queries, len(own)), replace=False)
    rows, shares, ranks = {}, {"features": [], "pixels": [], "chance": []}, []
    for start in range(0, len(own), _QUERIES):
        part = slice(start, start + _QUERIES)
        far, apart = distances(queries.features[part], index.features), distances(small_queries[part], small_index)
        nearest, by_pixels = (np.argsort(each, axis=1, kind="stable")[:, :count] for each in (far, apart))
        same = theirs[None] == own[part, None]
        for kind, places in (("features", nearest), ("pixels", by_pixels)):
            hits = np.take_along_axis(same, places, axis=1)
            shares[kind].append(np.stack([hits[:, 0], hits.mean(axis=1)], axis=1))
        shares["chance"].append(np.repeat(same.mean(axis=1)[:, None], 2, axis=1))
        own_apart = np.take_along_axis(apart, nearest, axis=1)
        rank = 1 + (apart[:, None] < own_apart[:, :, None]).sum(axis=2)
        ranks.append(rank)
        for place in chosen[(chosen >= start) & (chosen < start + _QUERIES)]:
            row = place - start
            rows[place] = {
                "file": _below(queries, place, settings.split),
                "class_name": str(own[place]),
                "neighbors": [
                    {
                        "file": _below(index, other, settings.index_split),
                        "class_name": str(theirs[other]),
                        "distance": float(far[row, other]),
                        "pixel_distance": float(apart[row, other]),
                        "pixel_rank": int(rank[row, number]),
                    }
                    for number, other in enumerate(nearest[row])
                ],
            }
    shares = {kind: np.concatenate(each) for kind, each in shares.items()}
    first = np.concatenate(ranks)[:, 0]
    gain = shares["features"][:, 1] - shares["pixels"][:, 1]
    return {
        "rows": [rows[place] for place in chosen],
        "neighbors": count,
        "shares": {kind: each.mean(axis=0).tolist() for kind, each in shares.items()},
        "shown_shares": shares["features"][chosen].mean(axis=0).tolist(),
        "features_against_pixels": {
            "difference": float(gain.mean()),
            "standard_error": float(gain.std(ddof=1) / np.sqrt(len(gain))) if len(gain) > 1 else None,
        },
        "pixel_ranks": {"median": float(np.median(first)), "among_neighbors": float((first <= count).mean())},
    }


def distances(queries, vectors):
    """Euclidean distances of all pairs.

    Args:
        queries: float (Q, D).
        vectors: float (N, D).

    Returns:
        float64 (Q, N).
    """
    queries = queries.astype(np.float64)
    found = []
    for start in range(0, len(vectors), _ROWS):
        part = vectors[start : start + _ROWS].astype(np.float64)
        squares = (queries**2).sum(axis=1)[:, None] + (part**2).sum(axis=1) - 2 * queries @ part.T
        found.append(np.sqrt(np.maximum(squares, 0)))
    return np.concatenate(found, axis=1)


def _below(found, place, split=None):
    """The path of a picture below `--data_dir`, with /."""
    return f"{split or found.name}/{found.files[place].replace(os.sep, '/')}"


def _errors(answers):
    from keras_alexnet.training import scores

    summary = scores.summary(answers)
    return {name: summary[name] for name in ("top1_error", "top5_error")}
