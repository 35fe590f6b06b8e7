"""Every flag of the project, checked and frozen: the only module that reads flags.

A run is described by a `Config`: what to read, which network, how to train it and where to write. Flags come from
the command line and from flagfiles (`--flagfile=flags/paper.cfg`); a later one wins. The defaults are the paper's.
"""

import dataclasses
import math
import os
import re

from absl import flags

from keras_alexnet.errors import UsageError

VARIANTS = ("paper", "release2012", "caffe")
TOPOLOGIES = ("alexnet", "half", "separate", "conv6")
STRATEGIES = ("one", "mirrored", "multi_worker")
SCALINGS = ("none", "linear", "sqrt")
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
PATHS = ("data_dir", "statistics", "model_dir", "model", "initial_weights", "json")
# Flags that may change between the two parts of an interrupted run: none of them changes what is learned up to the
# point where the run stopped. (The data may have moved; that they are the same files is checked apart.)
FREE_ON_RESUME = frozenset(
    ("epochs", "devices", "bad_images", "input_threads", "checkpoints_to_keep", "checkpoint_minutes")
    + ("checkpoint_steps", "deterministic", "strategy", "summary_steps", "histograms", "profile", "export")
    + ("data_dir", "model_dir")
)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Sections 2 and 4.1: which images, and what is done to them. Fields as the flags of the same names."""

    dataset: str
    data_dir: str | None
    train_split: str | None
    val_split: str | None
    statistics: str | None
    bad_images: str
    shapes_train: int
    shapes_val: int
    shapes_seed: int
    mean_subtraction: str
    crop_positions: int
    reflections: bool
    pca_color: str
    pca_scale: str
    pca_stddev: float
    pca_color_until_epoch: int
    shuffle_buffer: int
    input_threads: int


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """Section 3 and 4.2: the network and where it runs. Fields as the flags of the same names."""

    variant: str
    towers: int
    groups: int
    topology: str
    removed_layers: tuple[str, ...]
    devices: tuple[str, ...] | None
    precision: str
    width: float
    activation: str
    local_response_normalization: bool
    overlapping_pooling: bool
    dropout: float


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Section 5: how long, how fast, with which rates. Fields as the flags of the same names."""

    epochs: int
    batch_size: int
    learning_rate: float
    momentum: float
    weight_decay: float
    bias_learning_rate_multiplier: float
    rate_scaling: str
    lr_policy: str
    lr_schedule: tuple[tuple[int, str, float], ...]
    plateau_patience: int
    plateau_cuts: int
    initial_weights: str | None
    new_layers: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Where a run lives and what it writes. Fields as the flags of the same names."""

    model_dir: str
    seed: int
    export: bool
    checkpoints_to_keep: int
    checkpoint_minutes: float
    checkpoint_steps: int
    strategy: str
    deterministic: bool
    dry_run: bool
    summary_steps: int
    histograms: bool
    profile: tuple[int, int] | None


@dataclasses.dataclass(frozen=True)
class Config:
    """One run, whole. `resolved` holds every flag as text, as it is written to the run's `flags.cfg`."""

    data: DataConfig
    network: NetworkConfig
    training: TrainingConfig
    run: RunConfig
    resolved: tuple[tuple[str, str], ...]


def parse_train(argv, usage):
    """Flags of `keras_alexnet.train` -> Config.

    Args:
        argv: list of str, without the program's name.
        usage: str, printed above the flags by `--help`.

    Raises:
        UsageError: a flag is unknown, malformed, out of range or at odds with another. One line.
        SystemExit: with code 0, after `--help`.
    """
    values = flags.FlagValues()
    _define_data(values)
    _define_network(values)
    _define_training(values)
    _define_run(values)
    parse(values, argv, usage)
    config = Config(
        data=pick(DataConfig, values),
        network=pick(
            NetworkConfig,
            values,
            devices=_devices(values["devices"].value, values["strategy"].value),
            removed_layers=_names(values["removed_layers"].value),
        ),
        training=pick(
            TrainingConfig,
            values,
            lr_schedule=_lr_schedule(values["lr_schedule"].value),
            new_layers=_names(values["new_layers"].value),
        ),
        run=pick(RunConfig, values, profile=_profile(values["profile"].value)),
        resolved=_resolved(values),
    )
    _check(config)
    return config


