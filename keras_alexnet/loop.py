"""The loop over the epochs of a run (steps, validation, checkpoints, resuming, signals), and its `--dry_run`."""

import dataclasses
import math
import os
import shutil
import signal
import sys
import time

import keras
import tensorflow as tf
from tqdm import tqdm

from keras_alexnet import datasets, flags, rundir
from keras_alexnet.data import pipeline
from keras_alexnet.data.augmentation import Preprocessing
from keras_alexnet.errors import RequeueError, RunError, UsageError, brief
from keras_alexnet.model import variants, weights
from keras_alexnet.model.layers import Dropout
from keras_alexnet.training import metrics, monitoring, schedules
from keras_alexnet.training.checkpoints import Checkpoints
from keras_alexnet.training.monitoring import GIGABYTE
from keras_alexnet.training.optimizer import LossScale, MomentumSGD
from keras_alexnet.training.progress import Progress, checkpoint_paths, checkpoint_place
from keras_alexnet.training.trainer import NonFiniteError, ReadError, Trainer, read

LEAST_STEPS = 300  # in all, from random weights; below it the networks here had hardly left the start


class Loop:
    """Trains a run from its newest checkpoint to its end.

    The model was created in the scope of the distribution. `statistics` describes the training set and `val_summary`
    the validation set, see `data.statistics`.
    """

    def __init__(self, config, model, devices, distribution, statistics, val_summary, train_source, val_source):
        training = config.training
        self.config, self.model, self.distribution, self.statistics = config, model, distribution, statistics
        self.train_source, self.val_source = train_source, val_source
        self.val_counts = val_summary.label_counts
        self.schedule = schedules.parse(training.lr_schedule)
        self.augmentation = datasets.augmentation(config.data, config.network.variant)
        image, aligned = model.inputs[0], self.augmentation.aligned_mean
        preprocess = Preprocessing(statistics.mean_image, image.shape[1], aligned, devices, image.dtype)
        replica_batch = training.batch_size // distribution.replicas
        self.asked = model, training.batch_size, config.network.precision, distribution.replicas
        with distribution.strategy.scope():
            self.sgd = MomentumSGD(
                training.learning_rate,
                training.momentum,
                training.weight_decay,
                training.bias_learning_rate_multiplier,
                dict.fromkeys(sorted(schedules.layer_labels(self.schedule)), 1.0),
            )
            optimizer = LossScale(self.sgd) if config.network.precision == "mixed_float16" else self.sgd
            self.trainer = Trainer(model, optimizer, devices[0] if devices else None, replica_batch, preprocess)
        if distribution.replicas > 1:
            for layer in model.layers:
                if isinstance(layer, Dropout):
                    layer.replica_shard = distribution.worker, distribution.workers, replica_batch
        constant = metrics.majority_error(self.val_counts)
        patience, cuts = training.plateau_patience, training.plateau_cuts
        self.plateau = schedules.Plateau(training.learning_rate, constant, patience, cuts)
        self.progress = Progress(workers=distribution.workers)
        self.batch_size = training.batch_size // distribution.workers  # of this process
        part, threads = (distribution.worker, distribution.workers), config.data.input_threads
        self.input_options = {"size": image.shape[1], "batch_size": self.batch_size, "threads": threads, "part": part}
        folder = os.path.join(config.run.model_dir, rundir.CHECKPOINTS)
        self.checkpoints = Checkpoints(folder, self.trainer.variables(), config.run.checkpoints_to_keep)
        self.history = os.path.join(config.run.model_dir, rundir.HISTORY)
        self.saved = time.monotonic()  # time of the last checkpoint

    def fit(self, started, stop):
        """Trains to the end of the run; returns False if the run had ended before.

        `started` is the `time.perf_counter` at which the command started, `stop` a cli.StopRequest. Raises RunError
        where an image cannot be read, the loss is not finite, a checkpoint cannot be written or no checkpoint can be
        read; RequeueError or KeyboardInterrupt where a signal stops the run, after a checkpoint of the last step.
        """
        config, is_chief = self.config, self.distribution.is_chief
        self._resume()
        if is_chief and (self.progress.history or os.path.exists(self.history)):
            # The file is written after the checkpoint: its last epoch may be missing, or come after the checkpoint.
            self._write_history()
        if self._is_done():
            print(f"{config.run.model_dir} is done: {self.progress.epochs} epochs")
            return False
        monitors = []
        if is_chief:
            self.monitor = monitoring.Monitor(config, self.trainer, self.progress, self.val_counts, self.steps)
            if not self.progress.steps:
                # Values are code, in which a backslash needs no escape.
                rows = [f"| {name} | `{text or '-'}` |" for name, text in flags.as_text(config).items()]
                self.monitor.note("\n".join(["| flag | value |", "|---|---|", *rows]), "settings")
            monitors = [self.monitor, monitoring.Screen(self.progress, config.training.epochs, len(self.val_counts))]
        callbacks = keras.callbacks.CallbackList(monitors, model=self.model, steps=self.steps)
        callbacks.on_train_begin()
        self.started = started if is_chief else None  # until the first step has been timed
        stop.raise_immediately = False
        try:
            while not self._is_done():
                self._epoch(callbacks, stop)
                if is_chief:
                    self._write_history()
            self.checkpoints.wait()
        finally:
            callbacks.on_train_end()
        return True

    @property
    def steps(self):
        return self._most_batches(self.train_source, (self.config.run.seed, self.progress.epochs))

    def training_batches(self, start):
        """This process's part of the current epoch without its first `start` images: a tf.data.Dataset."""
        epoch, end, augmentation = self.progress.epochs, self.config.data.pca_color_until_epoch, self.augmentation
        if end and epoch >= end:
            augmentation = dataclasses.replace(augmentation, pca_color="none")
        order = {"seed": self.config.run.seed, "epoch": epoch, "start": start}
        return pipeline.training(self.train_source, self.statistics, augmentation, **order, **self.input_options)

    def validation_batches(self):
        """This process's part of the validation set: a tf.data.Dataset."""
        return pipeline.center_view(self.val_source, **self.input_options)

    def _resume(self):
        path, self.progress = self.checkpoints.resume()
        if not self.trainer.is_same_for_all(self.progress.steps):
            raise RunError(
                f"{self.checkpoints.folder}: the workers find different checkpoints; --model_dir must be on a file "
                "system that all workers share"
            )
        workers, self.progress.workers = self.progress.workers, self.distribution.workers
        if self.progress.batches and workers != self.distribution.workers:
            problem = f"was written during an epoch of {workers} workers; resume with {workers} until the epoch ends"
            raise RunError(f"{path}: {problem}")
        saved = {**self.progress.plateau, "constant_error": self.plateau.constant_error}  # once rounded otherwise
        self.plateau = dataclasses.replace(self.plateau, **saved)
        if path:
            steps = f" and {self.progress.batches} steps" if self.progress.batches else ""
            print(f"resuming after epoch {self.progress.epochs}{steps} ({path})")

    def _is_done(self):
        return self.progress.finished or self.progress.epochs >= self.config.training.epochs

    def _epoch(self, callbacks, stop):
        progress = self.progress
        rate = self._set_learning_rates()
        if not progress.batches:
            self.trainer.averages.reset()
        callbacks.on_epoch_begin(progress.epochs)
        try:
            with monitoring.memory_errors(*self.asked):
                row = self._train_and_validate(rate, callbacks, stop)
        except tf.errors.OpError as error:
            if self.distribution.workers == 1:
                raise
            # The processes can only make a step together.
            problem = f"the other workers cannot be reached ({brief(error)}); {self.checkpoints.kept()}"
            raise RequeueError(f"{problem}; start all workers again") from None
        except ReadError as error:
            raise RunError(f"an image could not be read: {error}. {self._describe_unreadable()}") from None
        except NonFiniteError as error:
            remedy = "Start again with a lower --learning_rate, in another --model_dir"
            message = f"{error}; {self.checkpoints.kept()}. {remedy}"
            if self.distribution.is_chief:
                self.monitor.note(message)
            raise RunError(message) from None
        progress.history.append(row)
        progress.epochs, progress.batches, progress.seconds = progress.epochs + 1, 0, 0.0
        if self.config.training.lr_policy == "plateau":
            progress.finished = not self.plateau.after_epoch(row["val_top1_error"])
            progress.plateau = dataclasses.asdict(self.plateau)
        callbacks.on_epoch_end(progress.epochs - 1, row)
        self._save()

    def _train_and_validate(self, rate, callbacks, stop):
        progress = self.progress
        self._train(callbacks, stop)
        trained, images = self.trainer.averages.result(), self.trainer.averages.count()
        batches, total = self.validation_batches(), self._most_batches(self.val_source, None)
        validated = self.trainer.evaluate(batches, self.val_source.count, total, lambda: self.trainer.any_of_all(stop))
        if validated is None:
            self._stop(stop)
        row = {"epoch": progress.epochs + 1, **trained}
        row |= {f"val_{name}": value for name, value in validated.items()}
        row |= {"learning_rate": rate, "images_per_second": images / progress.seconds}
        if not math.isfinite(row["val_loss"]):
            raise NonFiniteError(f"the validation loss is {row['val_loss']} after epoch {row['epoch']}")
        return row

    def _train(self, callbacks, stop):
        progress, total, run = self.progress, self.steps, self.config.run
        if progress.batches == total:
            return
        before, started = progress.seconds, time.perf_counter()
        batches = self.training_batches(progress.batches * self.batch_size)
        for _ in self.trainer.steps(batches, total, callbacks, progress, run.summary_steps):
            progress.seconds = before + time.perf_counter() - started
            if self.started is not None:
                tqdm.write(f"first step {time.perf_counter() - self.started:.1f} s after the start")
                self.started = None
            if self.trainer.any_of_all(stop):
                self._stop(stop)
            is_due = run.checkpoint_steps and progress.steps % run.checkpoint_steps == 0
            if run.checkpoint_minutes and not is_due:
                is_due = time.monotonic() - self.saved >= 60 * run.checkpoint_minutes
            if is_due and progress.batches < total:
                self._save()

    def _save(self):
        self.trainer.read_averages(self.progress)  # a state after a non-finite loss is not saved
        if self.distribution.is_chief:
            self.monitor.flush(self.progress)
            self.checkpoints.write(self.progress)
        self.saved = time.monotonic()

    def _write_history(self):
        try:
            monitoring.write_history(self.history, self.progress.history)
        except OSError as error:
            problem = f"could not be written ({error.strerror}); {self.checkpoints.kept()}"
            raise RunError(f"{self.history}: {problem}") from None

    def _stop(self, stop):
        """Saves a checkpoint, and raises KeyboardInterrupt for Ctrl-C and RequeueError for other signals."""
        self._save()
        kept = f"{self.checkpoints.kept()}; the same command resumes from there"
        if stop.signal == signal.SIGINT:
            tqdm.write(kept, sys.stderr)
            raise KeyboardInterrupt
        name = signal.Signals(stop.signal).name if stop else "a signal to another worker"
        raise RequeueError(f"stopped by {name}; {kept}")

    def _set_learning_rates(self):
        """Sets the learning rates of the current epoch; returns that of the kernels."""
        training = self.config.training
        rates = training.learning_rate, training.bias_learning_rate_multiplier
        rate, multipliers = schedules.rates_after(self.progress.epochs, self.schedule, *rates)
        if training.lr_policy == "plateau":
            rate = self.plateau.rate
        rate *= schedules.SCALINGS[training.rate_scaling](training.batch_size / schedules.PAPER_BATCH)
        self.sgd.learning_rate = rate
        for label, value in multipliers.items():
            self.sgd.set_multiplier(label, value)
        return rate

    def _most_batches(self, source, order):
        """The number of batches of the process that has the most images of a source, int."""
        workers = self.distribution.workers
        most = max(source.part_count(order, (worker, workers)) for worker in range(workers))
        return math.ceil(most / self.batch_size)

    def _describe_unreadable(self):
        both = self.train_source, self.val_source
        try:
            bad = datasets.find_bad_files(*both)
        except RunError as error:
            where = self.config.data.data_dir or self.config.data.dataset
            return f"{error}. Put {where} back as it was, and the same command resumes"
        if not any(bad):
            return "Every file can be read now; the same command resumes"
        return f"{datasets.describe_bad_files(both, bad)}. Restore the originals, and the same command resumes"


