"""Table 2: errors on ILSVRC-2012 of one network, of five, and of two more that were trained on more classes first.

"1 CNN" is the first --cnn. Without any network it prints the table and what to run.
"""

import dataclasses

from keras_alexnet.flags import flag
from keras_alexnet.paper import experiment, table1
from keras_alexnet.paper.experiment import NOT_RUN, Table
from keras_alexnet.paper.table1 import Row

TITLE = "Table 2: ILSVRC-2012"
CLAIM = (
    "One network has 18.2 % top-5 error on ILSVRC-2012, an average of five 16.4 %, of seven, two of them "
    "pre-trained on the Fall 2011 release, 15.3 %; the second-best entry of the contest has 26.2 % (section 6, Table "
    "2)."
)
COST = (
    "training on ImageNet: 30 days a network on two CPU cores (estimated: 90 epochs of 1.28 million images at 45 "
    "images a second), a CNN* at least 49, all seven at least 246; five to six days a network on the authors' two GTX "
    f"580; a GPU of today: {NOT_RUN}"
)
COMMAND = (
    "python -m keras_alexnet.paper.table2 --cnn=runs/cnn1 --cnn=runs/cnn2 --cnn=runs/cnn3 --cnn=runs/cnn4 "
    "--cnn=runs/cnn5 --pretrained_cnn=runs/conv6a --pretrained_cnn=runs/conv6b"
)


@dataclasses.dataclass(frozen=True)
class Settings(table1.Settings):
    """Networks and sets."""

    cnn: tuple[str, ...] = flag(
        (), "A run's folder, or an exported model's; up to five times, of five seeds.", many=True, path=True
    )
    pretrained_cnn: tuple[str, ...] = flag(
        (), "Likewise, up to twice, of networks that were trained on more classes first.", many=True, path=True
    )
    split: str | None = flag(None, "As in evaluation.")
    test_split: str | None = flag(None, "A second, labeled split for the column test.")

    most = {"cnn": 5, "pretrained_cnn": 2}


# By their authors: osmr/imgclsmob, CNTK's example, Caffe's model zoo, torchvision's documentation, gitthhub/AlexNet.
OTHERS = Table(
    "Published by others, not measured here: ILSVRC-2012 validation set, one center crop, errors in percent",
    ("", "top-1", "top-5"),
    [
        ["osmr/imgclsmob, alexnet", "38.06", "16.09"],
        ["CNTK, AlexNet", "40.11", "17.75"],
        ["BVLC, Caffe's bvlc_alexnet", "42.9", "19.8"],
        ["torchvision, alexnet", "43.48", "20.93"],
        ["gitthhub/AlexNet, a port to tf.keras", "48.0", "24.1"],
    ],
    "variants of the network, of training and of how images are resized differ; the weights of BVLC, measured again by "
    "others: 43.2 to 45.4 top-1",
)
TABLE = table1.Ilsvrc(
    2012,
    "validation",
    50_000,
    (
        Row("SIFT + FVs [7]", test="26.2"),
        Row("1 CNN", (40.7, 18.2), "40.66 / 18.21", (1, 0)),
        Row("5 CNNs", (38.1, 16.4), "-", (5, 0), "16.4"),
        Row("1 CNN*", (39.0, 16.6), "38.99 / 16.62", (0, 1)),
        Row("7 CNNs*", (36.7, 15.4), "-", (5, 2), "15.3"),
    ),
    "release: networks 145 and 146-2012-2011, no averages of five or seven; a CNN is trained with flags/paper.cfg or "
    "flags/release2012.cfg, a CNN* with flags/conv6_pretrain.cfg and then flags/conv6_finetune.cfg, each with its own "
    "--seed",
    COMMAND,
    (OTHERS,),
)
run, tables, verdict, REFERENCE = TABLE.run, TABLE.tables, TABLE.verdict, TABLE.tables(table1.NOTHING)
# A CNN* is trained for 8 epochs of 15 million images and 54 of 1.28 million, at a higher cost an image.
if __name__ == "__main__":
    raise SystemExit(experiment.main("table2"))
