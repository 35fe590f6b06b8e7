"""Section 6.1: images found by Euclidean distance in the last hidden layer, and by short codes of it.

With --query=IMAGE the nearest images are printed. Without, every image of a split is asked about: precision among the
nearest 1, 5 and 10 and mean average precision, of the 4096 numbers, of an autoencoder's codes of them and of raw
pixels; and what a search takes. A folder is indexed once, and again when the model or a file has changed (by name and
size); indexes and autoencoders are kept below RESULTS/retrieval, and the same command resumes from there.
"""

import dataclasses
import math
import os
import statistics
import time
import timeit
from functools import partial
from pathlib import Path

import numpy as np

from keras_alexnet import cli, flags
from keras_alexnet.data import imagenet
from keras_alexnet.errors import ArgumentError, UsageError, printable
from keras_alexnet.files import progress_bar
from keras_alexnet.flags import flag
from keras_alexnet.paper import experiment
from keras_alexnet.paper.experiment import Result, Table, Verdict

TITLE = "Section 6.1: retrieval by the last hidden layer, and by short codes"
CLAIM = (
    "Images close in the 4096 numbers of the last hidden layer are alike to the network, though far apart pixel "
    "by pixel. Autoencoders could compress them to short binary codes, which should retrieve much better than "
    "autoencoders of raw pixels (section 6.1; proposed there, not measured)."
)
COST = "about 10 minutes of one CPU core for 3,670 images of flowers (estimated), longer with more"
COMMAND = "python -m keras_alexnet.paper.retrieval --model_dir=RUN --data_dir=IMAGES"

AT = (1, 5, 10)  # places that precision is given at
PLACES = ("precision at 1", "precision at 5", "precision at 10", "mean average precision")
_QUERIES, _VECTORS = 256, 8192  # that are compared at a time, in double precision


@dataclasses.dataclass(frozen=True)
class Settings(experiment.Settings):
    """Retrieval."""

    model_dir: str | None = flag(None, "A run's folder, or an exported model's.", path=True)
    data_dir: str | None = flag(
        None, "The folder that holds the images; not needed for --query with --index.", path=True
    )
    index_split: str | None = flag(
        None,
        "DATA_DIR/INDEX_SPLIT/* is searched; . is DATA_DIR itself. Default: train, with --query . where it is missing.",
    )
    query_split: str = flag("val", "What is asked about; if it is --index_split, each image among the others.")
    index: str | None = flag(None, "The index, .npz, made if missing (default: below RESULTS/retrieval).", path=True)
    query: str | None = flag(None, "An image: print the nearest ones instead of measuring.", path=True)
    neighbors: int = flag(6, "How many --query prints.", low=1, high=1000)
    codes: tuple[int, ...] = flag((32, 64, 128, 256), "Lengths of codes: numbers of real ones, bits of binary ones.")
    code_epochs: int = flag(30, "Epochs of each autoencoder.", low=1, high=10_000)
    timing_rows: int = flag(
        100_000, "Search is also timed among so many rows, the index repeated: 1.6 GB by default.", low=1, high=10**8
    )
    seed: int = flag(2012, "Seed of the autoencoders.", low=0)
    projector: bool = flag(True, "Write the index for TensorBoard's embedding projector.")
    log_dir: str | None = flag(None, "Where the projector's files are written (default: RESULTS/projector).", path=True)

    def __post_init__(self):
        flags.required(self, "model_dir")
        if not self.data_dir and not (self.query and self.index):
            raise UsageError("--data_dir is missing: give the folder that holds the images, IMAGES/train/CLASS/*")
        check_folder_names(self, "index_split", "query_split")
        if self.index:
            is_there = self.data_dir or os.path.isfile(self.index)
            self.check("index", is_there, "there is no such index; give --data_dir to make it")
            self.check("index", self.index.endswith(".npz"), "must end in .npz")
            self.check("index", not self.quick, "must be left out: --quick takes a few images into its own index")
        self.check("query", not self.query or os.path.isfile(self.query), "is not a file; name one image")
        right = self.codes and len(set(self.codes) & set(range(8, 4097, 8))) == len(self.codes)
        self.check("codes", right, "must be different multiples of 8 up to 4096, such as 32,64,128")