def read_initial_weights(config):
    """The weights of --initial_weights, dict; None without, and for a run that resumes from a checkpoint."""
    path = config.training.initial_weights
    if not path or rundir.has_checkpoint(config.run.model_dir):
        return None
    rundir.check_path(rundir.located(path), "initial_weights")
    new_layers = config.training.new_layers
    # Towers and dropout do not change the weights. New layers beside fc8 allow other layers in the rest of the network.
    layers = ("groups", "topology", "removed_layers") if set(new_layers) - {"fc8"} else ()
    may_differ = {"num_classes", "towers", "dropout", *layers}
    try:
        settings, values = weights.read_with_settings(path)
        own = {name: value for name, value in vars(config.network).items() if name not in may_differ}
        for name in variants.differing(own, settings):
            raise ValueError(f"its network has --{name}={settings[name]}, and this run has {own[name]}")
    except ValueError as error:
        raise UsageError(f"--initial_weights={path}: {str(error).removeprefix(f'{path}: ')}") from None
    return values


def assign_initial_weights(config, values, model):
    """Gives a model the weights of `read_initial_weights`."""
    path, new_layers = config.training.initial_weights, config.training.new_layers
    try:
        weights.assign(values, model, without=new_layers)
    except ValueError as error:
        raise UsageError(f"--initial_weights={path}: {str(error).removeprefix(f'{path}: ')}") from None
    print(f"weights:    from {path}; new layers: {', '.join(new_layers) or 'none'}")


