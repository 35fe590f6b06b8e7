"""Section 3.3 on CIFAR-10: a four-layer network with and without response normalization.

    python -m keras_alexnet.paper.cifar10_lrn --dataset=folder --data_dir=CIFAR [--networks=13pct,11pct --crop_border=4]

Pairs of the networks that came with the authors' code, without and with normalization: 19pct and 18pct, which has it
within maps and also another decay of its last layer, as their files say; 13pct and 11pct, which has it across maps as
the paper describes it, and whose names are the paper's two errors. Both of a pair see the same images in one order.
"""

import dataclasses
import os
import sys

from keras_alexnet import cli
from keras_alexnet.errors import ArgumentError
from keras_alexnet.files import progress_bar
from keras_alexnet.flags import flag
from keras_alexnet.paper import cifar, experiment, stats
from keras_alexnet.paper.experiment import NOT_RUN, Result, Table, Verdict

PAIRS = (("19pct", "18pct"), ("13pct", "11pct"))
NETWORKS = tuple(name for pair in PAIRS for name in pair)
PAPER = {"13pct": "13", "11pct": "11"}


@dataclasses.dataclass(frozen=True)
class Settings(cifar.CifarSettings):
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
        names = self.networks
        if not names or set(names) - set(NETWORKS) or len(set(names)) < len(names):
            raise ArgumentError("networks", ",".join(names), f"must be different names of {', '.join(NETWORKS)}")


def run(settings):
    cli.start_tensorflow()
    from keras_alexnet.paper import cifar_network, plots  # TensorFlow and Matplotlib, which `--help` does not wait for

    if settings.quick:
        limits = {"epochs": 2, "seeds": 2, "batch_size": 16}
        limits = {name: min(getattr(settings, name), limit) for name, limit in limits.items()}
        settings = dataclasses.replace(settings, rate_drops=(1,), **limits)
    images = cifar.load(settings)

    def start(network, seed):
        names = ("crop_border", "rate_drops", "batch_size", "precision")
        trial = cifar_network.Trial(network, **{name: getattr(settings, name) for name in names}, seed=seed)
        return cifar_network.Training(os.path.join(settings.results_dir, "cifar10_lrn"), trial, images)

    values = compare(settings, start)
    figure, axes = plots.panel(6.4, 4.2)
    draw(axes, values)
    plots.write(figure, os.path.join(settings.results_dir, "cifar10_lrn.svg"))
    drops = " and ".join(map(str, settings.rate_drops)) or "none"
    crops = f"crops of {cifar.SIZE - 2 * settings.crop_border} and reflections, centers tested"
    protocol = (
        f"{images.description}; test error after the last epoch, one view, one network; {settings.epochs} epochs, "
        f"learning rate 0.001 divided by ten after {drops} (18pct's file: 140, after 120 and 130), batches of "
        f"{settings.batch_size}, {settings.precision}, decay by layer as in the files; augmentation: "
        f"{crops if settings.crop_border else 'none'}; {settings.seeds} seeds"
    )
    caption = "Training error by epoch of every network and seed; test errors as dots at the end."
    return Result(values, protocol, (("cifar10_lrn.svg", caption),))


def compare(settings, start):
    """Trains every network with every seed.

    Args:
        settings: Settings.
        start: function of (network, seed) -> cifar_network.Training.

    Returns:
        dict: `networks`, name -> list of dict, one for each seed: seed, curve, and the test's loss and top1_error; and
        `epochs`, int.
    """
    found = {name: [] for name in settings.networks}
    # Seed by seed, so that an interrupted command has all networks of the seeds that it has finished.
    for seed in range(settings.seed, settings.seed + settings.seeds):
        for name in settings.networks:
            training = start(name, seed)
            done = training.progress.epochs
            if done > settings.epochs:
                problem = f"{name}, seed {seed} has been trained for {done}; give as many, or another --results_dir"
                raise ArgumentError("epochs", settings.epochs, problem)
            training.train(settings.epochs, show=progress_bar(f"{name}, seed {seed}", "epochs"))
            tested, progress = training.test(), training.progress
            print(f"{name}, seed {seed}: test error {tested['top1_error']:.2f} %", flush=True)
            found[name].append({"seed": seed, **tested, "diverged": progress.finished, "curve": progress.history})
    return {"networks": found, "epochs": settings.epochs}


