"""Section 6.1: images found by Euclidean distance in the last hidden layer, and by short codes of it.

With --query=IMAGE the nearest images are printed. Without, every image of a split is asked about: precision among the
nearest 1, 5 and 10 and mean average precision, of the 4096 numbers, of an autoencoder's codes of them and of raw
pixels; and what a search takes. A folder is indexed once, and again when the model or a file has changed (by name and
size); indexes and autoencoders are kept below RESULTS/retrieval, and the same command resumes from there.
"""

import dataclasses
import math
import os
import sys

from keras_alexnet import cli, flags
from keras_alexnet.errors import ArgumentError, UsageError
from keras_alexnet.flags import flag
from keras_alexnet.paper import experiment
from keras_alexnet.paper.experiment import Experiment, Table, Verdict

PLACES = ("precision at 1", "precision at 5", "precision at 10", "mean average precision")


@dataclasses.dataclass(frozen=True)
class Settings(experiment.Settings):
    """Retrieval."""

    model_dir: str | None = flag(None, "A run's folder, or an exported model's.", path=True)
    data_dir: str | None = flag(
        None, "The folder that holds the images; not needed for --query with --index.", path=True
    )
    index_split: str | None = flag(
        None, "DATA_DIR/INDEX_SPLIT/* is searched; . is DATA_DIR itself. Default: train, or . where it is missing."
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
        for name in ("index_split", "query_split"):
            check_folder_name(name, getattr(self, name))
        if self.index and not self.data_dir and not os.path.isfile(self.index):
            raise ArgumentError("index", self.index, "there is no such index; give --data_dir to make it")
        if self.index and not self.index.endswith(".npz"):
            raise ArgumentError("index", self.index, "must end in .npz")
        if self.index and self.quick:
            raise ArgumentError("index", self.index, "must be left out: --quick takes a few images into its own index")
        if self.query and not os.path.isfile(self.query):
            what = "is a folder; name one image" if os.path.isdir(self.query) else "there is no such file"
            raise ArgumentError("query", self.query, what)
        if not self.codes or len(set(self.codes) & set(range(8, 4097, 8))) < len(self.codes):
            problem = "must be different multiples of 8 up to 4096, such as 32,64,128"
            raise ArgumentError("codes", ",".join(map(str, self.codes)), problem)


def check_folder_name(flag_name, split):
    """Raises ArgumentError of a split that is not the name of a folder in DATA_DIR, or . for itself."""
    if split is not None and (not split or os.path.basename(split) != split or split == ".."):
        raise ArgumentError(flag_name, split, "must be the name of a folder in --data_dir, or . for itself")


def run(settings):
    cli.start_tensorflow()
    from keras_alexnet.paper import retrieval_run  # TensorFlow, which --help and a wrong flag do not wait for

    if settings.data_dir and not settings.index_split:
        split = "train" if os.path.isdir(os.path.join(settings.data_dir, "train")) else "."
        settings = dataclasses.replace(settings, index_split=split)
    if settings.query:
        return retrieval_run.print_nearest(settings)
    if settings.quick:
        shorter = {"code_epochs": min(settings.code_epochs, 2), "timing_rows": min(settings.timing_rows, 1000)}
        settings = dataclasses.replace(settings, codes=(min(settings.codes),), **shorter)
    return retrieval_run.measure(settings)


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
    by_class = [(each["class_name"], str(each["pictures"]), *_percents(each)) for each in values["by_class"]]
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
    numbers = (
        f"mean average precision {100 * gain['difference']:+.1f} points for binary codes of {gain['bits']} bits of the "
        f"last hidden layer over the same of pixels (standard error {100 * (gain['standard_error'] or 0):.1f}); all "
        f"numbers {100 * whole['mean_average_precision']:.1f} %, pixels {100 * pixels['mean_average_precision']:.1f} "
        f"%. The code has {100 * code['mean_average_precision']:.1f} %, is {whole['bytes'] / code['bytes']:.0f} times "
        f"smaller and is found {found} once the network has described the image"
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
    """The row of one way to describe images."""
    return next(row for row in values["rows"] if (row["kind"], row["coded"], row["length"]) == (kind, coded, length))


def _percents(row):
    return [f"{100 * value:.1f}" for value in (*row["precision"], row["mean_average_precision"])]


def _times_faster(values, row):
    """How many times faster than by all numbers a query is answered in the larger index, coding included."""
    whole = row_of(values, "features", "")
    return whole["search_large_ms"] / (row["search_large_ms"] + (row["encode_ms"] or 0))


EXPERIMENT = Experiment(
    name="retrieval",
    title="Section 6.1: retrieval by the last hidden layer, and by short codes",
    claim="Images close in the 4096 numbers of the last hidden layer are alike to the network, though far apart pixel "
    "by pixel. Autoencoders could compress them to short binary codes, which should retrieve much better than "
    "autoencoders of raw pixels (section 6.1; proposed there, not measured).",
    command="python -m keras_alexnet.paper.retrieval --model_dir=RUN --data_dir=IMAGES",
    cost="about 10 minutes of one CPU core for 3,670 images, estimated: 90 s of features, nine autoencoders of 40 s",
    settings=Settings,
    run=run,
    tables=tables,
    verdict=verdict,
)

if __name__ == "__main__":
    sys.exit(experiment.main(EXPERIMENT))
