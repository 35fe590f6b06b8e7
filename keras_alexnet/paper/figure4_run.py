"""What `figure4` measures and draws: both panels, and how the whole split does."""

import os

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
    network = features.described(model)
    data = {
        "split": settings.split,
        "pictures": len(queries.files),
        "index_split": settings.index_split,
        "index_pictures": len(index.files),
        "left_out": [*queries.left_out, *index.left_out],
    }
    values = {
        "model": {**network, "classes": len(model.class_names)},
        "data": data,
        **_predictions(settings, model, asked.without(set(asked.files) - set(queries.files))),
        **_neighbors(settings, found),
    }
    protocol = (
        f"{data['pictures']:,} images of {data['split']}, {data['index_pictures']:,} of {data['index_split']}; "
        f"{network['variant']}, width {network['width']:g}, {model.epochs} epochs, {len(model.class_names)} classes, "
        "center view; Euclidean distance of the numbers that fc8 multiplies, every row compared; pixels: RGB of the "
        f"central square at {features.PIXELS}x{features.PIXELS}; drawn at random, seed {settings.seed}"
    )
    left, right = values["predictions"], values["rows"]
    of_rows = [each for row in right for each in (row, *row["neighbors"])]
    panels = (
        ("figure4_predictions.png", draw_predictions, left, left, 200),
        ("figure4_neighbors.png", draw_neighbors, right, of_rows, 100),
    )
    for name, draw, rows, images, size in panels:
        thumbnails = features.thumbnails([os.path.join(settings.data_dir, each["file"]) for each in images], size)
        # A palette makes the file a third as large.
        plots.write_pixels(plots.pixels_of(draw(rows, thumbnails)), os.path.join(settings.results_dir, name), 256)
    split, shares = values["split"], values["shares"]
    drawn = "wrong answers drawn" if values["only"] == "errors" else "images drawn"
    five = f", top-5 {split['top5_error']:.1f} %" if len(model.class_names) > BEST else ""
    captions = (
        f"{len(left)} {drawn} at random (seed {settings.seed}; the paper chose by hand) and their most probable "
        f"classes; the true one in bold and checked. Error of all {split['pictures']:,} images of {data['split']}: "
        f"top-1 {split['top1_error']:.1f} %{five}.",
        f"First column: {len(right)} images of {data['split']}, drawn at random; then the {values['neighbors']} "
        f"nearest of {data['index_split']} by the last hidden layer. Checked: of the same class; crossed: of another. "
        f"{100 * values['shown_shares'][1]:.0f} % of those shown are of the same class, of all images' "
        f"{100 * shares['features'][1]:.1f} %, by pixels {100 * shares['pixels'][1]:.1f} %.",
    )
    return Result(
        values, protocol, tuple((name, caption) for (name, *_), caption in zip(panels, captions, strict=True))
    )


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
    rows = [
        {
            "file": f"{asked.name}/{asked.files[place].replace(os.sep, '/')}",
            "class_name": model.class_names[labels[place]],
            "true_probability": float(probabilities[place, labels[place]]),
            "best": [
                {"class_name": model.class_names[label], "probability": float(probabilities[place, label])}
                for label in np.argsort(-probabilities[place], kind="stable")[:BEST]
            ],
        }
        for place in chosen
    ]
    errors = {}
    for name, places in (("shown", chosen), ("split", slice(None))):
        summary = evaluation.summary(evaluation.of_batch(probabilities[places], labels[places]))
        errors[name] = {"pictures": len(labels[places]), **{key: summary[key] for key in ("top1_error", "top5_error")}}
    return {"predictions": rows, "only": settings.only, **errors}


