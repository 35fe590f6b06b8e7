"""The start of training: why the loss of the network as published stands still at first.

    python -m keras_alexnet.paper.start --dataset=folder --data_dir=PHOTOS [--steps=200 --measure=0,50,150]

Section 5 starts every layer from N(0, 0.01) and five biases from 1. Caffe's authors, who rebuilt the network in 2014,
took biases of 0.1 (`models/bvlc_alexnet/train_val.prototxt`); the released code starts conv3-5 from N(0, 0.03). Here
the same layers start in each of these ways, on the same pictures, crops and color noise in the same order, from the
same random numbers, with the paper's rates. In between, on a fixed batch and without dropout, it is measured how large
each layer's signal is, how much of it differs between images at all, and how large the gradient of its kernels is. A
start that has been run is kept in RESULTS/start/NAME.json and not run again.
"""

import dataclasses
import json
import math
import os
import sys

from keras_alexnet import rundir
from keras_alexnet.cli import run_command, start_tensorflow
from keras_alexnet.errors import UsageError, reading
from keras_alexnet.files import atomic_write, progress_bar
from keras_alexnet.paper import config, results


@dataclasses.dataclass(frozen=True)
class Start:
    """Where the weights begin.

    Attributes:
        name: str, of its file.
        label: str, for tables.
        middle: int, factor of the kernels of conv3, conv4 and conv5: 0.01 times it is their standard deviation.
        bias: float, of the biases of conv2, conv4, conv5, fc6 and fc7; the others begin at 0.
    """

    name: str
    label: str
    middle: int
    bias: float


TITLE = "The start: a loss that stands still"
CLAIM = (
    "The network learns from N(0, 0.01) in every layer and biases of 1 in conv2, conv4, conv5 and the dense layers, "
    "which accelerates the early stages of learning (section 5)."
)
COMMAND = "python -m keras_alexnet.paper.start --dataset=folder --data_dir=PHOTOS"
COST = (
    "estimated: 90 minutes on one CPU core, 45 on two; with --width=0.25 --batch_size=32 about 12 minutes on one core "
    "(3 for a start, measured)"
)
STARTS = (
    Start("published", "as published", 1, 1.0),
    Start("released", "as released", 3, 1.0),
    Start("biases_0.1", "published, biases 0.1", 1, 0.1),
    Start("biases_0", "published, biases 0", 1, 0.0),
)
LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")
WIDENED = ("conv3", "conv4", "conv5")
BIASED = ("conv2", "conv4", "conv5", "fc6", "fc7")
PICTURES = 64  # of the fixed batch
WINDOW = 20  # steps that losses are averaged over
LEFT = 0.95  # the loss has left that of a majority-class baseline when it is below so much of it
# What tables show of each layer: title, key of `gauge`, and how it is written.
QUANTITIES = (
    ("Share of the signal that differs between images, %", "share", lambda share: f"{100 * share:.2g}"),
    ("Size of the signal (root mean square)", "signal_rms", "{:.2g}".format),
    ("Standard deviation of the signal between images", "signal_between", "{:.2g}".format),
    ("Size of the gradient (root mean square)", "gradient_rms", "{:.1e}".format),
    ("Size of the gradient over that of the weights", "gradient_relative", "{:.1e}".format),
)


def main(argv):
    settings = config.parse_start(argv, __doc__)
    if settings.run.data.dataset != "shapes":
        config.check_there("data_dir", settings.run.data.data_dir, "the one that holds the pictures")
    results.folder_for(settings.results_dir)
    start_tensorflow()
    values = compare(settings)
    draw_losses(values, os.path.join(settings.results_dir, "start.svg"))
    draw_shares(values, os.path.join(settings.results_dir, "start_signal.svg"))
    network, training = settings.run.network, settings.run.training
    protocol = (
        f"{values['images']:,} training images of {values['classes']} classes; the paper's network, width "
        f"{network.width:g}, and config with its crops, reflections and color noise; {settings.steps} steps of "
        f"{training.batch_size} images, rate {training.learning_rate:g}, {network.precision}, one seed; measured on "
        f"the centers of {values['pictures']} of these images without dropout, in float32, each layer's signal after "
        f"its nonlinearity"
    )
    path = results.write(
        settings.results_dir,
        "start",
        values,
        protocol=protocol,
        argv=argv,
        pictures=[
            (
                "start.svg",
                f"Training loss, means of {WINDOW} steps, of each start; what a majority-class baseline has, dotted.",
            ),
            ("start_signal.svg", "Share of each layer's signal that differs between images, by start."),
        ],
        quick=settings.quick,
    )
    results.say(sys.modules[__name__], values, path)


