"""Section 3.3 on CIFAR-10: networks of the authors' code with and without response normalization, seed by seed.

18pct is 19pct with normalization within maps and, as their files say, another decay of its last layer. 11pct is 13pct
with normalization across maps, as the paper describes it; these names are the paper's two errors.
"""

import dataclasses
import os
import sys

from keras_alexnet import cli
from keras_alexnet.errors import ArgumentError
from keras_alexnet.files import progress_bar
from keras_alexnet.flags import flag
from keras_alexnet.paper import experiment
from keras_alexnet.paper.experiment import NOT_RUN, Result, Table, Verdict
from keras_alexnet.paper.figure1 import CifarSettings

TITLE = "Section 3.3: response normalization on CIFAR-10"
CLAIM = (
    "A four-layer network has a test error of 13 % without and 11 % with response normalization on CIFAR-10 "
    "(section 3.3)."
)
COST = (
    "19pct and 18pct, 140 epochs: about 80 minutes a seed each on one CPU core in float32 (32 s an epoch). 13pct "
    "and 11pct, 470 epochs as 11pct's file has it (300, 150, 10 and 10): not run"
)
COMMAND = "python -m keras_alexnet.paper.cifar10_lrn --dataset=cifar10"

PAIRS = (("19pct", "18pct"), ("13pct", "11pct"))
NETWORKS = (*PAIRS[0], *PAIRS[1])


@dataclasses.dataclass(frozen=True)
class Settings(CifarSettings):
    """Section 3.3 on CIFAR-10."""

    networks: tuple[str, ...] = flag(("19pct", "18pct"), f"Networks that are trained, of {', '.join(NETWORKS)}.")
    epochs: int = flag(140, "Of every network.", low=1, high=10_000)
    rate_drops: tuple[int, ...] = flag((120, 130), "Epochs after which the learning rate is divided by ten.")
    crop_border: int = flag(
        0,
        "N: crops of 32 - 2N pixels and reflections in training, the center in testing. 0: whole images.",
        low=0,
        high=8,
    )
    seeds: int = flag(3, "Number of seeds, from --seed on.", low=1, high=100)

    def __post_init__(self):
        super().__post_init__()
        right = self.networks and len(set(self.networks) & set(NETWORKS)) == len(self.networks)
        self.check("networks", right, f"must be different names of {', '.join(NETWORKS)}")


def run(settings):
    cli.start_tensorflow()
    from keras_alexnet.paper import cifar_network  # TensorFlow, which `--help` does not wait for

    experiment.pyplot()
    if settings.quick:
        limits = {"epochs": 2, "seeds": 2, "batch_size": 16}
        limits = {name: min(getattr(settings, name), limit) for name, limit in limits.items()}
        settings = dataclasses.replace(settings, rate_drops=(1,), **limits)
    images, folder = cifar_network.load(settings), os.path.join(settings.results_dir, "cifar10_lrn")
    given = {name: getattr(settings, name) for name in ("crop_border", "rate_drops", "batch_size", "precision")}
    found = {name: [] for name in settings.networks}
    # Seed by seed, so that an interrupted command has all networks of the seeds that it has finished.
    for seed in range(settings.seed, settings.seed + settings.seeds):
        for name in settings.networks:
            training = cifar_network.Training(folder, cifar_network.Trial(name, seed=seed, **given), images)
            progress = training.progress
            if progress.epochs > settings.epochs:
                problem = f"has been trained for {progress.epochs}; give as many, or another --results_dir"
                raise ArgumentError("epochs", settings.epochs, f"{name}, seed {seed} {problem}")
            training.train(settings.epochs, show=progress_bar(f"{name}, seed {seed}", "epochs"))
            tested = training.test()
            print(f"{name}, seed {seed}: test error {tested['top1_error']:.2f} %", flush=True)
            found[name].append({"seed": seed, **tested, "diverged": progress.finished, "curve": progress.history})
    figure, axes = experiment.panel(6.4, 4.2)
    for color, (name, trainings) in enumerate(found.items()):
        for place, each in enumerate(trainings):
            epochs, errors = ([row[column] for row in each["curve"]] for column in ("epoch", "top1_error"))
            first = "_" * (place > 0)  # a label that begins so is not in the legend
            axes.plot(epochs, errors, color=f"C{color}", linewidth=0.8, label=f"{first}{name}, training")
            axes.plot([settings.epochs], [each["top1_error"]], "o", color=f"C{color}", label=f"{first}{name}, test")
    axes.set(xlabel="epochs", ylabel="error, %", ylim=(0, None))
    axes.legend(frameon=False)
    experiment.write_figure(figure, f"{folder}.svg")
    drops = " and ".join(map(str, settings.rate_drops)) or "none"
    size = cifar_network.SIZE - 2 * settings.crop_border
    crops = f"crops of {size} and reflections, centers tested" if settings.crop_border else "none"
    protocol = (
        f"{images.description}; test error after the last epoch, one view, one network; {settings.epochs} epochs, "
        f"learning rate 0.001 divided by ten after {drops} (18pct's file: 140, after 120 and 130), batches of "
        f"{settings.batch_size}, {settings.precision}, decay by layer as in the files; augmentation: {crops}; "
        f"{settings.seeds} seeds"
    )
    caption = "Training error by epoch of every network and seed; test errors as dots at the end."
    values = {"networks": found, "epochs": settings.epochs}
    return Result(values, protocol, (("cifar10_lrn.svg", caption),))