def _neighbors(settings, found):
    """The right panel, and the same of the whole split; `found` as of `features.open_splits`.

    Returns:
        dict: `rows`, one a row of the panel; `neighbors`, how many there are in one; `shares`, of neighbors of the same
        class, [the nearest, all of them], 0..1, by features, pixels and chance; `shown_shares`, by features, of the
        rows; `features_against_pixels`, the difference of shares and its standard error; `pixel_ranks`, of the nearest
        by features in the order of pixels: median, and the share that is among the nearest by pixels.
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
    chance = float(np.mean([(theirs == name).mean() for name in own]))
    # Another draw than of the left panel, which is not to change this one.
    chosen = np.random.default_rng([settings.seed, 1]).choice(len(own), min(settings.queries, len(own)), replace=False)
    rows = [
        {
            "file": f"{settings.split}/{queries.files[row].replace(os.sep, '/')}",
            "class_name": str(own[row]),
            "neighbors": [
                {
                    "file": f"{settings.index_split}/{index.files[place].replace(os.sep, '/')}",
                    "class_name": str(theirs[place]),
                    "distance": float(far[row, column]),
                    "pixel_distance": float(pixels_far[row, column]),
                    "pixel_rank": int(ranks[row, column]),
                }
                for column, place in enumerate(nearest[row])
            ],
        }
        for row in chosen
    ]
    return {
        "rows": rows,
        "neighbors": count,
        "shares": {"features": _shares(hits), "pixels": _shares(pixel_hits), "chance": [chance, chance]},
        "shown_shares": _shares(hits[chosen]),
        "features_against_pixels": mean_difference(hits.mean(axis=1) - pixel_hits.mean(axis=1)),
        "pixel_ranks": {
            "median": float(np.median(ranks[:, 0])),
            "among_neighbors": float((ranks[:, 0] <= count).mean()),
        },
    }


def _shares(hits):
    return [float(hits[:, 0].mean()), float(hits.mean())]


def draw_predictions(rows, thumbnails):
    """The left panel, a figure: images with their best classes as bars, in two columns.

    The true class is under its image, with its probability where it has no bar; its bar has another color and a check
    mark. Args: rows: dicts with class_name, true_probability and best; thumbnails: uint8 (N, size, size, 3).
    """
    columns, bars = min(2, len(rows)), max(len(row["best"]) for row in rows)
    height = -(-len(rows) // columns)
    ratios = [2, 0.25 * bars] * height
    figure, axes = _grid(3.1 * columns, (2.5 + 0.25 * bars) * height, len(ratios), columns, height_ratios=ratios)
    for each in axes.flat:
        each.axis("off")
    for place, (row, thumbnail) in enumerate(zip(rows, thumbnails, strict=True)):
        image, chart = axes[place // columns * 2 :, place % columns][:2]
        image.imshow(thumbnail)
        names, probabilities = zip(*((each["class_name"], each["probability"]) for each in row["best"]), strict=True)
        true = row["class_name"]
        absent = "" if true in names else f" ({100 * row['true_probability']:.1f} %)"
        image.set_title(_words(true, 22) + absent, y=-0.14, weight="bold", parse_math=False)
        chart.set(xlim=(0, 1.3), ylim=(bars - 0.5, -0.5))
        chart.barh(range(len(names)), probabilities, 0.85, color=[TRUE if name == true else OTHER for name in names])
        for line, (name, probability) in enumerate(zip(names, probabilities, strict=True)):
            style = {"parse_math": False, "va": "center", "weight": "bold" if name == true else "normal"}
            chart.text(0.02, line, "✓ " * (name == true) + _words(name, 24), **style)
            chart.text(1.3, line, f"{100 * probability:.1f} %", ha="right", **style)
    return figure


def draw_neighbors(rows, thumbnails):
    """The right panel, a figure: in each row a test image with its class, then the training images nearest to it.

    Under a neighbor of the same class is a check mark; one of another class has a cross, its class and a frame.
    Args: rows: dicts with class_name and neighbors; thumbnails: uint8 (N, size, size, 3), row by row.
    """
    columns = 1 + len(rows[0]["neighbors"])
    figure, axes = _grid(1.05 * columns, 1.25 * len(rows), len(rows), columns)
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


def _grid(width, height, rows, columns, **settings):
    size = {"figsize": (width, height), "squeeze": False, "layout": "constrained"}
    return plots.pyplot.subplots(rows, columns, **size, **settings)


def _words(class_name, most):
    """What a figure says of a class, at most so many characters; ImageNet's ids in words."""
    text = dict(imagenet.classes()).get(class_name, printable(class_name))
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"
