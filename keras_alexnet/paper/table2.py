"""Table 2: errors on ILSVRC-2012, of one network, of five, and of two more that had seen more classes.

    python -m keras_alexnet.paper.table2 --cnn=RUN [up to five] [--pretrained_cnn=RUN, up to two] [--split=SPLIT]

Evaluates runs by the table's protocol: ten views, probabilities of several networks averaged with equal weights.
"1 CNN" is the first --cnn. Without any it prints the table and what to run. Any other labeled set can be evaluated the
same way; the table then says which it was.
"""

import sys

from keras_alexnet.cli import run_command, start_tensorflow
from keras_alexnet.paper import config, contest, results

TITLE = "Table 2: ILSVRC-2012"
CLAIM = (
    "One network has 18.2 % top-5 error on ILSVRC-2012, an average of five 16.4 %, of seven, two of them pre-trained "
    "on the Fall 2011 release, 15.3 %; the second-best entry of the contest has 26.2 % (section 6, Table 2)."
)
COMMAND = (
    "python -m keras_alexnet.paper.table2 --cnn=runs/cnn1 --cnn=runs/cnn2 --cnn=runs/cnn3 --cnn=runs/cnn4 "
    "--cnn=runs/cnn5 --pretrained_cnn=runs/conv6a --pretrained_cnn=runs/conv6b"
)
SET = "the validation set of ILSVRC-2012"
IMAGES = 50_000  # of that set
NO_LABELS = "the labels of ILSVRC-2012's test set are not public"
# A network: 90 epochs of 1.28 million images. A pre-trained one: 8 epochs of 15 million and then 54 of 1.28 million, as
# flags/conv6_pretrain.cfg and flags/conv6_finetune.cfg have it; conv6 and 22,000 outputs cost more an image.
_CNN, _PRETRAINED = 90 * 1.281167, 8 * 15 + 54 * 1.281167
_TRAIN = "python -m keras_alexnet.train --flagfile=flags"
_TRAIN_CNN = f"{_TRAIN}/paper.cfg (or flags/release2012.cfg) --data_dir=TFDS_DIR"
_TRAIN_PRETRAINED = (
    f"{_TRAIN}/conv6_pretrain.cfg --data_dir=DATA/fall2011 --model_dir=runs/conv6_fall2011, and then {_TRAIN}"
    "/conv6_finetune.cfg --initial_weights=runs/conv6_fall2011 --data_dir=TFDS_DIR --model_dir=runs/conv6a"
)
OTHERS = (("SIFT + FVs [7]", (None, None, 26.2)),)
ROWS = (
    contest.Row(
        "1 CNN",
        (40.7, 18.2, None),
        "40.66 / 18.21",
        1,
        0,
        _CNN,
        False,
        f"{_TRAIN_CNN} --seed=1 --model_dir=runs/cnn1",
        contest.AUTHORS,
    ),
    contest.Row(
        "5 CNNs",
        (38.1, 16.4, 16.4),
        "-",
        5,
        0,
        5 * _CNN,
        False,
        "the same with --seed=1 to --seed=5, each with a --model_dir of its own",
        f"{contest.AUTHORS} each",
    ),
    contest.Row("1 CNN*", (39.0, 16.6, None), "38.99 / 16.62", 0, 1, _PRETRAINED, True, _TRAIN_PRETRAINED, "-"),
    contest.Row(
        "7 CNNs*",
        (36.7, 15.4, 15.3),
        "-",
        5,
        2,
        5 * _CNN + 2 * _PRETRAINED,
        True,
        "five CNNs and two CNNs*, those of two seeds",
        "-",
    ),
)
COST = (
    f"training on ImageNet: {contest.days(_CNN):.0f} days a network on two CPU cores (estimated: 90 epochs of 1.28 "
    f"million images at {contest.SPEED} images a second), all seven at least {contest.days(ROWS[-1].images):.0f}; "
    f"{contest.AUTHORS} a network on the authors' two GTX 580; a GPU of today: {results.NOT_RUN}"
)


def main(argv):
    settings = config.parse_table2(argv, __doc__)
    contest.check(settings, NO_LABELS)
    if not settings.cnns and not settings.pretrained_cnns:
        for table in tables(None):
            print(f"{table.as_text()}\n")
        print(f"nothing run: give --cnn=RUN or --pretrained_cnn=RUN, such as\n{COMMAND}")
        return
    results.folder_for(settings.results_dir)
    start_tensorflow()
    values = contest.measure(settings, lambda about, names: contest.has(about, IMAGES) and contest.is_ilsvrc2012(names))
    path = results.write(
        settings.results_dir, "table2", values, protocol=contest.protocol(values), argv=argv, quick=settings.quick
    )
    results.say(sys.modules[__name__], values, path)


def tables(values):
    """What the report shows, see `results`."""
    columns = ("", "paper", "release", "ours", "paper, test top-5", "ours, test top-5")
    rows = [(name, contest.of_paper(numbers[:2]), "-", "-", f"{numbers[2]:.1f}", "-") for name, numbers in OTHERS]
    for row in ROWS:
        errors = contest.found(values, row)
        test = row.paper[2]
        rows.append(
            (
                row.name,
                contest.of_paper(row.paper[:2]),
                row.release,
                contest.pair(errors, values["set"]) if values else results.NOT_RUN,
                "-" if test is None else f"{test:.1f}",
                _test(values, errors),
            )
        )
    for name, errors in contest.others(values, ROWS):
        rows.append((f"{name}, ours", "-", "-", contest.pair(errors, values["set"]), "-", _test(values, errors)))
    title = "ILSVRC-2012: top-1 / top-5 error in percent on the validation set, top-5 on the test set"
    notes = ["release: networks 145 and 146-2012-2011; it notes no averages of five or seven"]
    if values and not values["is_papers"]:
        title = f"Top-1 / top-5 error in percent; ours on {contest.where(values['set'])}, not on the paper's set"
        notes.append("paper and release: ILSVRC-2012, validation and test set")
    if values and values["test_set"]:
        notes.append(f"ours, test: {contest.where(values['test_set'])}")
    else:
        here = values and not values["is_papers"]
        notes.append(f"test: not run, {'no --test_split was given' if here else NO_LABELS}")
    if values and values["views"] != 10:
        notes.append(f"ours: {contest.views(values)}")
    found = [results.Table(title, columns, tuple(rows), "; ".join(notes))]
    if values:
        found.append(contest.networks_table(values))
    cost = contest.cost_table(values, ROWS, "ILSVRC-2012; CNN*: ImageNet's Fall 2011 release first")
    return [*found, cost] if cost else found


def verdict(values):
    """Whether the claim holds, str."""
    return contest.verdict(values, ROWS, SET)


def _test(values, errors):
    if not errors or not errors["test"]:
        return results.NOT_RUN
    return contest.top5(errors["test"], values["test_set"])


if __name__ == "__main__":
    sys.exit(run_command("table2", main, sys.argv[1:]))