def parse_export(argv, usage):
    """Flags of `keras_alexnet.export` -> (folder of the run, views: 1 or 10, checkpoint). Raises as `parse_train`."""
    values = flags.FlagValues()
    flags.DEFINE_string("model_dir", None, "A run's folder, as training wrote it.", flag_values=values)
    _define_views(values, "1: a picture is answered by its center view. 10: by the mean of its ten views, section 4.1.")
    _define_checkpoint(values)
    parse(values, argv, usage)
    return required(values, "model_dir"), int(values["views"].value), values["checkpoint"].value


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """Which models, on which images, and what is said of them. Fields as the flags of the same names.

    `weights` is "equal", "search", or one number for each model.
    """

    model_dirs: tuple[str, ...]
    checkpoint: str
    views: int
    dataset: str | None
    data_dir: str | None
    split: str | None
    weights: str | tuple[float, ...]
    search_split: str | None
    batch_size: int
    input_threads: int
    per_class: bool
    confusions: int
    calibration: bool
    json: str | None


def parse_evaluate(argv, usage):
    """Flags of `keras_alexnet.evaluate` -> EvaluationConfig. Raises as `parse_train`."""
    values = flags.FlagValues()
    flags.DEFINE_multi_string(
        "model_dir",
        [],
        "A run's folder, or an exported model's (RUN/export/1). Given several times, probabilities are averaged.",
        flag_values=values,
    )
    _define_checkpoint(values)
    _define_views(values, "1: the center view. 10: four corners, center and reflections, averaged (section 4.1).")
    flags.DEFINE_string(
        "dataset", None, "As in training; default: what the first model was trained with.", flag_values=values
    )
    flags.DEFINE_string("data_dir", None, "As in training; default: the first model's.", flag_values=values)
    flags.DEFINE_string(
        "split",
        None,
        "folder: the folder in DATA_DIR that holds the class folders (default: val). records and shapes: train or val. "
        "TensorFlow Datasets: in its notation (default: what the first model was validated on).",
        flag_values=values,
    )
    flags.DEFINE_string(
        "weights",
        "equal",
        "equal; one number for each --model_dir, such as 0.3,0.7; or search: as the release searched them, lowest "
        "top-5 and then top-1 error on --search_split.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "search_split",
        None,
        "Where weights are searched (default: --split itself, as the release did; its errors are then too low).",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "batch_size", 120, "Views that a network gets at a time.", lower_bound=1, upper_bound=4096, flag_values=values
    )
    flags.DEFINE_integer(
        "input_threads", 0, "Threads of the data graph; 0: one per core.", lower_bound=0, flag_values=values
    )
    flags.DEFINE_bool("per_class", False, "Errors of every class.", flag_values=values)
    flags.DEFINE_integer(
        "confusions", 0, "So many pairs of classes that were taken for each other.", lower_bound=0, flag_values=values
    )
    flags.DEFINE_bool("calibration", False, "How well probabilities say how often they are right.", flag_values=values)
    flags.DEFINE_string(
        "json",
        None,
        "Where all figures are written (default: evaluation_SPLIT_VIEWSviews.json in the folder of the first run, or "
        "of the run that the first model was exported from, or else here).",
        flag_values=values,
    )
    parse(values, argv, usage)
    model_dirs = tuple(os.path.expanduser(path) for path in values["model_dir"].value)
    if not all(model_dirs) or not model_dirs:
        raise UsageError("--model_dir is missing: give a run's folder or an exported model's")
    weights = _weights(values["weights"].value, len(model_dirs))
    if weights == "search" and len(model_dirs) == 1:
        raise UsageError("--weights=search: needs several --model_dir")
    if values["search_split"].value and weights != "search":
        raise UsageError(f"--search_split={values['search_split'].value}: is only read with --weights=search")
    if values["dataset"].value in ("folder", "records") and not values["data_dir"].value:
        raise UsageError(f"--data_dir is missing: --dataset={values['dataset'].value} is read from there")
    views = int(values["views"].value)
    return pick(EvaluationConfig, values, model_dirs=model_dirs, views=views, weights=weights)