def compare(settings):
    """Trains from every start.

    Args:
        settings: config.StartConfig.

    Returns:
        dict: `classes`, `images` and `pictures` (of the fixed batch), int; `constant`, the loss of the best constant
        answer, the entropy of the training labels in nats; `measured`, list of int, steps; and `starts`, name -> what
        `_train` returns.
    """
    from keras_alexnet.data import sources
    from keras_alexnet.model.alexnet import check_width

    try:
        check_width(settings.run.network.width)
    except ValueError as error:
        raise UsageError(f"--width={settings.run.network.width}: {error}") from None
    source, _ = sources.open_training(settings.run.data, progress_bar)
    if len(source.class_names) < 2:
        raise UsageError(f"--data_dir={settings.run.data.data_dir}: holds one class; there is nothing to tell apart")
    folder = results.folder_for(os.path.join(settings.results_dir, "start"))
    statistics = _statistics(source, os.path.join(folder, "statistics.npz"))
    source = source.without(statistics.skipped)
    about = _about(settings, source)
    kept = {start.name: _kept(folder, start, about) for start in STARTS}  # all looked at before anything is trained
    probe = _probe(settings, source, statistics)
    for start in STARTS:
        if kept[start.name] is None:
            kept[start.name] = _train(settings, start, source, statistics, probe)
            with atomic_write(_path(folder, start)) as file:
                json.dump({"about": about, "found": kept[start.name]}, file)
        found = kept[start.name]
        said = "diverged" if found["diverged"] else f"loss {found['losses'][-1]:.3f}"
        print(f"{start.label}: {said} after {len(found['losses'])} steps", flush=True)
    return {
        "classes": len(source.class_names),
        "images": source.count,
        "pictures": len(probe[1]),
        "constant": entropy(statistics.label_counts),
        "measured": list(settings.measure),
        "starts": kept,
    }


def begin(model, start):
    """Gives the network as published, just built, another start.

    Args:
        model: keras.Model, `AlexNet` of the variant "paper" in one stack; its weights change.
        start: Start.
    """
    import tensorflow as tf

    for layer in model.layers:
        if layer.name in WIDENED:
            layer.kernel.assign(layer.kernel * start.middle)  # three times N(0, 0.01) is N(0, 0.03)
        if layer.name in BIASED:
            layer.bias.assign(tf.fill(layer.bias.shape, start.bias))


def gauge(model):
    """A function that measures a network.

    Args:
        model: keras.Model of `AlexNet` in one stack, float32, with logits.

    Returns:
        function of images, float32 (B, size, size, 3), and labels, int32 (B,) -> dict of the layers' names -> dict of
        float: signal_rms, the root of the mean square of what the layer gives on, after its nonlinearity;
        signal_between, the standard deviation between the B images, in the mean (of squares) over the units; share,
        the square of their ratio, in 0..1; gradient_rms, of the loss by the kernel; gradient_relative, that over the
        kernel's rms. And "loss", float, in nats, without dropout. In float32 a share below 1e-13 is rounding.
    """
    import keras
    import tensorflow as tf

    outputs = [model.get_layer(name.replace("conv", "relu").replace("fc", "relu")).output for name in LAYERS[:-1]]
    whole = keras.Model(model.input, [*outputs, model.output])
    kernels = [model.get_layer(name).kernel for name in LAYERS]

    @tf.function
    def measured(images, labels):
        with tf.GradientTape() as tape:
            signals = whole(images, training=False)
            loss = tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, signals[-1]))
        gradients = tape.gradient(loss, [kernel.value for kernel in kernels])
        return loss, [
            (
                tf.sqrt(tf.reduce_mean(tf.square(signal))),
                tf.sqrt(tf.reduce_mean(tf.math.reduce_variance(signal, axis=0))),
                tf.sqrt(tf.reduce_mean(tf.square(gradient))),
                tf.sqrt(tf.reduce_mean(tf.square(kernel))),
            )
            for signal, gradient, kernel in zip(signals, gradients, kernels, strict=True)
        ]

    def measure(images, labels):
        loss, numbers = measured(images, labels)
        found = {"loss": float(loss)}
        for name, each in zip(LAYERS, numbers, strict=True):
            rms, between, gradient, kernel = map(float, each)
            found[name] = {
                "signal_rms": rms,
                "signal_between": between,
                "share": (between / rms) ** 2 if rms else 0.0,
                "gradient_rms": gradient,
                "gradient_relative": gradient / kernel if kernel else 0.0,
            }
        return found

    return measure


