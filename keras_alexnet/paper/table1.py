"""Table 1: errors on the test set of ILSVRC-2010, and what it shares with Table 2.

Networks are evaluated by the paper's protocol, ten views, each alone and averages of several. Any other labeled set can
be evaluated in the same way; the table then says which set it was. Without --cnn it prints the table and what to run.
"""

import dataclasses
import os
import typing

from keras_alexnet import cli, config as configs, export, flags, rundir
from keras_alexnet.data import imagenet, sources
from keras_alexnet.errors import ArgumentError, UsageError, printable
from keras_alexnet.evaluate import parse_evaluate
from keras_alexnet.flags import flag
from keras_alexnet.paper import experiment
from keras_alexnet.paper.experiment import NOT_RUN, Result, Table, Verdict

TITLE = "Table 1: ILSVRC-2010"
CLAIM = (
    "One network has 37.5 % top-1 and 17.0 % top-5 error on the ILSVRC-2010 test set, the best published before "
    "45.7 % and 25.7 % (section 6, Table 1)."
)
COST = (
    "training on ILSVRC-2010: 28 days on two CPU cores (estimated: 90 epochs of 1.2 million images at 45 images a "
    f"second); five to six days on the authors' two GTX 580; a GPU of today: {NOT_RUN}"
)
COMMAND = "python -m keras_alexnet.paper.table1 --cnn=RUN --dataset=folder --data_dir=ILSVRC2010 --split=test"

NEAR = 0.5  # points that an error may lie above the paper's for a row to hold; the release's own runs spread as far
NO_LABELS = "the labels of ILSVRC-2012's test set are not public"
NOTHING = {"results": [], "is_papers": False, "views": 10, "set": None, "test_set": None}


@dataclasses.dataclass(frozen=True)
class Settings(experiment.Settings):
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


class Row(typing.NamedTuple):
    """A row of a table: top-1 and top-5 error in percent of an average of so many CNNs and pre-trained CNNs."""

    name: str
    paper: tuple[float, float] | None = None
    release: str = "-"  # the authors' notes of 2012
    networks: tuple[int, int] = (0, 0)  # none: another method
    test: str = "-"  # the paper's top-5 error on the test set of 2012


