"""Section 6.1: pictures found by Euclidean distance in the last hidden layer, and by short codes of it.

    python -m keras_alexnet.paper.retrieval --model_dir=RUN --data_dir=PHOTOS --query=PICTURE
    python -m keras_alexnet.paper.retrieval --model_dir=RUN --data_dir=PHOTOS [--index_split=train] [--query_split=val]

The first prints the nearest pictures. The second asks about every picture of a split: precision among the nearest 1, 5
and 10 and mean average precision, of the 4096 numbers, of an autoencoder's codes of them and of raw pixels; and what a
search takes. A folder is indexed once, and again when the model or a file has changed (by name and size); indexes and
autoencoders are kept below RESULTS/retrieval, and the same command goes on from there.
"""

import os
import sys

import numpy as np

from keras_alexnet import evaluate as evaluation
from keras_alexnet.cli import run_command, start_tensorflow
from keras_alexnet.errors import RunError, UsageError, printable
from keras_alexnet.files import progress_bar
from keras_alexnet.paper import codes, config, features, indexes, neighbors, results

TITLE = "Section 6.1: retrieval by the last hidden layer, and by short codes"
CLAIM = (
    "Pictures close in the 4096 numbers of the last hidden layer are alike to the network, though far apart pixel by "
    "pixel. Autoencoders could compress them to short binary codes, which should retrieve much better than "
    "autoencoders of raw pixels (section 6.1; proposed there, not measured)."
)
COMMAND = "python -m keras_alexnet.paper.retrieval --model_dir=RUN --data_dir=PHOTOS"
COST = "about 10 minutes of one CPU core for 3,670 photographs, estimated: 90 s of features, nine autoencoders of 40 s"
_TIMED, _TIMED_LARGE = 100, 20  # queries
PLACES = tuple(f"precision at {at}" for at in neighbors.AT)


def main(argv):
    settings = config.parse_retrieval(argv, __doc__)
    config.check_there("model_dir", settings.model_dir, "a run's, or an exported model's")
    config.check_there("data_dir", settings.data_dir, "the one that holds the pictures")
    neighbors.faiss()
    if settings.query:
        _check_query(settings.query)
        source = indexes.source_of(settings, indexes.index_split(settings)) if settings.data_dir else None
    else:
        source, asked = indexes.sources_of(settings)
        from keras_alexnet.paper import pictures

        pictures.pyplot()  # what is missing is to be said now
    results.folder_for(indexes.folder_of(settings))
    start_tensorflow()
    model = evaluation.open_model(settings.model_dir)
    if settings.query:
        print_nearest(settings, model, source)
        return
    values = measure(settings, model, source, asked)
    draw(values, os.path.join(settings.results_dir, "retrieval.svg"))
    path = results.write(
        settings.results_dir,
        "retrieval",
        values,
        protocol=_protocol(settings, values),
        argv=argv,
        pictures=[
            ("retrieval.svg", "Precision among the ten nearest, and mean average precision, by bytes a picture.")
        ],
        quick=settings.quick,
    )
    results.say(sys.modules[__name__], values, path)


def print_nearest(settings, model, source):
    """Prints the pictures nearest to one, with their distances.

    Args:
        settings: config.RetrievalConfig.
        model: evaluate.Model.
        source: sources.FolderSource of the index, or None: it is in the file `settings.index`.

    Raises:
        UsageError: the query is no picture, or the index is another model's.
        RunError: the index is damaged.
    """
    describe, name = features.feature_extractor(model), features.model_id(model)
    if source:
        index = indexes.opened(settings, source, describe, name, "index")
    else:
        index = features.load(settings.index)
        if index.model != name:
            raise UsageError(
                f"--index={settings.index}: is of another model than --model_dir={settings.model_dir} "
                f"({index.features.shape[1]} numbers a picture); add --data_dir to index {index.root} anew"
            )
    try:
        query, _, _ = features.extract(describe, [settings.query])
    except RunError:
        raise UsageError(f"--query={settings.query}: is no JPEG or PNG file that can be decoded") from None
    distances, places = neighbors.open_search(index.features)(query, settings.neighbors)
    print(f"nearest to {printable(settings.query)} among {len(index.files)} pictures:")
    for distance, place in zip(distances[0], places[0], strict=True):
        label = index.labels[place]
        of = f"  {printable(index.class_names[label])}" if index.class_names else ""
        print(f"{distance:>10.4f}{of}  {printable(os.path.join(index.root, index.files[place]))}")


