"""Tables 1 and 2: networks evaluated by the paper's protocol, ten views, each alone and averages of several.

The commands are keras_alexnet.paper.table1 and table2. Any other labeled set can be evaluated in the same way; the
table then says which set it was.
"""

import dataclasses
import functools
import os
import typing

from keras_alexnet import cli, export, rundir
from keras_alexnet.data import imagenet
from keras_alexnet.errors import ArgumentError, UsageError, printable
from keras_alexnet.evaluate import parse_evaluate
from keras_alexnet.flags import flag
from keras_alexnet.paper import experiment
from keras_alexnet.paper.experiment import NOT_RUN, Experiment, Result, Table, Verdict

NEAR = 0.5  # points that an error may lie above the paper's for a row to hold; the release's own runs spread as far
SPEED = 45  # images a second of training, float32, two CPU cores
NO_LABELS = "the labels of ILSVRC-2012's test set are not public"
NOTHING = {"results": [], "is_papers": False, "views": 10, "set": None, "test_set": None}


class Row(typing.NamedTuple):
    """A row of a table: errors in percent of a network of ours or of an average, or of another method.

    `paper` has top-1 and top-5 error, in Table 2 also top-5 error on the test set; `release` the same of the authors'
    notes of 2012; `networks` how many CNNs and pre-trained CNNs are averaged.
    """

    name: str
    paper: tuple[float | None, ...]
    release: str = "-"
    networks: tuple[int, int] = (0, 0)


class Ilsvrc(typing.NamedTuple):
    """What Table 1 and Table 2 differ in: year and split of the set, how many images it has, the rows, a note."""

    year: int
    split: str
    images: int
    rows: tuple[Row, ...]
    note: str


ILSVRC_2010 = Ilsvrc(
    2010,
    "test",
    150_000,
    (
        Row("Sparse coding [2]", (47.1, 28.2)),
        Row("SIFT + FVs [24]", (45.7, 25.7)),
        Row("CNN", (37.5, 17.0), "37.47 / 17.00", (1, 0)),
    ),
    "release: network 145 on the 2010 set; a CNN is trained with flags/paper.cfg or flags/release2012.cfg and "
    "--dataset=folder",
)
ILSVRC_2012 = Ilsvrc(
    2012,
    "validation",
    50_000,
    (
        Row("SIFT + FVs [7]", (None, None, 26.2)),
        Row("1 CNN", (40.7, 18.2, None), "40.66 / 18.21", (1, 0)),
        Row("5 CNNs", (38.1, 16.4, 16.4), "-", (5, 0)),
        Row("1 CNN*", (39.0, 16.6, None), "38.99 / 16.62", (0, 1)),
        Row("7 CNNs*", (36.7, 15.4, 15.3), "-", (5, 2)),
    ),
    "release: networks 145 and 146-2012-2011, no averages of five or seven; a CNN is trained with flags/paper.cfg or "
    "flags/release2012.cfg, a CNN* with flags/conv6_pretrain.cfg and then flags/conv6_finetune.cfg, each with its own "
    "--seed",
)


@dataclasses.dataclass(frozen=True)
class Table1Settings(experiment.Settings):
    """Networks and the set."""

    cnn: tuple[str, ...] = flag((), "A run's folder, or an exported model's.", many=True, path=True)
    views: int = flag(10, "10, as in the tables, or 1, the center view. With --quick it is always 1.", choices=(1, 10))
    dataset: str | None = flag(None, "As in evaluation; default: the first network's.")
    data_dir: str | None = flag(None, "As in evaluation; default: the first network's.", path=True)
    split: str | None = flag("test", "As in evaluation.")

    most = {"cnn": 1}
    pretrained_cnn, test_split = (), None  # flags of Table 2

    def __post_init__(self):
        seen = set()
        for name, most in self.most.items():
            for place, folder in enumerate(getattr(self, name)):
                if not folder:
                    raise ArgumentError(name, folder, "must be a run's folder or an exported model's")
                if place == most:
                    raise ArgumentError(name, folder, f"is one too many; the table takes {most}")
                if os.path.realpath(folder) in seen:
                    raise ArgumentError(name, folder, "is given twice; an average is of different networks")
                seen.add(os.path.realpath(folder))


@dataclasses.dataclass(frozen=True)
class Table2Settings(Table1Settings):
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


