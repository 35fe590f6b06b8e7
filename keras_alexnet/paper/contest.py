"""Networks measured as the paper's tables have them: each alone and averages of some, by ten views, on one or two sets.

Table 1 and Table 2 differ in their rows and sets only; what they share is here.
"""

import dataclasses
import os
import re

from keras_alexnet import evaluate as evaluation
from keras_alexnet import export
from keras_alexnet import rundir
from keras_alexnet.data import imagenet_labels
from keras_alexnet.errors import UsageError, printable
from keras_alexnet.paper import results

NEAR = 0.5  # points that an error may lie above the paper's for the row to hold; the release's own runs spread as far
SPEED = 45  # images a second of training, float32, two CPU cores (README.md, Speed and memory)
AUTHORS = "five to six days"  # on two GTX 580, one network (section 1)
_SECONDS_A_DAY = 86400


@dataclasses.dataclass(frozen=True)
class Row:
    """A row of a table that is of networks like ours.

    Attributes:
        name: str, as the paper has it.
        paper: tuple of float or None, top-1 and top-5 error in percent; a third, of a test set, in Table 2.
        release: str, the same in the notes of 2012, or "-".
        cnns, pretrained: int, how many of each are averaged.
        images: float, millions that they are trained on, each as often as there are epochs.
        at_least: bool, one of them costs more an image than the network that SPEED was measured of.
        command: str, by which they are trained.
        authors: str, how long that took in 2012, or "-".
    """

    name: str
    paper: tuple[float | None, ...]
    release: str
    cnns: int
    pretrained: int
    images: float
    at_least: bool
    command: str
    authors: str


def measure(settings, is_papers):
    """Evaluates all networks that were given.

    Args:
        settings: config.TableConfig with at least one network.
        is_papers: function of (set: dict as `evaluate` describes one, class_names: tuple of str) -> bool, whether it
            is the set of the paper's table.

    Returns:
        dict: `set` and `test_set` (or None), as evaluation describes them; `is_papers`, bool; `views`; `networks`, one
        a network, and `averages`, of all cnns and of all that were given, each with its errors in percent and, of the
        test set, `test`; `seconds`.

    Raises:
        UsageError, RunError: as `evaluate.evaluate`.
    """
    folders = (*settings.cnns, *settings.pretrained_cnns)
    reports = [_reports(settings, settings.evaluation.split)]
    if settings.test_split:
        reports.append(_reports(settings, settings.test_split))
    whole = [report[folders] for report in reports]
    networks = [
        {
            "model_dir": folder,
            "pretrained": folder in settings.pretrained_cnns,
            **_described(folder),
            "epochs": whole[0]["models"][place]["epochs"],
            **_errors([each["models"][place] for each in whole]),
        }
        for place, folder in enumerate(folders)
    ]
    averages = [
        {
            "cnns": sum(folder in settings.cnns for folder in group),
            "pretrained": sum(folder in settings.pretrained_cnns for folder in group),
            **_errors([each[group]["result"] for each in reports]),
        }
        for group in reports[0]
        if len(group) > 1
    ]
    return {
        "set": whole[0]["set"],
        "test_set": whole[1]["set"] if settings.test_split else None,
        "is_papers": bool(is_papers(whole[0]["set"], class_names(folders[0]))),
        "views": settings.evaluation.views,
        "networks": networks,
        "averages": averages,
        "seconds": sum(report["seconds"] for each in reports for report in each.values()),
    }


def check(settings, remedy=""):
    """Looks at what can be looked at before TensorFlow is there.

    Args:
        settings: config.TableConfig.
        remedy: str, what is said where the labels of a test set are not public.

    Raises:
        UsageError: a folder is no model, their classes differ, or a split of a folder is missing.
    """
    first = None
    for flag, folders in (("cnn", settings.cnns), ("pretrained_cnn", settings.pretrained_cnns)):
        for folder in folders:
            if not rundir.is_run(folder) and not os.path.isfile(os.path.join(folder, "saved_model.pb")):
                raise UsageError(
                    f"--{flag}={folder}: is neither a run (no {rundir.FLAGS}) nor an exported model (no saved_model.pb)"
                )
            if first is None:
                first = folder
            elif class_names(folder) != class_names(first):
                raise UsageError(f"--{flag}={folder}: has other classes than {first}; average like networks")
    if first is None:
        return
    config, own = settings.evaluation, export.recipe_of(first)
    dataset = config.dataset or (own and own.data.dataset)
    if settings.test_split and str(dataset).startswith("imagenet2012") and settings.test_split.startswith("test"):
        raise UsageError(f"--test_split={settings.test_split}: {remedy}; leave it out")
    data_dir = config.data_dir or (own and own.data.data_dir)
    if dataset == "folder" and data_dir and os.path.isdir(data_dir):
        for flag, split in (("split", config.split or "val"), ("test_split", settings.test_split)):
            if split and not os.path.isdir(os.path.join(data_dir, split)):
                there = sorted(entry.name for entry in os.scandir(data_dir) if entry.is_dir())
                raise UsageError(
                    f"--{flag}={split}: there is no such folder in {data_dir}; there are {', '.join(there) or 'none'}"
                )


