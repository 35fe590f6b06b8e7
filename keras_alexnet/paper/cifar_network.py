"""CIFAR-10 in memory, the small networks for it that came with the authors' code, and how one of them is trained.

Four networks, named by the test error in the names of their files (`example-layers/*.cfg` of the release; 11pct of the
earlier cuda-convnet, whose notes describe its training). The paper's "four-layer network" (Figure 1, section 3.3) is
19pct by its count of learned layers, three convolutions and the output. Its 13 and 11 percent, without and with
response normalization, are the numbers in the names of 13pct and 11pct; that they are of these networks, which have
five learned layers, is an inference.
"""

import collections
import dataclasses
import functools
import hashlib
import io
import json
import math
import os
import sys
import typing

import keras
import numpy as np
import tensorflow as tf
from PIL import Image

from keras_alexnet.data import records, shapes, sources
from keras_alexnet.errors import ArgumentError, RunError, UsageError, reading
from keras_alexnet.files import progress_bar
from keras_alexnet.model.layers import InMapNormalization, LocalResponseNormalization
from keras_alexnet.paper.figure1 import POINTS
from keras_alexnet.training import metrics
from keras_alexnet.training.checkpoints import Checkpoints
from keras_alexnet.training.optimizer import MomentumSGD
from keras_alexnet.training.trainer import NonFiniteError, Trainer

SIZE = 32  # rows and columns of the images
# Weight decay by the start of a layer's name (`layer-params-*.cfg`, key wc).
DECAYS = {
    "19pct": {"conv": 0.004, "fc10": 3.0},
    "18pct": {"conv": 0.004, "fc10": 1.0},
    "13pct": {"conv": 0.0, "local": 0.004, "fc10": 0.004},
    "11pct": {"conv": 0.0, "local": 0.004, "fc10": 0.004},
}
BIAS_MULTIPLIER = 2.0  # of the learning rate: epsB over epsW
_QUICK = 20  # images of each class with --quick
_SHAPES = 400, 100  # drawn for training and testing in place of CIFAR-10


class Images(typing.NamedTuple):
    """Two sets, each a pair of images, uint8 (count, 32, 32, 3), RGB, and labels, int32 (count,)."""

    description: str
    class_names: tuple[str, ...]
    train: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]

    @property
    def is_papers(self):
        """Whether there are as many images and classes as in CIFAR-10."""
        return (len(self.train[1]), len(self.test[1]), len(self.class_names)) == (50_000, 10_000, 10)


def load(settings):
    """Reads the images that CifarSettings name, with --quick a few of each class: Images."""
    data_dir, limit = settings.data_dir, _QUICK if settings.quick else sys.maxsize
    if settings.dataset == "shapes":
        most, class_names = limit * len(shapes.CLASS_NAMES), shapes.CLASS_NAMES
        train, test = _drawn(0, min(_SHAPES[0], most)), _drawn(10_000, min(_SHAPES[1], most))
        origin = "the built-in shapes, not CIFAR-10"
    else:
        if settings.dataset == "folder":
            second = "test" if os.path.isdir(os.path.join(data_dir, "test")) else "val"
            opened = [sources.list_split(data_dir, name) for name in ("train", second)]
            is_jpeg = opened[0].files[0].lower().endswith((".jpg", ".jpeg"))
            kind = "JPEG files, which lose a little against the original pixels" if is_jpeg else "files"
            origin = f"class folders ({kind})"
        else:
            try:
                opened = [records.open_tfds_split(settings.dataset, data_dir, name, 1) for name in ("train", "test")]
            except UsageError as error:
                raise UsageError(f"{error}; or give images of your own: --dataset=folder --data_dir=DIR") from None
            origin = f"{settings.dataset} (TensorFlow Datasets)"
        class_names, names = (each.class_names for each in opened)
        if class_names != names:
            raise UsageError(f"--data_dir={data_dir}: train and {opened[1].name} hold different classes")
        if len(class_names) < 2:
            raise UsageError(f"--data_dir={data_dir}: holds one class; give two or more")
        train, test = (_read(source, limit) for source in opened)
    first = f", the first {limit} of each class" * settings.quick
    description = f"{len(train[1]):,} / {len(test[1]):,} images of {origin}{first}"
    return Images(description, tuple(class_names), train, test)


def _drawn(first_seed, count):
    """So many shapes and their labels."""
    labels = np.arange(count, dtype=np.int32) % len(shapes.CLASS_NAMES)
    drawn = [shapes.draw(shapes.CLASS_NAMES[label], first_seed + place) for place, label in enumerate(labels)]
    return np.stack([np.asarray(image.resize((SIZE, SIZE))) for image in drawn]), labels