def run(table, command, settings):
    """Evaluates the networks that are given, Result; prints the table and the command where none is given, None."""
    if not settings.cnn and not settings.pretrained_cnn:
        print(f"{tables(table, NOTHING)[0].as_text()}\n\nnothing run: give networks, such as\n{command}")
        return None
    config = _evaluation_of(settings)
    cli.start_tensorflow()
    from keras_alexnet import evaluation  # imports TensorFlow, which `--help` and a wrong flag do not wait for

    values = _measure(table, settings, config, evaluation.evaluate)
    test = f"; test: {_set_name(values['test_set'])}" if values["test_set"] else ""
    weights = ", probabilities of several networks averaged with equal weights" * (len(config.model_dir) > 1)
    protocol = f"{_set_name(values['set'])}{test}; {_views(values)}{weights}; ties shared, every image counted once"
    return Result(values, protocol)


def tables(table, values):
    """The paper's table with ours beside it, and each network alone: list of Table."""
    title, notes = f"ILSVRC-{table.year}, {table.split} set: top-1 / top-5 error in percent", [table.note]
    other_set = values["set"] and not values["is_papers"]
    if other_set:
        title = f"Top-1 / top-5 error in percent; ours on {_set_name(values['set'])}, not on the paper's set"
        notes.append(f"paper and release: ILSVRC-{table.year}, {table.split} set")
    if values["views"] != 10:
        notes.append(f"ours: {_views(values)}")
    columns = ("", "paper", "release", "ours")
    cells = [
        (row.name, _pair(row.paper[:2]), row.release, _ours(values["set"], found, row))
        for row, found in _measured(table, values)
    ]
    if len(table.rows[0].paper) == 3:
        columns += ("paper, test top-5", "ours, test top-5")
        test_set = values["test_set"]
        missing = f"{NOT_RUN}, {'no --test_split was given' if other_set else NO_LABELS}"
        notes.append(f"ours, test: {_set_name(test_set) if test_set else missing}")
        cells = [
            (*each, _pair(row.paper[2:]), _ours(test_set, found and found["test"], row, top1=False))
            for each, (row, found) in zip(cells, _measured(table, values), strict=True)
        ]
    alone = [each for each in values["results"] if each["network"]]
    rows = [
        (
            f"{place}: CNN{'*' * each['pretrained']}",
            each["network"],
            f"{each['top1_error']:.1f}",
            _top5(values["set"], each),
        )
        for place, each in enumerate(alone, 1)
    ]
    return [
        Table(title, columns, tuple(cells), "; ".join(notes)),
        *(
            [Table("Each network alone, errors in percent", ("", "network", "top-1", "top-5"), tuple(rows))]
            if rows
            else []
        ),
    ]


def verdict(table, values):
    """Whether the errors are the paper's: Verdict."""
    if not values["is_papers"]:
        papers = f"the paper's set, the {table.split} set of ILSVRC-{table.year}"
        return Verdict("cannot be told", f"{_set_name(values['set'])} is not {papers}")
    if values["views"] != 10:
        return Verdict("cannot be told", _views(values))
    ours = {row: found for row, found in _measured(table, values) if any(row.networks) and row in table.rows}
    measured = {row: (found["top1_error"], found["top5_error"]) for row, found in ours.items() if found}
    missing = ", ".join(row.name for row in ours if row not in measured)
    if not measured:
        return Verdict("cannot be told", "no row of the table was run")
    near = all(
        own <= paper + NEAR for row, pair in measured.items() for own, paper in zip(pair, row.paper, strict=False)
    )
    words = ", ".join(f"{row.name} {_pair(pair)} (paper {_pair(row.paper[:2])})" for row, pair in measured.items())
    words += f"; a row holds up to {NEAR:g} points above the paper" + f"; not run: {missing}" * bool(missing)
    return Verdict("holds" if near else "does not hold", words)


def is_papers_set(table, about, class_names):
    """Whether a set is the table's, bool: all its images, those left out included, of the classes of that year.

    Args:
        table: Ilsvrc.
        about: dict, as `evaluation.evaluate` describes a set.
        class_names: sequence of str, of the model.
    """
    counts = (about["images"] + len(about["left_out"]), about["classes"], about["model_classes"])
    if counts != (table.images, 1000, 1000):
        return False
    ids = [wordnet_id for wordnet_id, _ in imagenet.classes()]  # of 2012; other years have other classes
    return table.year != 2012 or set(class_names) in (set(ids), set(imagenet.class_names(ids, {})))