def class_names(folder):
    """The classes of a run or an exported model, tuple of str; () where its file is missing, which others report."""
    if not rundir.is_run(folder):
        return tuple(export.read_metadata(folder)["class_names"])
    try:
        with open(os.path.join(folder, rundir.CLASS_NAMES), encoding="utf-8") as file:
            return tuple(file.read().splitlines())
    except (OSError, UnicodeDecodeError):
        return ()


def is_ilsvrc2012(names):
    """Whether classes are those of ILSVRC-2012, by WordNet ids or in words, bool."""
    ids = [wordnet_id for wordnet_id, _ in imagenet_labels.classes()]
    return set(names) in (set(ids), set(imagenet_labels.class_names(ids, {})))


def has(about, images, classes=1000):
    """Whether a set has so many images, those left out included, of all classes of the model, bool."""
    return (about["images"] + len(about["left_out"]), about["classes"], about["model_classes"]) == (
        images,
        classes,
        classes,
    )


def found(values, row):
    """What was measured of a row: dict of errors, or None."""
    return values and of_group(values, row.cnns, row.pretrained)


def of_group(values, cnns, pretrained):
    """The errors of an average, or of the first network where it is of one: dict, or None."""
    if cnns + pretrained == 1:
        return next((each for each in values["networks"] if each["pretrained"] == bool(pretrained)), None)
    return next((each for each in values["averages"] if (each["cnns"], each["pretrained"]) == (cnns, pretrained)), None)


def others(values, rows):
    """Averages that are no row of the table: list of (name, errors)."""
    named = {(row.cnns, row.pretrained) for row in rows}
    return [
        (group_name(each["cnns"], each["pretrained"]), each)
        for each in (values["averages"] if values else ())
        if (each["cnns"], each["pretrained"]) not in named
    ]


def group_name(cnns, pretrained):
    """Such as "3 CNNs + 1 CNN*", str."""
    parts = [(cnns, "CNN", ""), (pretrained, "CNN", "*")]
    return " + ".join(f"{count} {name}{'s' * (count > 1)}{star}" for count, name, star in parts if count)


def pair(errors, about):
    """Top-1 and top-5 error, str; among five classes or fewer every answer is among the best five."""
    if errors is None:
        return results.NOT_RUN
    return f"{errors['top1_error']:.1f} / {top5(errors, about)}"


def top5(errors, about):
    return f"{errors['top5_error']:.1f}" if about["model_classes"] > 5 else "-"


def of_paper(numbers):
    """Numbers of the paper as a cell, str."""
    return " / ".join("-" if number is None else f"{number:.1f}" for number in numbers)


def where(about):
    """A set in words, str: its name, split and size, without the folders above it."""
    name = about["dataset"]
    if name in ("folder", "records") and about["data_dir"]:
        name = os.path.basename(os.path.abspath(about["data_dir"]))
    return printable(f"{name} {about['split']} ({about['images']:,} images of {about['classes']} classes)")


def views(values):
    """The views in words, str."""
    return "ten views averaged" if values["views"] == 10 else "the center view only (the paper: ten)"


def protocol(values):
    """What stands in the JSON, str."""
    test = f"; test: {where(values['test_set'])}" if values["test_set"] else ""
    weights = ", probabilities of several networks averaged with equal weights" * bool(values["averages"])
    return f"{where(values['set'])}{test}; {views(values)}{weights}; ties shared, every image counted once"


def networks_table(values):
    """Each network alone, results.Table."""
    columns = ("", "network", "epochs", "begun from", "top-1", "top-5")
    rows = []
    for place, each in enumerate(values["networks"], 1):
        width = "" if each["width"] == 1 else f", width {each['width']:g}"
        shape = "" if each["topology"] == "alexnet" else f", {each['topology']}"
        rows.append(
            (
                f"{place}: {'CNN*' if each['pretrained'] else 'CNN'}",
                f"{each['variant']}{shape}{width}, seed {each['seed']}",
                str(each["epochs"]),
                "another run" if each["initial_weights"] else "random weights",
                f"{each['top1_error']:.1f}",
                top5(each, values["set"]),
            )
        )
    return results.Table("Each network alone, errors in percent", columns, tuple(rows))


