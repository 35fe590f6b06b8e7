"""Figure 4: what a network says of test images, and which training images are nearest in its last hidden layer.

Images are drawn at random; the paper chose its by hand. Errors and shares of the whole split stand beside them. The
features of both splits are kept below RESULTS/retrieval, where keras_alexnet.paper.retrieval finds them too.
"""

import dataclasses
import os
import statistics
import textwrap
from pathlib import Path

import numpy as np

from keras_alexnet import cli, flags
from keras_alexnet.data import imagenet
from keras_alexnet.errors import printable
from keras_alexnet.evaluate import EvaluateConfig
from keras_alexnet.flags import flag
from keras_alexnet.paper import experiment
from keras_alexnet.paper.experiment import Result, Table, Verdict
from keras_alexnet.paper.retrieval import Search, check_folder_names, mean_difference, outcome

TITLE = "Figure 4: five best classes, and nearest images"
CLAIM = (
    "Most of the five best labels of test images are reasonable, and training images whose last hidden layers "
    "are nearest show the same kind of object, though generally not close in L2 pixel by pixel (section 6.1, "
    "Figure 4)."
)
COST = "80 seconds of one CPU core for 2,934 and 736 images; features that retrieval has kept are not computed again"
COMMAND = "python -m keras_alexnet.paper.figure4 --model_dir=RUN --data_dir=IMAGES"

BEST = 5
TRUE, OTHER, WRONG = "#f0a07a", "#bdd3e8", "#b3261e"  # bars, and frames


@dataclasses.dataclass(frozen=True)
class Settings(experiment.Settings):
    """Figure 4."""

    model_dir: str | None = flag(None, "A run's folder, or an exported model's.", path=True)
    data_dir: str | None = flag(None, "The folder that holds SPLIT/CLASS/* and INDEX_SPLIT/CLASS/*.", path=True)
    split: str = flag("val", "Where the images are drawn from.")
    index_split: str = flag("train", "Where their neighbors are searched.")
    pictures: int = flag(8, "Images of the left panel.", low=1, high=40)
    queries: int = flag(5, "Rows of the right panel.", low=1, high=20)
    neighbors: int = flag(6, "Neighbors in a row.", low=1, high=6)
    only: str = flag("random", "errors: the left panel shows wrong answers only.", choices=("random", "errors"))
    seed: int = flag(2012, "Seed of what is drawn.", low=0)

    def __post_init__(self):
        flags.required(self, "model_dir")
        flags.required(self, "data_dir")
        check_folder_names(self, "split", "index_split")
        problem = "is --split too, and every image would find itself; name another folder in --data_dir"
        self.check("index_split", self.split != self.index_split, problem)


def run(settings):
    cli.start_tensorflow()
    # TensorFlow, which `--help` does not wait for.
    from keras_alexnet import evaluation
    from keras_alexnet.paper import features

    experiment.pyplot()
    extractor = features.feature_extractor(settings.model_dir)
    source, asked = features.list_splits(settings, "split", extractor.model.config.data)
    model, network = extractor.model, extractor.model.config.network
    known = evaluation.match_classes(asked, settings.split, model.class_names)
    found = features.open_indexes(settings, extractor, source, asked)
    index, queries = found["features"]
    asked = known.without(set(known.files) - set(queries.files))
    center_view = EvaluateConfig(model_dir=(settings.model_dir,), views=1)
    answered = list(evaluation.answers([model], asked, center_view, f"answering {asked.name}"))
    probabilities = np.concatenate([own for (own,), _ in answered])
    labels = np.concatenate([each for _, each in answered])
    chosen, errors = choose(settings, probabilities, labels), {}
    for name, places in (("shown", chosen), ("split", slice(None))):
        summary = evaluation.summary(evaluation.of_batch(probabilities[places], labels[places]))
        errors[name] = {"pictures": len(labels[places]), **{key: summary[key] for key in ("top1_error", "top5_error")}}
    described = {"model_dir": model.name, "variant": network.variant, "width": network.width, "epochs": model.epochs}
    data = {"split": settings.split, "pictures": len(queries.files), "index_split": settings.index_split}
    data |= {"index_pictures": len(index.files), "left_out": [*queries.left_out, *index.left_out]}
    described["classes"] = len(model.class_names)
    left = [prediction(settings, asked, place, model.class_names, probabilities, labels) for place in chosen]
    values = {"model": described, "data": data, "predictions": left, "only": settings.only, **errors}
    values |= neighbors(settings, found)
    right = values["rows"]
    every = [each for row in right for each in (row, *row["neighbors"])]
    figures = {
        "figure4_predictions.png": f"{len(left)} {'wrong answers' if settings.only == 'errors' else 'images'} drawn at "
        f"random (seed {settings.seed}; the paper chose by hand) and their most probable classes; the true one in bold "
        "and checked.",
        "figure4_neighbors.png": f"First column: {len(right)} images of {settings.split}, drawn at random; then the "
        f"{values['neighbors']} nearest of {settings.index_split} by the last hidden layer. Checked: of the same "
        "class; crossed: of another.",
    }
    panels = (left, left, 200, draw_predictions), (right, every, 100, draw_neighbors)
    for (file, caption), (rows, images, size, draw) in zip(figures.items(), panels, strict=True):
        thumbnails = features.thumbnails([os.path.join(settings.data_dir, each["file"]) for each in images], size)
        figures[file] = experiment.pixels_of(draw(rows, thumbnails)), caption
    protocol = (
        f"{len(queries.files):,} images of {settings.split}, {len(index.files):,} of {settings.index_split}; "
        f"{network.variant}, width {network.width:g}, {model.epochs} epochs, {len(model.class_names)} classes, center "
        "view; Euclidean distance of the numbers that fc8 multiplies, every row compared; pixels: RGB of the central "
        f"square at {features.PIXELS}x{features.PIXELS}; drawn at random, seed {settings.seed}"
    )
    return Result(values, protocol, figures)


