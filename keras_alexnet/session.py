"""One run in progress: the parts of a config put together, and how they are kept and taken up again."""

import dataclasses
import math
import os
import signal
import sys
import time

from keras_alexnet import rundir
from keras_alexnet.errors import RequeueError, RunError, brief
from keras_alexnet.files import progress_bar
from keras_alexnet.inspection import NAMED

PAPER_BATCH = 128  # section 5
_SCALES = {"none": lambda ratio: 1.0, "linear": lambda ratio: ratio, "sqrt": math.sqrt}


class Session:
    """Trains the run of a config, from its newest checkpoint to its end.

    Args:
        config: config.Config.
        model: keras.Model as of `run.build_model`.
        devices: names of the towers' devices, or ().
        shared: training.distribution.Distribution, in whose scope the model was made.
        statistics: data.statistics.Statistics of the training set.
        summary: data.statistics.DatasetSummary of the validation set.
        train_source, val_source: see `data.sources`.
    """

    def __init__(self, config, model, devices, shared, statistics, summary, train_source, val_source):
        from keras_alexnet.data.augmentation import Augmentation
        from keras_alexnet.model.alexnet import VARIANTS
        from keras_alexnet.model.layers import Dropout
        from keras_alexnet.training import schedules
        from keras_alexnet.training.checkpoints import Checkpoints
        from keras_alexnet.training.optimizer import LossScale, MomentumSGD
        from keras_alexnet.training.progress import Progress
        from keras_alexnet.training.schedules import Plateau
        from keras_alexnet.training.trainer import Trainer

        data, training = config.data, config.training
        self.config, self.model, self.shared, self.statistics = config, model, shared, statistics
        self.train_source, self.val_source = train_source, val_source
        self.size = model.input_shape[1]
        variant = VARIANTS[config.network.variant]
        by_variant = "stddev" if config.network.variant == "release2012" else "eigenvalue"
        self.augmentation = Augmentation(
            crop_positions=data.crop_positions or variant.crop_positions,
            reflections=data.reflections,
            pca_color=data.pca_color,
            pca_scale=by_variant if data.pca_scale == "auto" else data.pca_scale,
            pca_stddev=data.pca_stddev,
            aligned_mean=data.mean_subtraction == "aligned",
        )
        layers = {label for _, label, _ in schedules.parse(training.lr_schedule) if label} - {"bias"}
        replica_batch = training.batch_size // shared.replicas
        with shared.strategy.scope():
            self.sgd = MomentumSGD(
                training.learning_rate,
                training.momentum,
                training.weight_decay,
                training.bias_learning_rate_multiplier,
                dict.fromkeys(sorted(layers), 1.0),
            )
            float16 = config.network.precision == "mixed_float16"
            optimizer = LossScale(self.sgd) if float16 else self.sgd
            self.trainer = Trainer(model, optimizer, devices[0] if devices else None, replica_batch)
        if shared.replicas > 1:
            for layer in model.layers:
                if isinstance(layer, Dropout):
                    layer.replica_shard = shared.worker, shared.workers, replica_batch
        self.plateau = Plateau(
            rate=training.learning_rate,
            constant_error=100.0 * (1 - max(summary.label_counts) / sum(summary.label_counts)),
            patience=training.plateau_patience,
            cuts_left=training.plateau_cuts,
        )
        self.progress = Progress(workers=shared.workers)
        self.batch_size = training.batch_size // shared.workers  # of this process
        self.val_counts = summary.label_counts
        self.checkpoints = Checkpoints(
            os.path.join(config.run.model_dir, rundir.CHECKPOINTS),
            self.trainer.variables(),
            config.run.checkpoints_to_keep,
        )
        self.written = time.monotonic()  # when a checkpoint was last begun; no clock that can be set

    def fit(self, started):
        """Trains from where the newest checkpoint stands to the end of the config.

        Args:
            started: float, `time.perf_counter` when the program began.

        Returns:
            bool, whether there was something left to do.

        Raises:
            RunError: an image cannot be read, the loss is no number, a checkpoint cannot be written or none be read.
            RequeueError: a signal asked to end; where the run stands is kept.
            KeyboardInterrupt: Ctrl-C; where the run stands is kept.
        """
        import keras

        from keras_alexnet.training import signals
        from keras_alexnet.training.callbacks import Curves, write_history

        config, model_dir = self.config, self.config.run.model_dir
        history = os.path.join(model_dir, "history.csv")
        is_chief = self.shared.is_chief
        self._resume()
        if is_chief and (self.progress.history or os.path.exists(history)):
            write_history(history, self.progress.history)  # it and the checkpoint may know of an epoch more or less
        if self._is_done():
            print(f"{model_dir} is done: {self.progress.epochs} epochs")
            return False
        watching = []
        if is_chief:
            self.curves = Curves(
                os.path.join(model_dir, "logs"),
                self.trainer,
                self.progress.steps,
                config.run.summary_steps,
                config.run.histograms,
                config.run.profile or None,
                sums=self.progress.sums,
                files=self.progress.files,
            )
            self.watch = self._watch()
            watching = [self.curves, self.watch, _FirstStep(started)]
        callbacks = keras.callbacks.CallbackList(
            watching,
            add_progbar=is_chief,
            model=self.model,
            # A bar that redraws itself on a screen; one line an epoch in a file.
            verbose=1 if sys.stdout.isatty() else 2,
            epochs=config.training.epochs,
            steps=self.steps,
        )
        callbacks.on_train_begin()
        with signals.catch_signals() as asked:
            try:
                while not self._is_done():
                    self._epoch(callbacks, asked)
                    if is_chief:
                        write_history(history, self.progress.history)
                self.checkpoints.wait()
            finally:
                callbacks.on_train_end()
        return True

    @property
    def steps(self):
        """Steps of the epoch that is going on, int: those of the process that has most images."""
        return self._most_batches(self.train_source, (self.config.run.seed, self.progress.epochs))

    def _most_batches(self, source, order):
        workers = self.shared.workers
        most = max(source.part_count(order, (worker, workers)) for worker in range(workers))
        return math.ceil(most / self.batch_size)

    def _watch(self):
        from keras_alexnet.training import watch

        for name in watch.idle(self.model):
            print(
                f"warning: {name} has nothing to do: two towers take two GPUs, --strategy=mirrored takes all",
                file=sys.stderr,
            )
        shares = [count / sum(self.val_counts) for count in self.val_counts if count]
        found = watch.Watch(
            self.curves,
            self.config.run.model_dir,
            needed=2 * 4 * self.model.count_params(),
            constant_loss=-sum(share * math.log(share) for share in shares),
            classes=len(self.val_counts),
            epoch_steps=self.steps,
            variant=self.config.network.variant,
        )
        found.look_at_disk()
        return found

    def _is_done(self):
        return self.progress.finished or self.progress.epochs >= self.config.training.epochs

    def _epoch(self, callbacks, asked):
        """What is left of an epoch, and its validation."""
        import tensorflow as tf

        from keras_alexnet.training.trainer import NonFiniteError, ReadError

        progress, training = self.progress, self.config.training
        rate = self._set_rates()
        if not progress.batches:
            self.trainer.averages.reset()
        callbacks.on_epoch_begin(progress.epochs)
        try:
            self._steps(callbacks, asked)
            trained, images = self.trainer.averages.result(), self.trainer.averages.count()
            validated = self.trainer.evaluate(
                self.validation_batches(),
                self.val_source.count,
                self._most_batches(self.val_source, None),
                lambda: self.trainer.any_of_all(asked),
            )
            if validated is None:
                self._end(asked)
            row = {
                "epoch": progress.epochs + 1,
                **trained,
                **{f"val_{name}": value for name, value in validated.items()},
                "learning_rate": rate,
                "images_per_second": images / progress.seconds,
            }
            if not math.isfinite(row["val_loss"]):
                raise NonFiniteError(f"the validation loss is {row['val_loss']} after epoch {row['epoch']}")
        except tf.errors.OpError as error:
            if self.shared.workers == 1:
                raise
            # One process that is gone, and no step of the others can be made.
            raise RequeueError(
                f"the other workers cannot be reached ({brief(error)}); {self._kept()}; start all of them again"
            ) from None
        except ReadError as error:
            raise RunError(f"an image could not be read: {error}. {self._unreadable()}") from None
        except NonFiniteError as error:
            words = f"{error}; {self._kept()}. Start anew with a lower --learning_rate, in another --model_dir"
            if self.shared.is_chief:
                self.watch.note(words)
            raise RunError(words) from None
        progress.history.append(row)
        progress.epochs, progress.batches, progress.seconds = progress.epochs + 1, 0, 0.0
        if training.lr_policy == "plateau":
            progress.finished = not self.plateau.after_epoch(row["val_top1_error"])
            progress.plateau = dataclasses.asdict(self.plateau)
        callbacks.on_epoch_end(progress.epochs - 1, row)
        self._save()

    def _steps(self, callbacks, asked):
        """The steps of an epoch that are not made yet, with checkpoints between them."""
        progress = self.progress
        last = self.steps
        if progress.batches == last:
            return
        before, begun = progress.seconds, time.perf_counter()
        batches = self.training_batches(progress.batches * self.batch_size)
        for _ in self.trainer.steps(batches, last, callbacks, progress):
            progress.seconds = before + time.perf_counter() - begun
            if self.trainer.any_of_all(asked):
                self._end(asked)
            if self._is_due() and progress.batches < last:
                self._save()

    def _is_due(self):
        """Whether it is time for a checkpoint within the epoch."""
        run = self.config.run
        if run.checkpoint_steps and self.progress.steps % run.checkpoint_steps == 0:
            return True
        return bool(run.checkpoint_minutes) and time.monotonic() - self.written >= 60 * run.checkpoint_minutes

    def _save(self):
        """Begins to write a checkpoint of this moment."""
        if not self.shared.is_chief:
            return
        progress = self.progress
        progress.sums, progress.files = self.curves.flushed()
        self.checkpoints.write(progress)
        self.written = time.monotonic()

    def _end(self, asked):
        """Keeps where the run stands, and ends as the signal wants."""
        self._save()
        self.checkpoints.wait()
        if asked.signal == signal.SIGINT:
            print(f"{self._kept()}; the same command goes on from there", file=sys.stderr)
            raise KeyboardInterrupt
        name = signal.Signals(asked.signal).name if asked else "a signal to another worker"
        raise RequeueError(f"ended by {name}; {self._kept()}; the same command goes on from there")

    def _kept(self):
        """What checkpoint there is, in words."""
        from keras_alexnet.training import checkpoints

        self.checkpoints.wait()
        path = checkpoints.newest(self.checkpoints.folder)
        if path is None:
            return "there is no checkpoint yet"
        epochs, steps = checkpoints.place_of(path)
        return f"the checkpoint after {_words(epochs, steps)} is kept"

    def training_batches(self, start):
        """What this process trains on in the epoch that is going on, without its first images: a tf.data.Dataset."""
        from keras_alexnet.data import pipeline

        epoch, data = self.progress.epochs, self.config.data
        silent = data.pca_color_until_epoch and epoch >= data.pca_color_until_epoch
        augmentation = dataclasses.replace(self.augmentation, pca_color="none") if silent else self.augmentation
        return pipeline.training(
            self.train_source,
            self.statistics,
            augmentation,
            seed=self.config.run.seed,
            epoch=epoch,
            start=start,
            size=self.size,
            batch_size=self.batch_size,
            threads=data.input_threads,
            part=(self.shared.worker, self.shared.workers),
        )

    def validation_batches(self):
        """What this process has of the validation set: a tf.data.Dataset."""
        from keras_alexnet.data import pipeline

        return pipeline.center_view(
            self.val_source,
            self.statistics,
            size=self.size,
            batch_size=self.batch_size,
            threads=self.config.data.input_threads,
            part=(self.shared.worker, self.shared.workers),
        )

    def _unreadable(self):
        """Which files went bad since the run began, in words."""
        from keras_alexnet.data.statistics import summarize

        try:
            bad = [
                f"{source.name}/{name}"
                for source in (self.train_source, self.val_source)
                for name in summarize(source, progress=progress_bar(f"looking for it in {source.name}")).skipped
            ]
        except RunError:
            where = self.config.data.data_dir or self.config.data.dataset
            return f"None can be read any more: put {where} back, and the same command goes on"
        if not bad:
            return "Every file can be read now; the same command goes on after the last checkpoint"
        shown = ", ".join(bad[:NAMED])
        return f"Since the run began, {len(bad)} went bad: {shown}. Put back what was there, and go on"

    def _set_rates(self):
        """Sets the rates of the epoch that begins; returns the kernels'."""
        from keras_alexnet.training.schedules import parse, rates_after

        training = self.config.training
        rate, multipliers = rates_after(
            self.progress.epochs,
            parse(training.lr_schedule),
            training.learning_rate,
            training.bias_learning_rate_multiplier,
        )
        if training.lr_policy == "plateau":
            rate = self.plateau.rate
        rate *= _SCALES[training.rate_scaling](training.batch_size / PAPER_BATCH)
        self.sgd.learning_rate = rate
        for label, value in multipliers.items():
            self.sgd.set_multiplier(label, value)
        return rate

    def _resume(self):
        path, self.progress = self.checkpoints.resume()
        if not self.trainer.is_same_for_all(self.progress.steps):
            raise RunError(
                f"{self.checkpoints.folder}: the workers do not find the same checkpoint there; --model_dir is to "
                "be on a file system that all of them see"
            )
        if self.progress.batches and self.progress.workers != self.shared.workers:
            raise RunError(
                f"{path}: is from within an epoch that {self.progress.workers} workers share; go on with as many until "
                "it is over"
            )
        self.progress.workers = self.shared.workers
        if self.progress.plateau:
            self.plateau = dataclasses.replace(self.plateau, **self.progress.plateau)
        if path:
            print(f"going on after {_words(self.progress.epochs, self.progress.batches)} ({path})", flush=True)


def _words(epochs, steps):
    return f"epoch {epochs}" + (f" and {steps} steps" if steps else "")


def _FirstStep(started):  # noqa: N802 (stands for a class)
    """A Keras callback that says once how long it took to get going."""
    import keras

    said = []

    def say(batch, logs=None):
        if not said:
            said.append(True)
            print(f"first step {time.perf_counter() - started:.1f} s after the start", flush=True)

    return keras.callbacks.LambdaCallback(on_train_batch_end=say)
