"""What a run shows while it trains: TensorBoard's curves and filters, `history.csv`, and warnings."""

import csv
import glob
import math
import os
import resource
import shutil
import sys
import time

import keras
import numpy as np
import tensorflow as tf

from keras_alexnet.files import atomic_write
from keras_alexnet.training import metrics

_ERRORS = ("loss", "top1_error", "top5_error")
HISTORY_COLUMNS = (
    *("epoch", *_ERRORS, *(f"val_{name}" for name in _ERRORS), "learning_rate", "images_per_second"),
    *("mean_squared_error", "val_mean_squared_error"),
)
_SPLITS = ("train", "val")

# Warnings.
WAITING = 0.5  # share of the time that is spent waiting for images
WARM_UP = 50  # steps at the start of a process in which the data graph fills its buffers
FLAT = 0.02  # relative distance of a loss from that of the majority-class baseline
FLAT_STEPS, FLAT_EPOCHS = 2000, 10  # whichever comes first
GIGABYTE = 1e9

# Figure 3, as in the release's shownet.py: filters a line; white after each filter and between the towers, in weights.
PER_LINE, BORDER, GAP = 16, 1, 4


class Monitor(keras.callbacks.Callback):
    """TensorBoard's curves, filters, speed and memory; weights and a profile on request; each warning once a process.

    Training and validation are two TensorBoard runs with the same tags and steps, so that they share their charts.

    Args:
        config: config.Config.
        trainer: trainer.Trainer.
        progress: progress.Progress that the run resumes from. What TensorBoard's files got after it is removed, since
            those steps are made again.
        val_counts: sequence of int, validation images of each class.
        epoch_steps: int, steps of an epoch.
    """

    def __init__(self, config, trainer, progress, val_counts, epoch_steps):
        super().__init__()
        self.run, self.variant, self.trainer, self.classes = (
            config.run,
            config.network.variant,
            trainer,
            len(val_counts),
        )
        self.log_dir = os.path.join(self.run.model_dir, "logs")
        _truncate(self.log_dir, progress.files)
        self.step, self.before = progress.steps, progress.sums  # sums of the epoch at the last point
        self.train_writer, self.val_writer = (
            tf.summary.create_file_writer(os.path.join(self.log_dir, split)) for split in _SPLITS
        )
        shares = [count / sum(val_counts) for count in val_counts if count]
        self.constant_loss = -sum(share * math.log(share) for share in shares)  # nats, of answering with the shares
        self.patience = min(FLAT_STEPS, FLAT_EPOCHS * epoch_steps)
        self.begun = None  # (time, images, seconds waited) at the last point
        self.seen, self.flat, self.warned, self.profiling = 0, 0, set(), False

    def flush(self, progress):
        """Writes everything to the files, and notes in `progress` how far they are."""
        self.train_writer.flush()
        self.val_writer.flush()
        progress.sums = self.before
        progress.files = {name: os.path.getsize(os.path.join(self.log_dir, name)) for name in _files(self.log_dir)}

    def note(self, message):
        """Writes a warning to TensorBoard alone."""
        with self.train_writer.as_default(self.step):
            tf.summary.text("warnings", message)

    def on_train_begin(self, logs=None):
        for name in idle_gpus(self.trainer.model):
            self._warn(name, f"{name} has nothing to do: two towers take two GPUs, --strategy=mirrored takes all")
        self._check_disk()

    def on_epoch_begin(self, epoch, logs=None):
        self.begun = None  # the time of the validation does not count
        if not self.trainer.averages.count():  # a resumed epoch keeps its last point
            self.before = {}

    def on_train_batch_begin(self, batch, logs=None):
        if self.run.profile and self.step + 1 == self.run.profile[0]:
            tf.profiler.experimental.start(self.log_dir)
            self.profiling = True

    def on_train_batch_end(self, batch, logs=None):
        self.step, self.seen = self.step + 1, self.seen + 1
        if self.run.profile and self.step >= self.run.profile[1]:
            self._stop_profiling()
        is_due = self.step % self.run.summary_steps == 0
        if is_due:
            self._write_point()
        now = (time.perf_counter(), self.trainer.averages.count(), self.trainer.waited)
        if self.begun is None:
            self.begun = now
        elif is_due:
            self._write_speed(now)
            self._check_loss(logs["loss"])
            self._check_disk()

    def on_epoch_end(self, epoch, logs=None):
        if self.step % self.run.summary_steps:
            self._write_point()
        with self.train_writer.as_default(self.step):
            tf.summary.scalar("learning_rate", logs["learning_rate"])
            tf.summary.scalar("images_per_second", logs["images_per_second"])
            tf.summary.image("conv1", conv1_grid(self.trainer.model)[None])
            if self.run.histograms:
                for variable in [*self.trainer.model.trainable_variables, *self.trainer.optimizer.variables]:
                    if len(variable.shape):
                        tf.summary.histogram(variable.path, variable.value)
        with self.val_writer.as_default(self.step):
            for name in metrics.NAMES:
                tf.summary.scalar(name, logs[f"val_{name}"])
        self.train_writer.flush()
        self.val_writer.flush()

    def on_train_end(self, logs=None):
        self._stop_profiling()
        self.train_writer.close()
        self.val_writer.close()

    def _write_point(self):
        """Means over the updates since the last point of this epoch."""
        now = self.trainer.averages.sums()
        images = now["count"] - self.before.get("count", 0.0)
        with self.train_writer.as_default(self.step):
            for name in metrics.NAMES:
                tf.summary.scalar(name, (now[name] - self.before.get(name, 0.0)) / max(images, 1.0))
        self.before = now

    def _write_speed(self, now):
        seconds, images, waited = (end - start for end, start in zip(now, self.begun, strict=True))
        self.begun, waiting = now, waited / seconds
        with self.train_writer.as_default(self.step):
            tf.summary.scalar("speed/images_per_second", images / seconds)
            tf.summary.scalar("speed/share_of_time_waiting_for_images", waiting)
            for name, size in memory().items():
                tf.summary.scalar(f"memory/{name}_gigabytes", size / GIGABYTE)
        if self.seen > WARM_UP and waiting > WAITING:
            self._warn(
                "waiting",
                f"{100 * waiting:.0f} % of the time is spent waiting for images: prepare them once with "
                "tools/prepare_dataset.py and train with --dataset=records, or give --input_threads",
            )

    def _check_loss(self, loss):
        """The loss is the mean over the epoch so far."""
        near = abs(loss - self.constant_loss) < FLAT * self.constant_loss
        self.flat = self.flat + self.run.summary_steps if near else 0
        if self.flat >= self.patience:
            start = "" if self.variant == "release2012" else "; --variant=release2012 starts with larger weights"
            self._warn(
                "flat",
                f"the loss has been {loss:.3f} for {self.flat} steps, that of the majority-class baseline (ln "
                f"{self.classes} is {math.log(self.classes):.3f}): with the published initialization this can last "
                f"hundreds of steps, with a wrong --learning_rate or wrong labels it does not end{start}",
            )

    def _check_disk(self):
        """Warns where there is no space for two more checkpoints."""
        free = shutil.disk_usage(self.run.model_dir).free
        needed = 2 * 4 * self.trainer.model.count_params()  # bytes of a checkpoint: weights and velocities
        if free < 2 * needed:
            self._warn(
                "disk",
                f"{free / GIGABYTE:.2f} GB are left on the disk of {self.run.model_dir}, and a checkpoint takes "
                f"{needed / GIGABYTE:.2f} GB: free some space, or the run fails at the next one",
            )

    def _warn(self, kind, message):
        if kind not in self.warned:
            self.warned.add(kind)
            print(f"warning: {message}", file=sys.stderr, flush=True)
            self.note(message)

    def _stop_profiling(self):
        if self.profiling:
            tf.profiler.experimental.stop()
            self.profiling = False


