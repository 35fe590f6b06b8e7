"""Epochs and steps: a small loop of our own around Keras' model, optimizer and callbacks.

Keras' `fit` does not run under the multi-worker strategy (its issue 20585), nor can it begin in the middle of an
epoch; this loop leaves both open, and is the same step everywhere.
"""

import json
import math
import time

import tensorflow as tf

from keras_alexnet.errors import RunError, brief
from keras_alexnet.training import metrics


class ReadError(RunError):
    """An image could not be read or decoded. Which one, the data graph does not say."""


class NonFiniteError(RunError):
    """The loss is no longer a number."""


class Trainer:
    """The compiled steps of one model.

    Args:
        model: keras.Model, images -> float32 logits (B, classes).
        optimizer: keras optimizer; built on the model's trainable variables here.
        device: name of the device of the loss and of everything else that is no tower's, or None.
    """

    def __init__(self, model, optimizer, device=None):
        self.model, self.optimizer, self.device = model, optimizer, device
        with tf.device(device):
            self.averages = metrics.Averages()
        optimizer.build(model.trainable_variables)
        images = tf.TensorSpec((None, *model.input_shape[1:]), tf.float32)
        labels = tf.TensorSpec((None,), tf.int32)
        self.train_step = tf.function(self._train_step, input_signature=[images, labels])
        self.test_step = tf.function(self._test_step, input_signature=[images, labels])

    def _train_step(self, images, labels):
        """One update on the mean gradient of a batch; returns the mean loss, float32."""
        variables = self.model.trainable_variables
        with tf.device(self.device):
            with tf.GradientTape() as tape:
                values = metrics.per_image(self.model(images, training=True), labels)
                loss = tf.reduce_mean(values["loss"])
                scaled = self.optimizer.scale_loss(loss)
            self.optimizer.apply(tape.gradient(scaled, variables), variables)
            self.averages.update(values)
            return loss

    def _test_step(self, images, labels):
        with tf.device(self.device):
            self.averages.update(metrics.per_image(self.model(images, training=False), labels))

    def evaluate(self, dataset, count):
        """Averages over a dataset that must hold `count` images.

        Returns:
            dict of name -> float, see `metrics.NAMES`.

        Raises:
            ReadError: the data graph failed.
            RunError: another number of images was seen.
        """
        self.averages.reset()
        for images, labels in read(dataset):
            self.test_step(images, labels)
        if self.averages.count() != count:
            raise RunError(f"validation saw {self.averages.count()} images instead of {count}")
        return self.averages.result()


class Progress:
    """Where a run stands, beside weights and velocities: epochs and steps done, rows of the history, the plateau.

    Kept in the checkpoint as JSON in one string variable, so that a checkpoint is whole or is not.
    """

    def __init__(self):
        self.variable = tf.Variable("{}", dtype=tf.string, trainable=False, name="progress")
        self.epochs, self.steps, self.history, self.plateau, self.finished = 0, 0, [], {}, False

    def store(self):
        self.variable.assign(json.dumps({name: value for name, value in vars(self).items() if name != "variable"}))

    def restore(self):
        vars(self).update(json.loads(self.variable.numpy().decode()))


def run_epoch(trainer, dataset, callbacks, *, steps, first_step):
    """Trains on one epoch's batches.

    Args:
        trainer: Trainer.
        dataset: of (images, labels).
        callbacks: keras.callbacks.CallbackList.
        steps: int, batches expected; more or fewer is an error.
        first_step: int, steps done before this epoch.

    Returns:
        (dict of averages, images per second, steps done).

    Raises:
        ReadError: the data graph failed.
        NonFiniteError: the loss is not a number any more.
        RunError: the data graph ended early or late.
    """
    trainer.averages.reset()
    started, done = time.perf_counter(), 0
    for images, labels in read(dataset):
        callbacks.on_train_batch_begin(done)
        loss = float(trainer.train_step(images, labels))
        done += 1
        if not math.isfinite(loss):
            raise NonFiniteError(f"the loss is {loss} at step {first_step + done}")
        callbacks.on_train_batch_end(done - 1, trainer.averages.result())
    if done != steps:
        raise RunError(f"the epoch held {done} batches instead of {steps}: the training images have changed")
    return trainer.averages.result(), trainer.averages.count() / (time.perf_counter() - started), done


def read(dataset):
    """The batches of a dataset; what goes wrong in its graph becomes a ReadError."""
    batches = iter(dataset)
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except tf.errors.OpError as error:
            raise ReadError(brief(error)) from None
        yield batch
