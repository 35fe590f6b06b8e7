"""A run's folder: what training left there, read back; and a run made of weights that come from elsewhere."""

import contextlib
import dataclasses
import datetime
import json
import os

from keras_alexnet import config as configs
from keras_alexnet import flags, provenance
from keras_alexnet.errors import RunError, UsageError, reading
from keras_alexnet.files import atomic_write
from keras_alexnet.training import checkpoints
from keras_alexnet.training.progress import Progress

FLAGS = "flags.cfg"
CLASS_NAMES = "class_names.txt"
STATISTICS = "statistics.npz"
CHECKPOINTS = "checkpoints"
PROVENANCE = "provenance.json"  # a list: an entry for every process that trained the run
VALIDATION = "validation.json"  # what is known of the validation set, see data.statistics.DatasetSummary
# Where a checkpoint keeps its training.progress.Progress; of weights from elsewhere, and of version 0.1's training.
_PROGRESS = ("progress", "progress/.ATTRIBUTES/VARIABLE_VALUE")


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run's folder says of one of its checkpoints; the weights are read by `build`.

    Attributes:
        model_dir: str.
        config: config.Config.
        class_names: tuple of str.
        statistics: data.statistics.Statistics of its training set.
        checkpoint: str, path of the checkpoint.
        history: tuple of dict, one an epoch that the checkpoint has seen; empty for weights from elsewhere.
    """

    model_dir: str
    config: configs.Config
    class_names: tuple[str, ...]
    statistics: object
    checkpoint: str
    history: tuple[dict, ...]


def is_run(folder):
    """Whether a folder holds a run, bool."""
    return os.path.isfile(os.path.join(folder, FLAGS))


def check_run(model_dir):
    """Raises UsageError unless a folder holds a run."""
    if not is_run(model_dir):
        raise UsageError(f"--model_dir={model_dir}: holds no run (there is no {FLAGS} in it)")


def has_checkpoint(model_dir):
    """Whether a run has something to go on with, bool; looked up without TensorFlow."""
    return checkpoints.newest(os.path.join(model_dir, CHECKPOINTS)) is not None


def open_run(model_dir, which=checkpoints.NEWEST):
    """Reads everything but the weights.

    Args:
        model_dir: str, a run's folder.
        which: which checkpoint stands for it, see `training.checkpoints.of_epochs`.

    Returns:
        Run.

    Raises:
        UsageError: the folder holds no run.
        RunError: the run has no checkpoint, lacks one of its files or holds a damaged one.
    """
    from keras_alexnet.data import statistics

    check_run(model_dir)
    config = configs.read_flags_cfg(_text_of(model_dir, FLAGS))
    class_names = tuple(_text_of(model_dir, CLASS_NAMES).splitlines())
    if not all(class_names) or len(set(class_names)) < max(1, len(class_names)):
        raise RunError(f"{os.path.join(model_dir, CLASS_NAMES)}: is to hold one name a line, and no name twice")
    folder = os.path.join(model_dir, CHECKPOINTS)
    with reading(folder):
        checkpoint = checkpoints.of_epochs(folder, which)
    if checkpoint is None and checkpoints.newest(folder):
        raise RunError(f"{folder}: the checkpoint of the best epoch is not there; take the newest")
    if checkpoint is None:
        raise RunError(f"{model_dir}: the run has no checkpoint yet; let it finish an epoch first")
    progress = progress_of(checkpoint)
    path = _file_of(model_dir, STATISTICS)
    return Run(model_dir, config, class_names, statistics.load(path), checkpoint, tuple(progress.get("history", ())))


def progress_of(checkpoint):
    """What a checkpoint says of how far its run had got.

    Args:
        checkpoint: str, its path.

    Returns:
        dict, see `training.progress.Progress`; empty for weights from elsewhere.

    Raises:
        RunError: it cannot be read.
    """
    with reading(checkpoint):
        import tensorflow as tf

        reader = tf.train.load_checkpoint(checkpoint)
        name = next(name for name in _PROGRESS if reader.has_tensor(name))
        return json.loads(reader.get_tensor(name).decode())


def build(run):
    """The network of a run with the weights of its checkpoint.

    Returns:
        keras.Model, images -> logits, without devices.

    Raises:
        RunError: the checkpoint cannot be read.
    """
    with reading(run.checkpoint):
        from keras_alexnet.model import weights

        model = build_model(run.config.network, len(run.class_names), run.config.run.seed, devices=())
        weights.assign(weights.read(run.checkpoint), model)
    return model


def build_model(network, num_classes, seed, devices):
    """The network of a config, with logits as its output.

    Args:
        network: config.NetworkConfig.
        num_classes: int.
        seed: int.
        devices: as of `keras_alexnet.AlexNet`.

    Returns:
        keras.Model.
    """
    from keras_alexnet.model.alexnet import AlexNet

    return AlexNet(
        num_classes,
        network.variant,
        network.towers,
        network.groups,
        devices,
        None,
        topology=network.topology,
        removed_layers=network.removed_layers,
        activation=network.activation,
        local_response_normalization=network.local_response_normalization,
        overlapping_pooling=network.overlapping_pooling,
        dropout=network.dropout,
        width=network.width,
        dtype=network.precision,
        seed=seed,
    )


def create(config, model, class_names, statistics):
    """Makes a run of weights that were trained elsewhere, to be evaluated, exported and taken up from.

    Args:
        config: config.Config; its network is the model's, and its run's `model_dir` the folder, new or empty.
        model: keras.Model as of `build_model`.
        class_names: sequence of str.
        statistics: data.statistics.Statistics; its mean image is what the network's input loses.

    Raises:
        UsageError: the folder holds something already.
    """
    from keras_alexnet.data import statistics as stats

    model_dir = config.run.model_dir
    if os.path.isdir(model_dir) and os.listdir(model_dir):
        raise UsageError(f"--model_dir={model_dir}: is not empty; name a new folder")
    os.makedirs(model_dir, exist_ok=True)
    stats.save(statistics, os.path.join(model_dir, STATISTICS))
    write_class_names(model_dir, class_names)
    variables = {variable.path: variable.value for variable in model.trainable_variables}
    written = checkpoints.Checkpoints(os.path.join(model_dir, CHECKPOINTS), variables, keep=1)
    written.write(Progress())
    written.wait()
    write_flags(config)  # last: from here on it is a run


def write_class_names(model_dir, class_names):
    with atomic_write(os.path.join(model_dir, CLASS_NAMES)) as file:
        file.write("".join(f"{name}\n" for name in class_names))


def write_flags(config):
    """Writes every flag of a config as a flagfile, by which training can be repeated."""
    path = os.path.join(config.run.model_dir, FLAGS)
    with atomic_write(path) as file:
        file.write(f"# python -m keras_alexnet.train --flagfile={path}\n")
        file.write("".join(f"--{name}={value}\n" for name, value in flags.as_text(config).items()))


def write_provenance(model_dir, statistics, summary):
    """Adds to a run's record what this process is: versions, machine, and which images it trains on.

    Args:
        model_dir: str.
        statistics: data.statistics.Statistics of the training set.
        summary: data.statistics.DatasetSummary of the validation set.

    Returns:
        list of str, what differs from the process that began the run; empty for that one.
    """
    path, before = os.path.join(model_dir, PROVENANCE), None
    with contextlib.suppress(OSError, ValueError), open(path, encoding="utf-8") as file:
        before = json.load(file)
    record = before if isinstance(before, list) else []
    now = provenance.of_this()
    now["training_set"] = {"images": statistics.count, "fingerprint": statistics.fingerprint}
    now["validation_set"] = {"images": sum(summary.label_counts), "fingerprint": summary.fingerprint}
    now["begun"] = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    with atomic_write(path) as file:
        json.dump([*record, now], file, indent=1, ensure_ascii=False)
    first = record[0] if record and isinstance(record[0], dict) else now
    return [
        f"{name} {first.get(name)} and now {now[name]}"
        for name in ("keras_alexnet", "commit", "packages", "device")
        if first.get(name) != now[name]
    ]


def _text_of(model_dir, name):
    try:
        with open(_file_of(model_dir, name), encoding="utf-8") as file:
            return file.read()
    except UnicodeDecodeError:
        raise RunError(f"{os.path.join(model_dir, name)}: is no text") from None


def _file_of(model_dir, name):
    path = os.path.join(model_dir, name)
    if not os.path.isfile(path):
        raise RunError(f"{model_dir}: the run lacks its {name}; train again to write it")
    return path
