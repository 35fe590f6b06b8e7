"""Figure 4: what a network says of test pictures, and which training pictures are nearest in its last hidden layer.

    python -m keras_alexnet.paper.figure4 --model_dir=RUN --data_dir=PHOTOS [--split=val] [--index_split=train]
        [--pictures=8] [--queries=5] [--neighbors=6] [--seed=2012] [--only=random|errors]

Pictures are drawn at random; the paper chose its by hand. Errors and shares of the whole split stand beside them. The
features of both splits are kept below RESULTS/retrieval, where keras_alexnet.paper.retrieval finds them too.
"""

import os
import statistics
import sys

import numpy as np

from keras_alexnet import evaluate as evaluation
from keras_alexnet.cli import run_command, start_tensorflow
from keras_alexnet.data import imagenet_labels
from keras_alexnet.errors import UsageError, printable
from keras_alexnet.paper import config, examples, features, indexes, results

TITLE = "Figure 4: five best classes, and nearest pictures"
CLAIM = (
    "Most of the five best labels of test pictures are reasonable, and training pictures whose last hidden layers are "
    "nearest show the same kind of object, though generally not close in L2 pixel by pixel (section 6.1, Figure 4)."
)
COMMAND = "python -m keras_alexnet.paper.figure4 --model_dir=RUN --data_dir=PHOTOS"
COST = (
    "80 seconds of one CPU core for 2,934 and 736 photographs; what retrieval has described already is "
    "not described again"
)


def main(argv):
    settings = config.parse_figure4(argv, __doc__)
    config.check_there("model_dir", settings.model_dir, "a run's, or an exported model's")
    config.check_there("data_dir", settings.data_dir, "the one that holds the pictures")
    asked, source = sources_of(settings)
    from keras_alexnet.paper import pictures

    pictures.pyplot()  # what is missing is to be said now
    results.folder_for(indexes.folder_of(settings))
    start_tensorflow()
    model = evaluation.open_model(settings.model_dir)
    unknown = sorted(set(asked.class_names) - set(model.class_names))
    if unknown:
        raise UsageError(
            f"--split={settings.split}: the model does not know {len(unknown)} of its classes, such as {unknown[0]!r}; "
            "name pictures of the classes that it was trained on"
        )
    values = measure(settings, model, asked, source)
    shown = draw(settings, values)
    path = results.write(
        settings.results_dir,
        "figure4",
        values,
        protocol=_protocol(settings, values),
        argv=argv,
        pictures=shown,
        quick=settings.quick,
    )
    results.say(sys.modules[__name__], values, path)


def sources_of(settings):
    """The pictures that are shown, and those that neighbors are looked for among.

    Args:
        settings: config.Figure4Config.

    Returns:
        (sources.FolderSource, sources.FolderSource).

    Raises:
        UsageError: a split is missing, has no classes, or is of one class only.
    """
    asked, source = (indexes.source_of(settings, getattr(settings, flag), flag) for flag in ("split", "index_split"))
    for flag, each in (("split", asked), ("index_split", source)):
        if not each.class_names:
            raise UsageError(f"--{flag}={each.name}: {each.root} has no class folders; it is to hold one per class")
    if len(source.class_names) == 1:
        raise UsageError(
            f"--index_split={source.name}: {source.root} has one class only, and every neighbor would be of it; add "
            "classes"
        )
    unknown = sorted(set(asked.class_names) - set(source.class_names))
    if unknown:
        raise UsageError(f"--split={asked.name}: its class {unknown[0]!r} is not in --index_split={source.name}")
    return asked, source


