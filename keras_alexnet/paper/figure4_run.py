"""What `figure4` measures and draws: both panels, and how the whole split does."""

import os
from pathlib import Path

import numpy as np

from keras_alexnet import evaluation
from keras_alexnet.data import imagenet
from keras_alexnet.errors import ArgumentError, printable
from keras_alexnet.evaluate import EvaluateConfig
from keras_alexnet.paper import features, plots
from keras_alexnet.paper.experiment import Result
from keras_alexnet.paper.figure4 import BEST
from keras_alexnet.paper.retrieval import mean_difference

TRUE, OTHER, WRONG = "#f0a07a", "#bdd3e8", "#b3261e"  # bars, and frames


def measure(settings):
    """All numbers and both panels: experiment.Result. Files in its values are paths below `--data_dir`, with /."""
    source, asked = features.list_splits(settings, "split")
    model = evaluation.open_model(settings.model_dir)
    unknown = sorted(set(asked.class_names) - set(model.class_names))
    if unknown:
        problem = f"the model does not know {len(unknown)} of its classes, such as {unknown[0]!r}"
        raise ArgumentError("split", settings.split, problem)
    found = features.open_indexes(settings, model, source, asked)
    index, queries = found["features"]
    network, count, index_count = model.config.network, len(queries.files), len(index.files)
    described = {"model_dir": model.name, "variant": network.variant, "width": network.width, "epochs": model.epochs}
    values = {
        "model": {**described, "classes": len(model.class_names)},
        "data": {
            "split": settings.split,
            "pictures": count,
            "index_split": settings.index_split,
            "index_pictures": index_count,
            "left_out": [*queries.left_out, *index.left_out],
        },
        **_predictions(settings, model, asked.without(set(asked.files) - set(queries.files))),
        **_neighbors(settings, found),
    }
    left, right = values["predictions"], values["rows"]
    _write(settings, "predictions", left, left, 200, draw_predictions)
    _write(
        settings, "neighbors", right, [each for row in right for each in (row, *row["neighbors"])], 100, draw_neighbors
    )
    drawn = "wrong answers drawn" if settings.only == "errors" else "images drawn"
    captions = (
        f"{len(left)} {drawn} at random (seed {settings.seed}; the paper chose by hand) and their most probable "
        "classes; the true one in bold and checked.",
        f"First column: {len(right)} images of {settings.split}, drawn at random; then the {values['neighbors']} "
        f"nearest of {settings.index_split} by the last hidden layer. Checked: of the same class; crossed: of another.",
    )
    protocol = (
        f"{count:,} images of {settings.split}, {index_count:,} of {settings.index_split}; {network.variant}, width "
        f"{network.width:g}, {model.epochs} epochs, {len(model.class_names)} classes, center view; Euclidean "
        "distance of the numbers that fc8 multiplies, every row compared; pixels: RGB of the central square at "
        f"{features.PIXELS}x{features.PIXELS}; drawn at random, seed {settings.seed}"
    )
    files = "figure4_predictions.png", "figure4_neighbors.png"
    return Result(values, protocol, tuple(zip(files, captions, strict=True)))


def _predictions(settings, model, asked):
    """`predictions`, one an image of the left panel, and the errors in percent of `shown` and of the whole `split`."""
    center_view = EvaluateConfig(model_dir=(settings.model_dir,), views=1)
    answered = list(evaluation.answers([model], asked, center_view, f"answering {asked.name}"))
    probabilities = np.concatenate([own for (own,), _ in answered])
    labels = np.concatenate([each for _, each in answered])
    candidates = np.arange(len(labels))
    if settings.only == "errors":
        candidates = np.flatnonzero(probabilities.argmax(axis=1) != labels)
        if not len(candidates):
            raise ArgumentError("only", "errors", f"there are none in {len(labels)} images of {asked.name}")
    rng = np.random.default_rng(settings.seed)
    chosen = rng.choice(candidates, min(settings.pictures, len(candidates)), replace=False)
    rows = []
    for place in chosen:
        own = dict(zip(model.class_names, probabilities[place].tolist(), strict=True))
        best = [model.class_names[label] for label in np.argsort(-probabilities[place], kind="stable")[:BEST]]
        name = model.class_names[labels[place]]
        row = {
            "file": Path(asked.name, asked.files[place]).as_posix(),
            "class_name": name,
            "true_probability": own[name],
        }
        rows.append({**row, "best": [{"class_name": each, "probability": own[each]} for each in best]})
    errors = {}
    for name, places in (("shown", chosen), ("split", slice(None))):
        summary = evaluation.summary(evaluation.of_batch(probabilities[places], labels[places]))
        errors[name] = {"pictures": len(labels[places]), **{key: summary[key] for key in ("top1_error", "top5_error")}}
    return {"predictions": rows, "only": settings.only, **errors}