@dataclasses.dataclass(frozen=True)
class PredictionConfig:
    """Which model is asked about which files, and how. Fields as the flags of the same names."""

    model: str
    photographs: tuple[str, ...]
    format: str
    signature: str
    batch_size: int
    parallel: int
    deadline: float
    retries: int


def parse_predict(argv, usage):
    """Flags of `keras_alexnet.predict` -> PredictionConfig. Raises as `parse_train`."""
    values = flags.FlagValues()
    flags.DEFINE_string(
        "model",
        None,
        "An exported model's folder, such as RUN/export/1, or a server: http://HOST:8501/v1/models/NAME or "
        "grpc://HOST:8500/NAME.",
        flag_values=values,
    )
    flags.DEFINE_enum("format", "table", ["table", "jsonl"], "jsonl: a line of JSON for each file.", flag_values=values)
    flags.DEFINE_string(
        "signature", "serving_default", "serving_default, or features with --format=jsonl.", flag_values=values
    )
    flags.DEFINE_integer("batch_size", 8, "Files of a request.", lower_bound=1, upper_bound=512, flag_values=values)
    flags.DEFINE_integer("parallel", 4, "Requests at a time.", lower_bound=1, upper_bound=256, flag_values=values)
    flags.DEFINE_float(
        "deadline", 30.0, "Seconds for a request, its repetitions included.", lower_bound=0.001, flag_values=values
    )
    flags.DEFINE_integer(
        "retries", 3, "Repetitions when the server cannot be reached or is overloaded.", lower_bound=0,
        upper_bound=20, flag_values=values,
    )  # fmt: skip
    photographs = parse(values, argv, usage, positional=True)
    model = required(values, "model")
    if not photographs:
        raise UsageError("no photograph given: name one or more JPEG or PNG files after the flags")
    if not math.isfinite(values["deadline"].value):
        raise UsageError(f"--deadline={values['deadline'].value}: give a number of seconds")
    return pick(PredictionConfig, values, model=model, photographs=tuple(photographs))


def read_run(text, usage="keras_alexnet"):
    """The text of a run's `flags.cfg` -> Config. Raises UsageError when it is not one."""
    return parse_train([line for line in text.splitlines() if line.startswith("--")], usage)


def of_flags(values):
    """The flags of a run by name, such as an exported model keeps -> Config.

    Args:
        values: dict of str -> str; flags that a later version has are at their defaults.

    Raises:
        UsageError: they are not those of a run.
    """
    for name, value in values.items():
        # What they say stands in a file from elsewhere, and is not to name other files that are read as flags.
        if not re.fullmatch("[a-z][a-z0-9_]*", name) or name in ("flagfile", "undefok") or not isinstance(value, str):
            raise UsageError(f"{name!r} is no flag of a run")
    return parse_train([f"--{name}={value}" for name, value in values.items()], "keras_alexnet")


def changed_flags(config, text):
    """What differs between `config` and a run's `flags.cfg`, resuming aside.

    Args:
        config: Config, as asked for now.
        text: str, the run's `flags.cfg`.

    Returns:
        list of str, such as "--batch_size=64 (the run has 128)"; empty when the run may go on.
    """
    before = dict(read_run(text).resolved)  # parsed, so that what the run's flags leave out has its default
    return [
        f"--{name}={value} (the run has {before[name] or 'none'})"
        for name, value in config.resolved
        if name not in FREE_ON_RESUME and before[name] != value
    ]


