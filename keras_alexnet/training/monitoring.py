"""Monitors training: TensorBoard's curves and filters, `history.csv`, and warnings."""

import contextlib
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
from tqdm import tqdm

from keras_alexnet.errors import RunError, brief
from keras_alexnet.files import atomic_write, progress_bar
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

# TensorBoard's tags: its groups are in alphabetical order, so loss and errors come first.
DESCRIPTIONS = {
    "curves/loss": "Cross-entropy in nats: over the steps since the point before (train), over the whole set (val)",
    "curves/top1_error": "Images whose label is not the best class, percent",
    "curves/top5_error": "Images whose label is not among the five best classes, percent",
    "curves/mean_squared_error": "Mean over the classes of the squared difference of probability and one-hot label",
    "schedule/learning_rate": "Learning rate of the kernels",
    "speed/images_per_second": "Training images a second, validation and checkpoints left out",
    "speed/waiting_for_images": "Share of the time in which training waited for the next batch, 0 to 1",
}


class Screen(keras.callbacks.Callback):
    """A bar for the steps of an epoch, on a terminal, and a line for each epoch.

    `progress` is the progress.Progress of the run. Top-5 errors are left out for five classes or fewer.
    """

    def __init__(self, progress, epochs, classes):
        super().__init__()
        self.progress, self.epochs, self.top5 = progress, epochs, classes > 5
        self.first_epoch, self.started, self.show, self.steps = progress.epochs, time.perf_counter(), None, 0

    def on_epoch_begin(self, epoch, logs=None):
        self.begun, self.steps = time.perf_counter(), self.params["steps"]
        self.show = progress_bar(f"epoch {epoch + 1}/{self.epochs}", "steps", self.progress.batches)
        self.note = ""

    def on_train_batch_end(self, batch, logs=None):
        if logs:
            means = metrics.means(logs)
            self.note = f"loss {means['loss']:.3f}, top-1 {means['top1_error']:.1f} %"
        self.show(batch + 1, self.steps, self.note)

    def on_epoch_end(self, epoch, logs=None):
        self.on_train_end()  # a run that resumes in a validation has made no step
        now = time.perf_counter()
        left = (self.epochs - epoch - 1) * (now - self.started) / (epoch + 1 - self.first_epoch)
        eta = f"  ETA {duration(left)}" * (left > 0 and not self.progress.finished)
        errors = [
            f"{logs[prefix + 'loss']:.3f}  top-1 {logs[prefix + 'top1_error']:.1f} %"
            + f"  top-5 {logs[prefix + 'top5_error']:.1f} %" * self.top5
            for prefix in ("", "val_")
        ]
        speed = f"{logs['images_per_second']:.0f} images/s  {duration(now - self.begun)}{eta}"
        print(f"epoch {epoch + 1}/{self.epochs}  loss {errors[0]}  |  val {errors[1]}  |  {speed}")

    def on_train_end(self, logs=None):
        if self.show:
            self.show(self.steps, self.steps)


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
        self.names = [name for name in metrics.NAMES if name != "top5_error" or self.classes > 5]
        self.log_dir = os.path.join(self.run.model_dir, "logs")
        _truncate(self.log_dir, progress.files)
        self.step, self.before = progress.steps, progress.sums  # the epoch's sums at the last point
        writers = [tf.summary.create_file_writer(os.path.join(self.log_dir, split)) for split in _SPLITS]
        self.train_writer, self.val_writer = writers
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

    def note(self, message, tag="warnings"):
        """Writes a warning, or a text in Markdown with another tag, to TensorBoard alone."""
        with self.train_writer.as_default(self.step):
            tf.summary.text(tag, message)

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
        if not logs:
            return
        is_due = self.step % self.run.summary_steps == 0
        if is_due:
            self._write_point(logs)
        now = (time.perf_counter(), logs["count"], self.trainer.waited)
        if self.begun is None:
            self.begun = now
        elif is_due:
            self._write_speed(now)
            self._check_loss(metrics.means(logs)["loss"])
            self._check_disk()

    def on_epoch_end(self, epoch, logs=None):
        if self.step % self.run.summary_steps:
            self._write_point(self.trainer.averages.sums())
        with self.train_writer.as_default(self.step):
            _write("schedule/learning_rate", logs["learning_rate"])
            grid = filters.conv1_grid(self.trainer.model)
            tf.summary.image("conv1", grid[None], description="The filters of the first layer, a block for each tower")
            if self.run.histograms:
                for variable in [*self.trainer.model.trainable_variables, *self.trainer.optimizer.variables]:
                    if len(variable.shape):
                        tf.summary.histogram(variable.path, variable.value)
        with self.val_writer.as_default(self.step):
            for name in self.names:
                _write(f"curves/{name}", logs[f"val_{name}"])
        self.train_writer.flush()
        self.val_writer.flush()

    def on_train_end(self, logs=None):
        self._stop_profiling()
        self.train_writer.close()
        self.val_writer.close()

    def _write_point(self, now):
        """Writes the means over the steps since the last point of this epoch; `now` are the sums of the epoch."""
        means = metrics.means(now, self.before)
        with self.train_writer.as_default(self.step):
            for name in self.names:
                _write(f"curves/{name}", means[name])
        self.before = now

    def _write_speed(self, now):
        seconds, images, waited = (end - start for end, start in zip(now, self.begun, strict=True))
        self.begun, waiting = now, waited / seconds
        with self.train_writer.as_default(self.step):
            _write("speed/images_per_second", images / seconds)
            _write("speed/waiting_for_images", waiting)
            for name, size in memory().items():
                tf.summary.scalar(f"memory/{name}_gigabytes", size / GIGABYTE, description="In use; process: the peak")
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
            tqdm.write(f"warning: {message}", sys.stderr)
            self.note(message)

    def _stop_profiling(self):
        if self.profiling:
            tf.profiler.experimental.stop()
            self.profiling = False


