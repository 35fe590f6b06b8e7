"""What `retrieval` measures and draws: precision, size and time of features, of codes and of pixels."""

import os
from pathlib import Path

import numpy as np

from keras_alexnet import evaluation
from keras_alexnet.errors import ArgumentError, RunError, printable
from keras_alexnet.files import progress_bar
from keras_alexnet.paper import codes, features, plots, search
from keras_alexnet.paper.experiment import Result
from keras_alexnet.paper.retrieval import row_of


def folder_of(settings):
    """Where indexes and codes are kept, str; figure4 finds the indexes there too."""
    return os.path.join(settings.results_dir, "retrieval")


def print_nearest(settings):
    """Prints the images nearest to --query, with their distances."""
    extractor = features.feature_extractor(evaluation.open_model(settings.model_dir))
    if settings.data_dir:
        source = features.list_images(settings.data_dir, settings.index_split, "index_split", settings.quick)
        index = features.open_index(extractor, source, folder_of(settings), settings.index)
    else:
        index = features.load(settings.index)
        if index.model != extractor.identity:
            problem = f"is of another model than --model_dir={settings.model_dir}; add --data_dir to compute it again"
            raise ArgumentError("index", settings.index, problem)
    try:
        query, _, _ = features.extract_features(extractor, [settings.query])
    except RunError:
        raise ArgumentError("query", settings.query, "is not a JPEG or PNG file that can be decoded") from None
    distances, places = search.Search(index.features).nearest(query[0], settings.neighbors)
    print(f"nearest to {printable(settings.query)} among {len(index.files)} images:")
    for distance, place in zip(distances, places, strict=True):
        of = f"  {printable(index.class_names[index.labels[place]])}" if index.class_names else ""
        print(f"{distance:>10.4f}{of}  {printable(os.path.join(index.root, index.files[place]))}")


def measure(settings):
    """All figures of the command: experiment.Result.

    Its values: index, queries, model, chance, rows (one a way to describe images), by_class, codes_against_pixels, the
    difference in mean average precision of the longest binary codes, and describe_ms.
    """
    source, asked = features.list_splits(settings, "query_split")
    model = evaluation.open_model(settings.model_dir)
    extractor, same, found = features.feature_extractor(model), asked is source, {}
    for each, path in ((extractor, settings.index), (features.pixel_extractor(), None)):
        index = features.open_index(each, source, folder_of(settings), path)
        found[each.name] = index, index if same else features.open_index(each, asked, folder_of(settings))
    index, queries = found["features"]
    # Labels of the queries as the index has them.
    labels = np.array([index.class_names.index(name) for name in queries.class_names])[queries.labels]
    counts = np.bincount(index.labels, minlength=len(index.class_names)) - same
    for label in np.unique(labels[counts[labels] < 1]):
        problem = f"no image of {index.class_names[label]!r} is left to be found; look at its files"
        raise ArgumentError("index_split", settings.index_split, problem)
    if settings.projector:
        log_dir = settings.log_dir or os.path.join(settings.results_dir, "projector")
        features.write_projector(index, log_dir, progress_bar("drawing thumbnails"))
        print(f"tensorboard --logdir={log_dir}", flush=True)
    rows, averages = [], {}
    lengths, longest = sorted(settings.codes), max(settings.codes)
    ways = [("pixels", "", 0), ("features", "", 0)]
    ways += [("features", coded, length) for coded in ("real", "binary") for length in lengths]
    for way in (*ways, ("pixels", "binary", longest)):
        row, precision, averages[way] = _row(settings, *found[way[0]], labels, same, *way)
        rows.append(row)
        if way == ("features", "", 0):
            by_class = [
                {"class_name": name, "pictures": int(own.sum()), **_summary(precision[own], averages[way][own])}
                for name, own in ((name, labels == label) for label, name in enumerate(index.class_names))
                if own.any()
            ]
    gain = averages["features", "binary", longest] - averages["pixels", "binary", longest]
    files = [[Path(path).read_bytes()] for path in queries.paths()[:10]]
    values = {
        "index": _described(settings, index, source),
        "queries": {**_described(settings, queries, asked), "leave_one_out": same},
        "model": features.described_model(model),
        "chance": _summary(*search.chance(index.labels, labels, same)),
        "timing_rows": max(settings.timing_rows, len(index.files)),
        "describe_ms": search.milliseconds(extractor.extract, files),
        "rows": rows,
        "by_class": by_class,
        "codes_against_pixels": {"bits": longest, **search.mean_difference(gain)},
    }
    _draw(values, os.path.join(settings.results_dir, "retrieval.svg"))
    caption = "Precision among the ten nearest, and mean average precision, by bytes an image."
    return Result(values, _protocol(settings, values), (("retrieval.svg", caption),))


