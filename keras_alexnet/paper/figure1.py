"""Figure 1: how much sooner ReLU reaches 25 % training error on CIFAR-10 than tanh.

The release's four-layer network (19pct) is trained without regularization. Successive halving finds the best learning
rate of each nonlinearity: all rates train for --first_round epochs, the better half for twice as many, and so on until
one is left. A training stops at the target error, or when it is longer than the shortest that has reached the target.
"""

import dataclasses
import math
import os

import numpy as np

from keras_alexnet import cli, rundir
from keras_alexnet.config import PRECISIONS
from keras_alexnet.errors import UsageError
from keras_alexnet.files import progress_bar
from keras_alexnet.flags import flag
from keras_alexnet.paper import experiment
from keras_alexnet.paper.experiment import Result, Table, Verdict

TITLE = "Figure 1: ReLU against tanh"
CLAIM = (
    "A four-layer network with ReLU reaches 25 % training error on CIFAR-10 six times faster than the same "
    "network with tanh; learning rates were chosen for each to be as fast as possible, without regularization (section "
    "3.1, Figure 1)."
)
COST = "about 80 minutes on one CPU core (151 epochs of 32 s)"
COMMAND = "python -m keras_alexnet.paper.figure1 --dataset=cifar10"

NAMES = {"relu": "ReLU", "tanh": "tanh"}
POINTS = 5  # points of a training curve per epoch


@dataclasses.dataclass(frozen=True)
class CifarSettings(experiment.Settings):
    """The flags of every command that trains on CIFAR-10."""

    dataset: str = flag(
        "cifar10",
        "cifar10 of TensorFlow Datasets; folder: 32x32 images in DATA_DIR/train/CLASS/* and DATA_DIR/test/CLASS/* (or "
        "val or validation); shapes: 500 generated images, to try the command.",
        choices=("cifar10", "folder", "shapes"),
    )
    data_dir: str | None = flag(None, "As in training.", path=True)
    batch_size: int = flag(128, "Images per training step.", low=1)
    precision: str = flag("float32", "Arithmetic, as in training.", choices=PRECISIONS[:2])
    seed: int = flag(2012, "Seed of initial weights and image order.", low=0)

    def __post_init__(self):
        rundir.check_path(self.results_dir, "results_dir")
        if self.dataset == "folder" and not self.data_dir:
            raise UsageError("--data_dir is missing: --dataset=folder reads DATA_DIR/train/CLASS/* and DATA_DIR/test")


@dataclasses.dataclass(frozen=True)
class Settings(CifarSettings):
    """Figure 1."""

    relu_rates: tuple[float, ...] = flag(
        (0.001, 0.002, 0.004, 0.008),
        "Learning rates for ReLU; the best should be an inner one.",
        above=0,
        different=True,
    )
    tanh_rates: tuple[float, ...] = flag(
        (0.004, 0.008, 0.016, 0.032), "Learning rates for tanh.", above=0, different=True
    )
    target_error: float = flag(25.0, "Training error to reach, in percent.", low=0.0, high=100.0)
    first_round: int = flag(8, "Epochs before the worse half of the learning rates is dropped.", low=1)
    max_epochs: int = flag(100, "Largest number of epochs.", low=1, high=10_000)
    repeats: int = flag(1, "Seeds of each best learning rate, including the seed of the search.", low=1)


def run(settings):
    cli.start_tensorflow()
    from keras_alexnet.paper import cifar_network

    experiment.pyplot()
    if settings.quick:
        limits = {"max_epochs": min(settings.max_epochs, 2), "batch_size": min(settings.batch_size, 16)}
        rates = {"relu_rates": settings.relu_rates[:2], "tanh_rates": settings.tanh_rates[:2]}
        settings = dataclasses.replace(settings, **limits, **rates)
    images, folder = cifar_network.load(settings), os.path.join(settings.results_dir, "figure1")

    def start(activation, learning_rate, seed):
        options = {"batch_size": settings.batch_size, "precision": settings.precision, "seed": seed}
        trial = cifar_network.Trial("19pct", activation, learning_rate, weight_decay=False, **options)
        return cifar_network.Training(folder, trial, images)

    values = compare(settings, start) | {"is_papers": images.is_papers}
    figure, axes = experiment.panel(6.4, 4.2)
    for activation, style in zip(NAMES, ("-", "--"), strict=True):
        for trial in values[activation]["trials"]:
            line = {"color": "0.75", "linewidth": 0.8, "zorder": 1}
            if trial["learning_rate"] == values[activation]["best_rate"]:
                label = f"{NAMES[activation]}, learning rate {trial['learning_rate']:g}"
                line = {"color": "black", "linewidth": 1.8, "zorder": 2, "label": label}
            axes.plot(*np.reshape(smoothed(trial["curve"]), (-1, 2)).T, style, **line)
    axes.axhline(values["target_error"], color="tab:red", linewidth=0.8)
    axes.set(xlabel="epochs", ylabel="training error, %")
    axes.legend(frameon=False)
    relu, tanh = (", ".join(f"{rate:g}" for rate in rates) for rates in (settings.relu_rates, settings.tanh_rates))
    protocol = (
        f"{images.description}; the release's 19pct network without weight decay, crops and dropout, batches of "
        f"{settings.batch_size}, {settings.precision}; training error as a mean over the last epoch; learning "
        f"rates tried: ReLU {relu}; tanh {tanh}, the better half continues after {settings.first_round}, "
        f"{2 * settings.first_round}, ... epochs; seeds of the best: {settings.repeats}"
    )
    caption = "Training error by epoch, each nonlinearity at its best learning rate; other learning rates in gray."
    return Result(values, protocol, {"figure1.svg": (figure, caption)})


