"""Weights of one set of images as the start for another: fine-tuned, or frozen below a linear classifier.

Networks like that of --model_dir are trained with the same flags, flags/transfer, from random weights and from those
of that run, on so many images of each class; fewer images get more epochs. The classifiers see what a layer of that run
gives for the center view, each number minus its mean and divided by its standard deviation: softmax regression.
"""

import concurrent.futures
import contextlib
import dataclasses
import functools
import hashlib
import io
import os
from pathlib import Path

import numpy as np

from keras_alexnet import cli, flags, rundir, standalone
from keras_alexnet.data import sources
from keras_alexnet.errors import ArgumentError, RunError, printable
from keras_alexnet.flags import flag
from keras_alexnet.model import variants
from keras_alexnet.paper import experiment, grid
from keras_alexnet.paper.experiment import Result, Table, Verdict

TITLE = "Transfer: weights of other images as a start"
CLAIM = (
    "A network that was trained on other images first and is then fine-tuned has a lower error (section 6: 16.6 % "
    "instead of 18.2 % top-5 error, after all of ImageNet's Fall 2011 release and with a sixth convolutional layer)."
)
COST = (
    "about 35 minutes on two CPU cores with AVX-512, if it is started twice: 24 trainings of a quarter of the width, "
    "30 classifiers"
)
COMMAND = "python -m keras_alexnet.paper.transfer --data_dir=data/flowers"

STARTS = {"random": "random start", "pretrained": "fine-tuned"}
LAYERS = {"pool5": "pool5", "relu6": "fc6", "relu7": "fc7"}  # after the nonlinearity
KINDS = {**STARTS, **{name: f"frozen, linear on {name}" for name in LAYERS.values()}}
EPOCHS = {10: 40, 50: 24, 200: 16}  # by images of a class, up to so many; 12 beyond
PENALTIES = 0.01, 0.1, 1.0, 10.0, 100.0  # of the squares of a classifier's weights


@dataclasses.dataclass(frozen=True)
class Settings(experiment.Settings):
    """Transfer."""

    data_dir: str | None = flag(None, "The other images: DATA_DIR/train/CLASS/* and DATA_DIR/val/CLASS/*.", path=True)
    model_dir: str = flag(rundir.INCLUDED[0], "The run to start from, whose network is trained.", path=True)
    flags_dir: str = flag(
        "flags/transfer", "Holds random.cfg and pretrained.cfg, all flags but the network's.", path=True
    )
    images_per_class: tuple[int, ...] = flag((10, 50, 200, 0), "Training images of each class; 0: all.", different=True)
    seeds: tuple[int, ...] = flag((2012, 2013, 2014), "Of the choice of images and of training.", different=True)


