"""What is written while a run goes on: TensorBoard's curves and pictures, and `history.csv`."""

import csv
import os

import keras
import tensorflow as tf

from keras_alexnet.files import written_aside
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
    """

    def __init__(self, log_dir, trainer, first_step, every, histograms, profile):
        super().__init__()
        self.trainer, self.step, self.every = trainer, first_step, every
        self.histograms, self.profile, self.profiling = histograms, profile, False
        self.log_dir = log_dir
        self.train_writer = tf.summary.create_file_writer(os.path.join(log_dir, "train"))
        self.val_writer = tf.summary.create_file_writer(os.path.join(log_dir, "val"))
        self.before = {}

    def on_epoch_begin(self, epoch, logs=None):
        # Every epoch sums from zero; what the averages still hold here is the validation before it.
        self.before = dict.fromkeys((*metrics.NAMES, "count"), 0.0)

    def on_train_batch_begin(self, batch, logs=None):
        if self.profile and self.step + 1 == self.profile[0]:
            tf.profiler.experimental.start(self.log_dir)
            self.profiling = True

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        if self.profiling and self.step >= self.profile[1]:
            self._stop_profiling()
        if self.step % self.every == 0:
            now = self._sums()
            images = now["count"] - self.before["count"]
            with self.train_writer.as_default(self.step):
                for name in metrics.NAMES:
                    tf.summary.scalar(name, (now[name] - self.before[name]) / max(images, 1.0))
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

    def _sums(self):
        means = self.trainer.averages.means
        return {name: float(mean.total) for name, mean in means.items()} | {"count": float(means["loss"].count)}


def write_history(path, rows):
    """Writes all rows of a run's history, aside and then renamed, so that no reader sees half of one.

    Args:
        path: str, `history.csv`.
        rows: list of dict with the keys in HISTORY_COLUMNS, one an epoch.
    """
    with written_aside(path, newline="") as file:
        writer = csv.DictWriter(file, HISTORY_COLUMNS)
        writer.writeheader()
        writer.writerows({name: _short(row[name]) for name in HISTORY_COLUMNS} for row in rows)


def _short(value):
    return value if isinstance(value, int) else f"{value:.6g}"