def _evaluation_of(settings):
    """The evaluation of all networks, checked before TensorFlow starts: EvaluateConfig."""
    for name in settings.most:
        for folder in getattr(settings, name):
            if not rundir.is_run(folder) and not os.path.isfile(os.path.join(folder, "saved_model.pb")):
                problem = f"is neither a run (no {rundir.FLAGS}) nor an exported model (no saved_model.pb)"
                raise ArgumentError(name, folder, problem)
    networks = (*settings.cnn, *settings.pretrained_cnn)
    argv = [*(f"--model_dir={folder}" for folder in networks), f"--views={1 if settings.quick else settings.views}"]
    given = {name: getattr(settings, name) for name in ("dataset", "data_dir", "split")}
    config = parse_evaluate([*argv, *(f"--{name}={each}" for name, each in given.items() if each)], "")
    own = export.config_of(networks[0]).data
    dataset, data_dir = config.dataset or own.dataset, config.data_dir or own.data_dir
    if settings.test_split and dataset.startswith("imagenet2012") and settings.test_split.startswith("test"):
        raise ArgumentError("test_split", settings.test_split, f"must be left out: {NO_LABELS}")
    for name in ("split", "test_split"):
        split = getattr(settings, name)
        if dataset == "folder" and split and not os.path.isdir(os.path.join(data_dir, split)):
            raise ArgumentError(name, split, f"is not a folder in {data_dir}")
    return config


def _measure(table, settings, config, evaluate):
    """Evaluates all networks together and, where they are another average, the CNNs alone: dict, see NOTHING."""
    groups = [config.model_dir]  # first: networks that do not go together end it at once
    if settings.pretrained_cnn and len(settings.cnn) > 1:
        groups.append(settings.cnn)
    splits = {"split": config.split, **({"test_split": settings.test_split} if settings.test_split else {})}
    # Of each group the reports of one split or two.
    reports = {group: [_evaluated(evaluate, config, group, *each) for each in splits.items()] for group in groups}
    whole, results = reports[config.model_dir], []
    for place, folder in enumerate(config.model_dir):
        pretrained = int(place >= len(settings.cnn))
        described = _described(export.config_of(folder), whole[0]["models"][place]["epochs"])
        results.append(_result(1 - pretrained, pretrained, described, [each["models"][place] for each in whole]))
    for group in reversed(groups):
        if len(group) > 1:
            pretrained = len(group) - len(settings.cnn)
            results.append(_result(len(settings.cnn), pretrained, None, [each["result"] for each in reports[group]]))
    return {
        "set": whole[0]["set"],
        "test_set": whole[1]["set"] if settings.test_split else None,
        "is_papers": is_papers_set(table, whole[0]["set"], _class_names(config.model_dir[0])),
        "views": config.views,
        "results": results,
        "seconds": sum(each["seconds"] for group in groups for each in reports[group]),
    }


def _evaluated(evaluate, config, folders, flag_name, split):
    try:
        return evaluate(dataclasses.replace(config, model_dir=folders, split=split))
    except UsageError as error:  # it names the flags of `evaluate`
        message = str(error).replace("--model_dir=", "").replace("--split=", f"--{flag_name}=")
        raise UsageError(message) from None


def _result(cnns, pretrained, network, measured):
    """What was measured of an average of networks, or of one: dict; `test` is of the second set, or None."""
    names = ("top1_error", "top5_error", "loss", "mean_squared_error")
    first, *test = [{name: each[name] for name in names} for each in measured]
    return {"cnns": cnns, "pretrained": pretrained, "network": network, **first, "test": test[0] if test else None}


def _described(config, epochs):
    """A network in words, str."""
    network, initial = config.network, ", initial weights of another model" * bool(config.training.initial_weights)
    shape = f", {network.topology}" * (network.topology != "alexnet") + f", width {network.width:g}" * (
        network.width != 1
    )
    return f"{network.variant}{shape}, seed {config.run.seed}, {epochs} epochs{initial}"


def _class_names(folder):
    return rundir.read_class_names(folder) if rundir.is_run(folder) else export.read_metadata(folder)["class_names"]