def run(settings):
    flags.required(settings, "data_dir")
    experiment.pyplot()
    if settings.quick:
        settings = dataclasses.replace(settings, images_per_class=(2, 4), seeds=settings.seeds[:2])
    rundir.check_run(settings.model_dir)
    network = rundir.read_config(settings.model_dir).network
    has_layers = network.topology != "separate" and "fc7" not in network.removed_layers
    settings.check("model_dir", has_layers, "must be a network with fc7, whose towers are not separate")
    training, validation = (each.without(_unreadable(each)) for each in sources.open_folder(settings.data_dir))
    # Other images have another folder.
    key = hashlib.sha256(f"{training.fingerprint()} {validation.fingerprint()}".encode()).hexdigest()[:8]
    folder = os.path.join(settings.results_dir, "transfer")
    chosen = {(n, seed): choose(training, n, seed) for n in settings.images_per_class for seed in settings.seeds}
    cells = {}
    for (count, seed), places in chosen.items():
        images = os.path.join(folder, key, str(count or "all"), f"images{seed}")
        link(training, places, os.path.join(images, "train"))
        link(validation, range(validation.count), os.path.join(images, "val"))
        cells[count, seed] = cells_of(settings, network, images, count, seed)
    failed, elsewhere = grid.run([cell for each in cells.values() for cell in each])
    for cell, why in {**elsewhere, **failed}.items():
        raise RunError(f"{cell.folder}: {why}")
    cli.start_tensorflow()  # until here the GPUs are free for the trainers
    from keras_alexnet.paper import features

    errors = {kind: [[] for _ in settings.images_per_class] for kind in KINDS}
    known, asked = (features.of_layers(settings.model_dir, LAYERS, source) for source in (training, validation))

    @functools.cache  # all images are the same ones with every seed
    def frozen(layer, places):
        labels = np.array(training.labels)[list(places)]
        return linear(known[layer][list(places)], labels, asked[layer], validation.labels)

    for (count, seed), places in chosen.items():
        at = settings.images_per_class.index(count)
        for cell in cells[count, seed]:
            errors[cell.stem][at].append(cell.history[-1]["val_top1_error"])
        for layer, name in LAYERS.items():
            errors[name][at].append(frozen(layer, tuple(places)))
    counts = [count or round(training.count / len(training.class_names)) for count in settings.images_per_class]
    values = {"counts": counts, "seeds": list(settings.seeds), "errors": errors, "model_dir": settings.model_dir}
    first = {count: cells[count, settings.seeds[0]][0].config.training for count in settings.images_per_class}
    batch_size = next(iter(first.values())).batch_size
    steps = [-(-len(chosen[n, settings.seeds[0]]) // batch_size) * each.epochs for n, each in first.items()]
    protocol = (
        f"{training.count} training images, of which so many of each class are taken, and {validation.count} "
        f"validation images, {len(training.class_names)} classes; top-1 error by one center view after the last epoch; "
        f"batches of {batch_size}, {', '.join(map(str, steps))} steps; weights: {settings.model_dir}; seeds "
        f"{', '.join(map(str, settings.seeds))}, the same images for all"
    )
    caption = "Validation error by the number of training images; every seed as a dot, lines through the means."
    return Result(values, protocol, {"transfer.svg": (draw(values), caption)})


def choose(source, count, seed):
    """Places of `count` images of each class, or of all with 0; more of the same seed contain fewer: int64 array."""
    order = np.random.default_rng(seed).permutation(source.count)
    labels = np.asarray(source.labels)[order]
    own = [order[labels == label] for label in range(len(source.class_names))]
    if min(map(len, own)) < max(count, 1):
        least = source.class_names[int(np.argmin([len(each) for each in own]))]
        problem = f"must be at most {min(map(len, own))}, as many as {least} has"
        raise ArgumentError("images_per_class", count, problem)
    return np.sort(np.concatenate([each[: count or None] for each in own]))


def _unreadable(source):
    """The files that are not images, list of str, without TensorFlow. Raises RunError where one cannot be read."""

    def is_image(path):
        try:
            content = io.BytesIO(Path(path).read_bytes())
        except OSError as error:
            raise RunError(f"{printable(path)}: cannot be read ({error.strerror}); repair it") from None
        try:
            standalone.center_view(content)
        except standalone.UNREADABLE:
            return False
        return True

    with concurrent.futures.ThreadPoolExecutor() as pool:
        found = [file for file, good in zip(source.files, pool.map(is_image, source.paths()), strict=True) if not good]
    if found:
        print(f"{source.name}: {len(found)} files are not images: {printable(', '.join(found[:10]))}; left out")
    return found


def link(source, places, folder):
    """Links images of a source as FOLDER/CLASS/PLACE_NAME."""
    for place in places:
        file, name = source.files[place], source.class_names[source.labels[place]]
        target = os.path.join(folder, name, f"{place}_{os.path.basename(file)}")
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if not os.path.exists(target):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(target)  # to where the image was before
            os.symlink(os.path.abspath(os.path.join(source.root, file)), target)


def cells_of(settings, network, images, count, seed):
    """Networks like a config.NetworkConfig to train on linked images, one for each of STARTS: list of grid.Cell."""
    epochs = next((epochs for most, epochs in EPOCHS.items() if count and count <= most), 12)
    first, last = epochs * 2 // 3, epochs - 1
    texts = flags.as_text(network)
    further = [f"--{name}={texts[name]}" for name in variants.settings_of(network)]
    lengths = [f"--epochs={epochs}", f"--pca_color_until_epoch={first}"]
    schedules = {"random": f"{first}:0.001,{last}:0.0001"}
    schedules["pretrained"] = f"0:conv=0.002,{first}:0.001,{first}:conv=0.0002,{last}:0.0001,{last}:conv=0.00002"
    if settings.quick:
        lengths, schedules = ["--epochs=1", "--batch_size=8"], dict.fromkeys(STARTS, "1:0.001")
    cells = []
    for start, schedule in schedules.items():
        path, more = os.path.join(settings.flags_dir, f"{start}.cfg"), [f"--lr_schedule={schedule}"]
        more += [f"--initial_weights={settings.model_dir}"] * (start == "pretrained")
        more += [*further, *lengths, f"--data_dir={images}"]
        cells += grid.cells_of([path], (seed,), os.path.dirname(images), more)
    return cells


def linear(features, labels, asked, answers):
    """The error in percent of softmax regression that is fitted to features (N, D) and asked about others (M, D).

    The squared weights' penalty is that of PENALTIES with the lowest error on a third of images, fitted to the others.
    """
    mean, deviation = features.mean(0), features.std(0) + 1e-6
    features, asked, labels = (features - mean) / deviation, (asked - mean) / deviation, np.asarray(labels)
    held_out = np.arange(len(labels)) % 3 == 2

    def error(penalty, rest, others, wanted):
        weights = fit(features[rest], labels[rest], penalty, 1 + int(max(labels)))
        return 100 * float(np.mean((others @ weights[:-1] + weights[-1]).argmax(1) != wanted))

    errors = [error(each, ~held_out, features[held_out], labels[held_out]) for each in PENALTIES]
    return error(PENALTIES[int(np.argmin(errors))], slice(None), asked, np.asarray(answers))


def fit(features, labels, penalty, classes):
    """Weights of softmax regression, biases in the last row: float (D + 1, classes)."""
    optimize, special = experiment.optional("scipy.optimize"), experiment.optional("scipy.special")
    wanted = np.eye(classes)[labels]

    def loss(flat):
        weights = flat.reshape(-1, classes)
        logs = special.log_softmax(features @ weights[:-1] + weights[-1], axis=1)
        rest = (np.exp(logs) - wanted) / len(labels)
        gradient = np.vstack([features.T @ rest + penalty * weights[:-1], rest.sum(0)])
        return penalty / 2 * np.sum(weights[:-1] ** 2) - np.sum(wanted * logs) / len(labels), gradient.ravel()

    start = np.zeros((features.shape[1] + 1) * classes)
    return optimize.minimize(loss, start, jac=True, method="L-BFGS-B", options={"maxiter": 100}).x.reshape(-1, classes)


def draw(values):
    figure, axes = experiment.panel(5.2, 4.0)
    for place, (kind, title) in enumerate(KINDS.items()):
        means = [float(np.mean(each)) for each in values["errors"][kind]]
        style = "-" if kind in STARTS else "--"
        axes.plot(values["counts"], means, style, color=f"C{place}", label=title)
        for count, each in zip(values["counts"], values["errors"][kind], strict=True):
            axes.plot([count] * len(each), each, "o", color=f"C{place}", markersize=3)
    axes.set(xscale="log", xlabel="training images of a class", ylabel="top-1 error, %", ylim=(0, None))
    axes.set_xticks(values["counts"], map(str, values["counts"]))
    axes.minorticks_off()
    axes.legend(frameon=False)
    return figure


def _gains(values):
    """Random start minus fine-tuned, see `experiment.paired`, one for each number of images."""
    pairs = zip(values["errors"]["random"], values["errors"]["pretrained"], strict=True)
    return [experiment.paired(list(zip(*each, strict=True))) for each in pairs]


def tables(values):
    columns = "", *(f"{count} a class" for count in values["counts"])
    rows = [(title, *map(experiment.mean_and_spread, values["errors"][kind])) for kind, title in KINDS.items()]
    rows.append(("random start minus fine-tuned, points", *(experiment.paired_text(each) for each in _gains(values))))
    note = (
        "mean ± standard deviation over seeds; the last row [95 % interval]. Fine-tuned: the last layer new, the "
        "convolutions at a fifth of the learning rate; the same flags and epochs as from random weights otherwise. All "
        "images of the classes are the same ones for every seed, and so is the classifier on a frozen layer"
    )
    return [Table("Top-1 error by the number of training images, %", columns, rows, note)]


def verdict(values):
    gains = _gains(values)
    if any(each["low"] is None for each in gains):
        return Verdict("cannot be told", f"fewer than {experiment.LEAST_SEEDS} seeds")
    holds, fails = all(each["low"] > 0 for each in gains), any(each["high"] < 0 for each in gains)
    texts = zip(values["counts"], map(experiment.paired_text, gains), strict=True)
    numbers = ", ".join(f"{text} with {count}" for count, text in texts)
    said = f"points of top-1 error gained by the start, by images of a class: {numbers}"
    return Verdict("holds" if holds else "does not hold" if fails else "cannot be told", said)


if __name__ == "__main__":
    raise SystemExit(experiment.main("transfer"))
