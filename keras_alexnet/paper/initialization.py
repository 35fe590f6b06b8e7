"""The start of training: why the loss of the network as published stands still at first.

Section 5 initializes every layer from N(0, 0.01) and five biases with 1. Caffe's authors, who rebuilt the network in
2014, took biases of 0.1 (`models/bvlc_alexnet/train_val.prototxt`); the released code initializes conv3-5 from
N(0, 0.03). Here the same layers start in each of these ways, with the same images, crops and color noise in the same
order, the same random numbers, and the paper's learning rate. In between, on a fixed batch and without dropout, the
command measures each layer's signal, how much of it differs between images, and the gradient of its kernels. What a
start gave is kept below RESULTS/initialization, and not trained again.
"""

import dataclasses
import hashlib
import math
import os
import typing
from itertools import chain, count

import numpy as np

from keras_alexnet import cli, config as configs, rundir
from keras_alexnet.errors import reading
from keras_alexnet.files import progress_bar, read_json, write_json
from keras_alexnet.flags import flag
from keras_alexnet.model.variants import VARIANTS
from keras_alexnet.paper import experiment
from keras_alexnet.paper.experiment import Result, Table, Verdict

TITLE = "Initialization: a loss that stands still"
CLAIM = (
    "The network learns from N(0, 0.01) in every layer and biases of 1 in conv2, conv4, conv5 and the dense "
    "layers, which accelerates the early stages of learning (section 5)."
)
COST = (
    "estimated: 90 minutes on one CPU core, 45 on two; with --width=0.25 --batch_size=32 about 12 minutes on one "
    "core (3 for a start, measured)"
)
COMMAND = "python -m keras_alexnet.paper.initialization --dataset=folder --data_dir=IMAGES"


class Start(typing.NamedTuple):
    name: str  # of its file
    label: str  # in tables
    middle: int  # factor of the kernels of conv3, conv4 and conv5: 0.01 times it is their standard deviation
    bias: float  # of conv2, conv4, conv5, fc6 and fc7; the others begin at 0


STARTS = (
    Start("published", "as published", 1, 1.0),
    Start("released", "as released", 3, 1.0),
    Start("biases_0.1", "published, biases 0.1", 1, 0.1),
    Start("biases_0", "published, biases 0", 1, 0.0),
)
LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")
WINDOW = 20  # steps that losses are averaged over
EXIT = 0.95  # the loss has left the plateau when it is below this share of the majority-class baseline's
# What tables show of each layer: title, key of `activation_statistics`, and how it is written.
QUANTITIES = (
    ("Share of the signal's energy that differs between images, %", "share", lambda share: f"{100 * share:.2g}"),
    ("Size of the signal (root mean square)", "signal_rms", "{:.2g}".format),
    ("Standard deviation of the signal between images", "signal_between", "{:.2g}".format),
    ("Size of the gradient (root mean square)", "gradient_rms", "{:.1e}".format),
    ("Size of the gradient over that of the weights", "gradient_relative", "{:.1e}".format),
)