def entropy(counts):
    """The loss of the best majority-class baseline to labels of these counts, float in nats."""
    total = sum(counts)
    return -sum(count / total * math.log(count / total) for count in counts if count)


def left(losses, constant):
    """When the mean loss of WINDOW steps is first below LEFT of the majority-class baseline's:
    int, the last of them, or None."""
    return next((end for end, mean in smoothed(losses) if mean < LEFT * constant), None)


def smoothed(losses):
    """Pairs of (step, mean loss of the WINDOW steps up to it)."""
    return [(end, sum(losses[end - WINDOW : end]) / WINDOW) for end in range(WINDOW, len(losses) + 1)]


def tables(values):
    """What the report shows, see `results`."""
    rows = []
    for start in STARTS:
        own = values and values["starts"][start.name]
        cells = (results.NOT_RUN,) * 3
        if own:
            losses = own["losses"]
            step = left(losses, values["constant"])
            gone = "diverged" if own["diverged"] else f"not in {len(losses)}"
            last = losses[-WINDOW:]
            cells = (
                f"{losses[0]:.3f}" if losses else "-",
                f"{sum(last) / len(last):.3f}" if losses else "-",
                gone if step is None else f"{step}",
            )
        rows.append((start.label, f"{0.01 * start.middle:g}", f"{start.bias:g}", *cells))
    note = ""
    if values:
        note = (
            f"ln {values['classes']} is {math.log(values['classes']):.3f}, the best majority-class baseline has "
            f"{values['constant']:.3f}; it is left when the mean of {WINDOW} steps is below {LEFT:g} times that"
        )
    columns = (
        "",
        "std of conv3-5",
        "biases",
        "first loss",
        f"last {WINDOW} steps",
        "leaves the majority-class baseline at step",
    )
    found = [results.Table("How the starts go", columns, tuple(rows), note)]
    steps = values["measured"] if values else []
    said = f"At step {' / '.join(map(str, steps))}." if steps else ""
    for title, key, form in QUANTITIES:
        rows = [(name, *(_cell(values, start, name, key, form) for start in STARTS)) for name in LAYERS]
        found.append(results.Table(title, ("", *(start.label for start in STARTS)), tuple(rows), said))
    return found