def measure(settings, model, source, asked):
    """All figures of the command.

    Args:
        settings: config.RetrievalConfig.
        model: evaluate.Model.
        source, asked: sources.FolderSource, of the index and of the queries; the same one: each picture is searched
            among the others.

    Returns:
        dict: index, queries, model, chance, rows (one a way to describe pictures), by_class, codes_against_pixels,
        describe_ms.

    Raises:
        UsageError: a class has no picture to be found.
        RunError: an index is damaged, or nothing can be decoded.
    """
    same = asked is source
    found = {}
    for kind, describe, name in (
        ("features", features.feature_extractor(model), features.model_id(model)),
        ("pixels", features.small_pictures(features.PIXELS), features.pixels_id()),
    ):
        index = indexes.opened(settings, source, describe, name, "index" if kind == "features" else kind)
        found[kind] = index, index if same else indexes.opened(settings, asked, describe, name, kind)
    index, queries = found["features"]
    # Labels of the queries as the index has them.
    labels = np.array([index.class_names.index(each) for each in queries.class_names])[queries.labels]
    there = np.bincount(index.labels, minlength=len(index.class_names)) - same
    if (there[labels] < 1).any():
        name = index.class_names[labels[there[labels] < 1][0]]
        raise UsageError(f"--index_split={source.name}: no picture of {name!r} is left to be found; look at its files")
    if settings.projector:
        from keras_alexnet.paper import projector

        projector.write(index, settings.log_dir, progress_bar("drawing thumbnails"))
        print(f"tensorboard --logdir={settings.log_dir}", flush=True)
    precision, average = neighbors.chance(index.labels, labels, same)
    values = {
        "index": _described(settings, index, source),
        "queries": {**_described(settings, queries, asked), "leave_one_out": same},
        "model": {
            "model_dir": settings.model_dir,
            "variant": model.config.network.variant,
            "width": model.config.network.width,
            "epochs": model.epochs,
        },
        "chance": _summary(precision, average),
        "timing_rows": max(settings.timing_rows, len(index.files)),
        "describe_ms": _describe_ms(features.feature_extractor(model), queries.paths()),
        "rows": [],
    }
    averages = {}
    longest = settings.codes[-1]
    for kind, coded, length in [
        ("pixels", "", 0),
        ("features", "", 0),
        *(("features", coded, length) for coded in ("real", "binary") for length in settings.codes),
        ("pixels", "binary", longest),
    ]:
        row, precision, average = _row(settings, *found[kind], labels, same, kind, coded, length)
        values["rows"].append(row)
        averages[kind, coded, length] = average
        if kind == "features" and not coded:
            values["by_class"] = [
                {"class_name": name, "pictures": int(own.sum()), **_summary(precision[own], average[own])}
                for name, own in ((name, labels == label) for label, name in enumerate(index.class_names))
                if own.any()
            ]
    gain = averages["features", "binary", longest] - averages["pixels", "binary", longest]
    values["codes_against_pixels"] = {
        "bits": longest,
        "difference": float(gain.mean()),
        "standard_error": float(gain.std(ddof=1) / np.sqrt(len(gain))) if len(gain) > 1 else None,
    }
    return values


def tables(values):
    """What the report shows, see `results`."""
    columns = ("", "bytes", "times smaller", *PLACES, "mean average precision", "lost")
    if values is None:
        rows = [
            (name, *[results.NOT_RUN] * (len(columns) - 1))
            for name in ("chance", "pixels 32x32", "4096 numbers", "real codes", "binary codes")
        ]
        return [results.Table("How many of the nearest are of the query's class, in percent", columns, tuple(rows))]
    whole = _row_of(values, "features", "")
    rows = [("chance", "-", "-", *_percents(values["chance"]), "-")]
    times = []
    for row in values["rows"]:
        smaller = f"{whole['bytes'] / row['bytes']:.0f}" if row["kind"] == "features" else "-"
        lost = "-" if row["lost_queries"] is None else f"{100 * row['lost_queries']:.0f}"
        rows.append((row["name"], str(row["bytes"]), smaller, *_percents(row), lost))
        times.append(
            (
                row["name"],
                "-" if row["encode_ms"] is None else f"{row['encode_ms']:.2f}",
                f"{row['search_ms']:.3f}",
                f"{row['search_large_ms']:.2f}",
                f"{_quicker(values, row):.3g}",
            )
        )
    queries = values["queries"]["pictures"]
    return [
        results.Table(
            "How many of the nearest are of the query's class, in percent",
            columns,
            tuple(rows),
            f"{queries} queries: one standard error of precision at 1 is up to {50 / np.sqrt(queries):.1f}; lost: of "
            "the variance of the queries' numbers, after coding and decoding",
        ),
        results.Table(
            "Milliseconds of one core a query",
            (
                "",
                "coding",
                f"search in {values['index']['pictures']}",
                f"search in {values['timing_rows']}",
                "times quicker",
            ),
            tuple(times),
            "medians of the processor's time, one query at a time, every row compared; the larger index is the same "
            "repeated; times quicker: there, coding included. "
            f"The network takes {values['describe_ms']:.0f} ms for the numbers of a picture, whatever the code",
        ),
        results.Table(
            f"By class, {whole['name']}, in percent",
            ("class", "queries", *PLACES, "mean average precision"),
            tuple((each["class_name"], str(each["pictures"]), *_percents(each)) for each in values["by_class"]),
        ),
    ]