@dataclasses.dataclass(frozen=True)
class Settings(experiment.Settings):
    """Initialization."""

    dataset: str = flag("folder", "As in training: folder, shapes, records or a TensorFlow Datasets name.")
    data_dir: str | None = flag(
        None, "As in training; shapes are drawn into RESULTS/initialization/shapes by default.", path=True
    )
    steps: int = flag(200, "Updates from each start.", low=1, high=10**6)
    measure: tuple[int, ...] = flag((0, 50, 150), "Updates after which signals and gradients are measured.")
    batch_size: int = flag(128, "Images per update.", low=1, high=65_536)
    width: float = flag(1.0, "As in training.", above=0.0, high=4.0)
    precision: str = flag("float32", "Arithmetic of training.", choices=configs.PRECISIONS[:2])
    learning_rate: float = flag(0.01, "Learning rate of all layers.", low=0.0)
    seed: int = flag(2012, "Seed of weights, order, crops, color noise and dropout.", low=0)

    def __post_init__(self):
        is_rising = self.measure and list(self.measure) == sorted(set(self.measure))
        self.check("measure", is_rising, "must be rising numbers of steps such as 0,50,150")
        problem = f"there are {self.steps} steps; give more --steps or measure earlier"
        self.check("measure", self.quick or self.measure[-1] <= self.steps, problem)
        configs.check(self.training_config())

    def training_config(self):
        """config.Config: the paper's, in one stack of two groups, which is the same function as two towers."""
        width, batch_size, images = self.width, self.batch_size, {}
        if self.quick:
            width, batch_size, images = min(width, 0.0625), min(batch_size, 8), {"shapes_train": 4, "shapes_val": 1}
        folder = os.path.join(self.results_dir, "initialization")
        data_dir = self.data_dir or (os.path.join(folder, "shapes") if self.dataset == "shapes" else None)
        return configs.Config(
            configs.DataConfig(dataset=self.dataset, data_dir=data_dir, **images),
            configs.NetworkConfig(towers=1, groups=2, width=width, precision=self.precision),
            configs.TrainingConfig(batch_size=batch_size, learning_rate=self.learning_rate),
            configs.RunConfig(model_dir=folder, seed=self.seed),
        )


def run(settings):
    cli.start_tensorflow()
    # TensorFlow, which `--help` does not wait for.
    from keras_alexnet import datasets
    from keras_alexnet.data import augmentation, pipeline
    from keras_alexnet.training import optimizer, trainer

    experiment.pyplot()
    if settings.quick:
        steps = min(settings.steps, 4)
        settings = dataclasses.replace(settings, steps=steps, measure=(0, min(steps, 2)))
    config = settings.training_config()
    network, training, seed, folder = config.network, config.training, config.run.seed, config.run.model_dir
    data = datasets.find_imagenet(config.data)
    source, val_source = datasets.open_sources(data)
    settings.check("data_dir", len(source.class_names) > 1, "holds one class; there is nothing to tell apart")
    os.makedirs(folder, exist_ok=True)
    given = datasets.given_statistics(data)
    statistics, source, _, _ = datasets.prepare_datasets(config, given, source, val_source, is_chief=True)

    def batches(data, batch_size, epoch):
        given = {"size": VARIANTS[network.variant].input_size, "batch_size": batch_size, "seed": seed, "epoch": epoch}
        preprocess = augmentation.Preprocessing(statistics.mean_image, given["size"])
        dataset = pipeline.training(source, statistics, datasets.augmentation(data, network.variant), **given)
        return trainer.read(dataset.map(lambda images, labels: (preprocess(images), labels)))

    # The fixed batch: some of the training set by their centers, in an order that no training has.
    centers = configs.DataConfig(crop_positions=1, reflections=False, pca_color="none")
    fixed = next(batches(centers, 8 if settings.quick else 64, 2**20))
    # Measured by a copy in float32: small differences would be lost in bfloat16.
    exact = dataclasses.replace(network, precision="float32")
    model, copy = (rundir.build_model(each, len(source.class_names), seed, ()) for each in (network, exact))
    rates = training.learning_rate, training.momentum, training.weight_decay, training.bias_learning_rate_multiplier
    updates = trainer.Trainer(model, optimizer.MomentumSGD(*rates))
    begin = {name: variable.numpy() for name, variable in updates.variables().items()}
    statistics_of, starts = activation_statistics(copy), {}

    def measured():
        copy.set_weights(model.get_weights())
        return statistics_of(*fixed)

    for start in STARTS:
        # Other settings or images have another file.
        key = repr((start, network, training, seed, settings.steps, settings.measure))
        key = hashlib.sha256(f"{key} {source.fingerprint()}".encode()).hexdigest()
        path = os.path.join(folder, f"{start.name}_{key[:12]}.json")
        if os.path.isfile(path):
            with reading(path):
                found = read_json(path)
        else:
            for name, variable in updates.variables().items():
                variable.assign(begin[name])
            set_start(model, start)
            images = chain.from_iterable(batches(config.data, training.batch_size, epoch) for epoch in count())
            found = _train(settings, updates.train_step, images, measured, progress_bar(start.label, "steps"))
            write_json(path, found)
        starts[start.name] = found
        end = "diverged" if found["diverged"] else f"loss {found['losses'][-1]:.3f}"
        print(f"{start.label}: {end} after {len(found['losses'])} steps")
    return _result(settings, config, source, statistics, len(fixed[1]), starts)


