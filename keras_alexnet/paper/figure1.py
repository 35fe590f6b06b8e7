"""Figure 1: how much sooner ReLU reaches 25 % training error on CIFAR-10 than tanh.

    python -m keras_alexnet.paper.figure1 --dataset=cifar10
    python -m keras_alexnet.paper.figure1 --dataset=folder --data_dir=CIFAR

The four-layer network of the release (19pct) without regularization of any kind, each nonlinearity with its own best
learning rate. The search halves the field: all rates train for --first_round epochs, the better half for twice as
many, and so on until one is left; who reaches the target stops, and nobody trains on for longer than the best took. An
error is the mean over the last epoch's worth of images as they were trained on. What is done is kept below
RESULTS/figure1, and the same command goes on from there.
"""

import math
import os
import sys

from keras_alexnet.cli import run_command, start_tensorflow
from keras_alexnet.files import progress_bar
from keras_alexnet.paper import cifar_data, config, results

TITLE = "Figure 1: ReLU against tanh"
CLAIM = (
    "A four-layer network with ReLU reaches 25 % training error on CIFAR-10 six times faster than the same network "
    "with tanh; rates were chosen for each to be as fast as possible, without regularization (section 3.1, Figure 1)."
)
COMMAND = "python -m keras_alexnet.paper.figure1 --dataset=cifar10"
COST = "about an hour on one CPU core (32 s an epoch)"
ACTIVATIONS = ("relu", "tanh")
NAMES = {"relu": "ReLU", "tanh": "tanh"}


def main(argv):
    settings = config.parse_figure1(argv, __doc__)
    results.folder_for(settings.results_dir)
    start_tensorflow()
    few = cifar_data.QUICK if settings.quick else None
    images = cifar_data.load(settings.dataset, settings.data_dir, progress_bar, few)
    values = compare(settings, images)
    draw(values, os.path.join(settings.results_dir, "figure1.svg"))
    tried = "; ".join(
        f"{NAMES[activation]} {', '.join(f'{rate:g}' for rate in getattr(settings, f'{activation}_rates'))}"
        for activation in ACTIVATIONS
    )
    protocol = (
        f"{images.description}; the release's 19pct network without decay, crops and dropout, batches of "
        f"{settings.batch_size}, {settings.precision}; training error over the last epoch's worth of images; rates "
        f"tried: {tried}, the better half going on after {settings.first_round}, {2 * settings.first_round}, ... "
        f"epochs; seeds of the best: {settings.repeats}"
    )
    path = results.write(
        settings.results_dir,
        "figure1",
        values,
        protocol=protocol,
        argv=argv,
        pictures=[("figure1.svg", "Training error by epoch, each nonlinearity at its best rate; other rates in gray.")],
        quick=settings.quick,
    )
    results.say(sys.modules[__name__], values, path)


def compare(settings, images):
    """Searches a rate for each nonlinearity and compares the best.

    Returns:
        dict: for "relu" and "tanh" the trials (rate, curve, epochs to the target or None), the best rate, and the
        epochs of its repetitions; `factor`, tanh's mean over ReLU's, or None where one did not reach the target.
    """
    found = {}
    for activation in ACTIVATIONS:
        rates = getattr(settings, f"{activation}_rates")
        runs = {rate: _open(settings, images, activation, rate, settings.seed) for rate in rates}
        _search(activation, runs, settings)
        best = min(runs, key=lambda rate: _standing(runs[rate].curve, settings.target_error))
        epochs = [epochs_to(runs[best].curve, settings.target_error)]
        for repeat in range(1, settings.repeats):
            again = _open(settings, images, activation, best, settings.seed + repeat)
            _train(again, settings.max_epochs, settings, f"{activation}, rate {best:g}, seed {settings.seed + repeat}")
            epochs.append(epochs_to(again.curve, settings.target_error))
        found[activation] = {
            "best_rate": best,
            "epochs": epochs,
            "trials": [
                {
                    "learning_rate": rate,
                    "diverged": run.diverged,
                    "epochs": epochs_to(run.curve, settings.target_error),
                    "curve": run.curve,
                }
                for rate, run in runs.items()
            ],
        }
    reached = [found[activation]["epochs"] for activation in ACTIVATIONS]
    factor = None
    if all(None not in epochs for epochs in reached):
        relu, tanh = (sum(epochs) / len(epochs) for epochs in reached)
        factor = tanh / relu
    return {**found, "target_error": settings.target_error, "factor": factor}


def epochs_to(curve, target):
    """When the mean training error over an epoch's worth of images is first at most `target`: float, or None."""
    return next((row["epoch"] for row, error in smoothed(curve) if error <= target), None)


def smoothed(curve):
    """Pairs of (row, mean error over the epoch that ends with it), from the end of the first epoch on."""
    from keras_alexnet.paper import cifar_run

    window = cifar_run.WINDOWS
    errors = [row["top1_error"] for row in curve]
    return [(curve[end - 1], sum(errors[end - window : end]) / window) for end in range(window, len(errors) + 1)]