def write_history(path, rows):
    """Writes a run's `history.csv`: rows are dicts with the keys in HISTORY_COLUMNS, one for each epoch."""
    with atomic_write(path, newline="") as file:
        writer = csv.DictWriter(file, HISTORY_COLUMNS)
        writer.writeheader()
        for row in rows:
            writer.writerow({name: f"{row[name]:.6g}" if name != "epoch" else row[name] for name in HISTORY_COLUMNS})


def memory():
    """Bytes in use: dict of "process" (its peak) and each GPU, such as "GPU:0" (now) -> int."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found = {"process": peak if sys.platform == "darwin" else 1024 * peak}
    for device in tf.config.list_logical_devices("GPU"):
        name = device.name.removeprefix("/device:")
        found[name] = tf.config.experimental.get_memory_info(name)["current"]
    return found


def idle_gpus(model):
    """GPUs that hold no variable of a model: list of str, such as "GPU:1"."""
    used = set()
    for variable in model.variables:
        replicas = getattr(variable.value, "values", None)  # a method of variables that are not of several replicas
        used |= {each.device for each in (replicas if isinstance(replicas, tuple) else [variable.value])}
    present = [device.name.removeprefix("/device:") for device in tf.config.list_logical_devices("GPU")]
    return [name for name in present if not any(device.endswith(name) for device in used)]


def conv1_towers(model):
    """The filters of conv1 by tower: list of two float32 (11, 11, 3, filters); of one tower, its two halves."""
    kernels = [layer.kernel.numpy() for layer in model.layers if layer.name.startswith("conv1")]
    return kernels if len(kernels) > 1 else np.array_split(kernels[0], 2, axis=-1)


def conv1_grid(model, scale=3):
    """The filters of conv1 as an image, see `grid`."""
    return grid(conv1_towers(model), scale)


def grid(towers, scale=3, normalize="jointly"):
    """Filters as an image, uint8 (rows, columns, 3), RGB: a block for each tower, lines of 16 filters, white borders.

    Args:
        towers: as of `conv1_towers`.
        scale: int >= 1, pixels per weight.
        normalize: "jointly", one common factor for all, zero is mid-grey; or "each": every filter is first standardized
            by its own mean and standard deviation, as by the release's `shownet.py --norm-filters`.
    """
    if normalize == "each":
        deviations = [np.where(kernel.std((0, 1, 2)) > 0, kernel.std((0, 1, 2)), 1.0) for kernel in towers]
        towers = [(own - own.mean((0, 1, 2))) / each for own, each in zip(towers, deviations, strict=True)]
    peak = max(np.abs(kernel).max() for kernel in towers) or 1.0
    blocks = [_block(kernel / peak * 0.5 + 0.5) for kernel in towers]
    gap = np.ones((GAP, blocks[0].shape[1], 3))
    grid = np.round(np.concatenate([blocks[0], gap, blocks[1]]) * 255).astype(np.uint8)
    return grid.repeat(scale, axis=0).repeat(scale, axis=1)


def _block(kernel):
    """(11, 11, 3, filters) in 0..1 -> (lines * 12, 16 * 12, 3), white where a line is not full."""
    filters = np.moveaxis(kernel, -1, 0)
    missing = -len(filters) % min(PER_LINE, len(filters))
    filters = np.pad(filters, ((0, missing), (0, BORDER), (0, BORDER), (0, 0)), constant_values=1.0)
    lines = np.split(filters, math.ceil(len(filters) / PER_LINE))
    return np.concatenate([np.concatenate(line, axis=1) for line in lines], axis=0)


def _files(log_dir):
    """TensorBoard's files of the curves, by their paths below the logs."""
    paths = (glob.glob(os.path.join(glob.escape(log_dir), split, "events.out.tfevents.*")) for split in _SPLITS)
    return [os.path.relpath(path, log_dir) for each in paths for path in sorted(each)]


def _truncate(log_dir, files):
    """Cuts TensorBoard's files to these sizes, so that no point is there twice."""
    for name in _files(log_dir):
        path = os.path.join(log_dir, name)
        if name not in files:
            os.unlink(path)
        elif os.path.getsize(path) > files[name]:
            os.truncate(path, files[name])