def check_folder_names(settings, *names):
    """Raises ArgumentError of a split that is not the name of a folder in DATA_DIR, or . for itself."""
    for name in names:
        split = getattr(settings, name)
        right = split is None or (split and os.path.basename(split) == split != "..")
        settings.check(name, right, "must be the name of a folder in --data_dir, or . for itself")


def run(settings):
    cli.start_tensorflow()
    from keras_alexnet.paper import features  # TensorFlow, which `--help` does not wait for

    if settings.data_dir and not settings.index_split:
        has_train = os.path.isdir(os.path.join(settings.data_dir, "train"))
        split = "." if settings.query and not has_train else "train"
        settings = dataclasses.replace(settings, index_split=split)
    if settings.query:
        return print_nearest(settings, *features.open_query(settings))
    if settings.quick:
        shorter = {"code_epochs": min(settings.code_epochs, 2), "timing_rows": min(settings.timing_rows, 1000)}
        settings = dataclasses.replace(settings, codes=(min(settings.codes),), **shorter)
    experiment.pyplot()
    extractor = features.feature_extractor(settings.model_dir)
    source, asked = features.list_splits(settings, "query_split", extractor.model.config.data)
    found = features.open_indexes(settings, extractor, source, asked, settings.index)
    index, queries = found["features"]
    if settings.projector:
        log_dir = settings.log_dir or os.path.join(settings.results_dir, "projector")
        features.write_projector(index, log_dir, progress_bar("drawing thumbnails"))
        print(f"tensorboard --logdir={log_dir}")

    def coder_of(kind, coded, length, name):
        path = os.path.join(settings.results_dir, features.FOLDER, f"{kind}_{coded}_{length}.npz")
        training = length, coded == "binary", settings.code_epochs, settings.seed
        return features.load_or_train(path, found[kind][0].features, *training, progress_bar(name, "epochs"))

    values, model = measure(settings, found, coder_of), extractor.model
    network, same = model.config.network, values["queries"]["leave_one_out"]
    described = {"model_dir": model.name, "variant": network.variant, "width": network.width, "epochs": model.epochs}
    images = [[Path(path).read_bytes()] for path in queries.paths()[:10]]
    values |= {"model": described, "describe_ms": milliseconds(extractor.extract, images)}
    among = "each among the others" if same else f"among {len(index.files)} of {settings.index_split}"
    protocol = (
        f"{len(queries.files)} images of {settings.query_split}, {among}, {len(index.class_names)} classes; "
        f"{network.variant}, width {network.width:g}, {model.epochs} epochs, center view, fc8's input; Euclidean "
        "distance, Hamming for bits, every row compared (NumPy); whole rankings, equal distances as the mean over "
        f"their orders; autoencoders with {features.HIDDEN} hidden units each way, {settings.code_epochs} epochs on "
        f"{settings.index_split} only, seed {settings.seed}; pixels: the central square at "
        f"{features.PIXELS}x{features.PIXELS}"
    )
    caption = "Precision among the ten nearest, and mean average precision, by bytes an image."
    return Result(values, protocol, {"retrieval.svg": (_draw(values), caption)})


def print_nearest(settings, index, query):
    """Prints the images nearest to --query, whose features are (D,), with their distances."""
    print(f"nearest to {printable(settings.query)} among {len(index.files)} images:")
    paths = index.paths()
    for distance, place in zip(*Search(index.features).nearest(query, settings.neighbors), strict=True):
        of = f"  {printable(index.class_names[index.labels[place]])}" if index.class_names else ""
        print(f"{distance:>10.4f}{of}  {printable(paths[place])}")


