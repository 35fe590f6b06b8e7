"""The folder of a run: its files, its provenance, and opening it. Only opening a run needs TensorFlow.

RUN/flags.cfg, class_names.txt, statistics.npz, validation.json, provenance.json, checkpoints/, history.csv, logs/
"""

import contextlib
import csv
import dataclasses
import datetime
import functools
import importlib.metadata
import os
import platform
import subprocess
import types

from keras_alexnet import __version__, config as configs, flags
from keras_alexnet.errors import ArgumentError, RunError, UsageError, reading
from keras_alexnet.files import atomic_write, read_json, write_json
from keras_alexnet.model import variants
from keras_alexnet.training import progress as progresses

FLAGS = "flags.cfg"
CLASS_NAMES = "class_names.txt"
STATISTICS = "statistics.npz"
CHECKPOINTS = "checkpoints"
PROVENANCE = "provenance.json"  # list with an entry for every process that trained the run
HISTORY = "history.csv"
VALIDATION = "validation.json"  # see data.statistics.DatasetSummary
INCLUDED = ("imagenette",)  # runs that come with the package, in folders of these names
# The packages that the results of a run depend on.
PACKAGES = ("tensorflow", "keras", "numpy", "tensorflow-datasets", "absl-py", "pillow", "tensorboard")


@dataclasses.dataclass(frozen=True)
class Run:
    """One checkpoint of a run, opened."""

    model_dir: str
    config: configs.Config
    class_names: tuple[str, ...]
    statistics: object  # data.statistics.Statistics of its training set
    checkpoint: str  # path
    weights: dict  # str -> float32 array, see `model.weights.named`
    history: tuple[dict, ...]  # a row of `history.csv` for each epoch; empty for imported weights


def located(model_dir):
    """The path of a run's folder, where the name may be one of INCLUDED; a folder of the same name comes first."""
    name = model_dir and os.fspath(model_dir).rstrip(os.sep)  # a slash at the end, or a Path
    if name in INCLUDED and not os.path.isfile(os.path.join(name, FLAGS)) and not is_export(name):
        return os.path.join(os.path.dirname(os.path.abspath(__file__)), name)
    return model_dir


def is_run(folder):
    """Whether a folder holds a run, bool."""
    return os.path.isfile(os.path.join(located(folder), FLAGS))


def is_export(folder):
    """Whether a folder holds an exported model, bool."""
    return os.path.isfile(os.path.join(folder, "saved_model.pb"))


def check_model(folder, name="model_dir"):
    """Raises ArgumentError unless a folder holds a run or an exported model."""
    check_path(located(folder), name)
    if not is_run(folder) and not is_export(folder):
        raise ArgumentError(name, folder, f"is neither a run (no {FLAGS}) nor an exported model (no saved_model.pb)")


def check_run(model_dir, flag="--model_dir="):
    """Raises UsageError unless a folder holds a run."""
    check_path(located(model_dir))
    if not is_run(model_dir):
        raise UsageError(f"{flag}{model_dir}: is not a run (its {FLAGS} is missing)")


def check_path(path, name="model_dir"):
    """Raises ArgumentError if TensorFlow would read the path as a pattern of file names."""
    whole = os.path.abspath(path)
    if set(whole) & set("[]*?\\"):
        raise ArgumentError(name, path, f"{whole} must not contain [ ] * ? or \\ (TensorFlow reads it as a pattern)")


def has_checkpoint(model_dir):
    """Whether a run has a checkpoint to resume from, bool."""
    return bool(progresses.checkpoint_paths(os.path.join(model_dir, CHECKPOINTS)))


def read_config(model_dir):
    """The settings that a run was started with: config.Config. Raises RunError where they cannot be read."""
    path = os.path.join(located(model_dir), FLAGS)
    try:
        with open(path, encoding="utf-8") as file:
            lines = (line[2:].partition("=") for line in file.read().split("\n") if line.startswith("--"))
        return flags.read(configs.Config, {name: value for name, _, value in lines})
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: is not the flags of a run ({error}); restore it") from None


