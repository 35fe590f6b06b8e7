"""What `initialization` trains, measures and draws."""

import dataclasses
import hashlib
import json
import math
import os
from itertools import chain, count

import keras
import tensorflow as tf

from keras_alexnet import datasets, rundir
from keras_alexnet.data import pipeline, sources
from keras_alexnet.data.augmentation import Augmentation
from keras_alexnet.errors import ArgumentError, reading
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
    """Trains from every start, or takes what is kept of it: experiment.Result.

    `constant` of its values is the majority-class baseline's loss, the entropy of the training labels in nats.
    """
    config = settings.training_config()
    network, training, seed, folder = config.network, config.training, config.run.seed, config.run.model_dir
    source, val_source = sources.open_training(config.data)
    if len(source.class_names) < 2:
        raise ArgumentError("data_dir", config.data.data_dir, "holds one class; there is nothing to tell apart")
    os.makedirs(folder, exist_ok=True)
    statistics, source, _, _ = datasets.prepare_datasets(config, None, source, val_source, is_chief=True)

    def batches(augmentation, batch_size, epoch):
        of_epoch = {"batch_size": batch_size, "seed": seed, "epoch": epoch}
        size = variants.VARIANTS[network.variant].input_size
        return trainer.read(pipeline.training(source, statistics, augmentation, size=size, **of_epoch))

    # The fixed batch: some of the training set by their centers, in an order that no training has.
    centers = Augmentation(crop_positions=1, reflections=False, pca_color="none")
    fixed = next(batches(centers, 8 if settings.quick else IMAGES, 2**20))
    # Measured by a copy in float32: small differences would be lost in bfloat16.
    exact = dataclasses.replace(network, precision="float32")
    model, copy = (rundir.build_model(each, len(source.class_names), seed, ()) for each in (network, exact))
    rates = training.learning_rate, training.momentum, training.weight_decay, training.bias_learning_rate_multiplier
    updates = trainer.Trainer(model, MomentumSGD(*rates))
    begin = {name: variable.numpy() for name, variable in updates.variables().items()}
    statistics_of, starts = activation_statistics(copy), {}

    def measured():
        weights.copy(model, copy)
        return statistics_of(*fixed)

    for start in STARTS:
        # Other settings or images have another file.
        key = repr((start, network, training, seed, settings.steps, settings.measure))
        key = hashlib.sha256(f"{key} {source.fingerprint()}".encode()).hexdigest()
        path = os.path.join(folder, f"{start.name}_{key[:12]}.json")
        if os.path.isfile(path):
            with reading(path), open(path, encoding="utf-8") as file:
                found = json.load(file)
        else:
            for name, variable in updates.variables().items():
                variable.assign(begin[name])
            set_start(model, start)
            augmentation = datasets.augmentation(config.data, network.variant)
            images = chain.from_iterable(batches(augmentation, training.batch_size, epoch) for epoch in count())
            found = _train(settings, updates.train_step, images, measured, progress_bar(start.label, "steps"))
            with atomic_write(path) as file:
                json.dump(found, file)
        starts[start.name] = found
        end = "diverged" if found["diverged"] else f"loss {found['losses'][-1]:.3f}"
        print(f"{start.label}: {end} after {len(found['losses'])} steps", flush=True)
    shares = [each / statistics.count for each in statistics.label_counts if each]
    values = {
        "classes": len(source.class_names),
        "images": source.count,
        "pictures": len(fixed[1]),
        "constant": -sum(share * math.log(share) for share in shares),
        "measured": list(settings.measure),
        "starts": starts,
    }
    protocol = (
        f"{values['images']:,} training images of {values['classes']} classes; the paper's network, width "
        f"{network.width:g}, and settings with its crops, reflections and color noise; {settings.steps} steps of "
        f"{training.batch_size} images, learning rate {training.learning_rate:g}, {network.precision}, one seed; "
        f"measured on the centers of {values['pictures']} of these images without dropout, in float32, each layer's "
        "signal after its nonlinearity"
    )
    return Result(values, protocol, _draw(values, settings.results_dir))


def set_start(model, start):
    """Gives the network as published, just built and in one stack, another Start; its weights change."""
    for layer in model.layers:
        if layer.name in WIDENED:
            layer.kernel.assign(layer.kernel * start.middle)  # three times N(0, 0.01) is N(0, 0.03)
        if layer.name in BIASED:
            layer.bias.assign(tf.fill(layer.bias.shape, start.bias))


