"""What `retrieval` measures and draws: precision, size and time of features, of codes of them and of pixels.

A code is the middle of an autoencoder, 4096 -> 512 ReLU -> code -> 512 ReLU -> 4096 (mean squared error, Adam):

- real: float32, compared by Euclidean distance.
- binary: noise (standard deviation 4) before a sigmoid pushes the code to 0 or 1 in training, as in semantic hashing
  (Salakhutdinov and Hinton, 2009; the same noise). Bits are the sigmoid above 0.5, compared by Hamming distance.

The paper trains none: depth, sizes and learning rate were chosen here by leave-one-out retrieval within the training
images. The mean of each feature is subtracted and all are divided by one standard deviation, so that the ratios of
distances between images stay; a standard deviation each would make the rarest units the loudest.
"""

import hashlib
import os
import statistics
import time
import timeit
from functools import partial
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_alexnet import evaluation
from keras_alexnet.errors import ArgumentError, RunError, printable, reading
from keras_alexnet.files import atomic_write, progress_bar
from keras_alexnet.paper import features, plots
from keras_alexnet.paper.experiment import Result
from keras_alexnet.paper.retrieval import mean_difference, row_of

HIDDEN = 512
BATCH = 128
LEARNING_RATE = 0.001
NOISE = 4.0  # standard deviation, before the sigmoid
_ROWS = 1024  # that are coded at a time


class Coder:
    """An autoencoder for features like those given, float32 (N, D), with codes of `length` numbers or bits."""

    def __init__(self, length, binary, features):
        self.binary, self.size = binary, length // 8 if binary else 4 * length  # bytes of a code
        self.mean = features.mean(axis=0, dtype=np.float64).astype(np.float32)
        self.scale = float(np.sqrt(np.square(features - self.mean).mean(dtype=np.float64))) or 1.0
        # (B, D) -> (B, length) before any sigmoid, and (B, length) -> (B, D); both of standardized features.
        self.encoder, self.decoder = (
            keras.Sequential([keras.Input((inputs,)), keras.layers.Dense(HIDDEN, "relu"), keras.layers.Dense(outputs)])
            for inputs, outputs in ((len(self.mean), length), (length, len(self.mean)))
        )
        self._encode, self._decode = _compiled(self.encoder), _compiled(self.decoder)

    def variables(self):
        """dict of the name in a file -> variable."""
        parts = (("encoder", self.encoder), ("decoder", self.decoder))
        return {f"{name}_{place}": each for name, part in parts for place, each in enumerate(part.weights)}

    def train(self, features, epochs, seed, show):
        """Trains it on features; `show` is called with (epochs done, epochs)."""
        between = []
        if self.binary:
            # Keras' noise goes up to 1: a deviation of 1 before a factor of 4 is one of 4 on four times the code.
            noise, sigmoid = keras.layers.GaussianNoise(1.0, seed=seed), keras.layers.Activation("sigmoid")
            between = [noise, keras.layers.Rescaling(NOISE), sigmoid]
        model = keras.Sequential([keras.Input(self.mean.shape), self.encoder, *between, self.decoder])
        model.compile(keras.optimizers.Adam(LEARNING_RATE), "mean_squared_error")
        progress = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: show(epoch + 1, epochs))
        rows = (features - self.mean) / self.scale
        model.fit(rows, rows, batch_size=BATCH, epochs=epochs, callbacks=[progress], verbose=0)

    def encode(self, features):
        """float32 (B, D) -> codes: float32 (B, length), or uint8 (B, length / 8), the first bit the highest."""
        codes = self._encode((features - self.mean) / self.scale)
        return np.packbits(codes > 0, axis=1) if self.binary else codes

    def error(self, features):
        """What the codes lose of the variance of features: 0 nothing, 1 as much as if the mean stood for each."""
        codes = self.encode(features)
        if self.binary:
            codes = np.unpackbits(codes, axis=1).astype(np.float32)
        lost = np.square(self._decode(codes) * self.scale + self.mean - features).sum(dtype=np.float64)
        return float(lost / np.square(features - self.mean).sum(dtype=np.float64))


def load_or_train(path, features, length, binary, epochs, seed, show):
    """A trained Coder, kept in a file (.npz), and trained again for other numbers or settings."""
    settings = (length, binary, epochs, seed, features.shape, HIDDEN, BATCH, LEARNING_RATE, NOISE)
    key = hashlib.sha256(repr(settings).encode() + np.ascontiguousarray(features).tobytes()).hexdigest()
    keras.utils.set_random_seed(seed)
    coder = Coder(length, binary, features)
    if os.path.exists(path):
        with reading(path), np.load(path, allow_pickle=False) as stored:
            if str(stored["key"]) == key:
                for name, variable in coder.variables().items():
                    variable.assign(stored[name])
                return coder
    coder.train(features, epochs, seed, show)
    arrays = {name: variable.numpy() for name, variable in coder.variables().items()}
    with atomic_write(path, "wb") as file:
        np.savez(file, key=key, mean=coder.mean, scale=coder.scale, **arrays)
    return coder


