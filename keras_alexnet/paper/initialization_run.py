"""What `initialization` trains, measures and draws."""

import dataclasses
import json
import math
import os
from itertools import chain, count

import keras
import numpy as np
import tensorflow as tf

from keras_alexnet import rundir
from keras_alexnet.data import pipeline, sources
from keras_alexnet.data import statistics as stats
from keras_alexnet.data.augmentation import Augmentation
from keras_alexnet.errors import ArgumentError, UsageError, reading
from keras_alexnet.files import atomic_write, progress_bar
from keras_alexnet.model import variants, weights
from keras_alexnet.paper import plots
from keras_alexnet.paper.experiment import Result
from keras_alexnet.paper.initialization import LAYERS, STARTS, WINDOW, smoothed
from keras_alexnet.training import trainer
from keras_alexnet.training.optimizer import MomentumSGD

WIDENED = ("conv3", "conv4", "conv5")
BIASED = ("conv2", "conv4", "conv5", "fc6", "fc7")
IMAGES = 64  # of the fixed batch


def measure(settings):
    """Trains from every start that is not kept.

    Returns:
        experiment.Result. Its values: `classes`, `images` and `pictures` (of the fixed batch), int; `constant`, the
        majority-class baseline's loss, the entropy of the training labels in nats; `measured`, steps; and `starts`,
        name -> what `_train` returns.
    """
    config = settings.training_config()
    source, _ = sources.open_training(config.data, progress_bar)
    if len(source.class_names) < 2:
        raise ArgumentError("data_dir", config.data.data_dir, "holds one class; there is nothing to tell apart")
    folder = os.path.join(settings.results_dir, "initialization")
    os.makedirs(folder, exist_ok=True)
    statistics = _statistics(source, os.path.join(folder, "statistics.npz"))
    source = source.without(statistics.skipped)
    about = {
        "steps": settings.steps,
        "measure": list(settings.measure),
        "batch_size": config.training.batch_size,
        "width": config.network.width,
        "precision": config.network.precision,
        "learning_rate": config.training.learning_rate,
        "seed": config.run.seed,
        "images": source.fingerprint(),
    }
    # All are looked at before anything is trained.
    starts = {start.name: _kept(os.path.join(folder, f"{start.name}.json"), about) for start in STARTS}
    probe = _probe(settings, config, source, statistics)
    for start in STARTS:
        found = starts[start.name] or _train(settings, config, start, source, statistics, probe)
        if starts[start.name] is None:
            with atomic_write(os.path.join(folder, f"{start.name}.json")) as file:
                json.dump({"about": about, "found": found}, file)
        starts[start.name] = found
        end = "diverged" if found["diverged"] else f"loss {found['losses'][-1]:.3f}"
        print(f"{start.label}: {end} after {len(found['losses'])} steps", flush=True)
    values = {
        "classes": len(source.class_names),
        "images": source.count,
        "pictures": len(probe[1]),
        "constant": entropy(statistics.label_counts),
        "measured": list(settings.measure),
        "starts": starts,
    }
    _draw_losses(values, os.path.join(settings.results_dir, "initialization.svg"))
    _draw_shares(values, os.path.join(settings.results_dir, "initialization_signal.svg"))
    protocol = (
        f"{values['images']:,} training images of {values['classes']} classes; the paper's network, width "
        f"{about['width']:g}, and settings with its crops, reflections and color noise; {settings.steps} steps of "
        f"{about['batch_size']} images, learning rate {about['learning_rate']:g}, {about['precision']}, one seed; "
        f"measured on the centers of {values['pictures']} of these images without dropout, in float32, each layer's "
        "signal after its nonlinearity"
    )
    losses = f"Training loss, means of {WINDOW} steps, of each start; the majority-class baseline's, dotted."
    shares = "Share of each layer's signal that differs between images, by start."
    return Result(values, protocol, (("initialization.svg", losses), ("initialization_signal.svg", shares)))