@dataclasses.dataclass(frozen=True)
class Ilsvrc:
    """What is measured for a table, and how it is shown: year and split of the set, how many images it has, rows."""

    year: int
    split: str
    images: int
    rows: tuple[Row, ...]
    note: str
    command: str
    others: tuple[Table, ...] = ()  # shown below

    def run(self, settings):
        """Evaluates the networks that are given, Result; prints the table and the command where none is, None."""
        if not settings.cnn and not settings.pretrained_cnn:
            print(f"{self.tables(NOTHING)[0].as_text()}\n\nnothing run: give networks, such as\n{self.command}")
            return None
        config, models = _evaluation_of(settings)
        cli.start_tensorflow()
        from keras_alexnet import evaluation  # imports TensorFlow, which `--help` and a wrong flag do not wait for

        values = _measure(settings, config, models, evaluation.evaluate)
        values["is_papers"] = self.is_papers_set(values["set"], models[0][1])
        test = f"; test: {_set_name(values['test_set'])}" if values["test_set"] else ""
        weights = ", probabilities of several networks averaged with equal weights" * (len(models) > 1)
        protocol = f"{_set_name(values['set'])}{test}; {_views(values)}{weights}; ties shared, every image counted once"
        return Result(values, protocol)

    def is_papers_set(self, about, class_names):
        """Whether a set, as `evaluation.evaluate` describes it, is the table's: its images and its classes."""
        counts = (about["images"] + len(about["left_out"]), about["classes"], about["model_classes"])
        if counts != (self.images, 1000, 1000):
            return False
        ids = list(imagenet.classes())  # of 2012; other years have other classes
        return self.year != 2012 or set(class_names) in (set(ids), set(imagenet.class_names(ids, {})))

    def measured(self, values):
        """Pairs of (Row, what was measured of it: dict, or None); averages that are no row of the table come last."""
        found = {}
        for each in values["results"]:
            found.setdefault((each["cnns"], each["pretrained"]), each)  # of single networks the first
        pairs = [(row, found.pop(row.networks, None)) for row in self.rows]
        for networks, each in found.items():
            parts = [f"{count} CNN{'s' * (count > 1)}{'*' * place}" for place, count in enumerate(networks) if count]
            if sum(networks) > 1:
                pairs.append((Row(f"{' + '.join(parts)}, ours", networks=networks), each))
        return pairs

    def tables(self, values):
        title, notes = f"ILSVRC-{self.year}, {self.split} set: top-1 / top-5 error in percent", [self.note]
        other_set = values["set"] and not values["is_papers"]
        if other_set:
            title = f"Top-1 / top-5 error in percent; ours on {_set_name(values['set'])}, not on the paper's set"
            notes.append(f"paper and release: ILSVRC-{self.year}, {self.split} set")
        if values["views"] != 10:
            notes.append(f"ours: {_views(values)}")
        columns, cells = ("", "paper", "release", "ours"), []
        for row, found in self.measured(values):
            missing = NOT_RUN if any(row.networks) else "-"
            ours = f"{found['top1_error']:.1f} / {_top5(values['set'], found)}" if found else missing
            cells.append([row.name, _pair(row.paper), row.release, ours])
            if self.year == 2012:
                test = found and found["test"]
                cells[-1] += [row.test, _top5(values["test_set"], test) if test else missing]
        if self.year == 2012:
            columns += ("paper, test top-5", "ours, test top-5")
            missing = f"{NOT_RUN}, {'no --test_split was given' if other_set else NO_LABELS}"
            notes.append(f"ours, test: {_set_name(values['test_set']) if values['test_set'] else missing}")
        found, alone = [Table(title, columns, cells, "; ".join(notes))], []
        for place, each in enumerate((each for each in values["results"] if each["network"]), 1):
            errors = f"{each['top1_error']:.1f}", _top5(values["set"], each)
            alone.append((f"{place}: CNN{'*' * each['pretrained']}", each["network"], *errors))
        title, columns = "Each network alone, errors in percent", ("", "network", "top-1", "top-5")
        return [*found, *[Table(title, columns, alone)] * bool(alone), *self.others]

    def verdict(self, values):
        if not values["is_papers"]:
            problem = f"is not the paper's set, the {self.split} set of ILSVRC-{self.year}"
            return Verdict("cannot be told", f"{_set_name(values['set'])} {problem}")
        if values["views"] != 10:
            return Verdict("cannot be told", _views(values))
        said, missing, near = [], [], True
        for row, found in self.measured(values)[: len(self.rows)]:
            if found:
                pair = (found["top1_error"], found["top5_error"])
                near = near and all(own <= paper + NEAR for own, paper in zip(pair, row.paper, strict=True))
                said.append(f"{row.name} {_pair(pair)} (paper {_pair(row.paper)})")
            elif any(row.networks):
                missing.append(row.name)
        if not said:
            return Verdict("cannot be told", "no row of the table was run")
        words = f"{', '.join(said)}; a row holds up to {NEAR:g} points above the paper"
        words += f"; not run: {', '.join(missing)}" * bool(missing)
        return Verdict("holds" if near else "does not hold", words)


