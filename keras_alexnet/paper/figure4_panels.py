"""The two panels of Figure 4: which images they show, how the whole split does, and how they are drawn."""

import io
import os

import numpy as np
from PIL import Image

from keras_alexnet import evaluation
from keras_alexnet.data import imagenet
from keras_alexnet.errors import ArgumentError, printable
from keras_alexnet.evaluate import EvaluateConfig
from keras_alexnet.paper import features, plots, search
from keras_alexnet.paper.experiment import Result
from keras_alexnet.paper.figure4 import BEST

THUMBNAIL, SMALL = 200, 100  # rows and columns of an image of the left and of the right panel
TRUE, OTHER = "#f0a07a", "#bdd3e8"  # bars
WRONG = "#b3261e"


def measure(settings):
    """All figures of the command: experiment.Result.

    Its values: `predictions`, one an image of the left panel; `rows`, one a row of the right one; files are paths below
    `--data_dir`, with /; `shown` and `split`, errors in percent; and those of `_neighbors`.
    """
    source, asked = features.list_splits(settings, "split")
    model = evaluation.open_model(settings.model_dir)
    unknown = sorted(set(asked.class_names) - set(model.class_names))
    if unknown:
        problem = f"the model does not know {len(unknown)} of its classes, such as {unknown[0]!r}"
        raise ArgumentError("split", settings.split, problem)
    folder = os.path.join(settings.results_dir, "retrieval")
    (queries, index), pixels = (
        [features.open_index(extractor, each, folder) for each in (asked, source)]
        for extractor in (features.feature_extractor(model), features.pixel_extractor())
    )
    network = model.config.network
    values = {
        "model": {**features.described_model(model), "classes": len(model.class_names)},
        "data": {
            "split": asked.name,
            "pictures": len(queries.files),
            "index_split": source.name,
            "index_pictures": len(index.files),
            "left_out": [*queries.left_out, *index.left_out],
        },
        **_predictions(settings, model, asked.without(set(asked.files) - set(queries.files))),
        **_neighbors(settings, queries, index, *(each.features for each in pixels)),
    }
    protocol = (
        f"{len(queries.files):,} images of {asked.name}, {len(index.files):,} of {source.name}; {network.variant}, "
        f"width {network.width:g}, {model.epochs} epochs, {len(model.class_names)} classes, center view; Euclidean "
        "distance of the numbers that fc8 multiplies, every row compared; pixels: RGB of the central square at "
        f"{features.PIXELS}x{features.PIXELS}; drawn at random, seed {settings.seed}"
    )
    return Result(values, protocol, _write_panels(settings, values))


def _predictions(settings, model, asked):
    """The left panel, and the errors of the whole split. Args: asked: sources.FolderSource of images only."""
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
            "file": _below(asked.name, asked.files[place]),
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