def describe(loop, devices):
    """The lines that describe what a Loop trains, str; `devices` are names."""
    network, training, distribution = loop.config.network, loop.config.training, loop.distribution
    steps = math.ceil(loop.train_source.count / training.batch_size)
    where = " and ".join(devices) if devices else "wherever TensorFlow places it"
    if distribution.replicas > 1:
        processes = f"{distribution.workers} process{'es' * (distribution.workers > 1)}"
        where += f", {distribution.replicas} replicas in {processes}"
    return (
        f"training:   {loop.train_source.count} images of {len(loop.train_source.class_names)} classes, "
        f"{steps} steps an epoch, up to {training.epochs} epochs\n"
        f"validation: {loop.val_source.count} images, center view\n"
        f"network:    {network.variant}, {network.towers} tower{'s' * (network.towers > 1)}, "
        f"{loop.model.count_params():,} parameters, {network.precision}, on {where}\n"
    ) + "".join(f"warning:    {each}\n" for each in concerns(training, loop.schedule, steps))


def concerns(training, schedule, steps):
    """What speaks against a good result before the first of so many steps an epoch, list of str.

    `training`: a config.TrainingConfig; `schedule`: its learning rates as of `schedules.parse`.
    """
    found, least = [], LEAST_STEPS // 3 if training.initial_weights else LEAST_STEPS
    if training.epochs * steps < least:
        remedy = f"raise --epochs to {math.ceil(least / steps)} or lower --batch_size"
        found.append(f"{training.epochs * steps} training steps are few for a useful network; {remedy}")
    late = [epoch for epoch, _, _ in schedule if epoch >= training.epochs]
    if late:
        late = f"the change of --lr_schedule after epoch {late[0]} is never reached"
        found.append(f"{late}; raise --epochs above {training.epochs} or make it earlier")
    return found