def set_start(model, start):
    """Gives the network as published, just built and in one stack, another Start; its weights change."""
    for layer in model.layers:
        if layer.name in WIDENED:
            layer.kernel.assign(layer.kernel * start.middle)  # three times N(0, 0.01) is N(0, 0.03)
        if layer.name in BIASED:
            layer.bias.assign(tf.fill(layer.bias.shape, start.bias))


def activation_statistics(model):
    """A function that measures a network.

    Args:
        model: keras.Model of `AlexNet` in one stack, float32, with logits.

    Returns:
        function of images, float32 (B, size, size, 3), and labels, int32 (B,) -> dict of the layers' names -> dict of
        float: signal_rms, the root of the mean square of the layer's output after its nonlinearity; signal_between, the
        standard deviation between the B images, in the mean (of squares) over the units; share, the square of their
        ratio, in 0..1; gradient_rms, of the loss by the kernel; gradient_relative, that over the kernel's rms. And
        "loss", float, in nats, without dropout. In float32 a share below 1e-13 is rounding.
    """
    outputs = [model.get_layer(name.replace("conv", "relu").replace("fc", "relu")).output for name in LAYERS[:-1]]
    whole = keras.Model(model.input, [*outputs, model.output])
    kernels = [model.get_layer(name).kernel.value for name in LAYERS]

    def rms(values):
        return tf.sqrt(tf.reduce_mean(tf.square(values)))

    @tf.function
    def measured(images, labels):
        with tf.GradientTape() as tape:
            signals = whole(images, training=False)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, signals[-1]))
        between = [tf.sqrt(tf.reduce_mean(tf.math.reduce_variance(signal, axis=0))) for signal in signals]
        gradients = tape.gradient(loss, kernels)
        return loss, list(zip(map(rms, signals), between, map(rms, gradients), map(rms, kernels), strict=True))

    def measure(images, labels):
        loss, numbers = measured(images, labels)
        found = {"loss": float(loss)}
        for name, each in zip(LAYERS, numbers, strict=True):
            signal, between, gradient, kernel = map(float, each)
            found[name] = {
                "signal_rms": signal,
                "signal_between": between,
                "share": (between / signal) ** 2 if signal else 0.0,
                "gradient_rms": gradient,
                "gradient_relative": gradient / kernel if kernel else 0.0,
            }
        return found

    return measure


def entropy(counts):
    """The loss of the best majority-class baseline to labels of these counts, float in nats."""
    total = sum(counts)
    return -sum(count / total * math.log(count / total) for count in counts if count)


def augmentation_of(config):
    """What a config.Config says of random crops, reflections and color noise: Augmentation."""
    data, variant = config.data, config.network.variant
    by_variant = "stddev" if variant == "release2012" else "eigenvalue"
    return Augmentation(
        data.crop_positions or variants.VARIANTS[variant].crop_positions,
        data.reflections,
        data.pca_color,
        by_variant if data.pca_scale == "auto" else data.pca_scale,
        data.pca_stddev,
        data.mean_subtraction == "aligned",
    )


def _train(settings, config, start, source, statistics, probe):
    """Trains from a start.

    Returns:
        dict: `losses`, list of float, one a step, in nats; `measures`, step as str -> see `activation_statistics`;
        `diverged`, whether the loss was non-finite, which ends it.
    """
    network, training = config.network, config.training
    model = rundir.build_model(network, len(source.class_names), config.run.seed, ())
    set_start(model, start)
    # A copy in float32: small differences would be lost in bfloat16.
    exact = dataclasses.replace(network, precision="float32")
    twin = model if network == exact else rundir.build_model(exact, len(source.class_names), config.run.seed, ())
    statistics_of = activation_statistics(twin)
    optimizer = MomentumSGD(
        training.learning_rate, training.momentum, training.weight_decay, training.bias_learning_rate_multiplier
    )
    steps = trainer.Trainer(model, optimizer)
    losses, measures, show = [], {}, progress_bar(start.label, "steps")
    epochs = (_epoch(config, source, statistics, augmentation_of(config), training.batch_size, n) for n in count())
    batches = chain.from_iterable(epochs)
    while True:
        if len(losses) in settings.measure:
            if twin is not model:
                weights.copy(model, twin)
            measures[str(len(losses))] = statistics_of(*probe)
        if len(losses) == settings.steps:
            return {"losses": losses, "measures": measures, "diverged": False}
        loss = float(steps.train_step(*next(batches)))
        if not math.isfinite(loss):
            return {"losses": losses, "measures": measures, "diverged": True}
        losses.append(loss)
        show(len(losses), settings.steps)