def _row(settings, index, queries, labels, same, kind, coded, length):
    """A way to describe images: (its row of the tables, precision and average precision of every query)."""
    vectors, asked = index.features, queries.features
    width = vectors.shape[1]
    row = {
        "name": f"{width} numbers" if kind == "features" else index.model,
        "kind": kind,
        "coded": coded,
        "length": length,
        "bytes": width * (1 if kind == "pixels" else 4),  # a pixel is a byte where it is kept
        "lost_index": None,
        "lost_queries": None,
        "encode_ms": None,
    }
    if coded:
        row["name"] = f"{'pixels, ' * (kind == 'pixels')}{coded} code of {length}{' bits' * (coded == 'binary')}"
        path = os.path.join(folder_of(settings), f"{kind}_{coded}_{length}.npz")
        training = (length, coded == "binary", settings.code_epochs, settings.seed)
        coder = codes.load_or_train(path, vectors, *training, progress_bar(row["name"], "epochs"))
        row |= {"bytes": coder.size, "lost_index": coder.error(vectors), "lost_queries": coder.error(asked)}
        row["encode_ms"] = search.milliseconds(coder.encode, asked[:100, None])
        vectors, asked = coder.encode(vectors), coder.encode(asked)
    precision, average = search.evaluate(vectors, index.labels, asked, labels, same)
    row |= _summary(precision, average)
    largest = max(settings.timing_rows, len(vectors))
    for key, rows, most in (("search_ms", len(vectors), 100), ("search_large_ms", largest, 20)):
        timed = search.Search(np.resize(vectors, (rows, vectors.shape[1])))  # the same vectors again and again
        row[key] = search.milliseconds(lambda query, timed=timed: timed.nearest(query, 10), asked[:most])
    print(f"{row['name']}: precision at 10 {100 * precision[:, -1].mean():.1f} %", flush=True)
    return row, precision, average


def _summary(precision, average):
    return {"precision": precision.mean(axis=0).tolist(), "mean_average_precision": float(average.mean())}


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
        f"{queries['pictures']} images of {queries['split']}, {among}, {index['classes']} classes; {network}, center "
        "view, fc8's input; Euclidean distance, Hamming for bits, every row compared (NumPy); whole rankings, equal "
        f"distances as the mean over their orders; autoencoders with {codes.HIDDEN} hidden units each way, "
        f"{settings.code_epochs} epochs on {index['split']} only, seed {settings.seed}; pixels: the central square at "
        f"{features.PIXELS}x{features.PIXELS}"
    )


def _draw(values, path):
    """Writes the figure as SVG: precision at 10 and mean average precision by bytes, real and binary codes."""
    figure, both = plots.panel(8.4, 3.9, columns=2)
    whole, longest = row_of(values, "features", ""), values["codes_against_pixels"]["bits"]
    levels = (
        (whole, "-", f"{whole['name']} ({whole['bytes']:,} bytes)"),
        (row_of(values, "pixels", ""), "--", "pixels"),
        (values["chance"], ":", "chance"),
    )
    for axes, name, value in (
        (both[0], "precision among the 10 nearest, %", lambda row: 100 * row["precision"][-1]),
        (both[1], "mean average precision, %", lambda row: 100 * row["mean_average_precision"]),
    ):
        for coded, marker, color in (("binary", "o", "black"), ("real", "s", "tab:blue")):
            rows = [row for row in values["rows"] if row["kind"] == "features" and row["coded"] == coded]
            places = [(row["bytes"], value(row)) for row in rows]
            axes.plot(*zip(*places, strict=True), marker=marker, color=color, label=f"{coded} codes")
            style = {"xytext": (0, -12), "textcoords": "offset points", "ha": "center", "fontsize": 8, "color": color}
            for row, place in zip(rows, places, strict=True):
                axes.annotate(str(row["length"]), place, **style)
        other = row_of(values, "pixels", "binary", longest)
        axes.plot(other["bytes"], value(other), "x", color="tab:gray", label=other["name"])
        for row, style, label in levels:
            axes.axhline(value(row), linestyle=style, color="tab:gray", linewidth=1, label=label)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set(xlabel="bytes an image", ylabel=name, ylim=(0, None))
    figure.legend(*both[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    plots.write(figure, path)
