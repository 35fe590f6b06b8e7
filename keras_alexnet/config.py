"""The settings of a training run: sections 2 to 5 of the paper as dataclasses whose fields are the flags.

The defaults are the paper's. `python -m keras_alexnet.train --help` prints them; settings that belong to one command
stand beside that command.
"""

import dataclasses
import re

from keras_alexnet import flags
from keras_alexnet.errors import ArgumentError, UsageError
from keras_alexnet.flags import flag
from keras_alexnet.model import variants
from keras_alexnet.training import schedules

STRATEGIES = ("one", "mirrored", "multi_worker")
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
DATASETS = ("folder", "records", "shapes")  # and any name of TensorFlow Datasets
# The checkpoint of a run that evaluation and export take.
CHECKPOINT = ("newest", "best")
CHECKPOINT_HELP = "Of a run's folder: its newest whole epoch, or the one with the lowest validation error."


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Data (sections 2 and 4.1)."""

    dataset: str = flag(
        "imagenet2012", "A TensorFlow Datasets name, records (tools/prepare_dataset.py), folder or shapes.", first=True
    )
    data_dir: str | None = flag(
        None,
        "folder: holds train/CLASS/*.jpg and val/CLASS/*.jpg. records: as prepared. imagenet2012: has records, a "
        "prepared set of TensorFlow Datasets, or the two official archives (default: data). Other sets: the "
        "folder of TensorFlow Datasets (default: ~/tensorflow_datasets). shapes: for its images (default: below data).",
        path=True,
        first=True,
        free=True,
    )
    train_split: str | None = flag(None, "TensorFlow Datasets split to train on (default: train).")
    val_split: str | None = flag(
        None, "TensorFlow Datasets split to validate on (default: validation, test, or the last fifth of train)."
    )
    statistics: str | None = flag(
        None, "A statistics.npz of the same training set, from another run (records have theirs).", path=True
    )
    bad_images: str = flag(
        "skip", "A file that is not an image is named and left out, or fails.", choices=("skip", "fail"), free=True
    )
    shapes_train: int = flag(200, "shapes: training images per class.", low=1, high=100_000)
    shapes_val: int = flag(50, "shapes: validation images per class.", low=1, high=100_000)
    shapes_seed: int = flag(2012, "shapes: another seed draws other images.", low=0)
    resize: str = flag(
        "shorter_side",
        "How an image becomes 256x256: its shorter side scaled to 256 and the center cut (section 2), or all of it "
        "stretched (Caffe). Served images as well; records are prepared in one of the two ways.",
        choices=("shorter_side", "stretch"),
    )
    mean_subtraction: str = flag(
        "center",
        "The part of the 256x256 mean image: its center (the release) or what is under the crop (Caffe).",
        choices=("center", "aligned"),
    )
    crop_positions: int = flag(
        0, "Random crops start at so many rows and columns; 0: paper 32, release2012 33, caffe 30.", low=0, high=33
    )
    reflections: bool = flag(True, "Half of the training images are reflected (section 4.1).")
    pca_color: str = flag(
        "dataset",
        "Color noise along components of the training set (section 4.1), of each image, or none.",
        choices=("dataset", "image", "none"),
    )
    pca_scale: str = flag(
        "auto",
        "Of a component: its eigenvalue for pixels in [0, 1] (the paper), or its standard deviation, the sum divided "
        "by 1.1 (the release). auto: stddev for release2012, else eigenvalue.",
        choices=("auto", "eigenvalue", "stddev"),
    )
    pca_stddev: float = flag(0.1, "Standard deviation of the color noise's factors.", low=0.0)
    pca_color_until_epoch: int = flag(0, "Color noise is switched off after this many epochs; 0: never.", low=0)
    shuffle_buffer: int = flag(
        4096, "TensorFlow Datasets and records: encoded images that are shuffled together.", low=1, high=10_000_000
    )
    input_threads: int = flag(0, "Threads of the data graph; 0: one per core.", low=0, high=1024, free=True)


@dataclasses.dataclass(frozen=True)
class NetworkConfig:
    """Network (sections 3 and 4.2)."""

    variant: str = flag(
        "paper",
        "As published, as released by the authors, or as Caffe has it.",
        choices=tuple(variants.VARIANTS),
        first=True,
    )
    towers: int = flag(2, "2: one stack of layers per tower; 1: one stack.")
    groups: int = flag(2, "With one tower: groups of conv2, conv4 and conv5.")
    topology: str = flag(
        "alexnet",
        "half: half the kernels in conv1 to conv4, with --towers=1 --groups=1 (section 3.2). separate: towers that "
        "meet at fc8 only. conv6: a sixth convolution over pool5 (section 6).",
        choices=tuple(variants.TOPOLOGIES),
    )
    removed_layers: tuple[str, ...] = flag(
        (), "Layers that are left out, of conv2 to conv5 and fc7, such as conv3,conv4 (section 7)."
    )
    devices: tuple[str, ...] = flag(
        ("auto",),
        "Of the towers, such as GPU:0,GPU:1, or one for both. auto: two GPUs where there are two.",
        first=True,
        free=True,
    )
    precision: str = flag(
        "float32", "Arithmetic of convolutions and products; all else is float32.", choices=PRECISIONS, first=True
    )
    width: float = flag(1.0, "Factor on the number of units of every hidden layer.", above=0.0, high=4.0)
    activation: str = flag("relu", "Nonlinearity of section 3.1.", choices=("relu", "tanh"))
    local_response_normalization: bool = flag(True, "Section 3.3; off: none of the normalizations.")
    overlapping_pooling: bool = flag(True, "Section 3.4: windows of 3 every 2; off: of 2 every 2.")
    dropout: float = flag(0.5, "Section 4.2: probability that a hidden unit is zeroed.", low=0.0, below=1.0)

    def device_names(self):
        """The devices by name: tuple of str, or None for those that are present."""
        names = tuple(name.upper() for name in self.devices)
        return None if names in ((), ("AUTO",)) else names


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Training (section 5)."""

    epochs: int = flag(90, "Passes over the training set.", low=1, high=1_000_000, first=True, free=True)
    batch_size: int = flag(128, "Images per update.", low=1, high=65_536, first=True)
    learning_rate: float = flag(0.01, "Learning rate at the start.", low=0.0, first=True)
    momentum: float = flag(0.9, "Of the update rule.", low=0.0, below=1.0)
    weight_decay: float = flag(0.0005, "Of kernels, not of biases.", low=0.0)
    bias_learning_rate_multiplier: float = flag(1.0, "Learning rate of biases over kernels' (the release: 2).", low=0.0)
    rate_scaling: str = flag(
        "none",
        "How learning rates grow with --batch_size over 128 (Krizhevsky 2014).",
        choices=tuple(schedules.SCALINGS),
    )
    lr_policy: str = flag(
        "plateau",
        "plateau: divide by 10 when the validation error stops improving, --plateau_cuts times, then stop. schedule: "
        "--lr_schedule. constant: as it starts.",
        choices=("plateau", "schedule", "constant"),
    )
    lr_schedule: str = flag(
        "",
        "AFTER_EPOCH:[LAYERS=]RATE,... such as 25:0.001,25:bias=0.002,67:conv1=0: the learning rate from then on "
        "of kernels (and, times their multiplier, biases), biases, or layers whose name starts so; 0 freezes these.",
    )
    plateau_patience: int = flag(
        5, "plateau: epochs without a lower validation error before the learning rate drops.", low=1
    )
    plateau_cuts: int = flag(3, "plateau: how often the learning rate drops.", low=0, high=1000)
    initial_weights: str | None = flag(
        None,
        "All layers but --new_layers start with those of a run's folder, an exported model's, or an .npz.",
        path=True,
    )
    new_layers: tuple[str, ...] = flag(
        ("fc8",), "With --initial_weights: layers that start with random weights; fc8 is one where the classes differ."
    )


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Run."""

    model_dir: str | None = flag(
        None,
        "The run's folder (default: runs/NAME for --flagfile=flags/NAME.cfg); one that holds a run resumes it.",
        path=True,
        first=True,
        free=True,
    )
    seed: int = flag(2012, "Seed of weights, order, crops, color noise and dropout.", low=0)
    export: bool = flag(True, "Write a SavedModel to MODEL_DIR/export/1 at the end.", free=True)
    checkpoints_to_keep: int = flag(
        3, "The newest, beside that with the lowest validation error.", low=1, high=100_000, free=True
    )
    checkpoint_minutes: float = flag(15.0, "Minutes between checkpoints within an epoch; 0: none.", low=0.0, free=True)
    checkpoint_steps: int = flag(0, "A checkpoint after every so many steps too; 0: none.", low=0, free=True)
    strategy: str = flag(
        "one",
        "one: a process on one device, or with a tower on each of two. mirrored: the whole network on each of "
        "--devices (default: all GPUs), with a part of every batch. multi_worker: many machines, docs/clusters.md.",
        choices=STRATEGIES,
        free=True,
    )
    deterministic: bool = flag(False, "Operations that repeat to the bit on GPUs too (on CPUs they do).", free=True)
    dry_run: bool = flag(
        False, "Checks all, trains two steps, says how long all would take, writes nothing.", saved=False, first=True
    )
    summary_steps: int = flag(20, "TensorBoard: training loss and errors every so many steps.", low=1, free=True)
    histograms: bool = flag(False, "TensorBoard: weights and momenta every epoch.", free=True)
    profile: tuple[int, ...] = flag((), "TensorBoard: profile these steps of the run, such as 10,15.", free=True)


@dataclasses.dataclass(frozen=True)
class Config:
    """One training run, whole."""

    data: DataConfig
    network: NetworkConfig
    training: TrainingConfig
    run: RunConfig


def parse_train(argv, usage):
    """Flags of a training run -> Config, checked; raises as `flags.parse`."""
    config = flags.parse(Config, argv, usage)
    name = flags.flagfile_name(argv)
    if config.run.model_dir is None and name:
        config = dataclasses.replace(config, run=dataclasses.replace(config.run, model_dir=f"runs/{name}"))
    check(config)
    return config


def read_flags_cfg(text):
    """The text of a run's `flags.cfg` -> Config. Raises UsageError when it is not one."""
    lines = (line[2:].partition("=") for line in text.split("\n") if line.startswith("--"))
    return flags.read(Config, {name: value.rstrip("\r") for name, _, value in lines})