def tables(values):
    """What the report shows, see `results`."""
    rows = []
    for activation in ACTIVATIONS:
        own = values and values[activation]
        rows.append(
            (
                NAMES[activation],
                f"{own['best_rate']:g}" if own else results.NOT_RUN,
                ", ".join("not reached" if each is None else f"{each:.1f}" for each in own["epochs"])
                if own
                else results.NOT_RUN,
            )
        )
    target = values["target_error"] if values else 25.0
    ours = results.NOT_RUN
    if values:
        ours = "not reached" if values["factor"] is None else f"{values['factor']:.1f}"
    return [
        results.Table(
            "How many times longer tanh takes", ("", "paper", "release", "ours"), (("tanh / ReLU", "6", "-", ours),)
        ),
        results.Table(
            "Ours, at the best of the rates tried",
            ("", "learning rate", f"epochs to {target:g} % training error"),
            tuple(rows),
            "Rates were left out before they arrived: one that was behind then might have been the quicker at the end, "
            "so the epochs are at most these."
            if values
            else "",
        ),
    ]


def verdict(values):
    """Whether the claim holds, str."""
    if values is None:
        return results.NOT_RUN
    if values["factor"] is None:
        return "Cannot be told: not both reached the target."
    seeds = min(len(values[activation]["epochs"]) for activation in ACTIVATIONS)
    of = "one seed" if seeds == 1 else f"{seeds} seeds"
    if values["factor"] > 1.5:
        return f"Holds, with {of}: ReLU is faster, {values['factor']:.1f} times here and six times in the paper."
    return f"Does not hold here, with {of}: tanh takes {values['factor']:.1f} times as long."


def draw(values, path):
    """Writes the figure as SVG: ReLU solid and tanh dashed, as in the paper; the other rates thin."""
    from keras_alexnet.paper import pictures

    figure, axes = pictures.panel(6.4, 4.2)
    for activation, style in zip(ACTIVATIONS, ("-", "--"), strict=True):
        own = values[activation]
        for trial in own["trials"]:
            best = trial["learning_rate"] == own["best_rate"]
            points = smoothed(trial["curve"])
            axes.plot(
                [row["epoch"] for row, _ in points],
                [error for _, error in points],
                style,
                color="black" if best else "0.75",
                linewidth=1.8 if best else 0.8,
                zorder=2 if best else 1,
                label=f"{'ReLU' if activation == 'relu' else activation}, rate {trial['learning_rate']:g}"
                if best
                else None,
            )
    axes.axhline(values["target_error"], color="tab:red", linewidth=0.8)
    axes.set_xlabel("epochs")
    axes.set_ylabel("training error, %")
    axes.legend(frameon=False)
    pictures.write(figure, path)


def _open(settings, images, activation, rate, seed):
    from keras_alexnet.paper import cifar_run

    trial = cifar_run.Trial(
        "19pct",
        activation,
        rate,
        weight_decay=False,
        batch_size=settings.batch_size,
        precision=settings.precision,
        seed=seed,
    )
    folder = os.path.join(settings.results_dir, "figure1", f"{activation}_{rate:g}_seed{seed}")
    return cifar_run.Run(folder, trial, images)


def _search(activation, runs, settings):
    """Trains the field in rounds, see the head of this file."""
    field, limit = list(runs), min(settings.first_round, settings.max_epochs)
    while True:
        for rate in field:
            # No longer than the best that has arrived.
            arrived = [epochs_to(runs[each].curve, settings.target_error) for each in runs]
            least = min((math.ceil(epochs) for epochs in arrived if epochs is not None), default=limit)
            _train(runs[rate], min(limit, least), settings, f"{activation}, rate {rate:g}")
        if limit >= settings.max_epochs:
            return
        # As they stood at this point, though a run that was taken up may know more.
        seen = {rate: [row for row in runs[rate].curve if row["epoch"] <= limit] for rate in field}
        field.sort(key=lambda rate, seen=seen: _standing(seen[rate], settings.target_error))
        field = field[: math.ceil(len(field) / 2)]
        if epochs_to(runs[field[0]].curve, settings.target_error) is not None:
            return
        limit = min(2 * limit, settings.max_epochs)


def _train(run, epochs, settings, label):
    if run.progress.epochs >= epochs:
        return
    run.train(epochs, lambda curve: epochs_to(curve, settings.target_error) is not None, progress_bar(label, "epochs"))
    points = smoothed(run.curve)
    error = points[-1][1] if points else math.nan
    state = "diverged" if run.diverged else f"training error {error:.2f} %"
    print(f"{label}: epoch {run.progress.epochs}, {state}", flush=True)


def _standing(curve, target):
    """What trials are sorted by: who has arrived first, and then who is nearest."""
    arrived = epochs_to(curve, target)
    points = smoothed(curve)
    nearest = points[-1][1] if points else 101.0
    return (math.inf if arrived is None else arrived, nearest)


if __name__ == "__main__":
    sys.exit(run_command("figure1", main, sys.argv[1:]))
