import math

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_alexnet.data.pipeline import with_options
from keras_alexnet.training.optimizer import LossScale, MomentumSGD
from keras_alexnet.training.progress import Progress
from keras_alexnet.training.trainer import NonFiniteError, ReadError, Trainer

STEPS, READ_EVERY = 100, 20


def trainer_of(loss_scale=False):
    model = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Flatten(), keras.layers.Dense(6, name="fc8")])
    optimizer = MomentumSGD(0.01)
    return Trainer(model, LossScale(optimizer) if loss_scale else optimizer)


def batches(broken_at=None):
    """STEPS batches of eight images; that of one step, from 1, holds a number that is not finite."""
    images = np.random.default_rng(0).normal(size=(STEPS, 8, 4, 4, 3)).astype(np.float32)
    if broken_at is not None:
        images[broken_at - 1, 3] = math.nan
    return tf.data.Dataset.from_tensor_slices((images, np.arange(STEPS * 8, dtype=np.int32).reshape(STEPS, 8) % 6))


def state(trainer):
    """Weights and velocities, list of np.ndarray."""
    return [variable.numpy() for variable in [*trainer.model.trainable_variables, *trainer.sgd.velocities]]


def test_the_device_is_read_every_few_steps(monkeypatch):
    trainer, progress, given, reads = trainer_of(), Progress(), [], []
    tensor = type(tf.constant(0.0))
    original = tensor._numpy  # every way from a tensor to NumPy and Python takes this one
    monkeypatch.setattr(tensor, "_numpy", lambda self: reads.append(self.shape) or original(self))
    callback = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: given.append((batch + 1, logs)))
    for _ in trainer.steps(batches(), STEPS, keras.callbacks.CallbackList([callback]), progress, READ_EVERY):
        pass
    read = [(step, each["count"]) for step, each in given if each]
    assert read == [(step, 8.0 * step) for step in (1, 20, 40, 60, 80, 100)] and len(given) == STEPS
    assert len(reads) == len(read)


@pytest.mark.parametrize("loss_scale", [False, True])
def test_nothing_is_updated_from_a_loss_on_that_is_not_finite(loss_scale):
    good, broken, states = trainer_of(loss_scale), trainer_of(loss_scale), {}
    broken.model.set_weights(good.model.get_weights())
    for _, images in zip(range(30), batches(), strict=False):
        good.train_step(*images)
    progress = Progress()
    with pytest.raises(NonFiniteError, match="the loss is nan at step 40 or shortly before"):
        for _ in broken.steps(batches(31), STEPS, keras.callbacks.CallbackList(), progress, READ_EVERY):
            states[progress.steps] = state(broken)
    for found, expected in zip(states[39], state(good), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_batches_are_copied_ahead_to_a_gpu_only(monkeypatch):
    """In place of the GPU, which is not here, the second CPU device."""
    trainer, progress, copy, seen = trainer_of(), Progress(), tf.data.experimental.prefetch_to_device, []
    numbers = tf.data.Dataset.from_tensor_slices([1.0, 1.0, math.nan])
    broken = numbers.map(lambda number: tf.debugging.check_numerics(number, "bad"))  # as a file that cannot be read
    dataset = with_options(tf.data.Dataset.zip(batches(), broken).map(lambda batch, _: batch), 0)
    assert trainer._copied_ahead(dataset) is dataset

    def copied(device, count):
        assert (device, count) == ("GPU:0", 2)
        return copy("CPU:1", count)

    monkeypatch.setattr(tf.data.experimental, "prefetch_to_device", copied)
    trainer.train_step(*next(iter(dataset)))  # traced where there is no GPU
    trainer.device, step = "GPU:0", trainer.train_step
    assert trainer._copied_ahead(dataset).options().autotune.enabled is False
    trainer.train_step = lambda *batch: (seen.append(batch), step(*batch))
    with pytest.raises(ReadError, match="bad"):
        for _ in trainer.steps(dataset, STEPS, keras.callbacks.CallbackList(), progress, READ_EVERY):
            pass
    for batch, expected in zip(seen, batches().take(2), strict=True):
        for tensor, wanted in zip(batch, expected, strict=True):
            assert tensor.device.endswith("CPU:1")
            np.testing.assert_array_equal(tensor, wanted)
