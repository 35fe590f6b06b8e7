"""The main job: a recipe -> data -> network -> training -> a SavedModel.

    python -m keras_alexnet.train --flagfile=flags/NAME.cfg [--data_dir=DIR] --model_dir=RUN

A folder that holds a run goes on with it. TensorBoard: `tensorboard --logdir RUN/logs`.
"""

import dataclasses
import json
import math
import os
import sys
import time

from keras_alexnet import recipe as recipes
from keras_alexnet import run as runs
from keras_alexnet.errors import RunError, UsageError, brief, quiet_start, run_verb
from keras_alexnet.files import written_aside
from keras_alexnet.progress import bar

NAMED = 10  # bad files named on the screen; all of them are in the run's skipped.txt


def main(argv):
    train(recipes.parse_train(argv, __doc__))


def train(recipe):
    """Trains, or goes on training, the run that a recipe describes; exports it at the end.

    Args:
        recipe: recipe.Recipe.

    Returns:
        list of dict, the history, one an epoch.

    Raises:
        UsageError: something asked for is not there or does not go together; nothing was written.
        RunError: the run stopped; what it had written stays.
    """
    started = time.perf_counter()
    model_dir = recipe.run.model_dir
    # What can be wrong is looked at before anything is drawn, fetched or computed; a folder's listing even before
    # TensorFlow is there.
    _check_folder(recipe)
    listed = _open(recipe) if recipe.data.dataset == "folder" else None
    with quiet_start():
        from keras_alexnet.model.towers import check_precision, choose_devices

        devices = choose_devices(recipe.network.devices, recipe.network.towers)
        check_precision(recipe.network.precision, devices)
    _check_network(recipe)
    train_source, val_source = listed or _open(recipe)
    given = _given_statistics(_statistics_path(recipe))
    model = runs.build_model(recipe.network, len(train_source.class_names), recipe.run.seed, devices)
    _begin_with(recipe, model)

    os.makedirs(model_dir, exist_ok=True)
    statistics, train_source, survey, val_source = _look_at(recipe, given, train_source, val_source)
    runs.write_class_names(model_dir, train_source.class_names)
    run = _Run(recipe, model, devices, statistics, survey, train_source, val_source)
    runs.write_flags(recipe)
    _describe(recipe, model, train_source, val_source, devices)
    trained = run.fit(started)
    last = run.progress.history[-1]
    print(
        f"validation, center view, 1 model, {val_source.count} images: "
        f"top-1 error {last['val_top1_error']:.2f} %, top-5 error {last['val_top5_error']:.2f} %"
    )
    if recipe.run.export and (trained or not os.path.isdir(os.path.join(model_dir, "export", "1"))):
        from keras_alexnet.export import export_run

        print(f"exported to {export_run(model_dir)}")
    return run.progress.history


