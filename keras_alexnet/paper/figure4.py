"""Figure 4: what a network says of test images, and which training images are nearest in its last hidden layer.

    python -m keras_alexnet.paper.figure4 --model_dir=RUN --data_dir=IMAGES [--split=val] [--index_split=train]
        [--pictures=8] [--queries=5] [--neighbors=6] [--seed=2012] [--only=random|errors]

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
from keras_alexnet.paper.retrieval import check_folder_name

BEST = 5


@dataclasses.dataclass(frozen=True)
class Figure4Settings(experiment.Settings):
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
    """Measures and draws both panels: Result."""
    cli.start_tensorflow()
    # This module imports TensorFlow, which --help and a wrong flag do not wait for.
    from keras_alexnet.paper import figure4_panels

    return figure4_panels.measure(settings)


def tables(values):
    """The tables of a measured result."""
    count, split = values["neighbors"], values["data"]["split"]
    shown = "those shown, wrong answers only" if values["only"] == "errors" else "those shown"
    errors = [
        (
            name,
            f"{each['pictures']:,}",
            f"{each['top1_error']:.1f}",
            f"{each['top5_error']:.1f}" if values["model"]["classes"] > BEST else "-",
        )
        for name, each in ((shown, values["shown"]), (f"all of {split}", values["split"]))
    ]
    shares = [
        (name, *(f"{100 * share:.1f}" for share in each))
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
        Table(
            "Left panel: errors in percent, center view",
            ("", "images", "ours, top-1 error", "ours, top-5 error"),
            tuple(errors),
        ),
        Table(
            "Right panel: neighbors of the same class, in percent",
            ("", "ours, the nearest", f"ours, {count} nearest"),
            tuple(shares),
        ),
        Table(
            f"Where the neighbors stand among {values['data']['index_pictures']:,} images in order of pixels",
            ("row", "of the same class", "ours, rank of the nearest", f"ours, median of {count}"),
            tuple(ranks),
            "rank 1 is the nearest by pixels; images of 32x32, which blurs and so "
            f"favors pixels; the nearest by features is among the {count} nearest by pixels for "
            f"{100 * values['pixel_ranks']['among_neighbors']:.1f} % of {split}",
        ),
    ]


def verdict(values):
    """Holds where neighbors by features are of the same class more often than by pixels, and are not theirs too."""
    shares, gain, ranks = values["shares"], values["features_against_pixels"], values["pixel_ranks"]
    numbers = (
        f"of the {values['neighbors']} nearest in the last hidden layer {100 * shares['features'][1]:.1f} % are of the "
        f"image's class, by pixels {100 * shares['pixels'][1]:.1f} %, by chance {100 * shares['chance'][1]:.1f} %; "
        f"the nearest is among the {values['neighbors']} nearest by pixels for {100 * ranks['among_neighbors']:.1f} % "
        f"of the images (median rank {ranks['median']:,.0f} of {values['data']['index_pictures']:,}). The labels are "
        "for the eye to judge"
    )
    if gain["standard_error"] is None or abs(gain["difference"]) <= 2 * gain["standard_error"]:
        return Verdict("cannot be told", numbers)
    holds = gain["difference"] > 0 and ranks["among_neighbors"] < 0.5
    return Verdict("holds" if holds else "does not hold", numbers)


EXPERIMENT = Experiment(
    name="figure4",
    title="Figure 4: five best classes, and nearest images",
    claim="Most of the five best labels of test images are reasonable, and training images whose last hidden layers "
    "are nearest show the same kind of object, though generally not close in L2 pixel by pixel (section 6.1, "
    "Figure 4).",
    command="python -m keras_alexnet.paper.figure4 --model_dir=RUN --data_dir=IMAGES",
    cost="80 seconds of one CPU core for 2,934 and 736 images; features that retrieval has kept are not computed again",
    settings=Figure4Settings,
    run=run,
    tables=tables,
    verdict=verdict,
)

if __name__ == "__main__":
    sys.exit(experiment.main(EXPERIMENT))