def _evaluation_of(settings):
    """The evaluation of all networks, checked before TensorFlow starts: (EvaluateConfig, list of (config, classes))."""
    models = []
    for name in settings.most:
        for folder in getattr(settings, name):
            rundir.check_model(folder, name)
            if rundir.is_run(folder):
                models.append((rundir.read_config(folder), rundir.read_class_names(folder)))
            else:
                metadata = export.read_metadata(folder)
                models.append((flags.read(configs.Config, metadata["flags"]), metadata["class_names"]))
    argv = [f"--model_dir={folder}" for folder in (*settings.cnn, *settings.pretrained_cnn)]
    given = {name: getattr(settings, name) for name in ("dataset", "data_dir", "split")}
    argv += [f"--{name}={each}" for name, each in given.items() if each]
    config, own = parse_evaluate([*argv, f"--views={1 if settings.quick else settings.views}"], ""), models[0][0].data
    dataset, data_dir = config.dataset or own.dataset, config.data_dir or own.data_dir
    if settings.test_split and dataset.startswith("imagenet2012") and settings.test_split.startswith("test"):
        raise ArgumentError("test_split", settings.test_split, f"must be left out: {NO_LABELS}")
    for name in ("split", "test_split") if dataset == "folder" else ():
        try:
            split = getattr(settings, name)
            split and sources.list_split(data_dir, split, *sources.splitting(data_dir, own))
        except UsageError as error:
            raise UsageError(f"--{name}={split}: {error}") from None
    return config, models


def _measure(settings, config, models, evaluate):
    """Evaluates all networks together and, where they are another average, the CNNs alone: dict as NOTHING."""

    def evaluated(folders):
        reports = []
        for name in ("split", "test_split")[: 1 + bool(settings.test_split)]:
            split = config.split if name == "split" else settings.test_split
            try:
                reports.append(evaluate(dataclasses.replace(config, model_dir=folders, split=split)))
            except UsageError as error:  # it names the flags of `evaluate`
                message = str(error).replace("--model_dir=", "").replace("--split=", f"--{name}=")
                raise UsageError(message) from None
        return reports

    whole, results = evaluated(config.model_dir), []  # first: networks that do not go together end it at once
    cnns, pretrained = len(settings.cnn), len(settings.pretrained_cnn)
    for place, (own, _) in enumerate(models):
        measured, network = [each["models"][place] for each in whole], own.network
        described = network.variant + f", {network.topology}" * (network.topology != "alexnet")
        described += f", width {network.width:g}" * (network.width != 1)
        described += f", seed {own.run.seed}, {measured[0]['epochs']} epochs"
        described += ", initial weights of another model" * bool(own.training.initial_weights)
        results.append(_result(int(place < cnns), int(place >= cnns), described, measured))
    if cnns > 1 and pretrained:
        results.append(_result(cnns, 0, None, [each["result"] for each in evaluated(settings.cnn)]))
    if len(models) > 1:
        results.append(_result(cnns, pretrained, None, [each["result"] for each in whole]))
    test_set = whole[1]["set"] if settings.test_split else None
    return {"set": whole[0]["set"], "test_set": test_set, "views": config.views, "results": results}


def _result(cnns, pretrained, network, measured):
    """What was measured of an average of networks, or of one: dict; `test` is of the second set, or None."""
    names = ("top1_error", "top5_error", "loss", "mean_squared_error")
    first, *test = [{name: each[name] for name in names} for each in measured]
    return {"cnns": cnns, "pretrained": pretrained, "network": network, **first, "test": test[0] if test else None}


def _top5(about, errors):
    """Among five classes or fewer every answer is among the best five."""
    return f"{errors['top5_error']:.1f}" if about["model_classes"] > 5 else "-"


def _pair(errors):
    return " / ".join(f"{error:.1f}" for error in errors) if errors else "-"


def _set_name(about):
    """A set in words, str: its name, split and size, without the folders above it."""
    name = about["dataset"]
    if name in ("folder", "records") and about["data_dir"]:
        name = os.path.basename(os.path.abspath(about["data_dir"]))
    return printable(f"{name} {about['split']} ({about['images']:,} images of {about['classes']} classes)")


def _views(values):
    return "ten views averaged" if values["views"] == 10 else "the center view only (the paper: ten)"


TABLE = Ilsvrc(
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
    COMMAND,
)
run, tables, verdict, REFERENCE = TABLE.run, TABLE.tables, TABLE.verdict, TABLE.tables(NOTHING)

if __name__ == "__main__":
    raise SystemExit(experiment.main("table1"))