class _Run:
    """One run in progress: its parts, and how they are kept and taken up again."""

    def __init__(self, recipe, model, devices, statistics, survey, train_source, val_source):
        import tensorflow as tf

        from keras_alexnet.data.augmentation import Augmentation
        from keras_alexnet.model.alexnet import VARIANTS
        from keras_alexnet.training.loop import Progress, Trainer
        from keras_alexnet.training.optimizer import LossScale, MomentumSGD
        from keras_alexnet.training.schedules import Plateau

        data, training = recipe.data, recipe.training
        self.recipe, self.model, self.statistics = recipe, model, statistics
        self.train_source, self.val_source = train_source, val_source
        self.size = model.input_shape[1]
        variant = VARIANTS[recipe.network.variant]
        by_variant = "stddev" if recipe.network.variant == "release2012" else "eigenvalue"
        self.augmentation = Augmentation(
            crop_positions=data.crop_positions or variant.crop_positions,
            reflections=data.reflections,
            pca_color=data.pca_color,
            pca_scale=by_variant if data.pca_scale == "auto" else data.pca_scale,
            pca_stddev=data.pca_stddev,
            aligned_mean=data.mean_subtraction == "aligned",
        )
        layers = {label for _, label, _ in training.lr_schedule if label} - {"bias"}
        self.sgd = MomentumSGD(
            training.learning_rate,
            training.momentum,
            training.weight_decay,
            training.bias_learning_rate_multiplier,
            dict.fromkeys(sorted(layers), 1.0),
        )
        float16 = recipe.network.precision == "mixed_float16"
        optimizer = LossScale(self.sgd) if float16 else self.sgd
        self.trainer = Trainer(model, optimizer, devices[0] if devices else None)
        self.plateau = Plateau(
            rate=training.learning_rate,
            constant_error=100.0 * (1 - max(survey.label_counts) / sum(survey.label_counts)),
            patience=training.plateau_patience,
            cuts_left=training.plateau_cuts,
        )
        self.progress = Progress()
        # Keras leaves the states of dropout's random numbers out of what TensorFlow sees of a model.
        random = [variable.value for variable in model.non_trainable_variables]
        self.checkpoint = tf.train.Checkpoint(
            model=model, optimizer=optimizer, random=random, progress=self.progress.variable
        )
        self.manager = tf.train.CheckpointManager(
            self.checkpoint,
            os.path.join(recipe.run.model_dir, runs.CHECKPOINTS),
            max_to_keep=recipe.run.checkpoints_to_keep,
            checkpoint_name="epoch",
        )

    def fit(self, started):
        """Trains from where the newest checkpoint stands to the end of the recipe; returns whether there was more."""
        import keras

        from keras_alexnet.training.callbacks import Curves, write_history
        from keras_alexnet.training.loop import NonFiniteError, ReadError

        recipe, progress = self.recipe, self.progress
        history = os.path.join(recipe.run.model_dir, "history.csv")
        self._resume()
        if progress.history:
            write_history(history, progress.history)  # the checkpoint may know of an epoch that the file does not
        epochs = recipe.training.epochs
        if progress.epochs >= epochs or progress.finished:
            print(f"{recipe.run.model_dir} is done: {progress.epochs} epochs")
            return False
        steps = math.ceil(self.train_source.count / recipe.training.batch_size)
        curves = Curves(
            os.path.join(recipe.run.model_dir, "logs"),
            self.trainer,
            progress.steps,
            recipe.run.summary_steps,
            recipe.run.histograms,
            recipe.run.profile,
        )
        callbacks = keras.callbacks.CallbackList(
            [curves, _FirstStep(started)],
            add_progbar=True,
            model=self.model,
            # A bar that redraws itself on a screen; one line an epoch in a file.
            verbose=1 if sys.stdout.isatty() else 2,
            epochs=epochs,
            steps=steps,
        )
        callbacks.on_train_begin()
        try:
            while progress.epochs < epochs and not progress.finished:
                try:
                    self._epoch(callbacks, steps)
                except ReadError as error:
                    raise RunError(f"an image could not be read: {error}. {self._unreadable()}") from None
                except NonFiniteError as error:
                    kept = (
                        f"the checkpoint after epoch {progress.epochs} is kept" if progress.epochs else "none was kept"
                    )
                    raise RunError(
                        f"{error}; {kept}. Start anew with a lower --learning_rate, in another --model_dir"
                    ) from None
                write_history(history, progress.history)
        finally:
            callbacks.on_train_end()
        return True

    def _epoch(self, callbacks, steps):
        from keras_alexnet.data import pipeline
        from keras_alexnet.training.loop import NonFiniteError, run_epoch

        progress, training, data = self.progress, self.recipe.training, self.recipe.data
        rate = self._set_rates()
        silent = data.pca_color_until_epoch and progress.epochs >= data.pca_color_until_epoch
        augmentation = dataclasses.replace(self.augmentation, pca_color="none") if silent else self.augmentation
        settings = {"size": self.size, "batch_size": training.batch_size, "threads": data.input_threads}
        batches = pipeline.training(
            self.train_source,
            self.statistics,
            augmentation,
            seed=self.recipe.run.seed,
            epoch=progress.epochs,
            **settings,
        )
        callbacks.on_epoch_begin(progress.epochs)
        values, speed, done = run_epoch(self.trainer, batches, callbacks, steps=steps, first_step=progress.steps)
        validation = pipeline.center_view(self.val_source, self.statistics, **settings)
        validated = self.trainer.evaluate(validation, self.val_source.count)
        row = {
            "epoch": progress.epochs + 1,
            **values,
            **{f"val_{name}": value for name, value in validated.items()},
            "learning_rate": rate,
            "images_per_second": speed,
        }
        if not math.isfinite(row["val_loss"]):
            raise NonFiniteError(f"the validation loss is {row['val_loss']} after epoch {row['epoch']}")
        progress.history.append(row)
        progress.epochs, progress.steps = progress.epochs + 1, progress.steps + done
        if training.lr_policy == "plateau":
            progress.finished = not self.plateau.after_epoch(row["val_top1_error"])
            progress.plateau = dataclasses.asdict(self.plateau)
        progress.store()
        self.manager.save(checkpoint_number=progress.epochs)
        callbacks.on_epoch_end(progress.epochs - 1, row)

    def _unreadable(self):
        """Which files went bad since the run began, in words."""
        from keras_alexnet.data.statistics import survey

        bad = [
            f"{source.name}/{name}"
            for source in (self.train_source, self.val_source)
            for name in survey(source, progress=bar(f"looking for it in {source.name}")).skipped
        ]
        if not bad:
            return "Every file can be read now; the same command goes on after the last checkpoint"
        shown = ", ".join(bad[:NAMED])
        return f"Since the run began, {len(bad)} went bad: {shown}. Put back what was there, and go on"

    def _set_rates(self):
        """Sets the rates of the epoch that begins; returns the kernels'."""
        from keras_alexnet.training.schedules import rates_after

        training = self.recipe.training
        rate, multipliers = rates_after(
            self.progress.epochs,
            training.lr_schedule,
            training.learning_rate,
            training.bias_learning_rate_multiplier,
        )
        if training.lr_policy == "plateau":
            rate = self.plateau.rate
        self.sgd.learning_rate = rate
        for label, value in multipliers.items():
            self.sgd.set_multiplier(label, value)
        return rate

    def _resume(self):
        """Takes up the newest checkpoint that can be read; one that cannot is named and passed over."""
        import tensorflow as tf

        for path in reversed(self.manager.checkpoints):
            try:
                self.checkpoint.restore(path).assert_consumed()
                self.progress.restore()
            except (tf.errors.OpError, AssertionError, ValueError, IndexError) as error:
                reason = brief(error) if isinstance(error, tf.errors.OpError) else str(error).splitlines()[0]
                print(f"warning: {path} cannot be read ({reason}); trying the one before", file=sys.stderr)
                continue
            if self.progress.plateau:
                self.plateau = dataclasses.replace(self.plateau, **self.progress.plateau)
            print(f"going on after epoch {self.progress.epochs} ({path})")
            return
        if self.manager.checkpoints:
            raise RunError(f"{self.manager.directory}: no checkpoint can be read; give another --model_dir")


