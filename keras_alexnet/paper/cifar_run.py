"""One training of a small network on CIFAR-10, kept in a folder and taken up again where it stopped."""

import dataclasses
import json
import math
import os

import numpy as np

from keras_alexnet.errors import RunError, UsageError, reading
from keras_alexnet.files import atomic_write
from keras_alexnet.paper import cifar_network

WINDOWS = 5  # points of the training curve in an epoch
_TRIAL = "trial.json"


@dataclasses.dataclass(frozen=True)
class Trial:
    """What is trained, and how.

    Attributes:
        network: name, see `cifar_network.NETWORKS`.
        activation: "relu" or "tanh".
        learning_rate: float, of kernels at the start; biases have twice that.
        weight_decay: bool, the decays of the layer file, or none.
        crop_border: int, n: random crops of 32 - 2 n pixels and fair reflections in training, the center in testing; 0
            for whole images without reflections.
        rate_drops: tuple of int, epochs after which the rate is divided by ten.
        batch_size: int.
        precision: Keras dtype policy.
        seed: int, of weights, order and crops.
    """

    network: str
    activation: str = "relu"
    learning_rate: float = cifar_network.LEARNING_RATE
    weight_decay: bool = True
    crop_border: int = 0
    rate_drops: tuple[int, ...] = ()
    batch_size: int = 128
    precision: str = "float32"
    seed: int = 2012


class Run:
    """A trial in progress.

    Args:
        folder: str, where it is kept; holds the same trial already, or is made.
        trial: Trial.
        images: cifar_data.Images.

    Attributes:
        curve: list of dict with `epoch` (float), `loss` (nats) and `top1_error` (percent), one a fifth of an epoch: the
            means over the images of that fifth, as they were trained on.
        diverged: bool, the loss was no number any more; nothing is trained after that.

    Raises:
        UsageError: the folder holds another trial, or was made with other images.
        RunError: its checkpoint cannot be read.
    """

    def __init__(self, folder, trial, images):
        from keras_alexnet.training.checkpoints import Checkpoints
        from keras_alexnet.training.trainer import Trainer
        from keras_alexnet.training.optimizer import MomentumSGD

        self.trial, self.images = trial, images
        self.size = images.images["train"].shape[1] - 2 * trial.crop_border
        self.mean = images.mean_image()
        if len(images.labels["train"]) < WINDOWS * trial.batch_size:
            raise UsageError(
                f"--batch_size={trial.batch_size}: {len(images.labels['train'])} training images are fewer than "
                f"{WINDOWS} batches; give a smaller one"
            )
        _check_same(folder, {**dataclasses.asdict(trial), "images": images.description, "sha256": images.fingerprint()})
        self.model = cifar_network.build(
            trial.network,
            len(images.class_names),
            size=self.size,
            activation=trial.activation,
            dtype=trial.precision,
            seed=trial.seed,
        )
        decays = cifar_network.DECAYS[trial.network] if trial.weight_decay else {}
        self.sgd = MomentumSGD(trial.learning_rate, 0.9, 0.0, cifar_network.BIAS_MULTIPLIER, layer_weight_decays=decays)
        self.trainer = Trainer(self.model, self.sgd)
        self.checkpoints = Checkpoints(os.path.join(folder, "checkpoints"), self.trainer.variables(), keep=1)
        _, self.progress = self.checkpoints.resume()

    @property
    def curve(self):
        return self.progress.history

    @property
    def diverged(self):
        return self.progress.finished

    def train(self, epochs, enough=None, show=None):
        """Goes on up to so many epochs.

        Args:
            epochs: int, counted from the start of the trial.
            enough: function of the curve -> bool that ends it earlier, or None; asked before every epoch.
            show: function of (done, total) epochs, a progress bar, or None.
        """
        while self.progress.epochs < epochs and not self.diverged and not (enough and enough(self.curve)):
            self._epoch()
            self.checkpoints.write(self.progress)
            if show:
                show(self.progress.epochs, epochs)
        self.checkpoints.wait()

    def _epoch(self):
        import tensorflow as tf

        trial, progress, epoch = self.trial, self.progress, self.progress.epochs
        images, labels = self.images.images["train"], self.images.labels["train"]
        self.sgd.learning_rate = trial.learning_rate * 0.1 ** sum(epoch >= drop for drop in trial.rate_drops)
        rng = np.random.default_rng((trial.seed, epoch))
        order = rng.permutation(len(labels))
        steps = math.ceil(len(order) / trial.batch_size)
        done = 0
        for window in range(1, WINDOWS + 1):
            self.trainer.averages.reset()
            for _ in range(done, round(steps * window / WINDOWS)):
                chosen = order[done * trial.batch_size : (done + 1) * trial.batch_size]
                batch = tf.constant(self._views(images[chosen], rng))
                self.trainer.train_step(batch, tf.constant(labels[chosen]))
                done += 1
            means = self.trainer.averages.result()
            if not math.isfinite(means["loss"]):
                progress.finished = True
                return
            row = {"epoch": epoch + done / steps, "loss": means["loss"], "top1_error": means["top1_error"]}
            progress.history.append(row)
        progress.epochs += 1

    def test(self):
        """The mean loss (nats) and top-1 error (percent) on the test images, their centers where there are crops."""
        import tensorflow as tf

        self.trainer.tested.reset()
        images, labels = self.images.images["test"], self.images.labels["test"]
        border = self.trial.crop_border
        for start in range(0, len(labels), 500):
            batch = images[start : start + 500].astype(np.float32) - self.mean
            batch = batch[:, border : border + self.size, border : border + self.size]
            self.trainer.test_step(tf.constant(batch), tf.constant(labels[start : start + 500]))
        if self.trainer.tested.count() != len(labels):
            raise RunError(f"the test saw {self.trainer.tested.count()} images instead of {len(labels)}")
        means = self.trainer.tested.result()
        return {"loss": means["loss"], "top1_error": means["top1_error"]}

    def _views(self, images, rng):
        """What is trained on: float32, minus the mean; crops and reflections where there are any."""
        # The mean goes before the crop, so that each pixel loses its own (`convdata_cifar.py`).
        images, border = images.astype(np.float32) - self.mean, self.trial.crop_border
        if not border:
            return images
        rows, columns = rng.integers(0, 2 * border + 1, (2, len(images)))
        reflected = rng.random(len(images)) < 0.5
        views = [
            image[row : row + self.size, column : column + self.size][:, :: -1 if turned else 1]
            for image, row, column, turned in zip(images, rows, columns, reflected, strict=True)
        ]
        return np.stack(views)


def _check_same(folder, about):
    """A folder goes on with the trial that it holds; a new one gets its name plate."""
    path = os.path.join(folder, _TRIAL)
    about = json.loads(json.dumps(about))  # tuples become lists, as in the file
    if os.path.isfile(path):
        with reading(path), open(path, encoding="utf-8") as file:
            before = json.load(file)
        changed = [
            "other images" if name in ("images", "sha256") else f"{name} {value} (there: {before.get(name)})"
            for name, value in about.items()
            if before.get(name) != value
        ]
        changed = list(dict.fromkeys(changed))
        if changed:
            raise UsageError(f"{folder}: holds another trial: {', '.join(changed)}; name another --results_dir")
        return
    os.makedirs(folder, exist_ok=True)
    with atomic_write(path) as file:
        json.dump(about, file, indent=1)
