"""The same steps on two devices, on one, and in grouped layers. A program of its own: devices are made at the start."""

import sys

import keras
import numpy as np
import tensorflow as tf

from keras_alexnet import AlexNet
from keras_alexnet.model import weights
from keras_alexnet.model.towers import choose_devices
from keras_alexnet.training import metrics
from keras_alexnet.training.optimizer import MomentumSGD
from keras_alexnet.training.trainer import Trainer

BATCH, CLASSES, WIDTH, STEPS = 4, 5, 1 / 16, 4


def main(variant):
    devices = choose_devices(("CPU:0", "CPU:1"), 2)
    models = {
        "two devices": AlexNet(CLASSES, variant, 2, 2, devices, None, width=WIDTH, seed=1),
        "one device": AlexNet(CLASSES, variant, 2, 2, devices[1:], None, width=WIDTH, seed=1),
        "not pinned": AlexNet(CLASSES, variant, 2, 2, (), None, width=WIDTH, seed=1),
        "grouped": AlexNet(CLASSES, variant, 1, 2, (), None, width=WIDTH, seed=1),
    }
    first = models["two devices"]
    enlarge(first)
    fix_dropout(models.values())
    size = first.input_shape[1]
    rng = np.random.default_rng(0)
    images = rng.normal(scale=60, size=(BATCH, size, size, 3)).astype(np.float32)
    labels = rng.integers(CLASSES, size=BATCH).astype(np.int32)
    for model in models.values():
        weights.copy(first, model)
    reached = {}
    start = weights.to_grouped(weights.named(first))
    for name, model in models.items():
        gradients = gradients_of(model, images, labels)
        trainer = Trainer(model, MomentumSGD(0.001), "CPU:0")
        losses = [float(trainer.train_step(images, labels)) for _ in range(STEPS)]
        trained = weights.to_grouped(weights.named(model))
        reached[name] = losses, gradients, {key: value - start[key] for key, value in trained.items()}
    losses, gradients, moved = reached.pop("two devices")
    assert losses[-1] < losses[0] - 0.01, losses  # it learns, so that equal is not equally idle
    for name, (other_losses, other_gradients, other_moved) in reached.items():
        # Pinned or not, the same operations run in the same order. Grouped, oneDNN adds up in another one: the loss and
        # the gradients of the first step differ by float32's rounding; later a rounding may decide which of two inputs
        # is a window's maximum, and the difference grows.
        grouped = name == "grouped"
        np.testing.assert_allclose(other_losses[0], losses[0], rtol=1e-5, err_msg=name)
        np.testing.assert_allclose(other_losses, losses, rtol=1e-3 if grouped else 1e-5, err_msg=name)
        compare(f"{name}, gradient of", other_gradients, gradients, 1e-5)
        compare(f"{name}, way of", other_moved, moved, 0.03 if grouped else 1e-4)


def compare(label, actual, desired, tolerance):
    """Each array within a tolerance that is relative to its largest number."""
    assert actual.keys() == desired.keys()
    for key, value in desired.items():
        assert np.any(value), key
        largest = np.abs(value).max()
        np.testing.assert_allclose(actual[key], value, rtol=0, atol=tolerance * largest, err_msg=f"{label} {key}")


def enlarge(model):
    """Weights so large that every part of every sum shows."""
    for index, variable in enumerate(model.trainable_variables):
        if variable.name == "kernel":
            fan_in = np.prod(variable.shape[:-1])
            variable.assign(keras.random.normal(variable.shape, stddev=fan_in**-0.5, seed=index))


def fix_dropout(models):
    """Gives unit i of a layer the same fate in every form of the network and in every step."""
    rng = np.random.default_rng(7)
    whole = {name: rng.uniform(size=(BATCH, round(4096 * WIDTH))) for name in ("dropout6", "dropout7")}
    fates = {}
    for model in models:
        for layer in model.layers:
            name, _, tower = layer.name.partition("_tower")
            if name in whole:
                parts = np.split(whole[name], 2, axis=1)
                fates[id(layer.seed_generator)] = (parts[int(tower)] if tower else whole[name]).astype(np.float32)
    keras.random.uniform = lambda shape, dtype, seed: tf.constant(fates[id(seed)])


def gradients_of(model, images, labels):
    @tf.function
    def gradients():
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(metrics.per_image(model(images, training=True), labels)["loss"])
        return tape.gradient(loss, model.trainable_variables)

    names = [f"{variable.path.split('/')[-2]}/{variable.name}" for variable in model.trainable_variables]
    return weights.to_grouped({name: g.numpy() for name, g in zip(names, gradients(), strict=True)})


if __name__ == "__main__":
    main(sys.argv[1])
