"""The flags of the commands of this folder, checked and frozen, as `keras_alexnet.config` has those of the commands."""

import dataclasses
import math
import os

from absl import flags

from keras_alexnet.config import (
    PRECISIONS,
    Config,
    EvaluationConfig,
    parse_evaluate,
    parse_train,
    pick,
    required,
)
from keras_alexnet.config import parse as parse_flags
from keras_alexnet.errors import UsageError

CIFAR_NETWORKS = ("19pct", "18pct", "13pct", "11pct")


@dataclasses.dataclass(frozen=True)
class Figure1Config:
    """Which set, which rates, how far. Fields as the flags of the same names."""

    dataset: str
    data_dir: str | None
    results_dir: str
    relu_rates: tuple[float, ...]
    tanh_rates: tuple[float, ...]
    target_error: float
    first_round: int
    max_epochs: int
    repeats: int
    batch_size: int
    precision: str
    seed: int
    quick: bool


def parse_figure1(argv, usage):
    """Flags of `keras_alexnet.paper.figure1` -> Figure1Config. Raises as `keras_alexnet.config.parse_train`."""
    values = flags.FlagValues()
    _define_cifar(values)
    relu, tanh = "0.001,0.002,0.004,0.008", "0.004,0.008,0.016,0.032"
    for name, rates in (("relu", relu), ("tanh", tanh)):
        flags.DEFINE_list(
            f"{name}_rates",
            rates.split(","),
            f"Learning rates that are tried for {name}; the best is to lie between others.",
            flag_values=values,
        )
    flags.DEFINE_float(
        "target_error", 25.0, "Training error in percent that is to be reached.", lower_bound=0.0, upper_bound=100.0,
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_integer(
        "first_round",
        8,
        "Epochs before the worse half of the rates is left out; a high rate is ahead early and may not stay there.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "max_epochs", 100, "No trial goes on for longer.", lower_bound=1, upper_bound=10000, flag_values=values
    )
    flags.DEFINE_integer(
        "repeats", 1, "Seeds of the best rate of each, the search's own included.", lower_bound=1, flag_values=values
    )
    parse(values, argv, usage)
    rates = {name: _rates(name, values[name].value) for name in ("relu_rates", "tanh_rates")}
    if values["quick"].value:
        rates = {name: found[:2] for name, found in rates.items()}
        values["max_epochs"].value = min(values["max_epochs"].value, 2)
        values["batch_size"].value = min(values["batch_size"].value, 16)
    return pick(Figure1Config, values, **rates)


@dataclasses.dataclass(frozen=True)
class Cifar10LrnConfig:
    """Which networks, how long, how often. Fields as the flags of the same names."""

    dataset: str
    data_dir: str | None
    results_dir: str
    networks: tuple[str, ...]
    epochs: int
    rate_drops: tuple[int, ...]
    crop_border: int
    seeds: int
    batch_size: int
    precision: str
    seed: int
    quick: bool


def parse_cifar10_lrn(argv, usage):
    """Flags of `keras_alexnet.paper.cifar10_lrn` -> Cifar10LrnConfig. Raises as `keras_alexnet.config.parse_train`."""
    values = flags.FlagValues()
    _define_cifar(values)
    flags.DEFINE_list(
        "networks",
        ["19pct", "18pct"],
        f"Networks that are trained, of {', '.join(CIFAR_NETWORKS)}.",
        flag_values=values,
    )
    flags.DEFINE_integer("epochs", 140, "Of every network.", lower_bound=1, upper_bound=10000, flag_values=values)
    flags.DEFINE_list(
        "rate_drops", ["120", "130"], "Epochs after which the rate is divided by ten.", flag_values=values
    )
    flags.DEFINE_integer(
        "crop_border",
        0,
        "N: crops of 32 - 2N pixels and reflections in training, the center in testing. 0: whole images.",
        lower_bound=0,
        upper_bound=8,
        flag_values=values,
    )
    flags.DEFINE_integer("seeds", 3, "Seeds from --seed on.", lower_bound=1, upper_bound=100, flag_values=values)
    parse(values, argv, usage)
    networks = tuple(values["networks"].value)
    unknown = [name for name in networks if name not in CIFAR_NETWORKS]
    if unknown or len(set(networks)) < len(networks) or not networks:
        raise UsageError(f"--networks={','.join(networks)}: give different names of {', '.join(CIFAR_NETWORKS)}")
    try:
        drops = tuple(int(text) for text in values["rate_drops"].value)
    except ValueError:
        raise UsageError(
            f"--rate_drops={','.join(values['rate_drops'].value)}: give epochs such as 120,130, or nothing"
        ) from None
    if values["quick"].value:
        values["epochs"].value, drops = min(values["epochs"].value, 2), (1,)
        values["seeds"].value = min(values["seeds"].value, 2)
        values["batch_size"].value = min(values["batch_size"].value, 16)
    return pick(Cifar10LrnConfig, values, networks=networks, rate_drops=drops)


@dataclasses.dataclass(frozen=True)
class ReportConfig:
    """What is collected and where it is written. Fields as the flags of the same names."""

    results_dir: str
    out: str
    markdown: str | None


def parse_report(argv, usage):
    """Flags of `keras_alexnet.paper.report` -> ReportConfig. Raises as `keras_alexnet.config.parse_train`."""
    values = flags.FlagValues()
    _define_results(values)
    flags.DEFINE_string("out", None, "The page, .html; RESULTS/report.html if not given.", flag_values=values)
    flags.DEFINE_string(
        "markdown", None, "The same as Markdown, .md, with links to the pictures instead of the pictures themselves.",
        flag_values=values,
    )  # fmt: skip
    parse(values, argv, usage)
    for name, ending in (("out", ".html"), ("markdown", ".md")):
        path = values[name].value
        # A slip of the hand must not put the page in the place of a result.
        if path and not path.endswith(ending):
            raise UsageError(f"--{name}={path}: is to be a file that ends in {ending}")
    return pick(
        ReportConfig, values, out=values["out"].value or os.path.join(values["results_dir"].value, "report.html")
    )


@dataclasses.dataclass(frozen=True)
class RetrievalConfig:
    """Which pictures, by which network, as which codes. Fields as the flags of the same names."""

    model_dir: str
    data_dir: str | None
    index_split: str | None
    query_split: str
    index: str | None
    query: str | None
    neighbors: int
    codes: tuple[int, ...]
    code_epochs: int
    timing_rows: int
    seed: int
    projector: bool
    log_dir: str
    results_dir: str
    quick: bool


def parse_retrieval(argv, usage):
    """Flags of `keras_alexnet.paper.retrieval` -> RetrievalConfig. Raises as `keras_alexnet.config.parse_train`."""
    values = flags.FlagValues()
    flags.DEFINE_string("model_dir", None, "A run's folder, or an exported model's.", flag_values=values)
    flags.DEFINE_string(
        "data_dir", None, "The folder that holds the pictures; --query with an --index needs none.", flag_values=values
    )
    flags.DEFINE_string(
        "index_split", None,
        "DATA_DIR/INDEX_SPLIT/CLASS/*, or pictures without classes there, are searched; . is DATA_DIR itself. Default: "
        "train, or . where there is no such folder.", flag_values=values,
    )  # fmt: skip
    flags.DEFINE_string(
        "query_split", "val", "What is asked about; the same as --index_split: each picture among the others.",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_string(
        "index", None, "The index, .npz; made where it is not there (default: below RESULTS/retrieval).",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_string("query", None, "A picture: print the nearest ones instead of measuring.", flag_values=values)
    flags.DEFINE_integer(
        "neighbors", 6, "How many --query prints.", lower_bound=1, upper_bound=1000, flag_values=values
    )
    flags.DEFINE_list(
        "codes", ["32", "64", "128", "256"], "Lengths of codes: numbers of real ones, bits of binary ones.",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_integer(
        "code_epochs", 30, "Epochs of each autoencoder.", lower_bound=1, upper_bound=10000, flag_values=values
    )
    flags.DEFINE_integer(
        "timing_rows", 100_000,
        "Searches are also timed among so many rows, the index repeated: 1.6 GB of memory for 100000 x 4096.",
        lower_bound=1, upper_bound=10**8, flag_values=values,
    )  # fmt: skip
    flags.DEFINE_integer("seed", 2012, "Of the autoencoders.", lower_bound=0, upper_bound=2**31 - 1, flag_values=values)
    flags.DEFINE_bool("projector", True, "Write the index for TensorBoard's embedding projector.", flag_values=values)
    flags.DEFINE_string("log_dir", None, "Where to (default: RESULTS/projector).", flag_values=values)
    _define_results(values)
    parse(values, argv, usage)
    required(values, "model_dir")
    if not values["data_dir"].value and not (values["query"].value and values["index"].value):
        raise UsageError("--data_dir is missing: give the folder that holds the pictures, such as PHOTOS/train/CLASS/*")
    for name in ("index_split", "query_split"):
        split = values[name].value
        if split is not None and (not split or os.path.basename(split) != split or split == ".."):
            raise UsageError(f"--{name}={split}: give the name of a folder in --data_dir, or . for itself")
    path = values["index"].value
    if path and not path.endswith(".npz"):
        raise UsageError(f"--index={path}: is to be a file that ends in .npz")
    if path and values["quick"].value:
        raise UsageError(f"--index={path}: --quick takes a few pictures and has an index of its own; leave one out")
    lengths = _code_lengths(values["codes"].value)
    if values["quick"].value:
        lengths = lengths[:1]
        values["code_epochs"].value = min(values["code_epochs"].value, 2)
        values["timing_rows"].value = min(values["timing_rows"].value, 1000)
    log_dir = values["log_dir"].value or os.path.join(values["results_dir"].value, "projector")
    return pick(RetrievalConfig, values, codes=lengths, log_dir=log_dir)


@dataclasses.dataclass(frozen=True)
class StartConfig:
    """The training that each start begins, how far it goes, and when it is measured.

    Attributes:
        run: keras_alexnet.config.Config, the paper's, as training would have it.
        steps: int, updates.
        measure: tuple of int, rising, numbers of updates after which is measured.
        results_dir, quick: as the flags.
    """

    run: Config
    steps: int
    measure: tuple[int, ...]
    results_dir: str
    quick: bool


def parse_start(argv, usage):
    """Flags of `keras_alexnet.paper.start` -> StartConfig. Raises as `keras_alexnet.config.parse_train`."""
    values = flags.FlagValues()
    flags.DEFINE_string(
        "dataset", "folder", "As in training: folder, shapes, records or a TensorFlow Datasets name.",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_string(
        "data_dir", None, "As in training; shapes are drawn into RESULTS/start/shapes if not given.", flag_values=values
    )
    flags.DEFINE_integer("steps", 200, "Updates from each start.", lower_bound=1, upper_bound=10**6, flag_values=values)
    flags.DEFINE_list(
        "measure", ["0", "50", "150"], "Updates after which signals and gradients are measured.", flag_values=values
    )
    flags.DEFINE_integer("batch_size", 128, "Images per update.", lower_bound=1, flag_values=values)
    flags.DEFINE_float("width", 1.0, "As in training.", lower_bound=0.0, upper_bound=4.0, flag_values=values)
    flags.DEFINE_enum("precision", "float32", list(PRECISIONS[:2]), "Arithmetic of training.", flag_values=values)
    flags.DEFINE_float("learning_rate", 0.01, "Of all layers.", lower_bound=0.0, flag_values=values)
    flags.DEFINE_integer(
        "seed", 2012, "Of weights, order, crops, color noise and dropout.", lower_bound=0, upper_bound=2**31 - 1,
        flag_values=values,
    )  # fmt: skip
    _define_results(values)
    parse(values, argv, usage)
    texts, steps = values["measure"].value, values["steps"].value
    measure = tuple(int(text) if text.isdecimal() and len(text) < 8 else -1 for text in texts)
    if not measure or list(measure) != sorted(set(measure)) or measure[0] < 0:
        raise UsageError(f"--measure={','.join(texts)}: give rising numbers of steps such as 0,50,150")
    if measure[-1] > steps and not values["quick"].value:
        raise UsageError(f"--measure={','.join(texts)}: there are {steps} steps; give more --steps or measure earlier")
    drawn = values["dataset"].value == "shapes"
    if values["quick"].value:
        steps, measure = min(steps, 4), (0, min(steps, 2))
        values["batch_size"].value = min(values["batch_size"].value, 8)
        values["width"].value = min(values["width"].value, 0.0625)
    data_dir = values["data_dir"].value
    if drawn and not data_dir:
        data_dir = os.path.join(values["results_dir"].value, "start", "shapes")
    # Everything else is the paper's, in one stack of two groups: the same function as two towers.
    names = ("dataset", "batch_size", "width", "precision", "learning_rate", "seed")
    whole = [
        *(f"--{name}={values[name].value}" for name in names),
        *([f"--data_dir={data_dir}"] if data_dir else []),
        *(["--shapes_train=4", "--shapes_val=1"] if drawn and values["quick"].value else []),
        *("--towers=1", "--groups=2", f"--model_dir={values['results_dir'].value}"),
    ]
    return pick(StartConfig, values, run=parse_train(whole, usage), steps=steps, measure=measure)


@dataclasses.dataclass(frozen=True)
class Figure3Config:
    """Which run, and how its filters are shown. Fields as the flags of the same names."""

    model_dir: str
    normalize: str
    results_dir: str
    quick: bool


def parse_figure3(argv, usage):
    """Flags of `keras_alexnet.paper.figure3` -> Figure3Config. Raises as `keras_alexnet.config.parse_train`."""
    values = flags.FlagValues()
    flags.DEFINE_string("model_dir", None, "A run's folder.", flag_values=values)
    flags.DEFINE_enum(
        "normalize", "jointly", ["jointly", "each"],
        "jointly: all filters brightened by one factor. each: every filter by its own mean and spread.",
        flag_values=values,
    )  # fmt: skip
    _define_results(values)
    parse(values, argv, usage)
    required(values, "model_dir")
    return pick(Figure3Config, values)


def _code_lengths(texts):
    lengths = tuple(int(text) if text.isdecimal() and len(text) < 6 else 0 for text in texts)
    if (
        not lengths
        or not all(8 <= each <= 4096 and each % 8 == 0 for each in lengths)
        or len(set(lengths)) < len(lengths)
    ):
        raise UsageError(f"--codes={','.join(texts)}: give different multiples of 8 up to 4096, such as 32,64,128")
    return tuple(sorted(lengths))


@dataclasses.dataclass(frozen=True)
class GridConfig:
    """Which runs are trained and where they are kept.

    Attributes:
        flagfiles: tuple of str, paths.
        seeds: tuple of int.
        out: str, the grid's folder.
        further: tuple of str, flags of training for every run.
    """

    flagfiles: tuple[str, ...]
    seeds: tuple[int, ...]
    out: str
    further: tuple[str, ...]


def parse_grid(argv, usage):
    """Flags of `tools/run_grid.py` -> GridConfig. Raises as `keras_alexnet.config.parse_train`."""
    values = flags.FlagValues()
    flags.DEFINE_list("seeds", ["2012"], "Every flagfile is trained with each of them.", flag_values=values)
    flags.DEFINE_string("out", None, "The grid's folder.", flag_values=values)
    asked_for_help = ("-h", "-help", "--help", "--helpshort", "--helpfull")
    own, further, flagfiles = [], [], []
    for argument in argv:
        name = argument.lstrip("-").partition("=")[0]
        kind = own if name in values or argument in asked_for_help else further
        (kind if argument.startswith("-") else flagfiles).append(argument)
    parse(values, own, usage)
    required(values, "out")
    if not flagfiles:
        raise UsageError("no flagfile is given: name one or more, such as flags/ablations/*.cfg")
    for flag in further:
        name = flag.lstrip("-").partition("=")[0]
        if name in ("seed", "model_dir"):
            raise UsageError(f"{flag}: every run of a grid has its own; give --{'seeds' if name == 'seed' else 'out'}")
    return pick(
        GridConfig,
        values,
        flagfiles=tuple(flagfiles),
        seeds=_seeds(values["seeds"].value),
        out=os.path.expanduser(values["out"].value),
        further=tuple(further),
    )


@dataclasses.dataclass(frozen=True)
class AblationsConfig:
    """Which grid, and whether it is to be trained. Fields as the flags of the same names."""

    grid: str
    flags_dir: str
    data_dir: str | None
    train: bool
    seeds: tuple[int, ...]
    results_dir: str
    quick: bool


def parse_ablations(argv, usage):
    """Flags of `keras_alexnet.paper.ablations` -> AblationsConfig. Raises as `keras_alexnet.config.parse_train`."""
    values = flags.FlagValues()
    flags.DEFINE_string("grid", "runs/ablations", "The grid's folder, see tools/run_grid.py.", flag_values=values)
    flags.DEFINE_string("flags_dir", "flags/ablations", "Holds baseline.cfg and the ablations.", flag_values=values)
    flags.DEFINE_string(
        "data_dir",
        None,
        "Photographs, DATA_DIR/train/CLASS/* and DATA_DIR/val/CLASS/*: what is missing of the grid is trained on them. "
        "Without it nothing is trained.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "train", True, "Off: nothing is trained; --data_dir is only where the ten views are taken from.",
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_list("seeds", ["2012", "2013", "2014"], "At least three for a test.", flag_values=values)
    _define_results(values)
    parse(values, argv, usage)
    values["grid"].value = os.path.expanduser(required(values, "grid"))
    return pick(AblationsConfig, values, seeds=_seeds(values["seeds"].value))


def _seeds(texts):
    seeds = tuple(int(text) if text.isdecimal() and len(text) < 11 else -1 for text in texts)
    if not seeds or not all(0 <= seed < 2**31 for seed in seeds) or len(set(seeds)) < len(seeds):
        raise UsageError(f"--seeds={','.join(texts)}: give different whole numbers such as 2012,2013,2014")
    return seeds


@dataclasses.dataclass(frozen=True)
class Figure4Config:
    """Which run, which pictures, how many. Fields as the flags of the same names.

    `evaluation` is how the whole split is answered.
    """

    model_dir: str
    data_dir: str
    split: str
    index_split: str
    pictures: int
    queries: int
    neighbors: int
    only: str
    seed: int
    results_dir: str
    quick: bool
    evaluation: EvaluationConfig


def parse_figure4(argv, usage):
    """Flags of `keras_alexnet.paper.figure4` -> Figure4Config. Raises as `keras_alexnet.config.parse_train`."""
    values = flags.FlagValues()
    flags.DEFINE_string("model_dir", None, "A run's folder, or an exported model's.", flag_values=values)
    flags.DEFINE_string(
        "data_dir", None, "The folder that holds SPLIT/CLASS/* and INDEX_SPLIT/CLASS/*.", flag_values=values
    )
    flags.DEFINE_string("split", "val", "Where the pictures are drawn from.", flag_values=values)
    flags.DEFINE_string("index_split", "train", "Where their neighbors are looked for.", flag_values=values)
    for name, default, most, text in (
        ("pictures", 8, 40, "Pictures of the left panel."),
        ("queries", 5, 20, "Rows of the right panel."),
        ("neighbors", 6, 6, "Neighbors in a row."),
    ):
        flags.DEFINE_integer(name, default, text, lower_bound=1, upper_bound=most, flag_values=values)
    flags.DEFINE_enum(
        "only", "random", ["random", "errors"], "errors: the left panel shows wrong answers only.", flag_values=values
    )
    flags.DEFINE_integer("seed", 2012, "Of what is drawn.", lower_bound=0, upper_bound=2**31 - 1, flag_values=values)
    _define_results(values)
    parse(values, argv, usage)
    model_dir = required(values, "model_dir")
    required(values, "data_dir")
    for name in ("split", "index_split"):
        split = values[name].value
        if not split or os.path.basename(split) != split or split in (".", ".."):
            raise UsageError(f"--{name}={split}: give the name of a folder in --data_dir")
    if values["split"].value == values["index_split"].value:
        raise UsageError(
            f"--index_split={values['index_split'].value}: is --split too, and every picture would find itself; name "
            "another folder in --data_dir"
        )
    return pick(Figure4Config, values, evaluation=parse_evaluate([f"--model_dir={model_dir}", "--views=1"], usage))


@dataclasses.dataclass(frozen=True)
class TableConfig:
    """Which networks, on which set.

    Attributes:
        cnns, pretrained_cnns: tuple of str, runs or exported models, in the order of the flags; no path twice.
        evaluation: keras_alexnet.config.EvaluationConfig of all of them, or None where there are none.
        test_split: str, a second split, or None.
        results_dir, quick: as the flags.
    """

    cnns: tuple[str, ...]
    pretrained_cnns: tuple[str, ...]
    evaluation: EvaluationConfig | None
    test_split: str | None
    results_dir: str
    quick: bool


def parse_table1(argv, usage):
    """Flags of `keras_alexnet.paper.table1` -> TableConfig. Raises as `keras_alexnet.config.parse_train`."""
    values = flags.FlagValues()
    flags.DEFINE_multi_string("cnn", [], "A run's folder, or an exported model's.", flag_values=values)
    _define_table(values, "test")
    return _table(values, argv, usage, {"cnn": 1})


def parse_table2(argv, usage):
    """Flags of `keras_alexnet.paper.table2` -> TableConfig. Raises as `keras_alexnet.config.parse_train`."""
    values = flags.FlagValues()
    flags.DEFINE_multi_string(
        "cnn", [], "A run's folder, or an exported model's; up to five times, of five seeds.", flag_values=values
    )
    flags.DEFINE_multi_string(
        "pretrained_cnn", [], "Likewise, up to twice, of networks trained on more classes first.", flag_values=values
    )
    _define_table(values, None)
    flags.DEFINE_string("test_split", None, "A second, labeled split for the column test.", flag_values=values)
    return _table(values, argv, usage, {"cnn": 5, "pretrained_cnn": 2})


def _define_table(values, split):
    flags.DEFINE_enum(
        "views", "10", ["1", "10"], "10, as in the tables, or 1, the center view; --quick takes 1.", flag_values=values
    )
    flags.DEFINE_string("dataset", None, "As in evaluation; default: the first network's.", flag_values=values)
    flags.DEFINE_string("data_dir", None, "As in evaluation; default: the first network's.", flag_values=values)
    flags.DEFINE_string("split", split, "As in evaluation.", flag_values=values)
    _define_results(values)


def _table(values, argv, usage, most):
    """Parses the flags of a table. Args: most: dict of flag -> how many networks it takes."""
    parse(values, argv, usage)
    given = {name: tuple(os.path.expanduser(path) for path in values[name].value) for name in most}
    seen = set()
    for name, folders in given.items():
        if len(folders) > most[name]:
            raise UsageError(f"--{name}={folders[-1]}: is one too many; the table takes {most[name]}")
        for folder in folders:
            if not folder:
                raise UsageError(f"--{name}=: give a run's folder or an exported model's")
            if os.path.realpath(folder) in seen:
                raise UsageError(f"--{name}={folder}: is given twice; an average is of different networks")
            seen.add(os.path.realpath(folder))
    cnns, pretrained = given["cnn"], given.get("pretrained_cnn", ())
    evaluation = None
    if cnns or pretrained:
        whole = [f"--model_dir={folder}" for folder in (*cnns, *pretrained)]
        whole.append(f"--views={1 if values['quick'].value else values['views'].value}")
        names = ("dataset", "data_dir", "split")
        whole += [f"--{name}={values[name].value}" for name in names if values[name].value]
        evaluation = parse_evaluate(whole, usage)
    return TableConfig(
        cnns,
        pretrained,
        evaluation,
        values["test_split"].value if "test_split" in values else None,
        values["results_dir"].value,
        values["quick"].value,
    )


def _define_cifar(values):
    flags.DEFINE_enum(
        "dataset",
        "cifar10",
        ["cifar10", "folder", "shapes"],
        "cifar10 of TensorFlow Datasets; folder: DATA_DIR/train/CLASS/* and DATA_DIR/test/CLASS/*; shapes: a few drawn "
        "pictures, to try the command.",
        flag_values=values,
    )
    flags.DEFINE_string("data_dir", None, "As in training.", flag_values=values)
    flags.DEFINE_integer("batch_size", 128, "Images per update.", lower_bound=1, flag_values=values)
    flags.DEFINE_enum("precision", "float32", list(PRECISIONS[:2]), "Arithmetic, as in training.", flag_values=values)
    flags.DEFINE_integer(
        "seed", 2012, "Of weights and order.", lower_bound=0, upper_bound=2**31 - 1, flag_values=values
    )
    _define_results(values)


def _define_results(values):
    flags.DEFINE_string(
        "results_dir", "results", "Where figures, pictures and unfinished work are kept.", flag_values=values
    )
    flags.DEFINE_bool(
        "quick",
        False,
        "The same in seconds, below RESULTS_DIR/quick: it shows that the command works, no more.",
        flag_values=values,
    )


def parse(values, argv, usage):
    """As `keras_alexnet.config.parse`; what is only tried has a folder of its own, beside what was found in earnest."""
    parse_flags(values, argv, usage)
    if "quick" in values and values["quick"].value:
        values["results_dir"].value = os.path.join(values["results_dir"].value, "quick")


def check_there(flag, folder, what):
    """Raises UsageError unless a folder is there, before anything that takes time is begun.

    Args:
        flag: str, its flag.
        folder: str, or None or empty where none is needed.
        what: str, what it should be.
    """
    if folder and not os.path.isdir(folder):
        raise UsageError(f"--{flag}={folder}: there is no such folder; name {what}")


def _rates(name, texts):
    try:
        rates = tuple(float(text) for text in texts)
    except ValueError:
        rates = ()
    if not rates or not all(0 < rate < math.inf for rate in rates) or len(set(rates)) < len(rates):
        raise UsageError(f"--{name}={','.join(texts)}: give different numbers above 0, such as 0.001,0.002")
    return rates