def _define_data(values):
    flags.DEFINE_string(
        "dataset",
        "imagenet2012",
        "A TensorFlow Datasets name, `records` (prepared by tools/prepare_dataset.py), `folder` or `shapes`.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "data_dir",
        None,
        "folder: holds train/CLASS/*.jpg and val/CLASS/*.jpg. records: the prepared folder. TensorFlow Datasets: its "
        "data folder (default: ~/tensorflow_datasets). shapes: where the pictures are kept (default: data/shapes).",
        flag_values=values,
    )
    flags.DEFINE_string(
        "train_split", None, "TensorFlow Datasets split to train on (default: train).", flag_values=values
    )
    flags.DEFINE_string(
        "val_split",
        None,
        "TensorFlow Datasets split to validate on (default: validation, else test; a set with neither has its last "
        "fifth of train held out).",
        flag_values=values,
    )
    flags.DEFINE_string(
        "statistics",
        None,
        "A statistics.npz of the same training set, from another run, so that it need not be computed again (records "
        "have theirs).",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "bad_images",
        "skip",
        ["skip", "fail"],
        "What to do with a file that is not an image: name and leave it out, or name it and stop.",
        flag_values=values,
    )
    flags.DEFINE_integer("shapes_train", 200, "shapes: training pictures per class.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("shapes_val", 50, "shapes: validation pictures per class.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer(
        "shapes_seed", 2012, "shapes: another seed draws other pictures.", lower_bound=0, flag_values=values
    )
    flags.DEFINE_enum(
        "mean_subtraction",
        "center",
        ["center", "aligned"],
        "Which part of the 256x256 mean image is subtracted from a crop: its center, whatever the crop (the release), "
        "or the part under the crop, reflected with it (Caffe). The paper does not say.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "crop_positions",
        0,
        "Random crops start at one of this many rows and columns. 0: as the variant's authors had it (paper 32, which "
        "gives its factor of 2048; release2012 33; caffe 30).",
        lower_bound=0,
        upper_bound=33,
        flag_values=values,
    )
    flags.DEFINE_bool(
        "reflections",
        True,
        "Section 4.1: half of the training images are reflected. --crop_positions=1 and --reflections=false show every "
        "image by its center always.",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "pca_color",
        "dataset",
        ["dataset", "image", "none"],
        "Principal components for the color noise: of the training set (section 4.1), of each image, or no noise.",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "pca_scale",
        "auto",
        ["auto", "eigenvalue", "stddev"],
        "A component is scaled by its eigenvalue for pixels in [0, 1] (the paper) or by its standard deviation, the "
        "sum then divided by 1.1 (the release). auto: stddev for release2012, else eigenvalue.",
        flag_values=values,
    )
    flags.DEFINE_float("pca_stddev", 0.1, "Standard deviation of the factors.", lower_bound=0.0, flag_values=values)
    flags.DEFINE_integer(
        "pca_color_until_epoch",
        0,
        "Color noise is switched off after this many epochs; 0: never.",
        lower_bound=0,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "shuffle_buffer",
        4096,
        "TensorFlow Datasets and records: undecoded images that are mixed as a whole, up to three times as many are in "
        "memory (folders are mixed as a whole anyway).",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_integer(
        "input_threads", 0, "Threads of the data graph; 0: one per core.", lower_bound=0, flag_values=values
    )


def _define_network(values):
    flags.DEFINE_enum(
        "variant",
        "paper",
        list(VARIANTS),
        "The network as published, as the authors' released code has it, or as Caffe's BVLC AlexNet.",
        flag_values=values,
    )
    flags.DEFINE_integer("towers", 2, "2: one stage per tower; 1: one stack.", flag_values=values)
    flags.DEFINE_integer("groups", 2, "With one tower: groups of conv2, conv4 and conv5.", flag_values=values)
    flags.DEFINE_enum(
        "topology",
        "alexnet",
        list(TOPOLOGIES),
        "half: one tower, half the kernels in conv1 to conv4, with --towers=1 --groups=1 (section 3.2; the release's "
        "145-half). separate: towers that meet at fc8 only (150). conv6: a sixth convolution over pool5 (section 6; "
        "146).",
        flag_values=values,
    )
    flags.DEFINE_string(
        "removed_layers",
        "",
        "Layers that are left out, of conv2, conv3, conv4, conv5 and fc7, such as conv3,conv4 (section 7).",
        flag_values=values,
    )
    flags.DEFINE_string(
        "devices",
        "auto",
        "Devices of the two towers, such as GPU:0,GPU:1, or one for both. auto: two GPUs where there are two. "
        "CPU:0,CPU:1 makes logical CPU devices.",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "precision",
        "float32",
        list(PRECISIONS),
        "Arithmetic of convolutions and products; normalization, loss and update stay float32.",
        flag_values=values,
    )
    flags.DEFINE_float(
        "width",
        1.0,
        "Factor on the number of units of every hidden layer.",
        lower_bound=0.0,
        upper_bound=4.0,
        flag_values=values,
    )
    flags.DEFINE_enum("activation", "relu", ["relu", "tanh"], "Nonlinearity of section 3.1.", flag_values=values)
    flags.DEFINE_bool(
        "local_response_normalization",
        True,
        "Section 3.3; off: none of the normalizations.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "overlapping_pooling",
        True,
        "Section 3.4: windows of 3 every 2; off: of 2 every 2.",
        flag_values=values,
    )
    flags.DEFINE_float(
        "dropout",
        0.5,
        "Section 4.2: probability that a hidden unit is zeroed.",
        lower_bound=0.0,
        upper_bound=1.0,
        flag_values=values,
    )


def _define_training(values):
    flags.DEFINE_integer("epochs", 90, "Passes over the training set.", lower_bound=1, flag_values=values)
    flags.DEFINE_integer("batch_size", 128, "Images per update.", lower_bound=1, flag_values=values)
    flags.DEFINE_float("learning_rate", 0.01, "Rate at the start.", lower_bound=0.0, flag_values=values)
    flags.DEFINE_float("momentum", 0.9, "Of the update rule.", lower_bound=0.0, upper_bound=1.0, flag_values=values)
    flags.DEFINE_float("weight_decay", 0.0005, "Of kernels, not of biases.", lower_bound=0.0, flag_values=values)
    flags.DEFINE_float(
        "bias_learning_rate_multiplier",
        1.0,
        "Rate of the biases over the rate of the kernels (the release: 2 at the start).",
        lower_bound=0.0,
        flag_values=values,
    )
    flags.DEFINE_enum(
        "rate_scaling",
        "none",
        list(SCALINGS),
        "How all rates grow with --batch_size over the paper's 128: not, in proportion, or with the square root "
        "(Krizhevsky 2014, One weird trick, section 5).",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "lr_policy",
        "plateau",
        ["plateau", "schedule", "constant"],
        "plateau: divide by 10 when the validation error stops improving, at most --plateau_cuts times, then stop. "
        "schedule: --lr_schedule. constant: as it starts.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "lr_schedule",
        "",
        "AFTER_EPOCH:[LAYERS=]RATE,... such as 25:0.001,25:bias=0.002,67:conv1=0.00001: from then on that rate for all "
        "kernels (and, times their multiplier, biases), for the biases, or for the layers whose name starts so. A rate "
        "of 0 freezes biases or layers.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "plateau_patience",
        5,
        "plateau: epochs without a lower validation error before a cut; counted from when it first beats a constant "
        "answer.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_integer("plateau_cuts", 3, "plateau: how often the rate is cut.", lower_bound=0, flag_values=values)
    flags.DEFINE_string(
        "initial_weights",
        None,
        "Where the weights of all layers but --new_layers begin: a run's folder, an exported model's, or an .npz "
        "(default: random numbers). Rates by layer are in --lr_schedule, from epoch 0 on.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "new_layers",
        "fc8",
        "With --initial_weights: layers that begin with random numbers, such as conv6,fc6,fc7,fc8. fc8 is one where "
        "the classes are others.",
        flag_values=values,
    )


def _define_run(values):
    flags.DEFINE_string(
        "model_dir", None, "The run's folder; a folder that holds a run goes on with it.", flag_values=values
    )
    flags.DEFINE_integer(
        "seed",
        2012,
        "Governs weights, order, crops, color noise and dropout.",
        lower_bound=0,
        upper_bound=2**31 - 1,
        flag_values=values,
    )
    flags.DEFINE_bool("export", True, "Write a SavedModel to MODEL_DIR/export/1 at the end.", flag_values=values)
    flags.DEFINE_integer(
        "checkpoints_to_keep",
        3,
        "Newest checkpoints that are kept, beside the one with the lowest validation error.",
        lower_bound=1,
        flag_values=values,
    )
    flags.DEFINE_float(
        "checkpoint_minutes",
        15.0,
        "A checkpoint after so many minutes within an epoch, beside the one after every epoch; 0: none.",
        lower_bound=0.0,
        flag_values=values,
    )
    flags.DEFINE_enum(
        "strategy",
        "one",
        list(STRATEGIES),
        "one: one process, on one device or with a tower on each of two. mirrored: the whole network on each of "
        "--devices (default: all GPUs), a part of every batch for each. multi_worker: the same on many machines, see "
        "docs/clusters.md.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "deterministic",
        False,
        "Only operations that repeat to the bit, on GPUs too: an interrupted run ends exactly as one that was not. (On "
        "CPUs it does so anyway.)",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "dry_run",
        False,
        "Checks flags, data, devices, memory and disk, trains two steps, says how long all would take, writes nothing.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "checkpoint_steps", 0, "A checkpoint after every so many steps too; 0: none.", lower_bound=0, flag_values=values
    )
    flags.DEFINE_integer(
        "summary_steps", 20, "TensorBoard: training loss and errors every so many steps.", lower_bound=1,
        flag_values=values,
    )  # fmt: skip
    flags.DEFINE_bool("histograms", False, "TensorBoard: weights and momenta every epoch.", flag_values=values)
    flags.DEFINE_string(
        "profile", "", "TensorBoard: profile these steps of the run, such as 10,15.", flag_values=values
    )


def _define_checkpoint(values):
    flags.DEFINE_enum(
        "checkpoint",
        "newest",
        ["newest", "best"],
        "Of a run's folder: its newest whole epoch, or the one with the lowest validation error.",
        flag_values=values,
    )


def _define_views(values, text):
    flags.DEFINE_enum("views", "1", ["1", "10"], text, flag_values=values)


def parse(values, argv, usage, positional=False):
    """Parses in place; returns the arguments that are no flags."""
    if any(argument in ("-h", "-help", "--help", "--helpshort", "--helpfull") for argument in argv):
        print(f"{usage.strip()}\n\nFlags:\n{values.main_module_help() or values.get_help()}")
        raise SystemExit(0)
    try:
        rest = values(["keras_alexnet", *argv])[1:]
    except flags.Error as error:
        # absl's own words name the flag, the value and what is allowed.
        raise UsageError(str(error).removeprefix("ERROR:: ").replace("Unable to open flagfile", "--flagfile")) from None
    except (UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"--flagfile: not a text file of flags ({error})") from None
    for name in values:
        if "\0" in str(values[name].value):
            raise UsageError(f"--{name}: has a null character in it")  # which no path can have
    for name in PATHS:
        if name in values and isinstance(values[name].value, str):
            values[name].value = os.path.expanduser(values[name].value)
    if rest and not positional:
        raise UsageError(f"unexpected argument {rest[0]!r}: every setting is a flag, --NAME=VALUE")
    return rest


def required(values, name):
    if not values[name].value:
        raise UsageError(f"--{name} is missing: give {values[name].help[0].lower()}{values[name].help[1:]}")
    return values[name].value


def pick(kind, values, **parsed):
    """The fields of a config from the flags of the same names; an empty text is none, as `flags.cfg` writes it."""
    names = [field.name for field in dataclasses.fields(kind) if field.name not in parsed]
    fields = {name: values[name].value for name in names}
    return kind(**{name: None if value == "" else value for name, value in fields.items()} | parsed)


def _resolved(values):
    return tuple(
        (name, "" if values[name].value is None else str(values[name].value))
        for name in sorted(values)
        if name not in ("flagfile", "undefok", "dry_run")
    )


def _devices(text, strategy):
    if text.strip() in ("", "auto"):
        return None
    names = tuple(name.strip().upper() for name in text.split(","))
    for name in names:
        if not re.fullmatch(r"(CPU|GPU):\d{1,3}", name):
            raise UsageError(f"--devices={text}: {name!r} is no device; write names such as GPU:0,GPU:1, or auto")
    if len(names) > 2 and strategy == "one":
        raise UsageError(f"--devices={text}: {len(names)} devices for two towers; give one or two")
    if len(set(names)) < len(names):
        raise UsageError(f"--devices={text}: {names[0]} twice; give two different devices, or one for both towers")
    return names


def _names(text):
    return tuple(filter(None, (name.strip() for name in text.split(","))))


def _lr_schedule(text):
    entries = []
    for part in filter(None, (part.strip() for part in text.split(","))):
        match = re.fullmatch(r"(\d{1,6}):(?:([a-z][a-z0-9_]*)=)?([0-9.eE+-]+)", part)
        try:
            rate = float(match[3])
        except (TypeError, ValueError):
            rate = math.nan
        if not (math.isfinite(rate) and rate >= 0):
            raise UsageError(f"--lr_schedule={text}: {part!r} is not AFTER_EPOCH:[LAYERS=]RATE, such as 25:0.001")
        if not rate and not match[2]:
            raise UsageError(f"--lr_schedule={text}: {part!r} freezes everything; end with --epochs instead")
        entries.append((int(match[1]), match[2] or "", rate))
    return tuple(sorted(entries, key=lambda entry: entry[0]))


def _weights(text, count):
    if text in ("equal", "search"):
        return text
    try:
        weights = tuple(float(part) for part in text.split(","))
    except ValueError:
        weights = ()
    if not weights or not all(weight >= 0 for weight in weights) or not 0 < sum(weights) < math.inf:
        raise UsageError(f"--weights={text}: give equal, search, or numbers from 0 on such as 0.3,0.7, not all 0")
    if len(weights) != count:
        raise UsageError(f"--weights={text}: {len(weights)} numbers for {count} --model_dir; give one for each")
    return weights


def _profile(text):
    if not text:
        return None
    match = re.fullmatch(r"(\d{1,9}),(\d{1,9})", text)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise UsageError(f"--profile={text}: give the first and the last step, such as 10,15")
    return int(match[1]), int(match[2])


def _check(config):
    """What one flag alone does not show."""
    for part in (config.data, config.network, config.training):
        for name, value in dataclasses.asdict(part).items():
            if isinstance(value, float) and not math.isfinite(value):
                raise UsageError(f"--{name}={value}: give a finite number")
    if not config.run.model_dir:
        raise UsageError("--model_dir is missing: name the folder that this run is to be kept in")
    data, network, training = config.data, config.network, config.training
    if not data.dataset:
        raise UsageError("--dataset is empty: give a TensorFlow Datasets name, records, folder or shapes")
    if data.dataset == "folder" and not data.data_dir:
        raise UsageError("--data_dir is missing: --dataset=folder reads DATA_DIR/train/CLASS/*.jpg and DATA_DIR/val")
    if data.dataset == "records" and not data.data_dir:
        raise UsageError("--data_dir is missing: --dataset=records reads the folder that tools/prepare_dataset.py made")
    for name in ("train_split", "val_split"):
        if getattr(data, name) and data.dataset in ("folder", "records", "shapes"):
            raise UsageError(f"--{name}={getattr(data, name)}: --dataset={data.dataset} has its own two splits")
    if network.towers not in (1, 2):
        raise UsageError(f"--towers={network.towers}: the layers divide into 1 or 2 towers")
    if network.groups not in (1, 2):
        raise UsageError(f"--groups={network.groups}: the layers divide into 1 or 2 groups")
    if network.groups == 1 and network.towers == 2:
        raise UsageError("--groups=1: two towers are two groups; add --towers=1 for a network without groups")
    largest = 30 if network.variant == "caffe" else 33
    if data.crop_positions > largest:
        raise UsageError(f"--crop_positions={data.crop_positions}: {network.variant} has {largest} in each direction")
    if network.width <= 0:
        raise UsageError(f"--width={network.width}: give a factor above 0, such as 0.5")
    strategy = config.run.strategy
    if network.devices and strategy == "multi_worker":
        raise UsageError(
            "--devices: with --strategy=multi_worker every process takes all GPUs that it sees; leave it out"
        )
    if network.precision == "mixed_float16" and strategy != "one":
        raise UsageError(f"--precision=mixed_float16: not with --strategy={strategy}; take mixed_bfloat16 or float32")
    if network.devices and len(network.devices) > network.towers and strategy == "one":
        raise UsageError(f"--devices={','.join(network.devices)}: more devices than towers (--towers={network.towers})")
    if network.dropout >= 1:
        raise UsageError(f"--dropout={network.dropout}: give a probability below 1")
    if training.momentum >= 1:
        raise UsageError(f"--momentum={training.momentum}: give a number below 1")
    if training.lr_policy == "schedule" and not training.lr_schedule:
        raise UsageError("--lr_schedule is missing: --lr_policy=schedule needs it, such as 25:0.001,51:0.0001")
    if training.lr_policy != "schedule" and training.lr_schedule:
        raise UsageError(f"--lr_policy={training.lr_policy}: --lr_schedule is only read by --lr_policy=schedule")