def verdict(values):
    """Whether the claim holds, str; each half of a sentence is said only where the figures say it."""
    if values is None:
        return results.NOT_RUN
    starts, first = values["starts"], str(values["measured"][0])
    gone = {name: left(own["losses"], values["constant"]) for name, own in starts.items()}
    when = "; ".join(
        f"{start.label} {'not' if gone[start.name] is None else f'at step {gone[start.name]}'}" for start in STARTS
    )
    smaller = [gone["biases_0.1"], gone["biases_0"]]
    published = gone["published"]
    if published is None and smaller == [None, None]:
        judged = f"Cannot be told in {max(len(own['losses']) for own in starts.values())} steps"
    elif published is not None and all(each is None or each >= published + WINDOW for each in smaller):
        judged = "Holds here, for one seed"
    elif published is not None and all(each is None or each > published - WINDOW for each in smaller):
        judged = f"Cannot be told: the starts are less than the {WINDOW} steps apart that losses are averaged over"
    else:
        judged = "Does not hold here, for one seed: smaller biases are as quick or quicker"
    said = f"{judged}: the loss leaves that of a majority-class baseline ({when})."
    before = {name: own["measures"].get(first, {}).get("fc7") for name, own in starts.items()}
    if not all(before.values()):
        return said
    shares = "; ".join(f"{start.label} {100 * before[start.name]['share']:.2g} %" for start in STARTS)
    said += f" Of the energy of fc7's signal at step {first}, this much differs between images: {shares}."
    sizes = {name: each["signal_between"] for name, each in before.items()}
    if sizes["released"] > sizes["published"] > max(sizes["biases_0.1"], sizes["biases_0"]):
        said += (
            " Smaller biases take away what images have in common, not what is missing: the part that differs is "
            f"larger with wider kernels only (standard deviations {sizes['published']:.2g} as published, "
            f"{sizes['released']:.2g} as released, {sizes['biases_0.1']:.2g} and {sizes['biases_0']:.2g} with smaller "
            "biases)."
        )
    return said


def _cell(values, start, layer, key, form):
    if not values:
        return results.NOT_RUN
    measures = values["starts"][start.name]["measures"]
    each = [measures.get(str(step)) for step in values["measured"]]
    return " / ".join("-" if measure is None else form(measure[layer][key]) for measure in each)


def _about(settings, source):
    """What a start that is kept must have in common with one that is asked for."""
    network, training = settings.run.network, settings.run.training
    return {
        "steps": settings.steps,
        "measure": list(settings.measure),
        "batch_size": training.batch_size,
        "width": network.width,
        "precision": network.precision,
        "learning_rate": training.learning_rate,
        "seed": settings.run.run.seed,
        "images": source.fingerprint(),
    }


def _path(folder, start):
    return os.path.join(folder, f"{start.name}.json")


def _kept(folder, start, about):
    """What was found before, or None."""
    path = _path(folder, start)
    if not os.path.isfile(path):
        return None
    with reading(path), open(path, encoding="utf-8") as file:
        before = json.load(file)
        was, found = before["about"], before["found"]
    changed = [name for name, value in about.items() if was.get(name) != value]
    if changed:
        said = ", ".join("other images" if name == "images" else f"{name} {was.get(name)}" for name in changed)
        raise UsageError(f"--results_dir: {path} was run with {said}; repeat its flags or name another folder")
    return found


def _statistics(source, path):
    from keras_alexnet.data import statistics as stats

    if os.path.isfile(path):
        statistics = stats.load(path)
        if statistics.fingerprint == source.fingerprint():
            return statistics
    statistics = stats.compute(source, progress=progress_bar("mean and covariance of the training set"))
    stats.save(statistics, path)
    return statistics


def _probe(settings, source, statistics):
    """The fixed batch: images and labels, some of the training set in a random order, by their centers."""
    from keras_alexnet.data import pipeline
    from keras_alexnet.data.augmentation import Augmentation
    from keras_alexnet.model.alexnet import VARIANTS
    from keras_alexnet.training import trainer

    batches = pipeline.training(
        source,
        statistics,
        Augmentation(crop_positions=1, reflections=False, pca_color="none"),
        size=VARIANTS[settings.run.network.variant].input_size,
        batch_size=8 if settings.quick else PICTURES,
        seed=settings.run.run.seed,
        epoch=2**20,  # an order that no training has
    )
    return next(loop.read(batches))