def _FirstStep(started):  # noqa: N802 (stands for a class)
    """A Keras callback that says once how long it took to get going."""
    import keras

    said = []

    def say(batch, logs=None):
        if not said:
            said.append(True)
            print(f"first step {time.perf_counter() - started:.1f} s after the start", flush=True)

    return keras.callbacks.LambdaCallback(on_train_batch_end=say)


def _check_folder(recipe):
    """A run goes on only as it began; before its first checkpoint there is nothing to go on with."""
    model_dir = recipe.run.model_dir
    if os.path.exists(model_dir) and not os.path.isdir(model_dir):
        raise UsageError(f"--model_dir={model_dir}: is a file; name a folder")
    if not runs.is_run(model_dir) or not runs.has_checkpoint(model_dir):
        return
    with open(os.path.join(model_dir, runs.FLAGS), encoding="utf-8") as file:
        changed = recipes.changed_flags(recipe, file.read())
    if changed:
        raise UsageError(
            f"--model_dir={model_dir}: holds a run with other flags: {', '.join(changed)}; repeat its flags, or name "
            "another folder"
        )


def _begin_with(recipe, model):
    """Gives a model the weights that its run begins with; a run that goes on has its own already."""
    path = recipe.training.initial_weights
    if not path or runs.has_checkpoint(recipe.run.model_dir):
        return
    from keras_alexnet.export import recipe_of
    from keras_alexnet.model import weights

    before = recipe_of(path)
    for name in ("variant", "width"):
        own, other = getattr(recipe.network, name), before and getattr(before.network, name)
        if before and own != other:
            raise UsageError(f"--initial_weights={path}: its network has --{name}={other}, and this one {own}")
    try:
        weights.assign(weights.read(path), model, without=recipe.training.new_layers)
    except ValueError as error:
        raise UsageError(f"--initial_weights={path}: {str(error).removeprefix(f'{path}: ')}") from None
    print(f"weights:    of {path}; new: {', '.join(recipe.training.new_layers) or 'none'}", flush=True)


def _check_network(recipe):
    """What the network and the schedule of a recipe need of each other."""
    from keras_alexnet.model.alexnet import check_removed, check_topology, check_width
    from keras_alexnet.model.weights import LAYERS

    network = recipe.network
    for flag, value, check in (
        (
            "topology",
            network.topology,
            lambda: check_topology(network.topology, network.towers, network.groups, network.variant),
        ),
        ("removed_layers", ",".join(network.removed_layers), lambda: check_removed(network.removed_layers)),
        ("width", network.width, lambda: check_width(network.width)),
    ):
        try:
            check()
        except ValueError as error:
            raise UsageError(f"--{flag}={value}: {error}") from None
    strange = [name for name in recipe.training.new_layers if name not in LAYERS]
    if strange:
        raise UsageError(f"--new_layers: there is no layer {strange[0]!r}; there are {', '.join(LAYERS)}")
    for _, label, _ in recipe.training.lr_schedule:
        if label and label != "bias" and not any(layer.startswith(label) for layer in LAYERS):
            raise UsageError(f"--lr_schedule: no layer's name starts with {label!r}; there are {', '.join(LAYERS)}")