def _neighbors(settings, queries, index, query_pixels, index_pixels):
    """The right panel, and the same of the whole split.

    Args:
        settings: figure4.Figure4Settings.
        queries, index: features.Index.
        query_pixels, index_pixels: float32 (Q, P) and (N, P), of the same images.

    Returns:
        dict: `rows`, one a row of the panel; `neighbors`, how many there are in one; `shares`, of neighbors of the same
        class, [the nearest, all of them], 0..1, by features, pixels and chance; `shown_shares`, by features, of the
        rows; `features_against_pixels`, the difference of shares and its standard error; `pixel_ranks`, of the nearest
        by features in the order of pixels: median, and the share that is among the nearest by pixels.
    """
    own, theirs = np.array(queries.class_names)[queries.labels], np.array(index.class_names)[index.labels]
    count = min(settings.neighbors, len(index.files))
    # Another draw than of the left panel, which is not to change this one.
    chosen = np.random.default_rng([settings.seed, 1]).choice(len(own), min(settings.queries, len(own)), replace=False)
    rows, shares, ranks = {}, {"features": [], "pixels": [], "chance": []}, []
    distances = search.Search(index.features).distances(queries.features)
    pixel_distances = search.Search(index_pixels).distances(query_pixels)
    for place, (by_features, by_pixels) in enumerate(zip(distances, pixel_distances, strict=True)):
        same = theirs == own[place]
        nearest, nearest_pixels = (np.argsort(each, kind="stable")[:count] for each in (by_features, by_pixels))
        for kind, hits in (("features", same[nearest]), ("pixels", same[nearest_pixels])):
            shares[kind].append((hits[0], hits.mean()))
        shares["chance"].append((same.mean(), same.mean()))
        rank = [int(1 + (by_pixels < by_pixels[other]).sum()) for other in nearest]
        ranks.append(rank[0])
        if place in chosen:
            rows[place] = {
                "file": _below(settings.split, queries.files[place]),
                "class_name": str(own[place]),
                "neighbors": [
                    {
                        "file": _below(settings.index_split, index.files[other]),
                        "class_name": str(theirs[other]),
                        "distance": float(by_features[other]),
                        "pixel_distance": float(by_pixels[other]),
                        "pixel_rank": pixel_rank,
                    }
                    for other, pixel_rank in zip(nearest, rank, strict=True)
                ],
            }
    shares = {kind: np.array(each, np.float64) for kind, each in shares.items()}
    gain = shares["features"][:, 1] - shares["pixels"][:, 1]
    return {
        "rows": [rows[place] for place in chosen],
        "neighbors": count,
        "shares": {kind: each.mean(axis=0).tolist() for kind, each in shares.items()},
        "shown_shares": shares["features"][chosen].mean(axis=0).tolist(),
        "features_against_pixels": search.mean_difference(gain),
        "pixel_ranks": {"median": float(np.median(ranks)), "among_neighbors": float((np.array(ranks) <= count).mean())},
    }


def _write_panels(settings, values):
    """Writes both panels as PNG; returns pairs of (file below `--results_dir`, caption)."""
    left, right = values["predictions"], values["rows"]
    split, data, shares = values["split"], values["data"], values["shares"]
    drawn = "wrong answers drawn" if values["only"] == "errors" else "images drawn"
    five = f", top-5 {split['top5_error']:.1f} %" if values["model"]["classes"] > BEST else ""
    captions = (
        f"{len(left)} {drawn} at random (seed {settings.seed}; the paper chose by hand) and their most probable "
        f"classes; the true one in bold and checked. Error of all {split['pictures']:,} images of {data['split']}: "
        f"top-1 {split['top1_error']:.1f} %{five}.",
        f"First column: {len(right)} images of {data['split']}, drawn at random; then the {values['neighbors']} "
        f"nearest of {data['index_split']} by the last hidden layer. Checked: of the same class; crossed: of another. "
        f"{100 * values['shown_shares'][1]:.0f} % of those shown are of the same class, of all images' "
        f"{100 * shares['features'][1]:.1f} %, by pixels {100 * shares['pixels'][1]:.1f} %.",
    )
    names = "figure4_predictions.png", "figure4_neighbors.png"
    files = [row["file"] for row in left], [each["file"] for row in right for each in (row, *row["neighbors"])]
    for name, draw, rows, shown, size in zip(
        names, (draw_predictions, draw_neighbors), (left, right), files, (THUMBNAIL, SMALL), strict=True
    ):
        thumbnails = features.thumbnails([os.path.join(settings.data_dir, file) for file in shown], size)
        plots.write_png(png(draw(in_words(rows), thumbnails)), os.path.join(settings.results_dir, name))
    return tuple(zip(names, captions, strict=True))


def in_words(rows):
    """Rows with the words of ImageNet's classes for their ids, and nothing that a figure cannot show."""
    words = dict(imagenet.classes())

    def named(row):
        copy = {**row, "class_name": words.get(row["class_name"], printable(row["class_name"]))}
        return copy | {key: [named(each) for each in value] for key, value in row.items() if isinstance(value, list)}

    return [named(row) for row in rows]


