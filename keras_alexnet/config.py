"""The settings of a training run, with the values of sections 2 to 5 of the paper as defaults.

Each field is a flag, printed by `python -m keras_alexnet.train --help`. Other commands define their own settings.
"""

import dataclasses
import math
import re

from keras_alexnet import flags
from keras_alexnet.errors import ArgumentError, UsageError
from keras_alexnet.flags import flag
from keras_alexnet.model import variants
from keras_alexnet.training import schedules

STRATEGIES = ("one", "mirrored", "multi_worker")
PRECISIONS = ("float32", "mixed_bfloat16", "mixed_float16")
DATASETS = ("folder", "records", "shapes")  # and any name of TensorFlow Datasets
CHECKPOINT = ("newest", "best")  # of a run, for evaluation and export
CHECKPOINT_HELP = "Checkpoint of a run: that of the newest whole epoch, or of the lowest validation error."


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Data (sections 2 and 4.1)."""

    dataset: str = flag(
        "imagenet2012", "A TensorFlow Datasets name, records (tools/prepare_dataset.py), folder or shapes.", first=True
    )
    data_dir: str | None = flag(
        None,
        "folder: holds CLASS/*.jpg, or train/CLASS/*.jpg and val/CLASS/*.jpg. records: the prepared folder. "
        "imagenet2012: holds records, a prepared TensorFlow Datasets set, or the official archives (default: data). "
        "shapes: where the images are written (default: below data). Other sets: that of TensorFlow Datasets (default: "
        "~/tensorflow_datasets).",
        path=True,
        first=True,
        free=True,
    )
    train_split: str | None = flag(None, "TensorFlow Datasets split to train on (default: train).")
    val_split: str | None = flag(
        None, "TensorFlow Datasets split to validate on (default: validation, test, or the last fifth of train)."
    )
    val_fraction: float | None = flag(
        None,
        "folder: part of the images of each class to validate on (default: 0.2 where there is no validation folder).",
        above=0.0,
        below=1.0,
    )
    split_seed: int = flag(2012, "folder: seed of the choice of these images.", low=0)
    statistics: str | None = flag(
        None, "statistics.npz of another run on the same training set (records include their own).", path=True
    )
    bad_images: str = flag(
        "skip", "Skip files that are not images and list them, or fail.", choices=("skip", "fail"), free=True
    )
    shapes_train: int = flag(200, "shapes: training images per class.", low=1, high=100_000)
    shapes_val: int = flag(50, "shapes: validation images per class.", low=1, high=100_000)
    shapes_seed: int = flag(2012, "shapes: seed of the images.", low=0)
    resize: str = flag(
        "shorter_side",
        "How an image becomes 256x256: its shorter side scaled to 256 and the center cut (section 2), or all of it "
        "stretched (Caffe). Served images as well; records are prepared in one of the two ways.",
        choices=("shorter_side", "stretch"),
    )
    orientation: str = flag(
        "auto",
        "apply: images are turned as the EXIF orientation of a JPEG says. auto: so are images of folders other than "
        "ImageNet's, and served ones.",
        choices=("auto", "apply", "ignore"),
    )
    mean_subtraction: str = flag(
        "center",
        "Part of the 256x256 mean image to subtract: its center (the release) or the part under the crop (Caffe).",
        choices=("center", "aligned"),
    )
    crop_positions: int = flag(
        0, "Rows and columns at which crops may start; 0: paper 32, release2012 33, caffe 30.", low=0, high=33
    )
    reflections: bool = flag(True, "Reflect half of the training images (section 4.1).")
    pca_color: str = flag(
        "dataset",
        "Color noise along principal components of the training set (section 4.1), of each image, or none.",
        choices=("dataset", "image", "none"),
    )
    pca_scale: str = flag(
        "auto",
        "Scale of a component: its eigenvalue for pixels in [0, 1] (the paper), or its standard deviation, with the "
        "noisy image divided by 1.1 (the release). auto: stddev for release2012, else eigenvalue.",
        choices=("auto", "eigenvalue", "stddev"),
    )
    pca_stddev: float = flag(0.1, "Standard deviation of the random factors of the color noise.", low=0.0)
    pca_color_until_epoch: int = flag(0, "Switch color noise off after this many epochs; 0: never.", low=0)
    shuffle_buffer: int = flag(
        4096, "TensorFlow Datasets and records: size of the shuffle buffer, in encoded images.", low=1, high=10_000_000
    )
    input_threads: int = flag(0, "Threads of the data graph; 0: one per core.", low=0, high=1024, free=True)

    @property
    def served_orientation(self):
        """apply or ignore: what a model does with the EXIF orientation of the files that it is asked about."""
        return "ignore" if self.orientation == "ignore" else "apply"


@dataclasses.dataclass(frozen=True)
class NetworkConfig(variants.Settings):
    """Network (sections 3 and 4.2)."""

    devices: tuple[str, ...] = flag(
        ("auto",),
        "Devices of the towers, such as GPU:0,GPU:1, or one for both. auto: two GPUs if present.",
        first=True,
        free=True,
    )
    precision: str = flag(
        "float32", "Arithmetic of convolutions and products; the rest is float32.", choices=PRECISIONS, first=True
    )

    def device_names(self):
        """The names in --devices: tuple of str, or None for auto."""
        names = tuple(name.upper() for name in self.devices)
        return None if names in ((), ("AUTO",)) else names


@dataclasses.dataclass(frozen=True)
class TrainingConfig:
    """Training (section 5)."""

    epochs: int = flag(90, "Passes over the training set.", low=1, high=1_000_000, first=True, free=True)
    batch_size: int = flag(128, "Images per training step.", low=1, high=65_536, first=True)
    learning_rate: float = flag(0.01, "Learning rate at the start.", low=0.0, first=True)
    momentum: float = flag(0.9, "Momentum of the update rule.", low=0.0, below=1.0)
    weight_decay: float = flag(0.0005, "Weight decay of kernels; biases have none.", low=0.0)
    bias_learning_rate_multiplier: float = flag(1.0, "Learning rate of biases over kernels' (release: 2).", low=0.0)
    rate_scaling: str = flag(
        "none",
        "Multiplies learning rates by --batch_size / 128, or by its square root (Krizhevsky 2014).",
        choices=tuple(schedules.SCALINGS),
    )
    lr_policy: str = flag(
        "plateau",
        "plateau: divide by 10 when the validation error stops improving, --plateau_cuts times, then stop. schedule: "
        "see --lr_schedule. constant: no change.",
        choices=("plateau", "schedule", "constant"),
    )
    lr_schedule: str = flag(
        "",
        "AFTER_EPOCH:[LAYERS=]RATE,... such as 25:0.001,25:bias=0.002,67:conv1=0. Without LAYERS the rate is that of "
        "kernels, and of biases times their multiplier; LAYERS is bias or the start of layer names; 0 freezes layers.",
    )
    plateau_patience: int = flag(
        5, "plateau: epochs without a lower validation error before the learning rate drops.", low=1
    )
    plateau_cuts: int = flag(3, "plateau: number of drops of the learning rate.", low=0, high=1000)
    initial_weights: str | None = flag(
        None,
        "Run, exported model or .npz file whose weights all layers but --new_layers start with.",
        path=True,
    )
    new_layers: tuple[str, ...] = flag(
        ("fc8",), "With --initial_weights: layers that start with random weights, such as fc8 for other classes."
    )


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """Run."""

    model_dir: str | None = flag(
        None,
        "Folder of the run (default: runs/NAME for --flagfile=flags/NAME.cfg); a run in it is resumed.",
        path=True,
        first=True,
        free=True,
    )
    seed: int = flag(2012, "Seed of initial weights, image order, crops, color noise and dropout.", low=0)
    export: bool = flag(True, "Write a SavedModel to MODEL_DIR/export/1 at the end.", free=True)
    checkpoints_to_keep: int = flag(
        3, "Newest checkpoints to keep; that of the best epoch is always kept.", low=1, high=100_000, free=True
    )
    checkpoint_minutes: float = flag(15.0, "Minutes between checkpoints within an epoch; 0: none.", low=0.0, free=True)
    checkpoint_steps: int = flag(0, "Steps between checkpoints within an epoch; 0: none.", low=0, free=True)
    strategy: str = flag(
        "one",
        "one: one process on one device, or on two with a tower on each. mirrored: a copy of the network on each of "
        "--devices (default: all GPUs) trains on a part of every batch. multi_worker: see docs/clusters.md.",
        choices=STRATEGIES,
        free=True,
    )
    gpu_memory: str = flag("all", "Of each GPU: all, grow (as needed), or at most a number of MB.", free=True)
    deterministic: bool = flag(False, "Results that repeat to the bit on GPUs, as they do on CPUs.", free=True)
    dry_run: bool = flag(
        False, "Check everything, train two steps, estimate time and memory, write nothing.", saved=False, first=True
    )
    summary_steps: int = flag(20, "TensorBoard: steps between points of the training curves.", low=1, free=True)
    histograms: bool = flag(False, "TensorBoard: histograms of weights and velocities every epoch.", free=True)
    profile: tuple[int, ...] = flag((), "TensorBoard: first and last step to profile, such as 10,15.", free=True)


@dataclasses.dataclass(frozen=True)
class Config:
    """All settings of a training run."""

    data: DataConfig
    network: NetworkConfig
    training: TrainingConfig
    run: RunConfig


def parse_train(argv, usage):
    """Parses and checks the flags of a training run: Config. Raises as `flags.parse`."""
    config = flags.parse(Config, argv, usage)
    name = flags.flagfile_name(argv)
    if config.run.model_dir is None and name:
        config = dataclasses.replace(config, run=dataclasses.replace(config.run, model_dir=f"runs/{name}"))
    check(config)
    return config


def check(config):
    """Checks what concerns several flags, without TensorFlow. Raises ArgumentError or UsageError."""
    data, network, training, run = config.data, config.network, config.training, config.run
    if not run.model_dir:
        raise UsageError("--model_dir is missing: name a folder for this run")
    if not data.dataset:
        raise UsageError("--dataset is empty: give a TensorFlow Datasets name, records, folder or shapes")
    if data.dataset in ("folder", "records") and not data.data_dir:
        is_folder = data.dataset == "folder"
        wanted = "DATA_DIR/CLASS/*.jpg, or train and val in it" if is_folder else "what tools/prepare_dataset.py wrote"
        raise UsageError(f"--data_dir is missing: --dataset={data.dataset} reads {wanted}")
    for name in ("train_split", "val_split"):
        if getattr(data, name) and data.dataset in DATASETS:
            raise ArgumentError(name, getattr(data, name), f"must be left out: --dataset={data.dataset} has two splits")
    if data.val_fraction and data.dataset != "folder":
        raise ArgumentError("val_fraction", data.val_fraction, "is for --dataset=folder; other sets have two splits")
    largest = 256 - variants.VARIANTS[network.variant].input_size + 1
    if data.crop_positions > largest:
        raise ArgumentError("crop_positions", data.crop_positions, f"must be at most {largest} for {network.variant}")
    check_devices(network, run.strategy)
    rates = schedules.parse(training.lr_schedule)
    if (training.lr_policy == "schedule") != bool(rates):
        problem = "needs --lr_policy=schedule, which needs entries such as 25:0.001,51:0.0001"
        raise ArgumentError("lr_schedule", training.lr_schedule, problem)
    # Rates of layers and biases become factors on that of the kernels.
    set_from = {bool(label): after for after, label, rate in reversed(rates) if rate}
    if not training.learning_rate and set_from.get(True, math.inf) < set_from.get(False, math.inf):
        problem = "must be positive: without it rates of layers have no effect; freeze the others with LAYERS=0"
        raise ArgumentError("learning_rate", training.learning_rate, problem)
    for flag_name, names in (("lr_schedule", schedules.layer_labels(rates)), ("new_layers", training.new_layers)):
        for name in names:
            if not any(layer.startswith(name) for layer in variants.LAYERS):
                problem = f"must name layers of {', '.join(variants.LAYERS)}, not {name!r}"
                raise ArgumentError(flag_name, flags.as_text(config)[flag_name], problem)
    if not re.fullmatch(r"all|grow|[1-9]\d{0,8}", run.gpu_memory):
        raise ArgumentError("gpu_memory", run.gpu_memory, "must be all, grow, or a number of MB such as 20000")
    if run.profile and (len(run.profile) != 2 or not 1 <= run.profile[0] <= run.profile[1]):
        problem = "must be the first and the last step, such as 10,15"
        raise ArgumentError("profile", flags.as_text(config)["profile"], problem)


def check_devices(network, strategy):
    """Checks --devices with the flags that limit them. Whether devices are present is checked by TensorFlow later."""
    names = network.device_names() or ()
    text = ",".join(network.devices)
    for name in names:
        if not re.fullmatch(r"(CPU|GPU):\d{1,3}", name):
            raise ArgumentError("devices", text, "must be names such as GPU:0,GPU:1, or auto")
    if len(set(names)) < len(names):
        raise ArgumentError("devices", text, "must be different; give one device for both towers")
    if names and strategy == "multi_worker":
        problem = "must be left out: with --strategy=multi_worker each process uses all its GPUs"
        raise ArgumentError("devices", text, problem)
    if len(names) > network.towers and strategy == "one":
        raise ArgumentError("devices", text, f"must not be more devices than towers (--towers={network.towers})")
    if network.precision == "mixed_float16" and strategy != "one":
        problem = f"must be mixed_bfloat16 or float32 with --strategy={strategy}"
        raise ArgumentError("precision", network.precision, problem)