def _read(source, limit):
    """The first images of each class of a source and their labels."""
    images, labels, kept, show = [], [], collections.Counter(), progress_bar(f"reading {source.name}")
    load = source.loader()
    items = source.items().map(lambda *item: (item[0], *load(*item)))
    for done, (key, content, label) in enumerate(items.as_numpy_iterator(), 1):
        if kept[label] < limit:
            kept[label] += 1
            path = f"{source.name}/{source.name_of(key)}"
            with reading(path), Image.open(io.BytesIO(content)) as image:
                if image.size != (SIZE, SIZE):
                    raise RunError(f"{path}: is {image.width}x{image.height}; these networks take {SIZE}x{SIZE}")
                images.append(np.asarray(image.convert("RGB")))
            labels.append(label)
        show(done, source.count)
    return np.stack(images), np.array(labels, np.int32)


@dataclasses.dataclass(frozen=True)
class Trial:
    network: str  # see `build`
    activation: str = "relu"  # or "tanh"
    learning_rate: float = 0.001  # of kernels at the start; biases have twice that. 0.001: epsW of every layer file
    weight_decay: bool = True  # the decays of the layer file, or none
    crop_border: int = 0  # n: random crops of 32 - 2 n pixels, reflected or not; 0: whole images, not reflected
    rate_drops: tuple[int, ...] = ()  # epochs after which the learning rate is divided by ten
    batch_size: int = 128
    precision: str = "float32"  # Keras dtype policy
    seed: int = 2012  # of weights, order and crops


class Training:
    """A trial in progress, which resumes after its last whole epoch from a folder of its own below `parent`.

    `progress.history` is the training curve, dicts with `epoch` (float), `loss` (nats) and `top1_error` (percent),
    POINTS an epoch: means over the images since the point before. `progress.finished`: the loss is non-finite.
    """

    def __init__(self, parent, trial, images):
        self.trial, self.images = trial, images
        pixels, name = images.train[0], f"{trial.network}_{trial.activation}_{trial.learning_rate:g}_seed{trial.seed}"
        if len(pixels) < POINTS * trial.batch_size:
            problem = f"{len(pixels)} training images are fewer than {POINTS} batches; give a smaller one"
            raise ArgumentError("batch_size", trial.batch_size, problem)
        self.mean = pixels.mean(axis=0, dtype=np.float64).astype(np.float32)
        self.size = SIZE - 2 * trial.crop_border
        classes = len(images.class_names)
        self.model = build(trial.network, classes, self.size, trial.activation, trial.precision, trial.seed)
        decays = DECAYS[trial.network] if trial.weight_decay else {}
        self.optimizer = MomentumSGD(trial.learning_rate, 0.9, 0.0, BIAS_MULTIPLIER, layer_weight_decays=decays)
        self.trainer = Trainer(self.model, self.optimizer)
        digest = hashlib.sha256(json.dumps([dataclasses.asdict(trial), images.class_names]).encode())
        for array in (*images.train, *images.test):
            digest.update(array)
        folder = os.path.join(parent, f"{name}-{digest.hexdigest()[:8]}", "checkpoints")
        self.checkpoints = Checkpoints(folder, self.trainer.variables(), keep=1)
        _, self.progress = self.checkpoints.resume()

    def train(self, epochs, enough=lambda curve: False, show=lambda done, total: None):
        """Trains until so many epochs are done, the loss is non-finite, or the curve is enough before an epoch."""
        while self.progress.epochs < epochs and not self.progress.finished and not enough(self.progress.history):
            self._train_epoch()
            self.checkpoints.write(self.progress)
            show(self.progress.epochs, epochs)
        self.checkpoints.wait()

    def _train_epoch(self):
        progress, averages = self.progress, self.trainer.averages
        steps = math.ceil(len(self.images.train[1]) / self.trial.batch_size)
        points = {round(steps * point / POINTS) for point in range(1, POINTS + 1)}
        drops = sum(progress.epochs >= drop for drop in self.trial.rate_drops)
        self.optimizer.learning_rate = self.trial.learning_rate * 0.1**drops
        averages.reset()
        try:
            for _ in self.trainer.steps(self._batches(), steps, keras.callbacks.CallbackList(), progress, steps):
                if progress.batches in points:
                    epoch = progress.epochs + progress.batches / steps
                    means = metrics.means(self.trainer.read_averages(progress))
                    progress.history.append({"epoch": epoch, "loss": means["loss"], "top1_error": means["top1_error"]})
                    averages.reset()
            progress.epochs += 1
        except NonFiniteError:
            progress.finished = True
        progress.batches = 0

    def _batches(self):
        """The next epoch in its order: pairs of float32 images and labels."""
        images, labels = self.images.train
        rng = np.random.default_rng((self.trial.seed, self.progress.epochs))
        order = rng.permutation(len(labels))
        for start in range(0, len(order), self.trial.batch_size):
            chosen = order[start : start + self.trial.batch_size]
            yield self._views(images[chosen], rng), labels[chosen]

    def _views(self, images, rng):
        """What is trained on: float32, minus the mean, cropped and reflected where the trial has crops."""
        # The mean is subtracted before the crop, so that each pixel loses its own (`convdata_cifar.py`).
        images, border = images.astype(np.float32) - self.mean, self.trial.crop_border
        if not border:
            return images
        rows, columns = rng.integers(0, 2 * border + 1, (2, len(images)))
        steps = np.where(rng.random(len(images)) < 0.5, -1, 1)
        views = [
            image[row : row + self.size, column : column + self.size][:, ::step]
            for image, row, column, step in zip(images, rows, columns, steps, strict=True)
        ]
        return np.stack(views)

    def test(self):
        """The loss (nats) and top-1 error (percent) on the test images, or on their centers: dict."""
        inside = slice(self.trial.crop_border, self.trial.crop_border + self.size)
        images, labels = self.images.test
        batches = [slice(start, start + 500) for start in range(0, len(labels), 500)]
        views = (((images[batch] - self.mean)[:, inside, inside], labels[batch]) for batch in batches)
        means = self.trainer.evaluate(views, len(labels), len(batches))
        return {"loss": means["loss"], "top1_error": means["top1_error"]}


