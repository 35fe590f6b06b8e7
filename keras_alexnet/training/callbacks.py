"""What is written while a run goes on: TensorBoard's curves and pictures, and `history.csv`."""

import csv
import os

import keras
import tensorflow as tf

from keras_alexnet.files import atomic_write
from keras_alexnet.training import metrics
from keras_alexnet.training.filters import conv1_grid

HISTORY_COLUMNS = (
    "epoch",
    "loss",
    "top1_error",
    "top5_error",
    "val_loss",
    "val_top1_error",
    "val_top5_error",
    "learning_rate",
    "images_per_second",
    "mean_squared_error",
    "val_mean_squared_error",
)


_SPLITS = ("train", "val")


class Curves(keras.callbacks.Callback):
    """TensorBoard: loss, errors, rate, images/s and conv1's filters; weights and a profile on demand.

    Training and validation go to two runs of the same tags over the same steps, so that they share their charts.

    Args:
        log_dir: str, gets the folders `train` and `val`.
        trainer: loop.Trainer.
        first_step: int, updates made before this process.
        every: int, updates between two points of the training curves.
        histograms: bool, weights and velocities once an epoch.
        profile: None or (first, last), the steps to profile, counted from 1 over the whole run.
        sums: dict, what was counted when the last point was made, as `flushed` returned it; empty at the beginning.
        files: dict of str -> int, the files that there were then and their bytes: what was written later is taken
            away, since the steps from there on are made again.
    """

    def __init__(self, log_dir, trainer, first_step, every, histograms, profile, sums=None, files=None):
        super().__init__()
        _cut_back(log_dir, files or {})
        self.trainer, self.step, self.every = trainer, first_step, every
        self.histograms, self.profile, self.profiling = histograms, profile, False
        self.log_dir = log_dir
        self.train_writer = tf.summary.create_file_writer(os.path.join(log_dir, _SPLITS[0]))
        self.val_writer = tf.summary.create_file_writer(os.path.join(log_dir, _SPLITS[1]))
        self.before = sums or {}

    def flushed(self):
        """Puts everything into the files, and says where that leaves them: (sums, files), see the arguments."""
        self.train_writer.flush()
        self.val_writer.flush()
        sizes = {name: os.path.getsize(os.path.join(self.log_dir, name)) for name in _files(self.log_dir)}
        return self.before, sizes

    def on_epoch_begin(self, epoch, logs=None):
        if not self.trainer.averages.count():  # an epoch that goes on has its last point already
            self.before = {}

    def on_train_batch_begin(self, batch, logs=None):
        if self.profile and self.step + 1 == self.profile[0]:
            tf.profiler.experimental.start(self.log_dir)
            self.profiling = True

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        if self.profiling and self.step >= self.profile[1]:
            self._stop_profiling()
        if self.step % self.every == 0:
            now = self.trainer.averages.sums()
            images = now["count"] - self.before.get("count", 0.0)
            with self.train_writer.as_default(self.step):
                for name in metrics.NAMES:
                    tf.summary.scalar(name, (now[name] - self.before.get(name, 0.0)) / max(images, 1.0))
            self.before = now

    def on_epoch_end(self, epoch, logs=None):
        with self.train_writer.as_default(self.step):
            tf.summary.scalar("learning_rate", logs["learning_rate"])
            tf.summary.scalar("images_per_second", logs["images_per_second"])
            tf.summary.image("conv1", conv1_grid(self.trainer.model)[None])
            if self.histograms:
                for variable in [*self.trainer.model.trainable_variables, *self.trainer.optimizer.variables]:
                    if len(variable.shape):
                        tf.summary.histogram(variable.path, variable.value)
        with self.val_writer.as_default(self.step):
            for name in metrics.NAMES:
                tf.summary.scalar(name, logs[f"val_{name}"])
        self.train_writer.flush()
        self.val_writer.flush()

    def on_train_end(self, logs=None):
        if self.profiling:
            self._stop_profiling()
        self.train_writer.close()
        self.val_writer.close()

    def _stop_profiling(self):
        tf.profiler.experimental.stop()
        self.profiling = False


def _files(log_dir):
    """TensorBoard's files of the curves, by their paths below the logs."""
    return [
        os.path.join(split, name)
        for split in _SPLITS
        if os.path.isdir(os.path.join(log_dir, split))
        for name in sorted(os.listdir(os.path.join(log_dir, split)))
        if name.startswith("events.out.tfevents.")
    ]


def _cut_back(log_dir, files):
    """Leaves of TensorBoard's files the bytes that there were, so that no point is there twice."""
    for name in _files(log_dir):
        path = os.path.join(log_dir, name)
        if name not in files:
            os.unlink(path)
        elif os.path.getsize(path) > files[name]:
            os.truncate(path, files[name])


def write_history(path, rows):
    """Writes all rows of a run's history, aside and then renamed, so that no reader sees half of one.

    Args:
        path: str, `history.csv`.
        rows: list of dict with the keys in HISTORY_COLUMNS, one an epoch.
    """
    with atomic_write(path, newline="") as file:
        writer = csv.DictWriter(file, HISTORY_COLUMNS)
        writer.writeheader()
        writer.writerows({name: _short(row[name]) for name in HISTORY_COLUMNS} for row in rows)


def _short(value):
    return value if isinstance(value, int) else f"{value:.6g}"