def check(config):
    """What one flag alone does not show, without TensorFlow. Raises ArgumentError or UsageError."""
    data, network, training, run = config.data, config.network, config.training, config.run
    if not run.model_dir:
        raise UsageError("--model_dir is missing: name the folder that this run is kept in")
    if not data.dataset:
        raise UsageError("--dataset is empty: give a TensorFlow Datasets name, records, folder or shapes")
    if data.dataset in ("folder", "records") and not data.data_dir:
        is_folder = data.dataset == "folder"
        wanted = "DATA_DIR/train/CLASS/*.jpg and DATA_DIR/val" if is_folder else "what tools/prepare_dataset.py wrote"
        raise UsageError(f"--data_dir is missing: --dataset={data.dataset} reads {wanted}")
    for name in ("train_split", "val_split"):
        if getattr(data, name) and data.dataset in DATASETS:
            raise ArgumentError(name, getattr(data, name), f"must be left out: --dataset={data.dataset} has two splits")
    variants.Network(**variants.settings_of(network))
    largest = 256 - variants.VARIANTS[network.variant].input_size + 1
    if data.crop_positions > largest:
        raise ArgumentError("crop_positions", data.crop_positions, f"must be at most {largest} for {network.variant}")
    check_devices(network, run.strategy)
    rates = schedules.parse(training.lr_schedule)
    if (training.lr_policy == "schedule") != bool(rates):
        problem = "goes with --lr_policy=schedule, and needs entries such as 25:0.001,51:0.0001"
        raise ArgumentError("lr_schedule", training.lr_schedule, problem)
    for flag_name, names in (("lr_schedule", schedules.layer_labels(rates)), ("new_layers", training.new_layers)):
        for name in names:
            if not any(layer.startswith(name) for layer in variants.LAYERS):
                problem = f"must name layers of {', '.join(variants.LAYERS)}, and {name!r} is none"
                raise ArgumentError(flag_name, flags.as_text(config)[flag_name], problem)
    if run.profile and (len(run.profile) != 2 or not 1 <= run.profile[0] <= run.profile[1]):
        problem = "must be the first and the last step, such as 10,15"
        raise ArgumentError("profile", flags.as_text(config)["profile"], problem)


def check_devices(network, strategy):
    """The names of devices and what goes with them; whether they are present is seen with TensorFlow."""
    names = network.device_names() or ()
    text = ",".join(network.devices)
    for name in names:
        if not re.fullmatch(r"(CPU|GPU):\d{1,3}", name):
            raise ArgumentError("devices", text, "must be names such as GPU:0,GPU:1, or auto")
    if len(set(names)) < len(names):
        raise ArgumentError("devices", text, "must be different; give one for both towers")
    if names and strategy == "multi_worker":
        problem = "must be left out: with --strategy=multi_worker a process takes all its GPUs"
        raise ArgumentError("devices", text, problem)
    if len(names) > network.towers and strategy == "one":
        raise ArgumentError("devices", text, f"must not be more than the towers (--towers={network.towers})")
    if network.precision == "mixed_float16" and strategy != "one":
        problem = f"must be mixed_bfloat16 or float32 with --strategy={strategy}"
        raise ArgumentError("precision", network.precision, problem)