def _measured(table, values):
    """Pairs of (Row, what was measured of it: dict, or None); averages that are no row of the table come last."""
    found = {}
    for each in values["results"]:
        found.setdefault((each["cnns"], each["pretrained"]), each)  # of single networks the first
    pairs = [(row, found.pop(row.networks, None)) for row in table.rows]
    nothing = (None,) * len(table.rows[0].paper)
    return pairs + [
        (Row(f"{_average(*key)}, ours", nothing, "-", key), each) for key, each in found.items() if sum(key) > 1
    ]


def _average(cnns, pretrained):
    """Such as "3 CNNs + 1 CNN*", str."""
    parts = [(cnns, ""), (pretrained, "*")]
    return " + ".join(f"{count} CNN{'s' * (count > 1)}{star}" for count, star in parts if count)


def _ours(about, errors, row, top1=True):
    """A cell of what was measured here, str."""
    if not errors:
        return NOT_RUN if any(row.networks) else "-"
    return f"{errors['top1_error']:.1f} / " * top1 + _top5(about, errors)


def _top5(about, errors):
    """Among five classes or fewer every answer is among the best five."""
    return f"{errors['top5_error']:.1f}" if about["model_classes"] > 5 else "-"


def _pair(numbers):
    if not any(numbers):
        return "-"
    return " / ".join("-" if number is None else f"{number:.1f}" for number in numbers)


def _set_name(about):
    """A set in words, str: its name, split and size, without the folders above it."""
    name = about["dataset"]
    if name in ("folder", "records") and about["data_dir"]:
        name = os.path.basename(os.path.abspath(about["data_dir"]))
    return printable(f"{name} {about['split']} ({about['images']:,} images of {about['classes']} classes)")


def _views(values):
    return "ten views averaged" if values["views"] == 10 else "the center view only (the paper: ten)"


def _experiment(name, table, settings, command, claim, cost):
    return Experiment(
        name=name,
        title=f"Table {name[-1]}: ILSVRC-{table.year}",
        claim=claim,
        cost=cost,
        command=command,
        settings=settings,
        run=functools.partial(run, table, command),
        tables=functools.partial(tables, table),
        verdict=functools.partial(verdict, table),
        reference=tuple(tables(table, NOTHING)),
    )


def _days(millions):
    """How long training on so many million images takes on two CPU cores, str."""
    return f"{1e6 * millions / SPEED / 86400:.0f}"


TABLE_1 = _experiment(
    "table1",
    ILSVRC_2010,
    Table1Settings,
    "python -m keras_alexnet.paper.table1 --cnn=RUN --dataset=folder --data_dir=ILSVRC2010 --split=test",
    "One network has 37.5 % top-1 and 17.0 % top-5 error on the ILSVRC-2010 test set, the best published before 45.7 % "
    "and 25.7 % (section 6, Table 1).",
    f"training on ILSVRC-2010: {_days(90 * 1.2)} days on two CPU cores (estimated: 90 epochs of 1.2 million images at "
    f"{SPEED} images a second); five to six days on the authors' two GTX 580; a GPU of today: {NOT_RUN}",
)
# A CNN* is trained for 8 epochs of 15 million images and 54 of 1.28 million, at a higher cost an image.
TABLE_2 = _experiment(
    "table2",
    ILSVRC_2012,
    Table2Settings,
    "python -m keras_alexnet.paper.table2 --cnn=runs/cnn1 --cnn=runs/cnn2 --cnn=runs/cnn3 --cnn=runs/cnn4 "
    "--cnn=runs/cnn5 --pretrained_cnn=runs/conv6a --pretrained_cnn=runs/conv6b",
    "One network has 18.2 % top-5 error on ILSVRC-2012, an average of five 16.4 %, of seven, two of them pre-trained "
    "on the Fall 2011 release, 15.3 %; the second-best entry of the contest has 26.2 % (section 6, Table 2).",
    f"training on ImageNet: {_days(90 * 1.281167)} days a network on two CPU cores (estimated: 90 epochs of 1.28 "
    f"million images at {SPEED} images a second), a CNN* at least {_days(8 * 15 + 54 * 1.281167)}, all seven at least "
    f"{_days(5 * 90 * 1.281167 + 2 * (8 * 15 + 54 * 1.281167))}; five to six days a network on the authors' two GTX "
    f"580; a GPU of today: {NOT_RUN}",
)
