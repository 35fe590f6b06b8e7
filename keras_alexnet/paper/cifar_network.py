"""The small networks for CIFAR-10 that came with the authors' code, and how one of them is trained.

Four networks, named by the test error in the names of their files (`example-layers/*.cfg` of the release; 11pct of the
earlier cuda-convnet, whose notes describe its training). The paper's "four-layer network" (Figure 1, section 3.3) is
19pct by its count of learned layers, three convolutions and the output. Its 13 and 11 percent, without and with
response normalization, are the numbers in the names of 13pct and 11pct; that they are of these networks, which have
five learned layers, is an inference.
"""

import dataclasses
import hashlib
import json
import math
import os

import keras
import numpy as np
import tensorflow as tf

from keras_alexnet.errors import ArgumentError
from keras_alexnet.model.layers import InMapNormalization, LocalResponseNormalization
from keras_alexnet.paper.cifar import POINTS
from keras_alexnet.training.checkpoints import Checkpoints
from keras_alexnet.training.optimizer import MomentumSGD
from keras_alexnet.training.trainer import NonFiniteError, Trainer

# Weight decay by the start of a layer's name (`layer-params-*.cfg`, key wc).
DECAYS = {
    "19pct": {"conv": 0.004, "fc10": 3.0},
    "18pct": {"conv": 0.004, "fc10": 1.0},
    "13pct": {"conv": 0.0, "local": 0.004, "fc10": 0.004},
    "11pct": {"conv": 0.0, "local": 0.004, "fc10": 0.004},
}
LEARNING_RATE = 0.001  # of kernels; epsW of every layer
BIAS_MULTIPLIER = 2.0  # epsB over epsW
TEST_BATCH = 500


@dataclasses.dataclass(frozen=True)
class Trial:
    """What is trained, and how."""

    network: str  # see `build`
    activation: str = "relu"  # or "tanh"
    learning_rate: float = LEARNING_RATE  # of kernels at the start; biases have twice that
    weight_decay: bool = True  # the decays of the layer file, or none
    crop_border: int = 0  # n: random crops of 32 - 2 n pixels, reflected or not; 0: whole images, not reflected
    rate_drops: tuple[int, ...] = ()  # epochs after which the learning rate is divided by ten
    batch_size: int = 128
    precision: str = "float32"  # Keras dtype policy
    seed: int = 2012  # of weights, order and crops


class Training:
    """A trial in progress, which resumes after its last whole epoch.

    Args:
        parent: str, the folder that holds the folders of trials; each has a name of its own.
        trial: Trial.
        images: cifar.Images.

    Attributes:
        progress: training.progress.Progress. Its `history` is the training curve, dicts with `epoch` (float), `loss`
            (nats) and `top1_error` (percent), POINTS an epoch: means over the images since the point before, as they
            were trained on. It is `finished` when the loss has become non-finite.

    Raises:
        ArgumentError: there are too few images for the batches.
        RunError: its checkpoint cannot be read.
    """

    def __init__(self, parent, trial, images):
        self.trial, self.images = trial, images
        pixels, classes = images.images["train"], len(images.class_names)
        if len(pixels) < POINTS * trial.batch_size:
            problem = f"{len(pixels)} training images are fewer than {POINTS} batches; give a smaller one"
            raise ArgumentError("batch_size", trial.batch_size, problem)
        self.mean = pixels.mean(axis=0, dtype=np.float64).astype(np.float32)
        self.size = len(self.mean) - 2 * trial.crop_border
        self.model = build(trial.network, classes, self.size, trial.activation, trial.precision, trial.seed)
        decays = DECAYS[trial.network] if trial.weight_decay else {}
        self.optimizer = MomentumSGD(trial.learning_rate, 0.9, 0.0, BIAS_MULTIPLIER, layer_weight_decays=decays)
        self.trainer = Trainer(self.model, self.optimizer)
        folder = os.path.join(parent, _name_of(trial, images), "checkpoints")
        self.checkpoints = Checkpoints(folder, self.trainer.variables(), keep=1)
        _, self.progress = self.checkpoints.resume()

    def train(self, epochs, enough=lambda curve: False, show=lambda done, total: None):
        """Trains until `epochs` are done, or the loss is non-finite.

        Args:
            epochs: int, counted from the start of the trial.
            enough: function of the curve -> bool that ends it earlier; called before every epoch.
            show: function of (done, total) epochs, a progress bar.
        """
        while self.progress.epochs < epochs and not self.progress.finished and not enough(self.progress.history):
            self._train_epoch()
            self.checkpoints.write(self.progress)
            show(self.progress.epochs, epochs)
        self.checkpoints.wait()

    def _train_epoch(self):
        progress, averages = self.progress, self.trainer.averages
        steps = math.ceil(len(self.images.labels["train"]) / self.trial.batch_size)
        points = {round(steps * point / POINTS) for point in range(1, POINTS + 1)}
        drops = sum(progress.epochs >= drop for drop in self.trial.rate_drops)
        self.optimizer.learning_rate = self.trial.learning_rate * 0.1**drops
        averages.reset()
        try:
            for _ in self.trainer.steps(self._batches(), steps, keras.callbacks.CallbackList(), progress):
                if progress.batches in points:
                    epoch, means = progress.epochs + progress.batches / steps, averages.result()
                    progress.history.append({"epoch": epoch, "loss": means["loss"], "top1_error": means["top1_error"]})
                    averages.reset()
            progress.epochs += 1
        except NonFiniteError:
            progress.finished = True
        progress.batches = 0

    def _batches(self):
        """The training images of the next epoch in its order: pairs of float32 images and labels."""
        images, labels = self.images.images["train"], self.images.labels["train"]
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
        reflected = rng.random(len(images)) < 0.5
        views = [
            image[row : row + self.size, column : column + self.size][:, :: -1 if mirrored else 1]
            for image, row, column, mirrored in zip(images, rows, columns, reflected, strict=True)
        ]
        return np.stack(views)

    def test(self):
        """The loss (nats) and top-1 error (percent) on the test images, or on their centers: dict."""
        inside = slice(self.trial.crop_border, self.trial.crop_border + self.size)
        images, labels = self.images.images["test"], self.images.labels["test"]
        starts = range(0, len(labels), TEST_BATCH)
        batches = (
            ((images[start : start + TEST_BATCH] - self.mean)[:, inside, inside], labels[start : start + TEST_BATCH])
            for start in starts
        )
        means = self.trainer.evaluate(batches, len(labels), len(starts))
        return {"loss": means["loss"], "top1_error": means["top1_error"]}