def measure(settings, model, asked, source):
    """All figures of the command.

    Args:
        settings: config.Figure4Config.
        model: evaluate.Model.
        asked, source: as of `sources_of`.

    Returns:
        dict: `predictions`, one a picture of the left panel; `rows`, one a row of the right one; files are paths below
        `--data_dir`, with /; `shown` and `split`, errors in percent; `shares`, of neighbors of the same class among
        the nearest and among the neighbors shown, of the whole split, by features, by pixels and by chance;
        `pixel_ranks`, where the nearest by features stands when the pictures are in order of pixels.

    Raises:
        UsageError: there is no error to show.
        RunError: nothing can be decoded.
    """
    described, small = {}, {}
    for kind, describe, name, found in (
        ("features", features.feature_extractor(model), features.model_id(model), described),
        ("pixels", features.small_pictures(features.PIXELS), features.pixels_id(), small),
    ):
        for each in (asked, source):
            found[each.name] = indexes.opened(settings, each, describe, name, kind)
    queries, index = described[asked.name], described[source.name]
    known = frozenset(queries.files)
    asked = asked.without([file for file in asked.files if file not in known])
    left = examples.predictions(settings, model, asked)
    right = examples.neighbors(
        settings,
        queries,
        index,
        small[asked.name].features,
        small[source.name].features,
    )
    return {
        "model": {
            "model_dir": settings.model_dir,
            "variant": model.config.network.variant,
            "width": model.config.network.width,
            "epochs": model.epochs,
            "classes": len(model.class_names),
        },
        "data": {
            "split": asked.name,
            "pictures": len(queries.files),
            "index_split": source.name,
            "index_pictures": len(index.files),
            "left_out": [*queries.left_out, *index.left_out],
        },
        **left,
        **right,
    }


def tables(values):
    """What the report shows, see `results`."""
    columns = ("", "pictures", "ours, top-1 error", "ours, top-5 error")
    if values is None:
        nothing = results.NOT_RUN
        return [
            results.Table(
                "Left panel: errors in percent",
                columns,
                tuple((name, *[nothing] * 3) for name in ("those shown", "the whole split")),
            ),
            results.Table(
                "Right panel: neighbors of the same class, in percent",
                ("", "ours, the nearest", "ours, six nearest"),
                tuple(
                    (name, nothing, nothing) for name in ("the rows shown", "the whole split", "by pixels", "chance")
                ),
            ),
        ]
    count = values["neighbors"]
    split, index = values["data"]["split"], values["data"]["index_pictures"]
    errors = [
        (
            name,
            f"{each['pictures']:,}",
            f"{each['top1_error']:.1f}",
            f"{each['top5_error']:.1f}" if values["model"]["classes"] > examples.BEST else "-",
        )
        for name, each in ((_shown_words(values), values["shown"]), (f"all of {split}", values["split"]))
    ]
    shares = [
        (name, f"{100 * each[0]:.1f}", f"{100 * each[1]:.1f}")
        for name, each in (
            ("the rows shown, last hidden layer", values["shown_shares"]),
            (f"all of {split}, last hidden layer", values["shares"]["features"]),
            (f"all of {split}, pixels", values["shares"]["pixels"]),
            ("chance", values["shares"]["chance"]),
        )
    ]
    ranks = [
        (
            f"{place}: {row['class_name']}",
            f"{sum(each['class_name'] == row['class_name'] for each in row['neighbors'])} of {count}",
            f"{row['neighbors'][0]['pixel_rank']:,}",
            f"{statistics.median(each['pixel_rank'] for each in row['neighbors']):,.0f}",
        )
        for place, row in enumerate(values["rows"], 1)
    ]
    ranks.append((f"all of {split}, median", "-", f"{values['pixel_ranks']['median']:,.0f}", "-"))
    return [
        results.Table("Left panel: errors in percent, center view", columns, tuple(errors)),
        results.Table(
            "Right panel: neighbors of the same class, in percent",
            ("", "ours, the nearest", f"ours, {count} nearest"),
            tuple(shares),
        ),
        results.Table(
            f"Where the neighbors stand among {index:,} pictures in order of pixels",
            ("row", "of the same class", "ours, rank of the nearest", f"ours, median of {count}"),
            tuple(ranks),
            f"rank 1 is the nearest by pixels; pictures of {features.PIXELS}x{features.PIXELS}, which blurs and so "
            f"favors pixels; the nearest by features is among the {count} nearest by pixels for "
            f"{100 * values['pixel_ranks']['among_neighbors']:.1f} % of {split}",
        ),
    ]


