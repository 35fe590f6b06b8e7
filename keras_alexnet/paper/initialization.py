"""The start of training: why the loss of the network as published stands still at first.

Section 5 initializes every layer from N(0, 0.01) and five biases with 1. Caffe's authors, who rebuilt the network in
2014, took biases of 0.1 (`models/bvlc_alexnet/train_val.prototxt`); the released code initializes conv3-5 from
N(0, 0.03). Here the same layers start in each of these ways, with the same images, crops and color noise in the same
order, the same random numbers, and the paper's learning rate. In between, on a fixed batch and without dropout, the
command measures each layer's signal, how much of it differs between images, and the gradient of its kernels. What a
start gave is kept below RESULTS/initialization, and not trained again.
"""

import dataclasses
import math
import os
import sys
import typing

from keras_alexnet import cli
from keras_alexnet import config as configs
from keras_alexnet.errors import ArgumentError
from keras_alexnet.flags import flag
from keras_alexnet.paper import experiment
from keras_alexnet.paper.experiment import Experiment, Table, Verdict


class Start(typing.NamedTuple):
    """Where the weights begin."""

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
SMALLER = ("biases_0.1", "biases_0")
LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")
WINDOW = 20  # steps that losses are averaged over
EXIT = 0.95  # the loss has left the plateau when it is below this share of the majority-class baseline's
# What tables show of each layer: title, key of `activation_statistics`, and how it is written.
QUANTITIES = (
    ("Share of the signal that differs between images, %", "share", lambda share: f"{100 * share:.2g}"),
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
        text = ",".join(map(str, self.measure))
        if not self.measure or list(self.measure) != sorted(set(self.measure)):
            raise ArgumentError("measure", text, "must be rising numbers of steps such as 0,50,150")
        if self.measure[-1] > self.steps and not self.quick:
            raise ArgumentError("measure", text, f"there are {self.steps} steps; give more --steps or measure earlier")
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
    from keras_alexnet.paper import initialization_run  # TensorFlow, which --help and a wrong flag do not wait for

    if settings.quick:
        steps = min(settings.steps, 4)
        settings = dataclasses.replace(settings, steps=steps, measure=(0, min(steps, 2)))
    return initialization_run.measure(settings)


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
    published, smaller = steps["published"] or math.inf, min(steps[name] or math.inf for name in SMALLER)
    if published == smaller == math.inf:
        outcome, why = "cannot be told", f"in {max(len(own['losses']) for own in starts.values())} steps"
    elif smaller >= published + WINDOW:
        outcome, why = "holds", "for one seed"
    elif smaller > published - WINDOW:
        outcome = "cannot be told"
        why = f"the starts are less than the {WINDOW} steps apart that losses are averaged over"
    else:
        outcome, why = "does not hold", "for one seed, smaller biases are as fast or faster"
    when = "; ".join(f"{each.label} {f'at step {steps[each.name]}' if steps[each.name] else 'not'}" for each in STARTS)
    numbers = f"{why}, the loss leaves that of a majority-class baseline ({when})"
    fc7 = {start.label: starts[start.name]["measures"].get(first, {}).get("fc7") for start in STARTS}
    if all(fc7.values()):  # no start diverged before it was measured
        parts = (
            f"{label} {100 * each['share']:.2g} % (standard deviation {each['signal_between']:.2g})"
            for label, each in fc7.items()
        )
        numbers += f". Share of fc7's signal at step {first} that differs between images: {'; '.join(parts)}"
    return Verdict(outcome, numbers)


EXPERIMENT = Experiment(
    name="initialization",
    title="Initialization: a loss that stands still",
    claim="The network learns from N(0, 0.01) in every layer and biases of 1 in conv2, conv4, conv5 and the dense "
    "layers, which accelerates the early stages of learning (section 5).",
    command="python -m keras_alexnet.paper.initialization --dataset=folder --data_dir=IMAGES",
    cost="estimated: 90 minutes on one CPU core, 45 on two; with --width=0.25 --batch_size=32 about 12 minutes on one "
    "core (3 for a start, measured)",
    settings=Settings,
    run=run,
    tables=tables,
    verdict=verdict,
)

if __name__ == "__main__":
    sys.exit(experiment.main(EXPERIMENT))