def choose(settings, probabilities, labels):
    """The images of the left panel: an array of their places."""
    candidates = np.arange(len(labels))
    if settings.only == "errors":
        candidates = np.flatnonzero(probabilities.argmax(axis=1) != labels)
        settings.check("only", len(candidates), f"there are none in {len(labels)} images of {settings.split}")
    rng = np.random.default_rng(settings.seed)
    return rng.choice(candidates, min(settings.pictures, len(candidates)), replace=False)


def prediction(settings, asked, place, class_names, probabilities, labels):
    """An image of the left panel: dict. Files are paths below `--data_dir`, with /."""
    own, true = probabilities[place].tolist(), labels[place]
    best = np.argsort(-probabilities[place], kind="stable")[:BEST]
    return {
        "file": Path(asked.root, asked.files[place]).relative_to(settings.data_dir).as_posix(),
        "class_name": class_names[true],
        "true_probability": own[true],
        "best": [{"class_name": class_names[label], "probability": own[label]} for label in best],
    }


def neighbors(settings, found):
    """The right panel, and the same of the whole split: shares of neighbors of the same class, [nearest, all], 0..1.

    `pixel_ranks` is of the nearest by features in the order of pixels. `found` is as of `features.open_indexes`.
    """
    index, queries = found["features"]
    own, theirs = np.array(queries.class_names)[queries.labels], np.array(index.class_names)[index.labels]
    count = min(settings.neighbors, len(index.files))
    distances = [Search(vectors.features).distances(asked.features) for vectors, asked in found.values()]
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
        near = [
            {
                "file": Path(index.root, index.files[place]).relative_to(settings.data_dir).as_posix(),
                "class_name": str(theirs[place]),
                "distance": float(far[row, column]),
                "pixel_distance": float(pixels_far[row, column]),
                "pixel_rank": int(ranks[row, column]),
            }
            for column, place in enumerate(nearest[row])
        ]
        file = Path(queries.root, queries.files[row]).relative_to(settings.data_dir).as_posix()
        rows.append({"file": file, "class_name": str(own[row]), "neighbors": near})
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