def draw_predictions(rows, thumbnails):
    """The left panel: images with their best classes as bars, in two columns.

    The true class is under its image, in bold, with its probability where it has no bar. Its bar is of another color,
    and its label bold with a check mark.

    Args:
        rows: list of dict, one an image: class_name, true_probability, and best, a list of dict of class_name and
            probability, the most probable first.
        thumbnails: uint8 (N, THUMBNAIL, THUMBNAIL, 3), RGB.

    Returns:
        a Matplotlib figure.
    """
    columns, bars = min(2, len(rows)), max(len(row["best"]) for row in rows)
    height = -(-len(rows) // columns)
    figure, axes = _grid(2 * height, columns, 3.1 * columns, (2.5 + 0.25 * bars) * height, [2, 0.25 * bars] * height)
    for each in axes.flat:
        each.axis("off")
    for place, (row, thumbnail) in enumerate(zip(rows, thumbnails, strict=True)):
        image, chart = axes[place // columns * 2 :, place % columns][:2]
        image.imshow(thumbnail)
        names = [each["class_name"] for each in row["best"]]
        absent = "" if row["class_name"] in names else f" ({100 * row['true_probability']:.1f} %)"
        style = {"parse_math": False, "va": "center"}
        image.set_title(_shortened(row["class_name"], 22) + absent, y=-0.14, weight="bold", parse_math=False)
        chart.set(xlim=(0, 1.3), ylim=(bars - 0.5, -0.5))
        for line, each in enumerate(row["best"]):
            true = each["class_name"] == row["class_name"]
            chart.barh(line, each["probability"], 0.85, color=TRUE if true else OTHER)
            style["weight"] = "bold" if true else "normal"
            chart.text(0.02, line, "✓ " * true + _shortened(each["class_name"], 24), **style)
            chart.text(1.3, line, f"{100 * each['probability']:.1f} %", ha="right", **style)
    return figure


def draw_neighbors(rows, thumbnails):
    """The right panel: in each row a test image, then the training images nearest to it.

    Under the first is its class; under a neighbor of the same class a check mark, and under another one a cross and its
    class, and the image is framed.

    Args:
        rows: list of dict: class_name, and neighbors, a list of dict of class_name, the nearest first; equally many.
        thumbnails: uint8 (N * (1 + neighbors), SMALL, SMALL, 3), row by row.

    Returns:
        a Matplotlib figure.
    """
    columns = 1 + len(rows[0]["neighbors"])
    figure, axes = _grid(len(rows), columns, 1.05 * columns, 1.25 * len(rows), [1] * len(rows))
    for place, thumbnail in enumerate(thumbnails):
        row, column = divmod(place, columns)
        each, own = axes[row, column], rows[row]["class_name"]
        name = rows[row]["neighbors"][column - 1]["class_name"] if column else own
        each.imshow(thumbnail)
        each.set(xticks=[], yticks=[])
        right = name == own
        each.spines[:].set(visible=not right, color=WRONG, linewidth=2.5)
        text = _shortened(name, 12) if column == 0 else "✓" if right else f"✗ {_shortened(name, 11)}"
        style = {"color": "black" if right else WRONG, "weight": "normal" if column else "bold"}
        each.set_xlabel(text, fontsize=9, parse_math=False, **style)
    return figure


def _grid(rows, columns, width, height, height_ratios):
    """A figure of so many inches with axes in rows and columns."""
    settings = {"figsize": (width, height), "height_ratios": height_ratios}
    return plots.pyplot.subplots(rows, columns, squeeze=False, layout="constrained", **settings)


def _shortened(text, most):
    return text if len(text) <= most else f"{text[: most - 1].rstrip()}…"


def png(figure):
    """A figure as a PNG with a palette, a third of the size of one without, bytes."""
    encoded = io.BytesIO()
    Image.fromarray(plots.pixels_of(figure)).quantize(256).save(encoded, "png", optimize=True)
    return encoded.getvalue()


def _below(split, file):
    """The path of an image below `--data_dir`, with /."""
    return f"{split}/{file.replace(os.sep, '/')}"