def _result(settings, config, source, statistics, pictures, starts):
    """The Result of trained starts; `constant` is the majority-class baseline's loss, the entropy of the labels."""
    network, training = config.network, config.training
    shares = [each / statistics.count for each in statistics.label_counts if each]
    values = {"classes": len(source.class_names), "images": source.count, "pictures": pictures}
    values |= {"constant": -sum(share * math.log(share) for share in shares)}
    values |= {"measured": list(settings.measure), "starts": starts}
    protocol = (
        f"{values['images']:,} training images of {values['classes']} classes; the paper's network, width "
        f"{network.width:g}, and settings with its crops, reflections and color noise; {settings.steps} steps of "
        f"{training.batch_size} images, learning rate {training.learning_rate:g}, {network.precision}, one seed; "
        f"measured on the centers of {pictures} of these images without dropout, in float32, each layer's signal after "
        "its nonlinearity"
    )
    return Result(values, protocol, _draw(values))


def set_start(model, start):
    """Gives the network as published, just built and in one stack, another Start; its weights change."""
    for layer in model.layers:
        if layer.name in ("conv3", "conv4", "conv5"):
            layer.kernel.assign(layer.kernel * start.middle)  # three times N(0, 0.01) is N(0, 0.03)
        if layer.name in ("conv2", "conv4", "conv5", "fc6", "fc7"):
            layer.bias.assign(np.full(layer.bias.shape, start.bias))


def activation_statistics(model):
    """A function that measures a keras.Model of `AlexNet` in one stack, float32, with logits, without dropout.

    Returns:
        function of images, float32 (B, size, size, 3), and labels, int32 (B,) -> dict: "loss", float in nats, and for
        each of LAYERS a dict of float: signal_rms, the root of the mean square of its output after its nonlinearity;
        signal_between, the standard deviation between the B images, in the mean (of squares) over the units; share, the
        square of their ratio, in 0..1 (below 1e-13 it is rounding); gradient_rms, of the loss by the kernel;
        gradient_relative, that over the kernel's rms.
    """
    import tensorflow as tf  # which `--help` does not wait for

    outputs = [model.get_layer(name.replace("conv", "relu").replace("fc", "relu")).output for name in LAYERS[:-1]]
    whole = tf.keras.Model(model.input, [*outputs, model.output])
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
            share = (between / size) ** 2 if size else 0.0
            found[name] = {"signal_rms": size, "signal_between": between, "share": share}
            found[name] |= {"gradient_rms": slope, "gradient_relative": slope / weight}
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


def _draw(values):
    curves, axes = experiment.panel(6.4, 4.2)
    for start in STARTS:
        means = smoothed(values["starts"][start.name]["losses"])
        axes.plot(list(means), list(means.values()), label=start.label)
    axes.axhline(values["constant"], color="0.4", linestyle=":", linewidth=1.2, label="majority-class baseline")
    axes.set(xlabel="steps", ylabel=f"training loss, mean of {WINDOW} steps", ylim=(None, 1.15 * values["constant"]))
    axes.legend(frameon=False)
    steps = sorted({values["measured"][0], values["measured"][-1]})
    signal, panels = experiment.panel(4.2 * len(steps) + 0.6, 3.8, len(steps), sharey=True, squeeze=False)
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
    losses = f"Training loss, means of {WINDOW} steps, of each start; the majority-class baseline's, dotted."
    shares = "Share of each layer's signal that differs between images, by start."
    return {"initialization.svg": (curves, losses), "initialization_signal.svg": (signal, shares)}


