"""Figure 4: what a network says of test images, and which training images are nearest in its last hidden layer.

Images are drawn at random; the paper chose its by hand. Errors and shares of the whole split stand beside them. The
features of both splits are kept below RESULTS/retrieval, where keras_alexnet.paper.retrieval finds them too.
"""

import dataclasses
import statistics
import sys

from keras_alexnet import cli, flags
from keras_alexnet.errors import ArgumentError
from keras_alexnet.flags import flag
from keras_alexnet.paper import experiment
from keras_alexnet.paper.experiment import Experiment, Table, Verdict
from keras_alexnet.paper.retrieval import check_folder_name, outcome

BEST = 5


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
        for name in ("split", "index_split"):
            check_folder_name(name, getattr(self, name))
        if self.split == self.index_split:
            problem = "is --split too, and every image would find itself; name another folder in --data_dir"
            raise ArgumentError("index_split", self.index_split, problem)


def run(settings):
    cli.start_tensorflow()
    # This module imports TensorFlow, which --help and a wrong flag do not wait for.
    from keras_alexnet.paper import figure4_run

    return figure4_run.measure(settings)


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
        first, *_ = of_row = [each["pixel_rank"] for each in row["neighbors"]]
        by_row.append(
            (f"{place}: {row['class_name']}", f"{same} of {count}", f"{first:,}", f"{statistics.median(of_row):,.0f}")
        )
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
    """Holds where neighbors by features are of the same class more often than by pixels, and are not theirs too."""
    shares, ranks = values["shares"], values["pixel_ranks"]
    numbers = (
        f"of the {values['neighbors']} nearest in the last hidden layer {100 * shares['features'][1]:.1f} % are of the "
        f"image's class, by pixels {100 * shares['pixels'][1]:.1f} %, by chance {100 * shares['chance'][1]:.1f} %; "
        f"the nearest is among the {values['neighbors']} nearest by pixels for {100 * ranks['among_neighbors']:.1f} % "
        f"of the images (median rank {ranks['median']:,.0f} of {values['data']['index_pictures']:,}). The labels are "
        "for the eye to judge"
    )
    return Verdict(outcome(values["features_against_pixels"], ranks["among_neighbors"] < 0.5), numbers)


EXPERIMENT = Experiment(
    name="figure4",
    title="Figure 4: five best classes, and nearest images",
    claim="Most of the five best labels of test images are reasonable, and training images whose last hidden layers "
    "are nearest show the same kind of object, though generally not close in L2 pixel by pixel (section 6.1, "
    "Figure 4).",
    command="python -m keras_alexnet.paper.figure4 --model_dir=RUN --data_dir=IMAGES",
    cost="80 seconds of one CPU core for 2,934 and 736 images; features that retrieval has kept are not computed again",
    settings=Settings,
    run=run,
    tables=tables,
    verdict=verdict,
)

if __name__ == "__main__":
    sys.exit(experiment.main(EXPERIMENT))