def _neighbors(settings, found):
    """The right panel, and the same of the whole split: shares of neighbors of the same class, [nearest, all], 0..1.

    `pixel_ranks` is of the nearest by features in the order of pixels. `found` is as of `features.open_indexes`.
    """
    index, queries = found["features"]
    own, theirs = np.array(queries.class_names)[queries.labels], np.array(index.class_names)[index.labels]
    count = min(settings.neighbors, len(index.files))
    distances = [features.Search(vectors.features).distances(asked.features) for vectors, asked in found.values()]
    kept = []
    for far, pixels_far in zip(*distances, strict=True):
        nearest, nearest_by_pixels = (np.argsort(each, kind="stable")[:count] for each in (far, pixels_far))
        ranks = [1 + (pixels_far < pixels_far[place]).sum() for place in nearest]
        kept.append((nearest, nearest_by_pixels, far[nearest], pixels_far[nearest], ranks))
    nearest, nearest_by_pixels, far, pixels_far, ranks = map(np.array, zip(*kept, strict=True))
    # Of every query, which neighbors are of its class.
    hits, pixel_hits = theirs[nearest] == own[:, None], theirs[nearest_by_pixels] == own[:, None]
    # Another draw than of the left panel, which is not to change this one.
    chosen = np.random.default_rng([settings.seed, 1]).choice(len(own), min(settings.queries, len(own)), replace=False)
    rows = []
    for row in chosen:
        neighbors = [
            {
                "file": Path(settings.index_split, index.files[place]).as_posix(),
                "class_name": str(theirs[place]),
                "distance": float(far[row, column]),
                "pixel_distance": float(pixels_far[row, column]),
                "pixel_rank": int(ranks[row, column]),
            }
            for column, place in enumerate(nearest[row])
        ]
        file = Path(settings.split, queries.files[row]).as_posix()
        rows.append({"file": file, "class_name": str(own[row]), "neighbors": neighbors})
    three = hits, pixel_hits, hits[chosen]
    shares, pixel_shares, shown_shares = ([float(each[:, 0].mean()), float(each.mean())] for each in three)
    chance, first = float(np.mean([(theirs == name).mean() for name in own])), ranks[:, 0]
    return {
        "rows": rows,
        "neighbors": count,
        "shares": {"features": shares, "pixels": pixel_shares, "chance": [chance, chance]},
        "shown_shares": shown_shares,
        "features_against_pixels": mean_difference(hits.mean(axis=1) - pixel_hits.mean(axis=1)),
        "pixel_ranks": {"median": float(np.median(first)), "among_neighbors": float((first <= count).mean())},
    }


def _write(settings, name, rows, images, size, draw):
    """Writes a panel as PNG, with a palette, which makes the file a third as large."""
    thumbnails = features.thumbnails([os.path.join(settings.data_dir, each["file"]) for each in images], size)
    path = os.path.join(settings.results_dir, f"figure4_{name}.png")
    plots.write_pixels(plots.pixels_of(draw(rows, thumbnails)), path, colors=256)


def draw_predictions(rows, thumbnails):
    """The left panel, a figure: images with their best classes as bars, in two columns.

    The true class is under its image, with its probability where it has no bar; its bar has another color and a check
    mark. Args: rows: as `predictions`; thumbnails: uint8 (N, size, size, 3).
    """
    columns, bars = min(2, len(rows)), max(len(row["best"]) for row in rows)
    height = -(-len(rows) // columns)
    ratios = [2, 0.25 * bars] * height
    size = 3.1 * columns, (2.5 + 0.25 * bars) * height
    figure, axes = plots.panel(*size, columns, len(ratios), squeeze=False, height_ratios=ratios)
    for each in axes.flat:
        each.axis("off")
    for place, (row, thumbnail) in enumerate(zip(rows, thumbnails, strict=True)):
        image, chart = axes[place // columns * 2 :, place % columns][:2]
        image.imshow(thumbnail)
        true, best = row["class_name"], {each["class_name"]: each["probability"] for each in row["best"]}
        absent = "" if true in best else f" ({100 * row['true_probability']:.1f} %)"
        image.set_title(_words(true, 22) + absent, y=-0.14, weight="bold", parse_math=False)
        chart.set(xlim=(0, 1.3), ylim=(bars - 0.5, -0.5))
        chart.barh(range(len(best)), best.values(), 0.85, color=[TRUE if name == true else OTHER for name in best])
        for line, (name, probability) in enumerate(best.items()):
            style = {"parse_math": False, "va": "center", "weight": "bold" if name == true else "normal"}
            chart.text(0.02, line, "✓ " * (name == true) + _words(name, 24), **style)
            chart.text(1.3, line, f"{100 * probability:.1f} %", ha="right", **style)
    return figure


def draw_neighbors(rows, thumbnails):
    """The right panel, a figure: in each row a test image with its class, then the training images nearest to it.

    Under a neighbor of the same class is a check mark; one of another class has a cross, its class and a frame.
    """
    columns = 1 + len(rows[0]["neighbors"])
    figure, axes = plots.panel(1.05 * columns, 1.25 * len(rows), columns, len(rows), squeeze=False)
    for place, (each, thumbnail) in enumerate(zip(axes.flat, thumbnails, strict=True)):
        row, column = rows[place // columns], place % columns
        name = row["neighbors"][column - 1]["class_name"] if column else row["class_name"]
        right = name == row["class_name"]
        each.imshow(thumbnail)
        each.set(xticks=[], yticks=[])
        each.spines[:].set(visible=not right, color=WRONG, linewidth=2.5)
        text = _words(name, 12) if column == 0 else "✓" if right else f"✗ {_words(name, 11)}"
        style = {"color": "black" if right else WRONG, "weight": "normal" if column else "bold"}
        each.set_xlabel(text, fontsize=9, parse_math=False, **style)
    return figure


def _words(class_name, most):
    """What a figure says of a class, at most so many characters; ImageNet's ids in words."""
    text = dict(imagenet.classes()).get(class_name, printable(class_name))
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"