def build(name, classes=10, size=SIZE, activation="relu", dtype="float32", seed=None):
    """The network of that name: keras.Model on (B, size, size, 3), RGB, 0..255 minus the mean image -> float32 logits.

    The activation is of every layer but the last; dtype is a Keras dtype policy or its name.
    """
    seeds = iter([None] * 8 if seed is None else np.random.SeedSequence(seed).generate_state(8).tolist())
    common = {"activation": activation, "dtype": dtype}
    convolution = functools.partial(keras.layers.Conv2D, kernel_size=5, padding="same", **common)
    # The release's pools reach over the edge, 32 -> 16 -> 8 -> 4, and average over what is inside; so does "same".
    maximum = functools.partial(keras.layers.MaxPooling2D, 3, 2, "same", dtype=dtype)
    average = functools.partial(keras.layers.AveragePooling2D, 3, 2, "same", dtype=dtype)

    def normal(deviation):
        return keras.initializers.RandomNormal(stddev=deviation, seed=next(seeds))

    def local(x, name):
        """Filters of 3x3 that positions do not share (type `local` of the layer files), 32 at each."""
        shape, settings = (*x.shape[1:3], 32), {"kernel_initializer": normal(0.04), "name": name, **common}
        # What a 3x3 filter sees at each position, zeros outside: 9 C numbers.
        window, ones = (1, 3, 3, 1), (1, 1, 1, 1)
        see = functools.partial(tf.image.extract_patches, sizes=window, strides=ones, rates=ones, padding="SAME")
        patches = keras.layers.Lambda(see, dtype=dtype, name=f"{name}_patches")(x)
        return keras.layers.EinsumDense("bhwp,hwpf->bhwf", shape, bias_axes="hwf", **settings)(patches)

    def normalized(x, layer_name):
        if name == "18pct":
            return InMapNormalization(3, 5e-5, 0.75, dtype=dtype, name=layer_name)(x)
        if name == "11pct":
            # scale 0.001 over 5 kernels, constant 1 (`layers-conv-local-11pct.cfg`)
            return LocalResponseNormalization(1.0, 5, 2e-4, 0.75, dtype=dtype, name=layer_name)(x)
        return x

    image = keras.Input((size, size, 3), dtype="float32", name="images")
    if name in ("19pct", "18pct"):
        x = convolution(32, kernel_initializer=normal(0.0001), name="conv1")(image)
        # Where the file pools before its ReLU, the maximum is the same; with tanh too, which rises as well.
        x = normalized(maximum(name="pool1")(x), "norm1")  # 16x16x32
        x = convolution(32, kernel_initializer=normal(0.01), name="conv2")(x)
        x = normalized(average(name="pool2")(x), "norm2")  # 8x8x32
        x = convolution(64, kernel_initializer=normal(0.01), name="conv3")(x)
        x = average(name="pool3")(x)  # 4x4x64
    else:
        x = convolution(64, kernel_initializer=normal(0.0001), name="conv1")(image)
        x = maximum(name="pool1")(normalized(x, "norm1"))  # 16x16x64
        x = convolution(64, kernel_initializer=normal(0.01), name="conv2")(x)
        x = maximum(name="pool2")(normalized(x, "norm2"))  # 8x8x64
        x = local(local(x, "local3"), "local4")  # 8x8x32
    x = keras.layers.Flatten(dtype=dtype, name="flatten")(x)
    x = keras.layers.Dense(classes, kernel_initializer=normal(0.01), dtype=dtype, name="fc10")(x)
    logits = keras.layers.Activation("linear", dtype="float32", name="logits")(x)
    return keras.Model(image, logits, name=f"cifar_{name}")