def draw_predictions(rows, thumbnails):
    """The left panel, a figure: images with their best classes as bars, in two columns.

    The true class is under its image, with its probability where it has no bar; its bar has another color and a check
    mark. Args: rows: list of dict, see `prediction`; thumbnails: uint8 (N, size, size, 3).
    """
    columns, bars = min(2, len(rows)), max(len(row["best"]) for row in rows)
    lines = -(-len(rows) // columns)
    size, ratios = (3.1 * columns, (2.5 + 0.25 * bars) * lines), [2, 0.25 * bars] * lines
    figure, axes = experiment.panel(*size, columns, len(ratios), squeeze=False, height_ratios=ratios)
    for each in axes.flat:
        each.axis("off")
    for place, (row, thumbnail) in enumerate(zip(rows, thumbnails, strict=True)):
        image, chart = axes[place // columns * 2 :, place % columns][:2]
        image.imshow(thumbnail)
        true, best = row["class_name"], {each["class_name"]: each["probability"] for each in row["best"]}
        absent = "" if true in best else f" ({100 * row['true_probability']:.1f} %)"
        title = _words(true) + absent
        image.set_title(title, y=-0.14, weight="bold", parse_math=False, fontsize=_size(title, 12, 24))
        chart.set(xlim=(0, 1.3), ylim=(bars - 0.5, -0.5))
        chart.barh(range(len(best)), best.values(), 0.85, color=[TRUE if name == true else OTHER for name in best])
        for line, (name, probability) in enumerate(best.items()):
            style = {"parse_math": False, "va": "center", "weight": "bold" if name == true else "normal"}
            text = "✓ " * (name == true) + _words(name)
            chart.text(0.02, line, text, fontsize=_size(text, 10, 26), **style)
            chart.text(1.3, line, f"{100 * probability:.1f} %", ha="right", **style)
    return figure


def draw_neighbors(rows, thumbnails):
    """The right panel, a figure: in each row a test image with its class, then the training images nearest to it.

    Under a neighbor of the same class is a check mark; one of another class has a cross, its class and a frame.
    """
    columns = 1 + len(rows[0]["neighbors"])
    figure, axes = experiment.panel(1.05 * columns, 1.25 * len(rows), columns, len(rows), squeeze=False)
    for place, (each, thumbnail) in enumerate(zip(axes.flat, thumbnails, strict=True)):
        row, column = rows[place // columns], place % columns
        name = row["neighbors"][column - 1]["class_name"] if column else row["class_name"]
        right = name == row["class_name"]
        each.imshow(thumbnail)
        each.set(xticks=[], yticks=[])
        each.spines[:].set(visible=not right, color=WRONG, linewidth=2.5)
        text = _words(name) if column == 0 else "✓" if right else f"✗ {_words(name)}"
        style = {"color": "black" if right else WRONG, "weight": "normal" if column else "bold"}
        lines = textwrap.wrap(text, 14, break_long_words=False) or [text]
        size = _size(max(lines, key=len), 9, 14)
        each.set_xlabel("\n".join(lines), fontsize=size, parse_math=False, **style)
    return figure


def _words(class_name):
    """What a figure says of a class, ImageNet's ids in words: str."""
    return printable(imagenet.word(class_name)).replace("_", " ")


def _size(text, points, characters):
    """The font size of a text that has room for so many characters at `points`, float."""
    return points * min(1, characters / len(text))


def tables(values):
    count, data, ranks, shares = values["neighbors"], values["data"], values["pixel_ranks"], values["shares"]
    shown, whole = "those shown" + ", wrong answers only" * (values["only"] == "errors"), f"all of {data['split']}"
    errors = []
    for name, each in ((shown, values["shown"]), (whole, values["split"])):
        top5 = f"{each['top5_error']:.1f}" if values["model"]["classes"] > BEST else "-"
        errors.append((name, f"{each['pictures']:,}", f"{each['top1_error']:.1f}", top5))
    named = {"the rows shown, last hidden layer": values["shown_shares"]}
    named |= {f"{whole}, last hidden layer": shares["features"], f"{whole}, pixels": shares["pixels"]}
    named |= {"chance": shares["chance"]}
    same_class = [(name, *(f"{100 * share:.1f}" for share in each)) for name, each in named.items()]
    by_row = []
    for place, row in enumerate(values["rows"], 1):
        same = sum(each["class_name"] == row["class_name"] for each in row["neighbors"])
        of_row = [each["pixel_rank"] for each in row["neighbors"]]
        in_order = f"{of_row[0]:,}", f"{statistics.median(of_row):,.0f}"
        by_row.append((f"{place}: {row['class_name']}", f"{same} of {count}", *in_order))
    by_row.append((f"{whole}, median", "-", f"{ranks['median']:,.0f}", "-"))
    note = (
        "rank 1 is the nearest by pixels; images of 32x32, which blurs and so favors pixels; the nearest by features "
        f"is among the {count} nearest by pixels for {100 * ranks['among_neighbors']:.1f} % of {data['split']}"
    )
    of_errors = ("", "images", "ours, top-1 error", "ours, top-5 error")
    of_classes = ("", "ours, the nearest", f"ours, {count} nearest")
    of_ranks = ("row", "of the same class", "ours, rank of the nearest", f"ours, median of {count}")
    title = f"Where the neighbors stand among {data['index_pictures']:,} images in order of pixels"
    return [
        Table("Left panel: errors in percent, center view", of_errors, errors),
        Table("Right panel: neighbors of the same class, in percent", of_classes, same_class),
        Table(title, of_ranks, by_row, note),
    ]


def verdict(values):
    """Holds where neighbors by features are of the same class more often than by pixels, and are others."""
    shares, ranks = values["shares"], values["pixel_ranks"]
    numbers = (
        f"of the {values['neighbors']} nearest in the last hidden layer {100 * shares['features'][1]:.1f} % are of the "
        f"image's class, by pixels {100 * shares['pixels'][1]:.1f} %, by chance {100 * shares['chance'][1]:.1f} %; "
        f"the nearest is among the {values['neighbors']} nearest by pixels for {100 * ranks['among_neighbors']:.1f} % "
        f"of the images (median rank {ranks['median']:,.0f} of {values['data']['index_pictures']:,}). The labels are "
        "for the eye to judge"
    )
    return Verdict(outcome(values["features_against_pixels"], ranks["among_neighbors"] < 0.5), numbers)


if __name__ == "__main__":
    raise SystemExit(experiment.main("figure4"))