def compare(settings, start):
    """Finds the best learning rate of each nonlinearity and trains with further seeds; returns the Result's values.

    `start` is a function of (activation, learning rate, seed) -> cifar_network.Training.
    """
    values, target = {}, settings.target_error
    for activation in NAMES:
        rates = getattr(settings, f"{activation}_rates")
        trainings = {rate: start(activation, rate, settings.seed) for rate in rates}
        search(activation, trainings, settings)
        best = min(trainings, key=lambda rate: _standing(trainings[rate], target))
        curves = [trainings[best].progress.history]
        for seed in range(settings.seed + 1, settings.seed + settings.repeats):
            again = start(activation, best, seed)
            _train(again, settings.max_epochs, target, f"{activation}, learning rate {best:g}, seed {seed}")
            curves.append(again.progress.history)
        epochs, trials = [epochs_to(curve, target) for curve in curves], []
        for rate, training in trainings.items():
            # `progress.finished`: training ends early only when it diverges.
            curve, diverged = training.progress.history, training.progress.finished
            reached = epochs_to(curve, target)
            trials.append({"learning_rate": rate, "diverged": diverged, "epochs": reached, "curve": curve})
        values[activation] = {"best_rate": best, "epochs": epochs, "trials": trials}
    relu, tanh = (values[activation]["epochs"] for activation in NAMES)
    factor = None if None in relu + tanh else (sum(tanh) / len(tanh)) / (sum(relu) / len(relu))
    return {**values, "target_error": target, "factor": factor}


def search(activation, trainings, settings):
    """Trains a dict of learning rate -> Training by successive halving, see the head of this file."""
    rates, limit, target = list(trainings), min(settings.first_round, settings.max_epochs), settings.target_error
    while rates:
        for rate in rates:
            reached = [_standing(training, target)[0] for training in trainings.values()]
            _train(trainings[rate], math.ceil(min(limit, *reached)), target, f"{activation}, learning rate {rate:g}")
        # Compare up to this round only: a resumed search may have trained for longer.
        standings = {rate: _standing(training, target, limit) for rate, training in trainings.items()}
        rates = sorted(rates, key=standings.get)[: math.ceil(len(rates) / 2)]
        if standings[rates[0]][1] == math.inf:  # all have diverged; those that were dropped before have not
            rates = [rate for rate, (_, error) in standings.items() if error < math.inf]
        elif limit >= settings.max_epochs or standings[rates[0]][0] < math.inf:
            return
        else:
            limit = min(2 * limit, settings.max_epochs)


def _train(training, epochs, target, label):
    progress = training.progress
    if progress.epochs < epochs:
        training.train(epochs, lambda curve: epochs_to(curve, target) is not None, progress_bar(label, "epochs"))
        error = _standing(training, target)[1]
        state = "diverged" if progress.finished else f"training error {error:.2f} %"
        print(f"{label}: epoch {progress.epochs}, {state}")


def _standing(training, target, limit=math.inf):
    """The sort key of trainings by their first epochs: (epochs to the target, last error), infinity for missing values.

    The last error of a training that has diverged counts as infinite.
    """
    progress = training.progress
    curve = [row for row in progress.history if row["epoch"] <= limit]
    reached, points, diverged = epochs_to(curve, target), smoothed(curve), progress.finished and progress.epochs < limit
    return (math.inf if reached is None else reached, math.inf if diverged or not points else points[-1][1])


def epochs_to(curve, target):
    """The epoch at which the mean error over an epoch first is at most `target`: float, or None."""
    return next((epoch for epoch, error in smoothed(curve) if error <= target), None)


def smoothed(curve):
    """Pairs of (epoch, mean error over the epoch before that point), from the end of the first epoch on."""
    rows = [curve[end - POINTS : end] for end in range(POINTS, len(curve) + 1)]
    return [(window[-1]["epoch"], sum(row["top1_error"] for row in window) / POINTS) for window in rows]


def tables(values):
    rows = []
    for activation, name in NAMES.items():
        epochs = ", ".join("not reached" if each is None else f"{each:.1f}" for each in values[activation]["epochs"])
        rows.append((name, f"{values[activation]['best_rate']:g}", epochs))
    factor = "not reached" if values["factor"] is None else f"{values['factor']:.1f}"
    ratio = ("", "paper", "release", "ours"), [("tanh / ReLU", "6", "-", factor)]
    columns = "", "learning rate", f"epochs to {values['target_error']:g} % training error"
    note = (
        "A learning rate that was dropped might have been the fastest in the end: if all were trained to the target, "
        "the epochs would be at most these."
    )
    return [
        Table("How many times longer tanh takes", *ratio),
        Table("Ours, at the best of the learning rates tried", columns, rows, note),
    ]


def verdict(values):
    factor, seeds = values["factor"], len(values["relu"]["epochs"])
    count = "one seed" if seeds == 1 else f"{seeds} seeds"
    if not values.get("is_papers", True):  # version 0.1 did not record it
        return Verdict("cannot be told", "the images are not all of CIFAR-10")
    if factor is None:
        return Verdict("cannot be told", "not both nonlinearities reached the target")
    if factor > 1.5:
        return Verdict("holds", f"ReLU is faster, {factor:.1f} times here and six times in the paper, {count}")
    return Verdict("does not hold", f"tanh takes {factor:.1f} times as long here, {count}")


if __name__ == "__main__":
    raise SystemExit(experiment.main("figure1"))
