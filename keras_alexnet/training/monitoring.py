"""Monitors training: TensorBoard's curves and filters, `history.csv`, and warnings."""

import csv
import glob
import math
import os
import resource
import shutil
import sys
import time

import keras
import tensorflow as tf

from keras_alexnet.files import atomic_write
from keras_alexnet.model import filters
from keras_alexnet.training import metrics

_ERRORS = ("loss", "top1_error", "top5_error")
HISTORY_COLUMNS = (
    *("epoch", *_ERRORS, *(f"val_{name}" for name in _ERRORS), "learning_rate", "images_per_second"),
    *("mean_squared_error", "val_mean_squared_error"),
)
_SPLITS = ("train", "val")

# Warnings.
WAITING = 0.5  # share of the time spent waiting for images
WARM_UP = 50  # first steps of a process, in which the data graph fills its buffers
FLAT = 0.02  # relative distance of a loss from that of the majority-class baseline
FLAT_STEPS, FLAT_EPOCHS = 2000, 10  # whichever comes first
GIGABYTE = 1e9


class Monitor(keras.callbacks.Callback):
    """Writes curves, filters, speed and memory to TensorBoard, weights and a profile on request; prints warnings.

    Training and validation are two TensorBoard runs with the same tags and steps, so that they share their charts. The
    Monitor removes what TensorBoard's files hold after the progress.Progress that the run resumes from, since those
    steps are repeated. `val_counts` are the validation images of each class, `epoch_steps` the steps of an epoch.
    """

    def __init__(self, config, trainer, progress, val_counts, epoch_steps):
        super().__init__()
        self.run, self.variant, self.trainer = config.run, config.network.variant, trainer
        self.classes = len(val_counts)
        self.log_dir = os.path.join(self.run.model_dir, "logs")
        _truncate(self.log_dir, progress.files)
        self.step, self.before = progress.steps, progress.sums  # the epoch's sums at the last point
        self.train_writer, self.val_writer = (
            tf.summary.create_file_writer(os.path.join(self.log_dir, split)) for split in _SPLITS
        )
        shares = [count / sum(val_counts) for count in val_counts if count]
        self.constant_loss = -sum(share * math.log(share) for share in shares)  # nats, of predicting the class shares
        self.patience = min(FLAT_STEPS, FLAT_EPOCHS * epoch_steps)
        self.begun = None  # (time, images, seconds waited) at the last point
        self.seen, self.flat, self.warned, self.profiling = 0, 0, set(), False

    def flush(self, progress):
        """Flushes the files, and records their sizes in `progress`."""
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
            self._warn(name, f"{name} is not used: two towers use two GPUs, --strategy=mirrored uses all")
        self._check_disk()

    def on_epoch_begin(self, epoch, logs=None):
        self.begun = None  # so that validation time is left out
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
            tf.summary.image("conv1", filters.conv1_grid(self.trainer.model)[None])
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
        """Writes the means over the steps since the last point of this epoch."""
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
                f"{100 * waiting:.0f} % of the time is spent waiting for images; prepare them once with "
                "tools/prepare_dataset.py and train with --dataset=records, or raise --input_threads",
            )

    def _check_loss(self, loss):
        """Warns if the loss, a mean over the epoch so far, has long been that of the majority-class baseline."""
        near = abs(loss - self.constant_loss) < FLAT * self.constant_loss
        self.flat = self.flat + self.run.summary_steps if near else 0
        if self.flat >= self.patience:
            start = "" if self.variant == "release2012" else "; --variant=release2012 starts with larger weights"
            self._warn(
                "flat",
                f"for {self.flat} steps the loss has been {loss:.3f}, as of the majority-class baseline (ln "
                f"{self.classes} is {math.log(self.classes):.3f}). With the published initialization this can last "
                f"hundreds of steps; with a wrong --learning_rate or wrong labels the loss never falls{start}",
            )

    def _check_disk(self):
        free = shutil.disk_usage(self.run.model_dir).free
        needed = 2 * 4 * self.trainer.model.count_params()  # bytes of a checkpoint: weights and velocities
        if free < 2 * needed:
            self._warn(
                "disk",
                f"{free / GIGABYTE:.2f} GB are left on the disk of {self.run.model_dir}, and a checkpoint takes "
                f"{needed / GIGABYTE:.2f} GB; free some space, or the run fails at the next checkpoint",
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
    """Writes a run's `history.csv` from a dict for each epoch with the keys in HISTORY_COLUMNS."""
    with atomic_write(path, newline="") as file:
        writer = csv.DictWriter(file, HISTORY_COLUMNS)
        writer.writeheader()
        for row in rows:
            writer.writerow({name: f"{row[name]:.6g}" if name != "epoch" else row[name] for name in HISTORY_COLUMNS})


def memory():
    """The bytes in use: dict of int, "process" (peak) and each GPU such as "GPU:0" (now)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    used = {"process": peak if sys.platform == "darwin" else 1024 * peak}
    for device in tf.config.list_logical_devices("GPU"):
        name = device.name.removeprefix("/device:")
        used[name] = tf.config.experimental.get_memory_info(name)["current"]
    return used


def idle_gpus(model):
    """The GPUs without variables of a model: list of str such as "GPU:1"."""
    used = set()
    for variable in model.variables:
        replicas = getattr(variable.value, "values", None)  # a tuple with several replicas, else a method
        used |= {each.device for each in (replicas if isinstance(replicas, tuple) else [variable.value])}
    present = [device.name.removeprefix("/device:") for device in tf.config.list_logical_devices("GPU")]
    return [name for name in present if not any(device.endswith(name) for device in used)]


def _files(log_dir):
    """TensorBoard's files of the curves: list of paths relative to the logs."""
    paths = (glob.glob(os.path.join(glob.escape(log_dir), split, "events.out.tfevents.*")) for split in _SPLITS)
    return [os.path.relpath(path, log_dir) for each in paths for path in sorted(each)]


def _truncate(log_dir, files):
    """Truncates TensorBoard's files to the sizes in `files`, so that repeated steps have one point."""
    for name in _files(log_dir):
        path = os.path.join(log_dir, name)
        if name not in files:
            os.unlink(path)
        elif os.path.getsize(path) > files[name]:
            os.truncate(path, files[name])