def _compiled(model):
    """A function of NumPy rows; Keras' own call of one row at a time takes longer than its arithmetic."""
    rows = tf.TensorSpec(model.input_shape, tf.float32)
    call = tf.function(lambda rows: model(rows, training=False)).get_concrete_function(rows)

    def run(rows):
        parts = (tf.constant(rows[start : start + _ROWS]) for start in range(0, len(rows), _ROWS))
        return np.concatenate([call(part).numpy() for part in parts])

    return run


def milliseconds(function, inputs):
    """The median time of a call, float: the processor's, of all threads, which other programs do not add to."""
    function(inputs[0])  # what is done once only does not count
    clock = {"timer": time.process_time, "number": 1}
    return 1e3 * statistics.median(timeit.timeit(partial(function, each), **clock) for each in inputs)


def print_nearest(settings):
    """Prints the images nearest to --query, with their distances."""
    extractor = features.feature_extractor(evaluation.open_model(settings.model_dir))
    if settings.data_dir:
        source = features.list_images(settings, "index_split")
        index = features.open_index(settings, extractor, source, settings.index)
    else:
        index = features.load_index(settings.index)
        if index.model != extractor.identity:
            problem = f"is of another model than --model_dir={settings.model_dir}; add --data_dir to compute it again"
            raise ArgumentError("index", settings.index, problem)
    try:
        query, _ = features.extract_features(extractor, [settings.query])
    except RunError:
        raise ArgumentError("query", settings.query, "is not a JPEG or PNG file that can be decoded") from None
    print(f"nearest to {printable(settings.query)} among {len(index.files)} images:")
    paths = index.paths()
    for distance, place in zip(*features.Search(index.features).nearest(query[0], settings.neighbors), strict=True):
        of = f"  {printable(index.class_names[index.labels[place]])}" if index.class_names else ""
        print(f"{distance:>10.4f}{of}  {printable(paths[place])}")


def measure(settings):
    """All numbers of the command and its figure: experiment.Result."""
    source, asked = features.list_splits(settings, "query_split")
    model, same = evaluation.open_model(settings.model_dir), asked is source
    found = features.open_indexes(settings, model, source, asked, settings.index)
    index, queries = found["features"]
    # Labels of the queries as the index has them.
    labels = np.array([index.class_names.index(name) for name in queries.class_names])[queries.labels]
    counts = np.bincount(index.labels, minlength=len(index.class_names)) - same
    for label in np.unique(labels[counts[labels] < 1]):
        problem = f"no image of {index.class_names[label]!r} is left to be found; look at its files"
        raise ArgumentError("index_split", settings.index_split, problem)
    if settings.projector:
        log_dir = settings.log_dir or os.path.join(settings.results_dir, "projector")
        features.write_projector(index, log_dir, progress_bar("drawing thumbnails"))
        print(f"tensorboard --logdir={log_dir}", flush=True)
    longest, network = max(settings.codes), model.config.network
    ways = [("pixels", "", 0), ("features", "", 0)]
    ways += [("features", coded, length) for coded in ("real", "binary") for length in sorted(settings.codes)]
    ways += [("pixels", "binary", longest)]
    rows = {way: _row(settings, *found[way[0]], labels, same, *way) for way in ways}
    _, precision, average = rows["features", "", 0]
    by_class = [
        {"class_name": name, "pictures": int(own.sum()), **_summary(precision[own], average[own])}
        for name, own in ((name, labels == label) for label, name in enumerate(index.class_names))
        if own.any()
    ]
    gain = rows["features", "binary", longest][2] - rows["pixels", "binary", longest][2]
    nothing = [np.zeros((len(each), 1), np.uint8) for each in (index.labels, labels)]  # everything at one distance
    describe = features.feature_extractor(model).extract
    values = {
        "index": _described(settings.data_dir, settings.index_split, index),
        "queries": {**_described(settings.data_dir, settings.query_split, queries), "leave_one_out": same},
        "model": {"model_dir": model.name, "variant": network.variant, "width": network.width, "epochs": model.epochs},
        "chance": _summary(*features.evaluate(nothing[0], index.labels, nothing[1], labels, same)),
        "timing_rows": max(settings.timing_rows, len(index.files)),
        "describe_ms": milliseconds(describe, [[Path(path).read_bytes()] for path in queries.paths()[:10]]),
        "rows": [row for row, _, _ in rows.values()],
        "by_class": by_class,
        "codes_against_pixels": {"bits": longest, **mean_difference(gain)},
    }
    among = "each among the others" if same else f"among {len(index.files)} of {settings.index_split}"
    protocol = (
        f"{len(labels)} images of {settings.query_split}, {among}, {len(index.class_names)} classes; "
        f"{network.variant}, width {network.width:g}, {model.epochs} epochs, center view, fc8's input; Euclidean "
        "distance, Hamming for bits, every row compared (NumPy); whole rankings, equal distances as the mean over "
        f"their orders; autoencoders with {HIDDEN} hidden units each way, {settings.code_epochs} epochs on "
        f"{settings.index_split} only, seed {settings.seed}; pixels: the central square at "
        f"{features.PIXELS}x{features.PIXELS}"
    )
    _draw(values, os.path.join(settings.results_dir, "retrieval.svg"))
    caption = "Precision among the ten nearest, and mean average precision, by bytes an image."
    return Result(values, protocol, (("retrieval.svg", caption),))