def _name_of(trial, images):
    """The name of a trial's folder, str: other settings or images have another one."""
    digest = hashlib.sha256(json.dumps([dataclasses.asdict(trial), images.class_names]).encode())
    for split in ("train", "test"):
        digest.update(images.images[split])
        digest.update(images.labels[split])
    return f"{trial.network}_{trial.activation}_{trial.learning_rate:g}_seed{trial.seed}-{digest.hexdigest()[:8]}"


def build(name, classes=10, size=32, activation="relu", dtype="float32", seed=None):
    """One of the networks.

    Args:
        name: "19pct", "18pct", "13pct" or "11pct".
        classes: int >= 1, units of the output.
        size: int, rows and columns of the input; 24 after crops from 32.
        activation: a Keras activation, after every layer but the last.
        dtype: Keras dtype policy or its name; the output is float32 always.
        seed: optional int.

    Returns:
        keras.Model on float32 (B, size, size, 3), RGB, 0..255 minus the mean image -> float32 (B, classes), logits.

    Raises:
        ValueError: the name is unknown.
    """
    if name not in DECAYS:
        raise ValueError(f"name must be one of {', '.join(DECAYS)}. Received: name={name!r}")
    seeds = iter([None] * 8 if seed is None else np.random.SeedSequence(seed).generate_state(8).tolist())

    def normal(stddev):
        return keras.initializers.RandomNormal(stddev=stddev, seed=next(seeds))

    def convolution(layer_name, filters, stddev, x):
        settings = {"activation": activation, "kernel_initializer": normal(stddev), "dtype": dtype, "name": layer_name}
        return keras.layers.Conv2D(filters, 5, padding="same", **settings)(x)

    def local(layer_name, x):
        """Filters of 3x3 that positions do not share (type `local` of the layer files), 32 at each."""
        settings = {"activation": activation, "kernel_initializer": normal(0.04), "dtype": dtype, "name": layer_name}
        patches = Patches(dtype=dtype, name=f"{layer_name}_patches")(x)
        return keras.layers.EinsumDense("bhwp,hwpf->bhwf", (*x.shape[1:3], 32), bias_axes="hwf", **settings)(patches)

    # The release's pools reach over the edge, 32 -> 16 -> 8 -> 4, and average over what is inside; so does "same".
    def maximum(layer_name, x):
        return keras.layers.MaxPooling2D(3, 2, "same", dtype=dtype, name=layer_name)(x)

    def average(layer_name, x):
        return keras.layers.AveragePooling2D(3, 2, "same", dtype=dtype, name=layer_name)(x)

    def normalized(layer_name, x):
        if name == "18pct":
            return InMapNormalization(3, 5e-5, 0.75, dtype=dtype, name=layer_name)(x)
        if name == "11pct":
            # scale 0.001 over 5 kernels, constant 1 (`layers-conv-local-11pct.cfg`)
            return LocalResponseNormalization(1.0, 5, 2e-4, 0.75, dtype=dtype, name=layer_name)(x)
        return x

    image = keras.Input((size, size, 3), dtype="float32", name="images")
    if name in ("19pct", "18pct"):
        # Where the file pools before its ReLU, the maximum is the same; with tanh too, which rises as well.
        x = maximum("pool1", convolution("conv1", 32, 0.0001, image))  # 16x16x32
        x = average("pool2", convolution("conv2", 32, 0.01, normalized("norm1", x)))  # 8x8x32
        x = average("pool3", convolution("conv3", 64, 0.01, normalized("norm2", x)))  # 4x4x64
    else:
        x = convolution("conv1", 64, 0.0001, image)
        x = maximum("pool1", normalized("norm1", x))  # 16x16x64
        x = convolution("conv2", 64, 0.01, x)
        x = maximum("pool2", normalized("norm2", x))  # 8x8x64
        x = local("local4", local("local3", x))  # 8x8x32
    x = keras.layers.Flatten(dtype=dtype, name="flatten")(x)
    x = keras.layers.Dense(classes, kernel_initializer=normal(0.01), dtype=dtype, name="fc10")(x)
    logits = keras.layers.Activation("linear", dtype="float32", name="logits")(x)
    return keras.Model(image, logits, name=f"cifar_{name}")


@keras.saving.register_keras_serializable("keras_alexnet")
class Patches(keras.layers.Layer):
    """What a 3x3 filter sees at each position, zeros outside: (B, rows, columns, C) -> (B, rows, columns, 9 C)."""

    def call(self, inputs):
        return tf.image.extract_patches(inputs, (1, 3, 3, 1), (1, 1, 1, 1), (1, 1, 1, 1), "SAME")