def measure(settings, found, coder_of):
    """Size, precision and time of every way to describe images: values.

    `found` is as of features.open_indexes; `coder_of` a function of kind, coded, length and name -> features.Coder.
    """
    index, queries = found["features"]
    same = queries is index
    # Labels of the queries as the index has them.
    labels = np.array([index.class_names.index(name) for name in queries.class_names])[queries.labels]
    counts = np.bincount(index.labels, minlength=len(index.class_names)) - same
    for label in np.unique(labels[counts[labels] < 1]):
        problem = f"no image of {index.class_names[label]!r} is left to be found; look at its files"
        raise ArgumentError("index_split", settings.index_split, problem)
    longest, rows = max(settings.codes), {}
    ways = [("pixels", "", 0), ("features", "", 0)]
    ways += [("features", coded, length) for coded in ("real", "binary") for length in sorted(settings.codes)]
    for way in (*ways, ("pixels", "binary", longest)):
        kind, coded, length = way
        vectors, asked = (each.features for each in found[kind])
        width = vectors.shape[1]
        # A pixel is a byte.
        name, size = (f"{width} numbers", 4 * width) if kind == "features" else (found[kind][0].model, width)
        row = {"name": name, "kind": kind, "coded": coded, "length": length, "bytes": size}
        row |= {"lost_index": None, "lost_queries": None, "encode_ms": None}
        if coded:
            row["name"] = f"{'pixels, ' * (kind == 'pixels')}{coded} code of {length}{' bits' * (coded == 'binary')}"
            coder = coder_of(*way, row["name"])
            row |= {"bytes": coder.size, "encode_ms": milliseconds(coder.encode, asked[:100, None])}
            row |= {"lost_index": coder.error(vectors), "lost_queries": coder.error(asked)}
            vectors, asked = coder.encode(vectors), coder.encode(asked)
        precision, average = evaluate(vectors, index.labels, asked, labels, same)
        row |= _summary(precision, average)
        largest = max(settings.timing_rows, len(vectors))
        for key, count, most in (("search_ms", len(vectors), 100), ("search_large_ms", largest, 20)):
            timed = Search(np.resize(vectors, (count, vectors.shape[1])))  # the same vectors again and again
            row[key] = milliseconds(partial(timed.nearest, count=10), asked[:most])
        print(f"{row['name']}: precision at 10 {100 * precision[:, -1].mean():.1f} %")
        rows[way] = row, precision, average
    _, precision, average = rows["features", "", 0]
    by_class = [
        {"class_name": name, "pictures": int(own.sum()), **_summary(precision[own], average[own])}
        for name, own in ((name, labels == label) for label, name in enumerate(index.class_names))
        if own.any()
    ]
    gain = rows["features", "binary", longest][2] - rows["pixels", "binary", longest][2]
    nothing = [np.zeros((len(each), 1), np.uint8) for each in (index.labels, labels)]  # everything at one distance
    sets = []
    for split, each in ((settings.index_split, index), (settings.query_split, queries)):
        counts = {"pictures": len(each.files), "classes": len(each.class_names), "left_out": list(each.left_out)}
        sets.append({"data_dir": settings.data_dir, "split": split, **counts})
    return {
        "index": sets[0],
        "queries": {**sets[1], "leave_one_out": same},
        "chance": _summary(*evaluate(nothing[0], index.labels, nothing[1], labels, same)),
        "timing_rows": max(settings.timing_rows, len(index.files)),
        "rows": [row for row, _, _ in rows.values()],
        "by_class": by_class,
        "codes_against_pixels": {"bits": longest, **mean_difference(gain)},
    }


def milliseconds(function, inputs):
    """The median time of a call, float: the processor's, of all threads, which other programs do not add to."""
    function(inputs[0])  # what is done once only does not count
    clock = {"timer": time.process_time, "number": 1}
    return 1e3 * statistics.median(timeit.timeit(partial(function, each), **clock) for each in inputs)


class Search:
    """Compares queries with every vector: float32 (N, D) by Euclidean distance, or bits, uint8 (N, D), by Hamming's."""

    def __init__(self, vectors):
        self.vectors, self.binary = vectors, vectors.dtype == np.uint8
        if self.binary:
            # The words at the same place of all vectors lie side by side.
            self.words = f"u{math.gcd(vectors.shape[1], 8)}"  # the widest whole numbers that divide a row
            self.columns = np.ascontiguousarray(vectors.view(self.words).T)
        else:
            self.squares = np.einsum("ij,ij->i", vectors, vectors)

    def distances(self, queries):
        """Queries (Q, D) -> for each its distances from all vectors, (N,): an iterator of float64 or uint16."""
        for start in range(0, len(queries), _QUERIES):
            some = queries[start : start + _QUERIES]
            yield from self._hamming(some) if self.binary else self._euclidean(some)

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
        for column, words in zip(self.columns, queries.view(self.words).T, strict=True):
            found += np.bitwise_count(column ^ words[:, None])
        return found