def _statistics_path(recipe):
    """Where the statistics of the training set are already, or None."""
    if recipe.data.statistics or recipe.data.dataset != "records":
        return recipe.data.statistics
    from keras_alexnet.data.preparation import STATISTICS

    return os.path.join(recipe.data.data_dir, STATISTICS)


def _given_statistics(path):
    """Statistics from a file, or None without one."""
    if not path:
        return None
    from keras_alexnet.data import statistics

    try:
        return statistics.load(path)
    except (OSError, RunError) as error:
        raise UsageError(
            f"--statistics={path}: {error}; give a statistics.npz of another run, or leave it out"
        ) from None


def _open(recipe):
    """The sources of a recipe: (training, validation)."""
    from keras_alexnet.data import sources

    return sources.open_training(recipe.data, bar)


def _look_at(recipe, given, train_source, val_source):
    """Statistics and surveys of both sets, from the run if it has them; sources without what is no image."""
    from keras_alexnet.data import statistics as stats

    model_dir, threads = recipe.run.model_dir, recipe.data.input_threads
    path = os.path.join(model_dir, runs.STATISTICS)
    statistics = stats.load(path) if os.path.isfile(path) else given
    if statistics is None:
        statistics = stats.compute(train_source, threads, bar("mean and covariance of the training set"))
    elif statistics.fingerprint and statistics.fingerprint != train_source.fingerprint():
        known = path if os.path.isfile(path) else _statistics_path(recipe)
        raise UsageError(
            f"{known}: is of another training set than there is now; name another --model_dir or leave out --statistics"
        )
    if not os.path.isfile(path):
        stats.save(statistics, path)

    survey_path = os.path.join(model_dir, runs.VALIDATION)
    survey = None
    if os.path.isfile(survey_path):
        with open(survey_path, encoding="utf-8") as file:
            survey = stats.Survey(**json.load(file))
    elif val_source.label_counts:
        survey = stats.Survey(val_source.label_counts, (), val_source.fingerprint())
        _write_text(survey_path, json.dumps(dataclasses.asdict(survey)))
    if survey is None or survey.fingerprint != val_source.fingerprint():
        survey = stats.survey(val_source, threads, bar("looking at the validation set"))
        _write_text(survey_path, json.dumps(dataclasses.asdict(survey)))

    bad = {
        "train": [*train_source.other_files, *statistics.skipped],
        "val": [*val_source.other_files, *survey.skipped],
    }
    _report_bad(bad, recipe.data.bad_images, os.path.join(model_dir, "skipped.txt"))
    for source, counts in ((train_source, statistics.label_counts), (val_source, survey.label_counts)):
        # A class may be missing from a part of a set; a class folder without one image in it is a mistake.
        empty = [name for name, count in zip(source.class_names, counts, strict=False) if not count]
        if empty and recipe.data.dataset == "folder":
            raise UsageError(
                f"--data_dir={recipe.data.data_dir}: {source.name}/{empty[0]} holds no image that can be read"
            )
    return statistics, train_source.without(statistics.skipped), survey, val_source.without(survey.skipped)


def _report_bad(bad, policy, path):
    names = [f"{split}/{name}" for split, files in bad.items() for name in files]
    if not names:
        return
    _write_text(path, "".join(f"{name}\n" for name in names))
    shown = ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
    if policy == "fail":
        raise RunError(
            f"{len(names)} files are not images: {shown}; all are in {path}. --bad_images=skip leaves them out"
        )
    print(f"{len(names)} files are not images and are left out: {shown}; all are in {path}", flush=True)


def _describe(recipe, model, train_source, val_source, devices):
    network, training = recipe.network, recipe.training
    steps = math.ceil(train_source.count / training.batch_size)
    where = " and ".join(devices) if devices else "wherever TensorFlow places it"
    print(
        f"training:   {train_source.count} images of {len(train_source.class_names)} classes, {steps} steps an epoch, "
        f"up to {training.epochs} epochs\n"
        f"validation: {val_source.count} images, center view\n"
        f"network:    {network.variant}, {network.towers} tower{'s' * (network.towers > 1)}, "
        f"{model.count_params():,} parameters, {network.precision}, on {where}",
        flush=True,
    )


def _write_text(path, text):
    with written_aside(path) as file:
        file.write(text)


if __name__ == "__main__":
    sys.exit(run_verb("train", main, sys.argv[1:]))