def tables(values):
    rows, differences = [], []
    for pair in PAIRS:
        in_paper = pair == PAIRS[1]
        for name, normalization in zip(pair, ("without", "with"), strict=True):
            errors = _errors(values, name)
            ours = experiment.mean_and_spread(errors) if errors else NOT_RUN
            seeds = ", ".join(f"{error:.2f}" for error in errors) or "-"
            paper = name[:2] if in_paper else "-"
            rows.append((f"{name}, {normalization} normalization", paper, name[:2], ours, seeds))
        found, release = _difference(values, pair), int(pair[0][:2]) - int(pair[1][:2])
        ours = experiment.paired_text(found) if found else NOT_RUN
        differences.append((" minus ".join(pair), "2" if in_paper else "-", str(release), ours))
    columns = "", "paper", "release", "ours: mean ± standard deviation", "seeds"
    note = (
        "The release's numbers are those in the names of its files, the errors that its authors had (11pct: of "
        "cuda-convnet, by several views, ours by one). The paper does not say which networks its 13 and 11 % are of; "
        "that it is these is inferred from their names. 19pct and 18pct have four learned layers, as the paper says of "
        "its network; 13pct and 11pct have five."
    )
    of_pairs = (
        "18pct normalizes within maps, and the decay of its last layer is a third of 19pct's (1 and 3): the difference "
        "is that of both. 11pct normalizes across maps, as section 3.3 has it, and differs in nothing else."
    )
    title = "Without minus with normalization, points"
    return [
        Table("Test error, %", columns, rows, note),
        Table(title, ("", "paper", "release", "ours [95 % interval]"), differences, of_pairs),
    ]


def verdict(values):
    """The last pair that was run decides: the names of the second are the paper's errors."""
    outcome, said = "cannot be told", []
    for pair in PAIRS:
        if found := _difference(values, pair):
            excludes_0 = found["low"] is not None and found["low"] * found["high"] > 0
            outcome = ("holds" if found["mean"] > 0 else "does not hold") if excludes_0 else "cannot be told"
            both = " (normalization and a lower decay together)" if pair == PAIRS[0] else ""
            said.append(f"error of {pair[0]} minus that of {pair[1]}{both} {experiment.paired_text(found)} points")
    return Verdict(outcome, f"{'; '.join(said) or 'no pair was run'}, {values['epochs']} epochs")


def _errors(values, name):
    return [each["top1_error"] for each in values["networks"].get(name, ())]


def _difference(values, pair):
    """The paired difference of a pair; None where it was not run."""
    errors = [_errors(values, name) for name in pair]
    return experiment.paired(zip(*errors, strict=True)) if all(errors) else None


if __name__ == "__main__":
    sys.exit(experiment.main("cifar10_lrn"))