def _write(tag, value):
    tf.summary.scalar(tag, value, description=DESCRIPTIONS[tag])


def duration(seconds):
    """Seconds as text in two units at most, such as "1 min 24 s"."""
    seconds = round(seconds)
    for size, unit, part, smaller in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= size:
            return f"{seconds // size} {unit} {seconds % size // part} {smaller}"
    return f"{seconds} s"


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


def on_paper(model, batch_size, number_bytes):
    """What a step must hold, in MB by kind; weights, momentum and gradients in float32."""
    in_place = ("InputLayer", "ZeroPadding2D", "Activation", "Copies", "Flatten")
    kept = sum(math.prod(layer.output.shape[1:]) for layer in model.layers if type(layer).__name__ not in in_place)
    activations = batch_size * (4 * math.prod(model.inputs[0].shape[1:]) + kept * number_bytes) / 1e6
    weights = 4 * model.count_params() / 1e6
    return {**dict.fromkeys(("weights", "momentum", "gradients"), weights), "activations": activations}


@contextlib.contextmanager
def memory_errors(model, batch_size, precision, replicas):
    """A block of steps: if one has too little memory, RunError says what it and smaller ones hold on each replica."""
    try:
        yield
    except tf.errors.ResourceExhaustedError as error:
        if "No space left" in error.message:  # on the disk of TensorBoard's files
            raise
        found = []
        for name in (precision, *["mixed_bfloat16"] * (precision == "float32")):
            for batch in (batch_size, batch_size // 2):
                megabytes = sum(on_paper(model, batch // replicas, 4 if name == "float32" else 2).values())
                found.append(f"{megabytes / 1000:.2f} GB with --batch_size={batch} --precision={name}")
        raise RunError(f"out of memory ({brief(error)}); a step takes at least {', '.join(found)}") from None


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