def read_history(model_dir):
    """The rows of a run's history.csv, list with a dict of float for each epoch; empty if the file is missing."""
    path = os.path.join(model_dir, HISTORY)
    if not os.path.isfile(path):
        return []
    with reading(path), open(path, newline="", encoding="utf-8") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def read_class_names(model_dir):
    """The class names in the order of the labels, tuple of str. Raises RunError where they cannot be read."""
    path = os.path.join(located(model_dir), CLASS_NAMES)
    with reading(f"{path} (training again writes it)"), open(path, encoding="utf-8", newline="\n") as file:
        names = tuple(file.read().removesuffix("\n").split("\n"))
    if not all(names) or len(set(names)) < len(names):
        raise RunError(f"{path}: must hold one name a line, and no name twice")
    return names


def write_settings(config, class_names, folder=None):
    """Writes the class names, and a flagfile of all flags, which makes the folder a run and can repeat its training.

    `folder`: another one than the config's `model_dir`, whose paths then stay as they are.
    """
    with atomic_write(os.path.join(folder or config.run.model_dir, CLASS_NAMES)) as file:
        file.write("".join(f"{name}\n" for name in class_names))
    texts = flags.as_text(config)
    if texts["data_dir"] and not folder:
        texts["data_dir"] = os.path.abspath(texts["data_dir"])  # so that the flagfile finds its images from any folder
    with atomic_write(os.path.join(folder or config.run.model_dir, FLAGS)) as file:
        file.write(f"# python -m keras_alexnet.train --flagfile={os.path.join(config.run.model_dir, FLAGS)}\n")
        file.write("".join(f"--{name}={value}\n" for name, value in texts.items()))


def write_provenance(model_dir, statistics, val_summary):
    """Adds the provenance of this process to a run's file; returns what has changed since the first, list of str."""
    path, record = os.path.join(model_dir, PROVENANCE), []
    with contextlib.suppress(OSError, ValueError):
        record = read_json(path)
    now = provenance()
    now["training_set"] = {"images": statistics.count, "fingerprint": statistics.fingerprint}
    now["validation_set"] = {"images": sum(val_summary.label_counts), "fingerprint": val_summary.fingerprint}
    now["begun"] = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    record = [each for each in record if isinstance(each, dict)] if isinstance(record, list) else []
    write_json(path, [*record, now], indent=1, ensure_ascii=False)
    first = [*record, now][0]
    names = [name for name in ("keras_alexnet", "commit", "packages", "device") if first.get(name) != now[name]]
    return [f"{name} {first.get(name)} -> {now[name]}" for name in names]


def open_run(model_dir, which="newest"):
    """Opens a checkpoint of a run and returns the Run.

    "newest": the newest checkpoint of a whole epoch, or of a step where there is none; a damaged checkpoint is passed
    over. "best": the epoch with the lowest validation error. Raises UsageError where the folder does not hold a run,
    and RunError where it has no checkpoint or a file is missing or damaged.
    """
    check_run(model_dir)
    config, class_names, needed = read_config(model_dir), read_class_names(model_dir), _modules()
    folder = os.path.join(located(model_dir), CHECKPOINTS)
    paths = progresses.epoch_checkpoints(folder)
    if not paths:
        raise RunError(f"{model_dir}: the run has no checkpoint yet; let it finish an epoch first")
    if which == "best":
        # The newest readable checkpoint holds the number of the best epoch.
        best = progresses.first_readable(paths, lambda path: needed.checkpoints.read_progress(path).best)
        paths = [path for path in paths if os.path.basename(path) == progresses.checkpoint_name(best or 0, 0)]
        if not paths:
            raise RunError(f"{folder}: the checkpoint of the best epoch is missing; use --checkpoint=newest")
    path = os.path.join(located(model_dir), STATISTICS)
    with reading(f"{path} (training again writes it)"):
        statistics = needed.statistics.load(path)

    def opened(path):
        history = tuple(needed.checkpoints.read_progress(path).history)
        return Run(model_dir, config, class_names, statistics, path, needed.weights.read_checkpoint(path), history)

    return progresses.first_readable(paths, opened)