def evaluate(vectors, labels, queries, query_labels, same=False):
    """The `scores` of queries, float64 (Q, 3) and (Q,); `same`: each of the vectors is searched among the others."""
    found = []
    for place, distances in enumerate(Search(vectors).distances(queries)):
        relevant = labels == query_labels[place]
        if same:
            distances, relevant = np.delete(distances, place), np.delete(relevant, place)
        found.append(scores(distances, relevant))
    return tuple(np.array(each) for each in zip(*found, strict=True))


def scores(distances, relevant):
    """Precision at AT, list of float, and average precision of a ranking: the mean over all orders of equal distances.

    Short binary codes have many equal distances, and the order of the files must not decide (McSherry and Najork,
    2008). A place in a group of n equal distances, r of them relevant, holds a relevant one with probability r / n; it
    then has before it the hits of the groups before and, of the i - 1 places before it in its own, (i - 1)(r - 1) /
    (n - 1). Args: distances (N,), in any order; relevant, bool (N,), one or more of them.
    """
    _, sizes = np.unique(distances, return_counts=True)
    starts = np.cumsum(sizes) - sizes
    hits = np.add.reduceat(relevant[np.argsort(distances)].astype(np.int64), starts)
    # From here on a number for each place.
    before, start, n, r = (np.repeat(each, sizes) for each in (np.cumsum(hits) - hits, starts, sizes, hits))
    place = np.arange(1, len(distances) + 1)
    i = place - start
    expected = before + i * r / n
    at_hit = before + 1 + (i - 1) * (r - 1) / np.maximum(n - 1, 1)
    average = (r / n * at_hit / place).sum() / relevant.sum()
    return [expected[min(at, len(place)) - 1] / at for at in AT], average


def _summary(precision, average):
    return {"precision": precision.mean(axis=0).tolist(), "mean_average_precision": float(average.mean())}