def smoothed(losses):
    """dict of step -> mean loss of the WINDOW steps up to it."""
    return {end: sum(losses[end - WINDOW : end]) / WINDOW for end in range(WINDOW, len(losses) + 1)}


def plateau_exit_step(losses, baseline):
    """When the mean loss of WINDOW steps is first below EXIT of a baseline's: int, the last of them, or None."""
    return next((end for end, mean in smoothed(losses).items() if mean < EXIT * baseline), None)


def tables(values):
    baseline, rows = values["constant"], []
    for start in STARTS:
        own = values["starts"][start.name]
        losses, last = own["losses"], own["losses"][-WINDOW:]
        cells = (f"{losses[0]:.3f}", f"{sum(last) / len(last):.3f}") if losses else ("-", "-")
        never = "diverged" if own["diverged"] else f"not in {len(losses)}"
        step = plateau_exit_step(losses, baseline)
        rows.append((start.label, f"{0.01 * start.middle:g}", f"{start.bias:g}", *cells, str(step or never)))
    note = (
        f"ln {values['classes']} is {math.log(values['classes']):.3f}, the best majority-class baseline has "
        f"{baseline:.3f}; it is left when the mean of {WINDOW} steps is below {EXIT:g} times that"
    )
    exit_column = "leaves the majority-class baseline at step"
    columns = ("", "std of conv3-5", "biases", "first loss", f"last {WINDOW} steps", exit_column)
    found, steps = [Table("Training from each start", columns, rows, note)], list(map(str, values["measured"]))
    for title, key, form in QUANTITIES:
        rows = []
        for layer in LAYERS:
            measures = [[values["starts"][start.name]["measures"].get(step) for step in steps] for start in STARTS]
            cells = (" / ".join(form(each[layer][key]) if each else "-" for each in own) for own in measures)
            rows.append((layer, *cells))
        found.append(Table(title, ("", *(start.label for start in STARTS)), rows, f"At step {' / '.join(steps)}."))
    return found


def verdict(values):
    """Holds where smaller biases stay on the plateau longer than the published start."""
    starts, first = values["starts"], str(values["measured"][0])
    steps = {name: plateau_exit_step(own["losses"], values["constant"]) for name, own in starts.items()}
    published, *smaller = (steps[name] or math.inf for name in ("published", "biases_0.1", "biases_0"))
    smaller = min(smaller)
    outcome = "cannot be told"
    if published == smaller == math.inf:
        why = f"in {max(len(own['losses']) for own in starts.values())} steps"
    elif smaller >= published + WINDOW:
        outcome, why = "holds", "for the biases and one seed"
    elif smaller > published - WINDOW:
        why = f"the starts are less than the {WINDOW} steps apart that losses are averaged over"
    else:
        outcome, why = "does not hold", "for one seed, smaller biases are as fast or faster"
    when = "; ".join(f"{each.label} {f'at step {steps[each.name]}' if steps[each.name] else 'not'}" for each in STARTS)
    numbers = f"{why}, the loss leaves that of a majority-class baseline ({when})"
    fc7 = {start.label: starts[start.name]["measures"].get(first, {}).get("fc7") for start in STARTS}
    if all(fc7.values()):  # no start diverged before it was measured
        text = "{} {:.2g} % (standard deviation {:.2g})".format
        parts = "; ".join(text(label, 100 * each["share"], each["signal_between"]) for label, each in fc7.items())
        numbers += f". Share of the energy of fc7's signal at step {first} that differs between images: {parts}"
    return Verdict(outcome, numbers)


if __name__ == "__main__":
    raise SystemExit(experiment.main("initialization"))