def verdict(values):
    """Whether the claim holds, str."""
    if values is None:
        return results.NOT_RUN
    shares, gain, ranks = values["shares"], values["features_against_pixels"], values["pixel_ranks"]
    said = (
        f"of the {values['neighbors']} nearest in the last hidden layer {100 * shares['features'][1]:.1f} % are of the "
        f"picture's class, by pixels {100 * shares['pixels'][1]:.1f} %, by chance {100 * shares['chance'][1]:.1f} %; "
        f"the nearest is among the {values['neighbors']} nearest by pixels for {100 * ranks['among_neighbors']:.1f} % "
        f"of the pictures (median rank {ranks['median']:,.0f} of {values['data']['index_pictures']:,})."
    )
    error = gain["standard_error"]
    if error is None or abs(gain["difference"]) <= 2 * error:
        return f"Cannot be told here: {said}"
    holds = gain["difference"] > 0 and ranks["among_neighbors"] < 0.5
    return (
        f"{'Holds' if holds else 'Does not hold here'} for the neighbors: {said} The labels are for the eye to judge."
    )


def draw(settings, values):
    """Writes both panels as PNG.

    Returns:
        list of (file below `--results_dir`, what it shows).
    """
    from keras_alexnet.paper import panels, pictures

    left, right = values["predictions"], values["rows"]
    files = [file for row in right for file in (row["file"], *(each["file"] for each in row["neighbors"]))]
    shown = []
    for name, image, caption in (
        (
            "figure4_predictions.png",
            panels.predictions(_in_words(left), _thumbnails(settings, [row["file"] for row in left], panels.THUMBNAIL)),
            _left_caption(settings, values),
        ),
        (
            "figure4_neighbors.png",
            panels.neighbors(_in_words(right), _thumbnails(settings, files, panels.SMALL)),
            _right_caption(settings, values),
        ),
    ):
        pictures.write_png(image, os.path.join(settings.results_dir, name))
        shown.append((name, caption))
    return shown


def _thumbnails(settings, files, size):
    """The central squares of pictures, a sixteenth more on each side than a center view: uint8 (N, size, size, 3)."""
    contents = []
    for name in files:
        with open(os.path.join(settings.data_dir, name), "rb") as file:
            contents.append(file.read())
    found = features.small_pictures(size)(contents).reshape(-1, size, size, 3)
    return np.clip(np.rint(found), 0, 255).astype(np.uint8)


def _in_words(rows):
    """Rows with the words of ImageNet's classes for their ids, and nothing that a figure cannot show."""
    words = dict(imagenet_labels.classes())

    def named(row):
        return {
            key: words.get(value, printable(value))
            if key == "class_name"
            else [named(each) for each in value]
            if isinstance(value, list)
            else value
            for key, value in row.items()
        }

    return [named(row) for row in rows]


def _shown_words(values):
    return "those shown, wrong answers only" if values["only"] == "errors" else "those shown"


def _left_caption(settings, values):
    split = values["split"]
    drawn = "wrong answers drawn" if values["only"] == "errors" else "pictures drawn"
    five = f", top-5 {split['top5_error']:.1f} %" if values["model"]["classes"] > examples.BEST else ""
    return (
        f"{len(values['predictions'])} {drawn} at random (seed {settings.seed}; the paper chose by hand) and their "
        f"most probable classes; the true one in bold and checked. Error of all {split['pictures']:,} "
        f"pictures of {values['data']['split']}: top-1 {split['top1_error']:.1f} %{five}."
    )


def _right_caption(settings, values):
    count, shares = values["neighbors"], values["shares"]
    return (
        f"First column: {len(values['rows'])} pictures of {values['data']['split']}, drawn at random; then the {count} "
        f"nearest of {values['data']['index_split']} by the last hidden layer. Checked: of the same class; crossed: of "
        f"another. {100 * values['shown_shares'][1]:.0f} % of those shown are of the same class, of all pictures' "
        f"{100 * shares['features'][1]:.1f} %, by pixels {100 * shares['pixels'][1]:.1f} %."
    )


def _protocol(settings, values):
    data, network = values["data"], values["model"]
    return (
        f"{data['pictures']:,} pictures of {data['split']}, {data['index_pictures']:,} of {data['index_split']}; "
        f"{network['variant']}, width {network['width']:g}, {network['epochs']} epochs, {network['classes']} classes, "
        "center view; Euclidean distance of the numbers that fc8 multiplies, every row compared; pixels: RGB of the "
        f"central square at {features.PIXELS}x{features.PIXELS}; drawn at random, seed {settings.seed}"
    )


if __name__ == "__main__":
    sys.exit(run_command("figure4", main, sys.argv[1:]))