def activation_statistics(model):
    """A function that measures a keras.Model of `AlexNet` in one stack, float32, with logits, without dropout.

    Returns:
        function of images, float32 (B, size, size, 3), and labels, int32 (B,) -> dict: "loss", float in nats, and for
        each of LAYERS a dict of float: signal_rms, the root of the mean square of its output after its nonlinearity;
        signal_between, the standard deviation between the B images, in the mean (of squares) over the units; share, the
        square of their ratio, in 0..1 (below 1e-13 it is rounding); gradient_rms, of the loss by the kernel;
        gradient_relative, that over the kernel's rms.
    """
    outputs = [model.get_layer(name.replace("conv", "relu").replace("fc", "relu")).output for name in LAYERS[:-1]]
    whole = keras.Model(model.input, [*outputs, model.output])
    kernels = [model.get_layer(name).kernel.value for name in LAYERS]

    @tf.function
    def signals_and_gradients(images, labels):
        with tf.GradientTape() as tape:
            signals = whole(images, training=False)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, signals[-1]))
        return loss, signals, tape.gradient(loss, kernels)

    def measure(images, labels):
        loss, *parts = signals_and_gradients(images, labels)
        found = {"loss": float(loss)}
        for name, *three in zip(LAYERS, *parts, kernels, strict=True):
            size, slope, weight = (float(tf.sqrt(tf.reduce_mean(tf.square(each)))) for each in three)
            between = float(tf.sqrt(tf.reduce_mean(tf.math.reduce_variance(three[0], axis=0))))
            found[name] = {
                "signal_rms": size,
                "signal_between": between,
                "share": (between / size) ** 2 if size else 0.0,
                "gradient_rms": slope,
                "gradient_relative": slope / weight,
            }
        return found

    return measure


def _train(settings, train_step, batches, measured, show):
    """What one start gives, dict: the loss of every step in nats, the measures by step, and whether it diverged."""
    losses, measures = [], {}
    while True:
        if len(losses) in settings.measure:
            measures[str(len(losses))] = measured()
        if len(losses) == settings.steps:
            return {"losses": losses, "measures": measures, "diverged": False}
        loss = float(train_step(*next(batches)))
        if not math.isfinite(loss):
            return {"losses": losses, "measures": measures, "diverged": True}
        losses.append(loss)
        show(len(losses), settings.steps)


def _draw(values, folder):
    """Writes the figures as SVG; returns pairs of (file below the folder, caption)."""
    figure, axes = plots.panel(6.4, 4.2)
    for start in STARTS:
        means = smoothed(values["starts"][start.name]["losses"])
        axes.plot(list(means), list(means.values()), label=start.label)
    axes.axhline(values["constant"], color="0.4", linestyle=":", linewidth=1.2, label="majority-class baseline")
    axes.set(xlabel="steps", ylabel=f"training loss, mean of {WINDOW} steps")
    axes.set_ylim(top=1.15 * values["constant"])
    axes.legend(frameon=False)
    plots.write(figure, os.path.join(folder, "initialization.svg"))
    steps = sorted({values["measured"][0], values["measured"][-1]})
    figure, panels = plots.panel(4.2 * len(steps) + 0.6, 3.8, len(steps), sharey=True, squeeze=False)
    for axes, step in zip(panels[0], steps, strict=True):
        for index, start in enumerate(STARTS):
            measure = values["starts"][start.name]["measures"].get(str(step))
            if measure:
                shares = [100 * measure[layer]["share"] or math.nan for layer in LAYERS]  # 0 is off a logarithm's scale
                axes.plot(LAYERS, shares, "o-", color=f"C{index}", markersize=4, label=start.label)
        axes.set(yscale="log", title=f"step {step}")
        axes.tick_params(axis="x", rotation=45)
    panels[0, 0].set(ylabel="differs between images, % of the energy", ylim=(None, 150))
    panels[0, 0].legend(frameon=False)
    plots.write(figure, os.path.join(folder, "initialization_signal.svg"))
    losses = f"Training loss, means of {WINDOW} steps, of each start; the majority-class baseline's, dotted."
    shares = "Share of each layer's signal that differs between images, by start."
    return ("initialization.svg", losses), ("initialization_signal.svg", shares)