def _train(settings, start, source, statistics, probe):
    """Trains from a start.

    Returns:
        dict: `losses`, list of float, one a step, in nats; `measures`, step as str -> see `gauge`; `diverged`, whether
        the loss was no number any more, which ends it.
    """
    from keras_alexnet.model import weights
    from keras_alexnet.training.trainer import Trainer
    from keras_alexnet.training.optimizer import MomentumSGD

    network, training, seed = settings.run.network, settings.run.training, settings.run.run.seed
    model = rundir.build_model(network, len(source.class_names), seed, ())
    begin(model, start)
    exact = dataclasses.replace(network, precision="float32")  # what differs little would be lost in bfloat16
    twin = model if network == exact else rundir.build_model(exact, len(source.class_names), seed, ())
    measure = gauge(twin)
    rates = training.learning_rate, training.momentum, training.weight_decay, training.bias_learning_rate_multiplier
    trainer = Trainer(model, MomentumSGD(*rates))
    losses, measures, show = [], {}, progress_bar(start.label, "steps")
    batches = _batches(settings, source, statistics)
    while True:
        if len(losses) in settings.measure:
            if twin is not model:
                weights.copy(model, twin)
            measures[str(len(losses))] = measure(*probe)
        if len(losses) == settings.steps:
            return {"losses": losses, "measures": measures, "diverged": False}
        loss = float(trainer.train_step(*next(batches)))
        if not math.isfinite(loss):
            return {"losses": losses, "measures": measures, "diverged": True}
        losses.append(loss)
        show(len(losses), settings.steps)


def _batches(settings, source, statistics):
    """Batches as the paper's config has them, epoch after epoch, without end."""
    from keras_alexnet.data import pipeline
    from keras_alexnet.data.augmentation import Augmentation
    from keras_alexnet.model.alexnet import VARIANTS
    from keras_alexnet.training import trainer

    variant, data = VARIANTS[settings.run.network.variant], settings.run.data
    augmentation = Augmentation(variant.crop_positions, data.reflections, data.pca_color, "eigenvalue", data.pca_stddev)
    epoch = 0
    while True:
        yield from loop.read(
            pipeline.training(
                source,
                statistics,
                augmentation,
                size=variant.input_size,
                batch_size=settings.run.training.batch_size,
                seed=settings.run.run.seed,
                epoch=epoch,
            )
        )
        epoch += 1


def draw_losses(values, path):
    """Writes the loss curves as SVG."""
    from keras_alexnet.paper import pictures

    figure, axes = pictures.panel(6.4, 4.2)
    for index, start in enumerate(STARTS):
        points = smoothed(values["starts"][start.name]["losses"])
        axes.plot([step for step, _ in points], [mean for _, mean in points], color=f"C{index}", label=start.label)
    constant = values["constant"]
    axes.axhline(constant, color="0.4", linestyle=":", linewidth=1.2, label="best majority-class baseline")
    axes.set_xlabel("steps")
    axes.set_ylabel(f"training loss, mean of {WINDOW} steps")
    axes.set_ylim(top=1.15 * constant)
    axes.legend(frameon=False)
    pictures.write(figure, path)


def draw_shares(values, path):
    """Writes the shares of the signal that differ between images, at the first and the last measuring, as SVG."""
    from keras_alexnet.paper import pictures

    steps = sorted({values["measured"][0], values["measured"][-1]})
    figure, panels = pictures.panel(4.2 * len(steps) + 0.6, 3.8, len(steps))
    for axes, step in zip([panels] if len(steps) == 1 else panels, steps, strict=True):
        for index, start in enumerate(STARTS):
            measure = values["starts"][start.name]["measures"].get(str(step))
            if measure:
                shares = [100 * measure[layer]["share"] or math.nan for layer in LAYERS]  # 0 is off a logarithm's scale
                axes.plot(LAYERS, shares, "o-", color=f"C{index}", markersize=4, label=start.label)
        axes.set_yscale("log")
        axes.set_title(f"step {step}", fontsize=10)
        axes.tick_params(axis="x", rotation=45)
    first = panels if len(steps) == 1 else panels[0]
    if len(steps) > 1:
        lowest = min(axes.get_ylim()[0] for axes in panels)
        for axes in panels:
            axes.set_ylim(lowest, 150)
    first.set_ylabel("differs between images, % of the energy")
    first.legend(frameon=False)
    pictures.write(figure, path)


if __name__ == "__main__":
    sys.exit(run_command("start", main, sys.argv[1:]))