def cost_table(values, rows, trained_on):
    """What the rows take that were not measured on the paper's set: results.Table, or None."""
    missing = [row for row in rows if not (values and values["is_papers"] and found(values, row))]
    if not missing:
        return None
    return results.Table(
        f"What training takes, on {trained_on}",
        ("", "images, millions", "two CPU cores, days", "authors, two GTX 580", "a GPU of today"),
        tuple(
            (
                row.name,
                f"{row.images:.0f}",
                f"{'at least ' * row.at_least}{days(row.images):.0f}",
                row.authors,
                results.NOT_RUN,
            )
            for row in missing
        ),
        "estimated: images x epochs / "
        f"{SPEED} images a second, measured in float32. " + " ".join(f"{row.name}: {row.command}." for row in missing),
    )


def days(millions):
    """How long training on so many images takes at SPEED, float."""
    return 1e6 * millions / SPEED / _SECONDS_A_DAY


def verdict(values, rows, papers_set):
    """Whether the errors are the paper's, str.

    Args:
        values: as of `measure`, or None.
        rows: sequence of Row.
        papers_set: str, the set of the paper's table.
    """
    if values is None:
        return results.NOT_RUN
    said = _averaging(values)
    if not values["is_papers"]:
        return f"Cannot be told: {where(values['set'])} is not the paper's set, {papers_set}.{said}"
    if values["views"] != 10:
        return f"Cannot be told: {views(values)}.{said}"
    measured = [(row, found(values, row)) for row in rows if found(values, row)]
    if not measured:
        return f"Cannot be told: no row of the table was run.{said}"
    near, words = True, []
    for row, errors in measured:
        ours = [errors["top1_error"], errors["top5_error"]]
        near &= all(error <= number + NEAR for error, number in zip(ours, row.paper[:2], strict=True))
        words.append(f"{row.name} {of_paper(ours)} (paper {of_paper(row.paper[:2])})")
    missing = [row.name for row in rows if not found(values, row)]
    left = f" Not run: {', '.join(missing)}." if missing else ""
    return (
        f"{'Holds' if near else 'Does not hold here'}: {', '.join(words)}; a row holds up to {NEAR:g} points above the "
        f"paper.{left}{said}"
    )


def _averaging(values):
    """A sentence on what averaging gave, where there was any."""
    if not values["averages"]:
        return ""
    last = values["averages"][-1]
    alone = sorted(each["top1_error"] for each in values["networks"])
    return (
        f" The average of {group_name(last['cnns'], last['pretrained'])} has {last['top1_error']:.1f} % top-1 error, "
        f"each alone {alone[0]:.1f} to {alone[-1]:.1f} %."
    )


def _reports(settings, split):
    """Evaluations of all networks and, where they are another group, of the cnns: dict of tuple of folders -> dict."""
    groups = [(*settings.cnns, *settings.pretrained_cnns)]
    if settings.pretrained_cnns and len(settings.cnns) > 1:
        groups.insert(0, settings.cnns)
    reports = {}
    for group in groups:
        config = dataclasses.replace(settings.evaluation, model_dirs=group, split=split)
        try:
            reports[group] = evaluation.evaluate(config)
        except UsageError as error:
            # Evaluation knows its own flags.
            said = str(error)
            for flag, folders in (("cnn", settings.cnns), ("pretrained_cnn", settings.pretrained_cnns)):
                for folder in folders:
                    said = said.replace(f"--model_dir={folder}:", f"--{flag}={folder}:")
            if split == settings.test_split:
                said = re.sub(r"^--split=", "--test_split=", said)
            raise UsageError(said) from None
    return reports


def _errors(measured):
    """Errors of the set, and below `test` those of the test set or None."""
    first, *test = [
        {name: each[name] for name in ("top1_error", "top5_error", "loss", "mean_squared_error")} for each in measured
    ]
    return {**first, "test": test[0] if test else None}


def _described(folder):
    """What a network is, as its flags say; nothing where they are not known."""
    config = export.recipe_of(folder)
    return {
        "variant": config.network.variant if config else "unknown",
        "topology": config.network.topology if config else "alexnet",
        "width": config.network.width if config else 1.0,
        "seed": config.run.seed if config else None,
        "initial_weights": config.training.initial_weights if config else None,
    }
