"""Section 3.3 on CIFAR-10: a four-layer network with and without response normalization.

    python -m keras_alexnet.paper.cifar10_lrn --dataset=folder --data_dir=CIFAR [--networks=13pct,11pct --crop_border=4]

Pairs of the networks that came with the authors' code, without and with normalization: 19pct and 18pct, which normalize
within a map, and differ in the decay of their last layer too, as their files have it; 13pct and 11pct, which normalize
across maps as the paper describes and have its two error rates in their names. Both of a pair see the same images in
the same order. What is done is kept below RESULTS/cifar10_lrn, and the same command goes on from there.
"""

import os
import sys

from keras_alexnet.cli import run_command, start_tensorflow
from keras_alexnet.errors import UsageError
from keras_alexnet.files import progress_bar
from keras_alexnet.paper import cifar_data, comparison, config, results

TITLE = "Section 3.3: response normalization on CIFAR-10"
CLAIM = (
    "A four-layer network has a test error of 13 % without and 11 % with response normalization on CIFAR-10 "
    "(section 3.3)."
)
COMMAND = "python -m keras_alexnet.paper.cifar10_lrn --dataset=cifar10"
COST = (
    "19pct and 18pct, 140 epochs: about 80 minutes a seed each on one CPU core in float32 (32 s an epoch). 13pct and "
    "11pct, 470 epochs as 11pct's file has it (300, 150, 10 and 10): not run"
)
PAIRS = (("19pct", "18pct"), ("13pct", "11pct"))
PAPER = {"13pct": "13", "11pct": "11"}
RELEASE = {"19pct": "19", "18pct": "18", "13pct": "13", "11pct": "11"}  # the names of the files say so


def main(argv):
    settings = config.parse_cifar10_lrn(argv, __doc__)
    results.folder_for(settings.results_dir)
    start_tensorflow()
    few = cifar_data.QUICK if settings.quick else None
    images = cifar_data.load(settings.dataset, settings.data_dir, progress_bar, few)
    values = compare(settings, images)
    draw(values, os.path.join(settings.results_dir, "cifar10_lrn.svg"))
    drops = " and ".join(map(str, settings.rate_drops)) or "none"
    views = (
        f"crops of {32 - 2 * settings.crop_border} and reflections, centers tested" if settings.crop_border else "none"
    )
    protocol = (
        f"{images.description}; test error after the last epoch, one view, one network; {settings.epochs} epochs, rate "
        f"0.001 divided by ten after {drops} (18pct's file: 140, after 120 and 130), batches of {settings.batch_size}, "
        f"{settings.precision}, decay by layer as in the files; augmentation: {views}; {settings.seeds} seeds"
    )
    path = results.write(
        settings.results_dir,
        "cifar10_lrn",
        values,
        protocol=protocol,
        argv=argv,
        pictures=[
            ("cifar10_lrn.svg", "Training error by epoch of every network and seed; test errors as dots at the end.")
        ],
        quick=settings.quick,
    )
    results.say(sys.modules[__name__], values, path)


def compare(settings, images):
    """Trains every network with every seed.

    Returns:
        dict: `networks`, name -> list of dict, one a seed: seed, curve, and the test's loss and top1_error; and
        `epochs`, int.
    """
    from keras_alexnet.paper import cifar_run

    found = {name: [] for name in settings.networks}
    # Seed by seed, so that what is there after an interruption is of all networks.
    for seed in range(settings.seed, settings.seed + settings.seeds):
        for name in settings.networks:
            trial = cifar_run.Trial(
                name,
                rate_drops=settings.rate_drops,
                crop_border=settings.crop_border,
                batch_size=settings.batch_size,
                precision=settings.precision,
                seed=seed,
            )
            run = cifar_run.Run(os.path.join(settings.results_dir, "cifar10_lrn", f"{name}_seed{seed}"), trial, images)
            if run.progress.epochs > settings.epochs:
                raise UsageError(
                    f"--epochs={settings.epochs}: {name}, seed {seed} has been trained for {run.progress.epochs} "
                    "already; give as many, or another --results_dir"
                )
            run.train(settings.epochs, show=progress_bar(f"{name}, seed {seed}", "epochs"))
            tested = run.test()
            print(f"{name}, seed {seed}: test error {tested['top1_error']:.2f} %", flush=True)
            found[name].append({"seed": seed, **tested, "diverged": run.diverged, "curve": run.curve})
    return {"networks": found, "epochs": settings.epochs}