def _row(settings, index, queries, labels, same, kind, coded, length):
    """A way to describe images: (its row of the tables, precision and average precision of every query)."""
    vectors, asked = index.features, queries.features
    width = vectors.shape[1]
    name, size = (f"{width} numbers", 4 * width) if kind == "features" else (index.model, width)  # a pixel is a byte
    row = {"name": name, "kind": kind, "coded": coded, "length": length, "bytes": size}
    row |= {"lost_index": None, "lost_queries": None, "encode_ms": None}
    if coded:
        name = f"{'pixels, ' * (kind == 'pixels')}{coded} code of {length}{' bits' * (coded == 'binary')}"
        path = os.path.join(settings.results_dir, features.FOLDER, f"{kind}_{coded}_{length}.npz")
        training = length, coded == "binary", settings.code_epochs, settings.seed
        coder = load_or_train(path, vectors, *training, progress_bar(name, "epochs"))
        row |= {"name": name, "bytes": coder.size, "encode_ms": milliseconds(coder.encode, asked[:100, None])}
        row |= {"lost_index": coder.error(vectors), "lost_queries": coder.error(asked)}
        vectors, asked = coder.encode(vectors), coder.encode(asked)
    precision, average = features.evaluate(vectors, index.labels, asked, labels, same)
    row |= _summary(precision, average)
    largest = max(settings.timing_rows, len(vectors))
    for key, rows, most in (("search_ms", len(vectors), 100), ("search_large_ms", largest, 20)):
        timed = features.Search(np.resize(vectors, (rows, vectors.shape[1])))  # the same vectors again and again
        row[key] = milliseconds(partial(timed.nearest, count=10), asked[:most])
    print(f"{name}: precision at 10 {100 * precision[:, -1].mean():.1f} %", flush=True)
    return row, precision, average


def _summary(precision, average):
    return {"precision": precision.mean(axis=0).tolist(), "mean_average_precision": float(average.mean())}


def _described(data_dir, split, index):
    counts = {"pictures": len(index.files), "classes": len(index.class_names), "left_out": list(index.left_out)}
    return {"data_dir": data_dir, "split": split, **counts}


def _draw(values, path):
    """Writes the figure as SVG: precision at 10 and mean average precision by bytes, real and binary codes."""
    figure, both = plots.panel(8.4, 3.9, columns=2)
    whole, bits = row_of(values, "features", ""), values["codes_against_pixels"]["bits"]
    other, name = row_of(values, "pixels", "binary", bits), f"{whole['name']} ({whole['bytes']:,} bytes)"
    levels = (whole, "-", name), (row_of(values, "pixels", ""), "--", "pixels"), (values["chance"], ":", "chance")
    for axes, name, value in (
        (both[0], "precision among the 10 nearest, %", lambda row: 100 * row["precision"][-1]),
        (both[1], "mean average precision, %", lambda row: 100 * row["mean_average_precision"]),
    ):
        for coded, marker, color in (("binary", "o", "black"), ("real", "s", "tab:blue")):
            rows = [row for row in values["rows"] if row["kind"] == "features" and row["coded"] == coded]
            sizes, heights = [row["bytes"] for row in rows], [value(row) for row in rows]
            axes.plot(sizes, heights, marker=marker, color=color, label=f"{coded} codes")
            style = {"xytext": (0, -12), "textcoords": "offset points", "ha": "center", "fontsize": 8, "color": color}
            for row, size, height in zip(rows, sizes, heights, strict=True):
                axes.annotate(str(row["length"]), (size, height), **style)
        axes.plot(other["bytes"], value(other), "x", color="tab:gray", label=other["name"])
        for row, style, label in levels:
            axes.axhline(value(row), linestyle=style, color="tab:gray", linewidth=1, label=label)
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set(xlabel="bytes an image", ylabel=name, ylim=(0, None))
    figure.legend(*both[0].get_legend_handles_labels(), loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    plots.write(figure, path)
