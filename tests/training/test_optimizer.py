import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_alexnet.errors import ArgumentError
from keras_alexnet.training.optimizer import LossScale, MomentumSGD
from tests.reference.update import momentum_sgd


def layers(*names):
    """The variables of dense layers with random weights: kernel, bias, kernel, ..."""
    model = keras.Sequential([keras.Input((4,)), *(keras.layers.Dense(4, name=name) for name in names)])
    rng = np.random.default_rng(0)
    for weight in model.trainable_variables:
        weight.assign(rng.normal(size=weight.shape))
    return model.trainable_variables


@pytest.mark.parametrize(
    ("settings", "names", "rates", "decays"),
    [
        # The published rule; biases are not decayed.
        ((0.1, 0.9, 0.05, 2.0), ["conv1"], [0.1, 0.2], [0.05, 0]),
        # The longest start of a layer's name counts; fc8 has what all others have.
        (
            (0.1, 0.9, 0.02, 2.0, {"conv": 0.5, "conv2": 0.1}, {"conv": 0.5, "conv2": 0.25, "fc1": 0.0}),
            ["conv1", "conv2_tower0", "fc10", "fc8"],
            [0.05, 0.1, 0.01, 0.02, 0.1, 0.2, 0.1, 0.2],
            [0.5, 0, 0.25, 0, 0, 0, 0.02, 0],
        ),
    ],
)
def test_steps_with_random_gradients(settings, names, rates, decays):
    weights, optimizer = layers(*names), MomentumSGD(*settings)
    optimizer.build(weights)
    apply = tf.function(lambda *gradients: optimizer.apply(list(gradients), weights))
    rng = np.random.default_rng(1)
    expected = [(weight.numpy().astype(np.float64), 0.0) for weight in weights]
    for step in range(12):
        if step == 6:
            optimizer.learning_rate = 0.01
            rates = [rate / 10 for rate in rates]
        gradients = [rng.normal(size=weight.shape).astype(np.float32) for weight in weights]
        apply(*gradients)
        expected = [
            momentum_sgd(*state, gradient, rate, 0.9, decay)
            for state, gradient, rate, decay in zip(expected, gradients, rates, decays, strict=True)
        ]
    for weight, velocity, (value, speed) in zip(weights, optimizer.velocities, expected, strict=True):
        np.testing.assert_allclose(weight, value, rtol=1e-5, atol=1e-6)  # float32 over several steps
        np.testing.assert_allclose(velocity, speed, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("label", ["conv1", "bias"])
def test_what_is_frozen_is_not_moved_by_its_velocity(label):
    weights, optimizer = layers("conv1", "conv2"), MomentumSGD(0.1, 0.9, 0.01, 1.0, {"conv1": 0.5})
    optimizer.build(weights)
    one = [np.ones(weight.shape, np.float32) for weight in weights]
    optimizer.apply(one, weights)
    optimizer.set_multiplier(label, 0.0)
    start = [weight.numpy() for weight in weights]
    optimizer.apply(one, weights)
    changed = [bool(np.any(weight.numpy() != was)) for weight, was in zip(weights, start, strict=True)]
    assert changed == ([False, False, True, True] if label == "conv1" else [True, False, True, False])


def test_configuration_round_trip():
    optimizer = MomentumSGD(0.02, 0.8, 0.001, 2.0, {"conv1": 0.1}, {"fc10": 3.0})
    again = MomentumSGD.from_config(optimizer.get_config())
    assert again.get_config() == optimizer.get_config()
    assert (again.momentum, again.kernel_decay, again.layer_decays) == (0.8, 0.001, {"fc10": 3.0})


def test_loss_scaling_of_float16_is_keras_own():
    reached = []
    for scaling in (LossScale, keras.optimizers.LossScaleOptimizer):
        weights = layers("fc6", "unused")
        optimizer = scaling(MomentumSGD(0.1), initial_scale=1024.0, dynamic_growth_steps=2)
        optimizer.build(weights)
        apply = tf.function(lambda *gradients: optimizer.apply([*gradients, None, None], weights))  # noqa: B023
        rng, scales = np.random.default_rng(2), []
        for step in range(7):
            scale = float(optimizer.scale_loss(1.0))
            gradients = [rng.normal(size=weight.shape).astype(np.float32) * scale for weight in weights[:2]]
            if step == 3:
                gradients[1][0] = np.inf
            apply(*gradients)
            scales.append(float(optimizer.dynamic_scale))
        reached.append((scales, [weight.numpy() for weight in weights]))
    assert reached[0][0] == reached[1][0] == [1024, 2048, 2048, 1024, 1024, 2048, 2048]
    for ours, theirs in zip(reached[0][1], reached[1][1], strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6)


def test_wrong_arguments_are_named():
    for settings, words in (
        ({"momentum": 1.0}, "momentum must be at least 0 and below 1.*momentum=1.0"),
        ({"bias_learning_rate_multiplier": -1.0}, "bias must not be negative.*-1.0"),
        ({"layer_weight_decays": {"fc10": -3.0}}, "fc10 must not be negative.*-3.0"),
    ):
        with pytest.raises(ArgumentError, match=words):
            MomentumSGD(**settings)