def draw(axes, values):
    """Draws the training curves and test errors."""
    for index, (name, trainings) in enumerate(values["networks"].items()):
        for each in trainings:
            labels = (f"{name}, training", f"{name}, test") if each is trainings[0] else (None, None)
            epochs, errors = ([row[column] for row in each["curve"]] for column in ("epoch", "top1_error"))
            axes.plot(epochs, errors, color=f"C{index}", linewidth=0.8, label=labels[0])
            axes.plot([values["epochs"]], [each["top1_error"]], "o", color=f"C{index}", label=labels[1])
    axes.set_xlabel("epochs")
    axes.set_ylabel("error, %")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)


def tables(values):
    rows, differences = [], []
    for pair in PAIRS:
        for name, normalization in zip(pair, ("without", "with"), strict=True):
            errors = [each["top1_error"] for each in values["networks"].get(name, ())]
            ours = stats.mean_and_spread(errors) if errors else NOT_RUN
            seeds = ", ".join(f"{error:.2f}" for error in errors) or "-"
            rows.append((f"{name}, {normalization} normalization", PAPER.get(name, "-"), name[:2], ours, seeds))
        found, release = _difference(values, pair), int(pair[0][:2]) - int(pair[1][:2])
        paper, ours = "2" if pair[0] in PAPER else "-", found.as_text() if found else NOT_RUN
        differences.append((" minus ".join(pair), paper, str(release), ours))
    return [
        Table(
            "Test error, %",
            ("", "paper", "release", "ours: mean ± standard deviation", "seeds"),
            tuple(rows),
            "The release's numbers are those in the names of its files, the errors that its authors had (11pct: of "
            "cuda-convnet, by several views, ours by one). The paper does not say which networks its 13 and 11 % are "
            "of; that it is these is inferred from their names. 19pct and 18pct have four learned layers, as the paper "
            "says of its network; 13pct and 11pct have five.",
        ),
        Table(
            "Without minus with normalization, points",
            ("", "paper", "release", "ours [95 % interval]"),
            tuple(differences),
            "18pct normalizes within maps, and the decay of its last layer is a third of 19pct's (1 and 3): the "
            "difference is that of both. 11pct normalizes across maps, as section 3.3 has it, and differs in nothing "
            "else.",
        ),
    ]


def verdict(values):
    """The outcome is that of the pair whose names are the paper's errors, where it was run."""
    outcome, said = "cannot be told", []
    for pair in PAIRS:
        found = _difference(values, pair)
        if found:
            outcome = "cannot be told" if not found.certain else "holds" if found.mean > 0 else "does not hold"
            both = " (normalization and a lower decay together)" if pair == PAIRS[0] else ""
            said.append(f"error of {pair[0]} minus that of {pair[1]}{both} {found.as_text()} points")
    return Verdict(outcome, f"{'; '.join(said) or 'no pair was run'}, {values['epochs']} epochs")


def _difference(values, pair):
    """stats.Difference of a pair, seed by seed; None where it was not run."""
    errors = [[each["top1_error"] for each in values["networks"].get(name, ())] for name in pair]
    return stats.paired(*errors) if all(errors) else None


EXPERIMENT = experiment.Experiment(
    name="cifar10_lrn",
    title="Section 3.3: response normalization on CIFAR-10",
    claim="A four-layer network has a test error of 13 % without and 11 % with response normalization on CIFAR-10 "
    "(section 3.3).",
    cost="19pct and 18pct, 140 epochs: about 80 minutes a seed each on one CPU core in float32 (32 s an epoch). 13pct "
    "and 11pct, 470 epochs as 11pct's file has it (300, 150, 10 and 10): not run",
    command="python -m keras_alexnet.paper.cifar10_lrn --dataset=cifar10",
    settings=Settings,
    run=run,
    tables=tables,
    verdict=verdict,
)

if __name__ == "__main__":
    sys.exit(experiment.main(EXPERIMENT))