def _draw(values):
    """The figure: precision at 10 and mean average precision by bytes, real and binary codes."""
    figure, both = experiment.panel(8.4, 3.9, columns=2)
    whole, bits = row_of(values, "features", ""), values["codes_against_pixels"]["bits"]
    other, name = row_of(values, "pixels", "binary", bits), f"{whole['name']} ({whole['bytes']:,} bytes)"
    levels = (whole, "-", name), (row_of(values, "pixels", ""), "--", "pixels"), (values["chance"], ":", "chance")
    for axes, name, value in (
        (both[0], "precision among the 10 nearest, %", lambda row: 100 * row["precision"][-1]),
        (both[1], "mean average precision, %", lambda row: 100 * row["mean_average_precision"]),
    ):
        for coded, marker, color in (("binary", "o", "black"), ("real", "s", "tab:blue")):
            rows = [row for row in values["rows"] if row["kind"] == "features" and row["coded"] == coded]
            sizes, heights = [row["bytes"] for row in rows], [value(row) for row in rows]
            axes.plot(sizes, heights, marker=marker, color=color, label=f"{coded} codes")
            style = {"xytext": (0, -12), "textcoords": "offset points", "ha": "center", "fontsize": 8, "color": color}
            for row, size, height in zip(rows, sizes, heights, strict=True):
                axes.annotate(str(row["length"]), (size, height), **style)
        axes.plot(other["bytes"], value(other), "x", color="tab:gray", label=other["name"])
        for row, style, label in levels:
            axes.axhline(value(row), linestyle=style, color="tab:gray", linewidth=1, label=label)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set(xlabel="bytes an image", ylabel=name, ylim=(0, None))
    figure.legend(*both[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    return figure


def tables(values):
    whole, queries = row_of(values, "features", ""), values["queries"]["pictures"]
    found, times = [("chance", "-", "-", *_percents(values["chance"]), "-")], []
    for row in values["rows"]:
        smaller = f"{whole['bytes'] / row['bytes']:.0f}" if row["kind"] == "features" else "-"
        lost = "-" if row["lost_queries"] is None else f"{100 * row['lost_queries']:.0f}"
        found.append((row["name"], str(row["bytes"]), smaller, *_percents(row), lost))
        coding = "-" if row["encode_ms"] is None else f"{row['encode_ms']:.2f}"
        searches = f"{row['search_ms']:.3f}", f"{row['search_large_ms']:.2f}"
        times.append((row["name"], coding, *searches, f"{_times_faster(values, row):.3g}"))
    found_note = (
        f"{queries} queries: one standard error of precision at 1 is up to {50 / math.sqrt(queries):.1f}; lost: of the "
        "variance of the queries' numbers, after coding and decoding"
    )
    times_note = (
        "medians of the processor's time, one query at a time, every row compared; the larger index is the same "
        "repeated; times faster: there, coding included. "
        f"The network takes {values['describe_ms']:.0f} ms for the numbers of an image, whatever the code"
    )
    times_columns = (f"search in {values['index']['pictures']}", f"search in {values['timing_rows']}", "times faster")
    by_class = [(imagenet.word(row["class_name"]), str(row["pictures"]), *_percents(row)) for row in values["by_class"]]
    title, columns = "How many of the nearest are of the query's class, in percent", ("bytes", "times smaller", *PLACES)
    return [
        Table(title, ("", *columns, "lost"), found, found_note),
        Table("Milliseconds of one core a query", ("", "coding", *times_columns), times, times_note),
        Table(f"By class, {whole['name']}, in percent", ("class", "queries", *PLACES), by_class),
    ]


def verdict(values):
    """Holds where binary codes of features have a higher mean average precision than those of pixels."""
    gain, whole = values["codes_against_pixels"], row_of(values, "features", "")
    pixels, code = row_of(values, "pixels", ""), row_of(values, "features", "binary", gain["bits"])
    faster = _times_faster(values, code)
    found = f"{faster:.3g} times faster" if faster >= 1 else f"{1 / faster:.3g} times slower"
    spread = "one query" if gain["standard_error"] is None else f"standard error {100 * gain['standard_error']:.1f}"
    numbers = (
        f"mean average precision {100 * gain['difference']:+.1f} points for binary codes of {gain['bits']} bits of the "
        f"last hidden layer over the same of pixels ({spread}); all "
        f"numbers {100 * whole['mean_average_precision']:.1f} %, pixels {100 * pixels['mean_average_precision']:.1f} "
        f"%. The code has {100 * code['mean_average_precision']:.1f} %, is {whole['bytes'] / code['bytes']:.0f} times "
        f"smaller and among {values['timing_rows']:,} images is found {found} once the network has described the image"
    )
    return Verdict(outcome(gain), numbers)


def mean_difference(differences):
    """The mean over queries and its standard error, None with one query: dict of float."""
    error = float(differences.std(ddof=1) / math.sqrt(len(differences))) if len(differences) > 1 else None
    return {"difference": float(differences.mean()), "standard_error": error}


def outcome(gain, right=True):
    """Of a `mean_difference`: within two standard errors it cannot be told; positive and `right`, the claim holds."""
    if gain["standard_error"] is None or abs(gain["difference"]) <= 2 * gain["standard_error"]:
        return "cannot be told"
    return "holds" if gain["difference"] > 0 and right else "does not hold"


def row_of(values, kind, coded, length=0):
    return next(row for row in values["rows"] if (row["kind"], row["coded"], row["length"]) == (kind, coded, length))


def _percents(row):
    return [f"{100 * value:.1f}" for value in (*row["precision"], row["mean_average_precision"])]


def _times_faster(values, row):
    """How many times faster than by all numbers a query is answered in the larger index, coding included."""
    whole = row_of(values, "features", "")
    return whole["search_large_ms"] / (row["search_large_ms"] + (row["encode_ms"] or 0))


if __name__ == "__main__":
    raise SystemExit(experiment.main("retrieval"))