def tables(values):
    """What the report shows, see `results`."""
    networks = values["networks"] if values else {}
    rows = []
    for pair in PAIRS:
        for place, name in enumerate(pair):
            errors = _errors(networks, name)
            rows.append(
                (
                    f"{name}, {('without', 'with')[place]} normalization",
                    PAPER.get(name, "-"),
                    RELEASE[name],
                    comparison.mean_and_spread(errors) if errors else results.NOT_RUN,
                    ", ".join(f"{error:.2f}" for error in errors) or "-",
                )
            )
    differences = []
    for without, with_it in PAIRS:
        found = _difference(networks, without, with_it)
        differences.append(
            (
                f"{without} minus {with_it}",
                "2" if without in PAPER else "-",
                str(int(RELEASE[without]) - int(RELEASE[with_it])),
                found.as_text() if found else results.NOT_RUN,
            )
        )
    return [
        results.Table(
            "Test error, %",
            ("", "paper", "release", "ours: mean ± standard deviation", "seeds"),
            tuple(rows),
            "The release's numbers are those in the names of its files, the errors that its authors had (11pct: of "
            "cuda-convnet, by several views, ours by one). Which networks the paper's 13 and 11 % are of is not said "
            "there; that it is these is read from their names. 19pct and 18pct have four learned layers, as the paper "
            "says of its network; 13pct and 11pct have five.",
        ),
        results.Table(
            "Without minus with normalization, points",
            ("", "paper", "release", "ours [95 % interval]"),
            tuple(differences),
            "18pct normalizes within maps, and the decay of its last layer is a third of 19pct's (1 and 3): the "
            "difference is that of both. 11pct normalizes across maps, as section 3.3 has it, and differs in nothing "
            "else.",
        ),
    ]


def verdict(values):
    """Whether the claim holds, str."""
    if values is None:
        return results.NOT_RUN
    said = []
    for without, with_it in PAIRS:
        found = _difference(values["networks"], without, with_it)
        if found:
            gain = f"{found.mean:.2f} points with {values['epochs']} epochs"
            both = " (normalization and a lower decay together)" if without == "19pct" else ""
            if found.seeds < comparison.LEAST_SEEDS:
                said.append(f"{with_it} against {without}{both}: cannot be told, {gain}, from too few seeds.")
            elif found.certain and found.mean > 0:
                said.append(f"{with_it} against {without}{both}: holds in direction, {gain}.")
            elif found.certain:
                said.append(f"{with_it} against {without}{both}: does not hold, {-found.mean:.2f} points worse.")
            else:
                said.append(f"{with_it} against {without}: cannot be told, {gain}, within the spread of the seeds.")
    return " ".join(said) or "Cannot be told: no pair was run."


def draw(values, path):
    """Writes the training curves and test errors as SVG."""
    from keras_alexnet.paper import pictures

    figure, axes = pictures.panel(6.4, 4.2)
    for index, (name, runs) in enumerate(values["networks"].items()):
        color = f"C{index}"
        for run in runs:
            first = run is runs[0]
            axes.plot(
                [row["epoch"] for row in run["curve"]],
                [row["top1_error"] for row in run["curve"]],
                color=color,
                linewidth=0.8,
                label=f"{name}, training" if first else None,
            )
            axes.plot(
                [values["epochs"]], [run["top1_error"]], "o", color=color, label=f"{name}, test" if first else None
            )
    axes.set_xlabel("epochs")
    axes.set_ylabel("error, %")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    pictures.write(figure, path)


def _errors(networks, name):
    return [run["top1_error"] for run in networks.get(name, ())]


def _difference(networks, without, with_it):
    """What a pair differs by, seed by seed, or None where it was not run."""
    errors = _errors(networks, without), _errors(networks, with_it)
    return comparison.paired(*errors) if all(errors) else None


if __name__ == "__main__":
    sys.exit(run_command("cifar10_lrn", main, sys.argv[1:]))