def _epoch(config, source, statistics, augmentation, batch_size, epoch):
    """The batches of one epoch."""
    size, seed = variants.VARIANTS[config.network.variant].input_size, config.run.seed
    settings = {"size": size, "batch_size": batch_size, "seed": seed, "epoch": epoch}
    return trainer.read(pipeline.training(source, statistics, augmentation, **settings))


def _probe(settings, config, source, statistics):
    """The fixed batch: images and labels, some of the training set in a random order, by their centers."""
    centers = Augmentation(crop_positions=1, reflections=False, pca_color="none")
    images = 8 if settings.quick else IMAGES
    return next(_epoch(config, source, statistics, centers, images, epoch=2**20))  # an order that no training has


def _statistics(source, path):
    """Those of a training set: stats.Statistics, computed once."""
    if os.path.isfile(path):
        statistics = stats.load(path)
        if statistics.fingerprint == source.fingerprint():
            return statistics
    statistics = stats.compute(source, progress=progress_bar("mean and covariance of the training set"))
    stats.save(statistics, path)
    return statistics


def _kept(path, about):
    """What was measured before, or None. Raises UsageError where it was with other settings."""
    if not os.path.isfile(path):
        return None
    with reading(path), open(path, encoding="utf-8") as file:
        before = json.load(file)
    changed = [name for name, value in about.items() if before["about"].get(name) != value]
    if changed:
        settings = ("other images" if name == "images" else f"{name} {before['about'].get(name)}" for name in changed)
        raise UsageError(
            f"--results_dir: {path} was run with {', '.join(settings)}; repeat its flags or name another folder"
        )
    return before["found"]


def _draw_losses(values, path):
    """Writes the loss curves as SVG."""
    figure, axes = plots.panel(6.4, 4.2)
    for start in STARTS:
        axes.plot(*zip(*smoothed(values["starts"][start.name]["losses"])), label=start.label)
    axes.axhline(values["constant"], color="0.4", linestyle=":", linewidth=1.2, label="majority-class baseline")
    axes.set_xlabel("steps")
    axes.set_ylabel(f"training loss, mean of {WINDOW} steps")
    axes.set_ylim(top=1.15 * values["constant"])
    axes.legend(frameon=False)
    plots.write(figure, path)


def _draw_shares(values, path):
    """Writes the shares of the signal that differ between images, at the first and the last measured step, as SVG."""
    steps = sorted({values["measured"][0], values["measured"][-1]})
    figure, panels = plots.panel(4.2 * len(steps) + 0.6, 3.8, len(steps))
    panels = np.ravel(panels)
    for axes, step in zip(panels, steps, strict=True):
        for index, start in enumerate(STARTS):
            measure = values["starts"][start.name]["measures"].get(str(step))
            if measure:
                shares = [100 * measure[layer]["share"] or math.nan for layer in LAYERS]  # 0 is off a logarithm's scale
                axes.plot(LAYERS, shares, "o-", color=f"C{index}", markersize=4, label=start.label)
        axes.set_yscale("log")
        axes.set_title(f"step {step}", fontsize=10)
        axes.tick_params(axis="x", rotation=45)
    lowest = min(axes.get_ylim()[0] for axes in panels)
    for axes in panels:
        axes.set_ylim(lowest, 150)
    panels[0].set_ylabel("differs between images, % of the energy")
    panels[0].legend(frameon=False)
    plots.write(figure, path)