def dry_run(loop, devices):
    """Trains two steps, prints the time, memory and disk space that a run needs, and writes nothing.

    Raises UsageError where the disk is too small or the folder is not writable, and RunError where a step fails.
    """
    data, training, run = loop.config.data, loop.config.training, loop.config.run
    try:
        seconds, validation = _step_seconds(loop)
    except ReadError:
        both = loop.train_source, loop.val_source
        train, val = datasets.find_bad_files(*both, data.input_threads)
        print(datasets.describe_bad_files(both, (train, val)))
        if data.bad_images == "fail":
            problem = "training would stop at these files; --bad_images=skip leaves them out"
            raise RunError(f"--bad_images=fail: {problem}") from None
        loop.train_source, loop.val_source = loop.train_source.without(train), loop.val_source.without(val)
        seconds, validation = _step_seconds(loop)
    epoch = loop.steps * seconds + math.ceil(loop.val_source.count / training.batch_size) * validation
    paths = checkpoint_paths(loop.checkpoints.folder)
    left = max(0, training.epochs - (checkpoint_place(paths[-1])[0] if paths else 0))
    weights = 4 * loop.model.count_params()  # bytes; a checkpoint holds weights and velocities
    needed = 2 * weights * (run.checkpoints_to_keep + 3) + (weights if run.export else 0)
    folder = os.path.abspath(run.model_dir)
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    free = shutil.disk_usage(folder).free
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    memory = ", ".join(f"{name} {size / GIGABYTE:.1f} GB" for name, size in monitoring.memory().items())
    print(
        f"{describe(loop, devices)}"
        f"steps:      {loop.steps:,} an epoch, {left * loop.steps:,} in {left} epochs to go\n"
        f"time:       {seconds:.2f} s a step, about {monitoring.duration(epoch)} an epoch with its validation, up to "
        f"{monitoring.duration(left * epoch)} in all\n"
        f"memory:     {memory}, of {total / GIGABYTE:.1f} GB of the machine\n"
        f"disk:       {needed / GIGABYTE:.2f} GB for {run.checkpoints_to_keep} checkpoints, those of the last and the "
        f"best epoch, a temporary one{' and the export' if run.export else ''}; {free / GIGABYTE:.1f} GB free at "
        f"{folder}",
    )
    if not os.access(folder, os.W_OK):
        raise UsageError(f"--model_dir={run.model_dir}: {folder} is not writable; name another folder")
    if free < needed:
        problem = f"{free / GIGABYTE:.2f} GB are free and {needed / GIGABYTE:.2f} GB are needed"
        remedy = "make room, name another folder or lower --checkpoints_to_keep"
        raise UsageError(f"--model_dir={run.model_dir}: {problem}; {remedy}")
    print("nothing was written; run the command without --dry_run to train")


def _step_seconds(loop):
    """The seconds of a training and a validation step, reading included; the second is timed, as the first compiles."""
    pairs = (loop.training_batches(0), loop.trainer.train_step), (loop.validation_batches(), loop.trainer.test_step)
    durations = []
    for batches, step in pairs:
        reader = read(batches.repeat())  # a set may hold one batch only
        for _ in range(2):
            started = time.perf_counter()
            with monitoring.memory_errors(*loop.asked):
                loss = step(*next(reader))
            seconds = time.perf_counter() - started
        if loss is not None and not math.isfinite(float(loss)):
            raise RunError(f"the loss is {float(loss)} after two steps; lower --learning_rate")
        durations.append(seconds)
    return durations