def verdict(values):
    """Whether the claim holds, str."""
    if values is None:
        return results.NOT_RUN
    gain = values["codes_against_pixels"]
    error = gain["standard_error"]
    whole, pixels = _row_of(values, "features", ""), _row_of(values, "pixels", "")
    code = _row_of(values, "features", "binary", gain["bits"])
    said = (
        f"mean average precision {100 * gain['difference']:+.1f} points for binary codes of {gain['bits']} bits of the "
        f"last hidden layer over the same of pixels (standard error {100 * (error or 0):.1f}); all numbers "
        f"{100 * whole['mean_average_precision']:.1f} %, pixels {100 * pixels['mean_average_precision']:.1f} %. The "
        f"code has {100 * code['mean_average_precision']:.1f} %, is {whole['bytes'] / code['bytes']:.0f} times smaller "
        f"and is found {_times(_quicker(values, code))} once the network has described the picture."
    )
    if error is None or abs(gain["difference"]) <= 2 * error:
        return f"Cannot be told here: {said}"
    return f"{'Holds' if gain['difference'] > 0 else 'Does not hold here'}: {said}"


def draw(values, path):
    """Writes the figure as SVG: precision at 10 and mean average precision by bytes, real and binary codes."""
    from keras_alexnet.paper import pictures

    figure, both = pictures.panel(8.4, 3.9, columns=2)
    whole = _row_of(values, "features", "")
    levels = (
        (whole, "-", "tab:gray", f"{whole['name']} ({whole['bytes']:,} bytes)"),
        (_row_of(values, "pixels", ""), "--", "tab:gray", "pixels"),
        (values["chance"], ":", "tab:gray", "chance"),
    )
    for axes, (name, value) in zip(
        both,
        (
            ("precision among the 10 nearest, %", lambda row: 100 * row["precision"][-1]),
            ("mean average precision, %", lambda row: 100 * row["mean_average_precision"]),
        ),
        strict=True,
    ):
        for coded, marker, color in (("binary", "o", "black"), ("real", "s", "tab:blue")):
            rows = [row for row in values["rows"] if row["kind"] == "features" and row["coded"] == coded]
            sizes = [row["bytes"] for row in rows]
            axes.plot(sizes, [value(row) for row in rows], marker=marker, color=color, label=f"{coded} codes")
            for row in rows:
                axes.annotate(
                    str(row["length"]),
                    (row["bytes"], value(row)),
                    xytext=(0, -12),
                    textcoords="offset points",
                    ha="center",
                    fontsize=8,
                    color=color,
                )
        other = _row_of(values, "pixels", "binary", values["codes_against_pixels"]["bits"])
        axes.plot(other["bytes"], value(other), "x", color="tab:gray", label=other["name"])
        for row, style, color, label in levels:
            axes.axhline(value(row), linestyle=style, color=color, linewidth=1, label=label)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_xlabel("bytes a picture")
        axes.set_ylabel(name)
        axes.set_ylim(0, None)
    handles, names = both[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    pictures.write(figure, path)


def _row(settings, index, queries, labels, same, kind, coded, length):
    """A way to describe pictures: (its row of the tables, precision and average precision of every query)."""
    vectors, asked = index.features, queries.features
    coder = None
    width = vectors.shape[1]
    name = f"{width} numbers" if kind == "features" else index.model
    if coded:
        label = f"{'pixels, ' * (kind == 'pixels')}{coded} code of {length}{' bits' * (coded == 'binary')}"
        path = os.path.join(indexes.folder_of(settings), f"{kind}_{coded}_{length}.npz")
        coder = codes.kept(
            path, vectors, length, coded == "binary", settings.code_epochs, settings.seed, progress_bar(label, "epochs")
        )
        name, vectors, asked = label, coder.encode(vectors), coder.encode(asked)
    precision, average = neighbors.evaluate(vectors, index.labels, asked, labels, same)
    row = {
        "name": name,
        "kind": kind,
        "coded": coded,
        "length": length,
        # A pixel is a byte where it is kept.
        "bytes": coder.size if coder else width * (1 if kind == "pixels" else 4),
        **_summary(precision, average),
        "lost_index": coder.error(index.features) if coder else None,
        "lost_queries": coder.error(queries.features) if coder else None,
        "encode_ms": None,
        **_search_ms(vectors, asked, max(settings.timing_rows, len(vectors))),
    }
    if coder:
        rows = [queries.features[place : place + 1] for place in range(min(_TIMED, len(asked)))]
        row["encode_ms"] = neighbors.milliseconds(coder.encode, rows)
        print(f"{name}: precision at 10 {100 * row['precision'][-1]:.1f} %", flush=True)
    return row, precision, average


def _search_ms(vectors, asked, rows):
    """Medians of one query at a time on one thread, for the ten nearest, in milliseconds."""
    library = neighbors.faiss()
    threads = library.omp_get_max_threads()
    library.omp_set_num_threads(1)
    try:
        found = {}
        for name, count, most in (("search_ms", len(vectors), _TIMED), ("search_large_ms", rows, _TIMED_LARGE)):
            search = neighbors.open_search(vectors, count)
            queries = [asked[place : place + 1] for place in range(min(most, len(asked)))]
            found[name] = neighbors.milliseconds(lambda query, search=search: search(query, 10), queries)
        return found
    finally:
        library.omp_set_num_threads(threads)


def _describe_ms(describe, paths):
    contents = []
    for path in paths[:10]:
        with open(path, "rb") as file:
            contents.append([file.read()])
    return neighbors.milliseconds(describe, contents)


def _summary(precision, average):
    return {"precision": precision.mean(axis=0).tolist(), "mean_average_precision": float(average.mean())}


def _percents(row):
    return [f"{100 * value:.1f}" for value in (*row["precision"], row["mean_average_precision"])]


def _times(quicker):
    return f"{quicker:.3g} times quicker" if quicker >= 1 else f"{1 / quicker:.3g} times slower"


def _quicker(values, row):
    """How many times quicker than by all numbers a query is answered in the larger index, coding included."""
    whole = _row_of(values, "features", "")
    return whole["search_large_ms"] / (row["search_large_ms"] + (row["encode_ms"] or 0))


def _row_of(values, kind, coded, length=0):
    return next(row for row in values["rows"] if (row["kind"], row["coded"], row["length"]) == (kind, coded, length))


def _check_query(path):
    if not os.path.isfile(path):
        what = "is a folder; name one picture" if os.path.isdir(path) else "there is no such file"
        raise UsageError(f"--query={path}: {what}")


def _described(settings, index, source):
    return {
        "data_dir": settings.data_dir,
        "split": source.name,
        "pictures": len(index.files),
        "classes": len(index.class_names),
        "left_out": list(index.left_out),
    }


def _protocol(settings, values):
    index, queries, model = values["index"], values["queries"], values["model"]
    among = "each among the others" if queries["leave_one_out"] else f"among {index['pictures']} of {index['split']}"
    network = f"{model['variant']}, width {model['width']:g}, {model['epochs']} epochs"
    return (
        f"{queries['pictures']} pictures of {queries['split']}, {among}, {index['classes']} classes; {network}, center "
        "view, fc8's input; Euclidean distance, Hamming for bits, every row compared (faiss); whole rankings, equal "
        f"distances as the mean over their orders; autoencoders with {codes.HIDDEN} hidden units each way, "
        f"{settings.code_epochs} epochs on {index['split']} only, seed {settings.seed}; pixels: the central square at "
        f"{features.PIXELS}x{features.PIXELS}"
    )


if __name__ == "__main__":
    sys.exit(run_command("retrieval", main, sys.argv[1:]))