def build(run, network=None, activation=None):
    """The network of a run, or another form of it, not on devices: keras.Model, images -> logits. Raises RunError."""
    network = network or run.config.network
    with reading(run.checkpoint):
        model = build_model(network, len(run.class_names), run.config.run.seed, (), activation)
        _modules().weights.assign(run.weights, model)
    return model


def build_model(network, num_classes, seed, devices, activation=None):
    """The network of a config.NetworkConfig with random weights: keras.Model, images -> logits; see `AlexNet`.

    On two devices it has an input for each tower, so that each device can make its own, in the tower's arithmetic.
    """
    settings = {**variants.settings_of(network), "devices": devices, "dtype": network.precision, "seed": seed}
    if len(devices) == 2:
        size, dtype = variants.VARIANTS[network.variant].input_size, network.precision.removeprefix("mixed_")
        settings["input_tensor"] = [_modules().tf.keras.Input((size, size, 3), dtype=dtype) for _ in devices]
    return _modules().AlexNet(num_classes, classifier_activation=activation, **settings)


def create(config, weights, class_names, statistics, history=(), folder=None):
    """Creates a run from weights that were trained elsewhere, for evaluation, export and fine-tuning.

    The weights are those that `model.weights.named` returns for the network of the config.Config, in any floating-point
    type; its `model_dir` is the folder to create, unless there is a `folder`. Only the mean image of the
    data.statistics.Statistics is used. The history is that of a Run. Raises UsageError where the folder is not empty.
    """
    model_dir, needed = folder or config.run.model_dir, _modules()
    check_path(model_dir)
    if os.path.isdir(model_dir) and os.listdir(model_dir):
        raise UsageError(f"--model_dir={model_dir}: is not empty; name a new folder")
    os.makedirs(model_dir, exist_ok=True)
    needed.statistics.save(statistics, os.path.join(model_dir, STATISTICS))
    checkpoints = needed.checkpoints.Checkpoints(os.path.join(model_dir, CHECKPOINTS), weights, keep=1)
    checkpoints.write(progresses.Progress(epochs=len(history), history=list(history)))
    checkpoints.wait()
    write_settings(config, class_names, folder)  # last: from here on the folder is a run


def provenance():
    """The code, packages and machine of this process: dict of str -> str or dict."""
    versions = {"keras_alexnet": __version__, "commit": commit(), "python": platform.python_version()}
    return {**versions, "packages": packages(), "platform": platform.platform(), "device": device()}


def packages():
    """The installed versions of PACKAGES: dict of name -> str."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"  # such as tensorflow where tensorflow-cpu is installed
    return versions


@functools.cache
def commit():
    """The commit of this package at the first call, str, with a + if files have changed since; or "unknown"."""
    here = os.path.dirname(os.path.abspath(__file__))

    def git(*arguments):
        command = ["git", "-C", here, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", __file__)  # fails for an installed copy, which has no commit
        return git("rev-parse", "--short=7", "HEAD")[:7] + "+" * bool(git("status", "--porcelain", "--", here))
    except (OSError, subprocess.SubprocessError):
        return "unknown"


def device():
    """The GPUs, or else the CPU, of this process and the version of TensorFlow, str."""
    tf = _modules().tf
    gpus = tf.config.list_physical_devices("GPU")
    names = [tf.config.experimental.get_device_details(gpu).get("device_name", "GPU") for gpu in gpus]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    processors = []
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        processors = [line.split(":", 1)[1].strip() for line in file if line.startswith("model name")]
    machine = ", ".join([platform.machine(), *processors[:1]])
    where = ", ".join(names) or f"{cores} CPU core{'s' * (cores > 1)} ({machine})"
    return f"{where}, TensorFlow {tf.__version__}"


def _modules():
    """Modules that import TensorFlow, which takes seconds; they are imported only when a run is opened or built."""
    import tensorflow as tf

    from keras_alexnet.data import statistics
    from keras_alexnet.model import alexnet, weights
    from keras_alexnet.training import checkpoints

    return types.SimpleNamespace(
        tf=tf, statistics=statistics, AlexNet=alexnet.AlexNet, weights=weights, checkpoints=checkpoints
    )
