"""Table 1: errors on the test set of ILSVRC-2010.

    python -m keras_alexnet.paper.table1 --cnn=RUN [--dataset=folder --data_dir=ILSVRC2010] [--split=test]

Evaluates a run by the table's protocol: ten views, one network. Without --cnn it prints the table and what to run. Any
other labeled set can be evaluated the same way; the table then says which it was.
"""

import sys

from keras_alexnet.cli import run_command, start_tensorflow
from keras_alexnet.paper import config, contest, results

TITLE = "Table 1: ILSVRC-2010"
CLAIM = (
    "One network has 37.5 % top-1 and 17.0 % top-5 error on the ILSVRC-2010 test set, the best published before 45.7 % "
    "and 25.7 % (section 6, Table 1)."
)
COMMAND = "python -m keras_alexnet.paper.table1 --cnn=RUN --dataset=folder --data_dir=ILSVRC2010 --split=test"
SET = "the test set of ILSVRC-2010"
IMAGES = 150_000  # of that set
OTHERS = (("Sparse coding [2]", (47.1, 28.2)), ("SIFT + FVs [24]", (45.7, 25.7)))
# 1.2 million training images (section 2), about 90 epochs (section 5).
ROWS = (
    contest.Row(
        "CNN",
        (37.5, 17.0),
        "37.47 / 17.00",
        1,
        0,
        90 * 1.2,
        False,
        "python -m keras_alexnet.train --flagfile=flags/paper.cfg (or flags/release2012.cfg) --dataset=folder "
        "--data_dir=ILSVRC2010 --seed=1 --model_dir=runs/cnn2010",
        contest.AUTHORS,
    ),
)
COST = (
    f"training on ILSVRC-2010: {contest.days(ROWS[0].images):.0f} days on two CPU cores (estimated: 90 epochs of 1.2 "
    f"million images at {contest.SPEED} images a second); {contest.AUTHORS} on the authors' two GTX 580; a GPU of "
    f"today: {results.NOT_RUN}"
)


def main(argv):
    settings = config.parse_table1(argv, __doc__)
    contest.check(settings)
    if not settings.cnns:
        for table in tables(None):
            print(f"{table.as_text()}\n")
        print(f"nothing run: give --cnn=RUN, such as\n{COMMAND}")
        return
    results.folder_for(settings.results_dir)
    start_tensorflow()
    values = contest.measure(settings, lambda about, _: contest.has(about, IMAGES))
    path = results.write(
        settings.results_dir, "table1", values, protocol=contest.protocol(values), argv=argv, quick=settings.quick
    )
    results.say(sys.modules[__name__], values, path)


def tables(values):
    """What the report shows, see `results`."""
    rows = [(name, contest.of_paper(numbers), "-", "-") for name, numbers in OTHERS]
    for row in ROWS:
        ours = contest.pair(contest.found(values, row), values["set"]) if values else results.NOT_RUN
        rows.append((row.name, contest.of_paper(row.paper), row.release, ours))
    title = "ILSVRC-2010, test set: top-1 / top-5 error in percent"
    note = "release: network 145 on the 2010 set"
    if values and not values["is_papers"]:
        title = f"Top-1 / top-5 error in percent; ours on {contest.where(values['set'])}, not on the paper's set"
        note += "; paper and release: ILSVRC-2010, test set"
    if values and values["views"] != 10:
        note += f"; ours: {contest.views(values)}"
    found = [results.Table(title, ("", "paper", "release", "ours"), tuple(rows), note)]
    if values:
        found.append(contest.networks_table(values))
    cost = contest.cost_table(values, ROWS, "ILSVRC-2010")
    return [*found, cost] if cost else found


def verdict(values):
    """Whether the claim holds, str."""
    return contest.verdict(values, ROWS, SET)


if __name__ == "__main__":
    sys.exit(run_command("table1", main, sys.argv[1:]))
