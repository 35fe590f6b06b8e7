import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_alexnet.errors import ArgumentError
from keras_alexnet.training.optimizer import LossScale, MomentumSGD
from tests.reference.update import momentum_sgd


def variables(*names):
    rng = np.random.default_rng(0)
    return [keras.Variable(rng.normal(size=(3, 4)).astype(np.float32), name=name) for name in names]


def layers(*names):
    """The variables of dense layers: kernel, bias, kernel, ..."""
    model = keras.Sequential([keras.Input((4,)), *(keras.layers.Dense(4, name=name) for name in names)])
    rng = np.random.default_rng(0)
    for weight in model.trainable_variables:
        weight.assign(rng.normal(size=weight.shape))
    return model.trainable_variables


def graph_of(optimizer, weights):
    """The update in a graph, as training runs it."""
    return tf.function(lambda *gradients: optimizer.apply(list(gradients), weights))


def check(optimizer, weights, rates, decays, steps=5, momentum=0.9):
    """Steps with random gradients, next to the rule: `rates` and `decays` of each variable, or functions of the step."""
    optimizer.build(weights)
    apply, rng = graph_of(optimizer, weights), np.random.default_rng(1)
    expected = [(weight.numpy().astype(np.float64), 0.0) for weight in weights]
    for step in range(steps):
        gradients = [rng.normal(size=weight.shape).astype(np.float32) for weight in weights]
        now = rates(step) if callable(rates) else rates
        apply(*gradients)
        expected = [
            momentum_sgd(*state, gradient, rate, momentum, decay)
            for state, gradient, rate, decay in zip(expected, gradients, now, decays, strict=True)
        ]
    for weight, velocity, (value, speed) in zip(weights, optimizer.velocities, expected, strict=True):
        np.testing.assert_allclose(weight, value, rtol=1e-5, atol=1e-6)  # float32 over several steps
        np.testing.assert_allclose(velocity, speed, rtol=1e-5, atol=1e-6)


def test_the_published_rule_and_biases_are_not_decayed():
    check(MomentumSGD(0.1, 0.9, 0.05, 2.0), variables("kernel", "bias"), (0.1, 0.2), (0.05, 0.0), steps=12)


def test_the_learning_rate_can_be_changed_between_steps():
    optimizer = MomentumSGD(0.1, 0.9, 0.1)

    def rates(step):
        optimizer.learning_rate = 0.1 if step < 2 else 0.01
        return [0.1 if step < 2 else 0.01]

    check(optimizer, variables("kernel"), rates, [0.1])


def test_layers_with_learning_rates_and_decays_of_their_own():
    """The longest start of a layer's name counts; fc8 has what all others have."""
    weights = layers("conv1", "conv2_tower0", "fc10", "fc8")
    multipliers, decays = {"conv": 0.5, "conv2": 0.1}, {"conv": 0.5, "conv2": 0.25, "fc1": 0.0}
    optimizer = MomentumSGD(0.1, 0.9, 0.02, 2.0, multipliers, decays)
    check(optimizer, weights, [0.05, 0.1, 0.01, 0.02, 0.1, 0.2, 0.1, 0.2], [0.5, 0, 0.25, 0, 0, 0, 0.02, 0])


@pytest.mark.parametrize("label", ["conv1", "bias"])
def test_what_is_frozen_does_not_move_by_its_velocity(label):
    weights = layers("conv1", "conv2")
    optimizer = MomentumSGD(0.1, 0.9, 0.01, 1.0, {"conv1": 0.5})
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
    """Updates, the scale and its growth, with an overflow, next to Keras' optimizer of the same name."""
    settings = {"initial_scale": 1024.0, "dynamic_growth_steps": 2}
    reached = []
    for scaling in (LossScale, keras.optimizers.LossScaleOptimizer):
        weights = variables("kernel", "bias", "unused")
        optimizer = scaling(MomentumSGD(0.1), **settings)
        optimizer.build(weights)
        apply = graph_of(optimizer, weights)
        rng, scales = np.random.default_rng(2), []
        for step in range(7):
            gradients = [rng.normal(size=(3, 4)).astype(np.float32) * float(optimizer.scale_loss(1.0)) for _ in "kb"]
            if step == 3:
                gradients[1][0, 0] = np.inf
            apply(*gradients, None)
            scales.append(float(optimizer.dynamic_scale))
        reached.append((scales, [np.array(weight) for weight in weights]))
    assert reached[0][0] == reached[1][0] == [1024, 2048, 2048, 1024, 1024, 2048, 2048]
    np.testing.assert_allclose(reached[0][1], reached[1][1], rtol=1e-6)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"momentum": 1.0}, "momentum must be at least 0 and below 1.*momentum=1.0"),
        ({"weight_decay": -0.1}, "weight_decay must not be negative.*-0.1"),
        ({"bias_learning_rate_multiplier": -1.0}, "bias must not be negative.*-1.0"),
        ({"layer_weight_decays": {"fc10": -3.0}}, "fc10 must not be negative.*-3.0"),
    ],
)
def test_wrong_arguments_are_named(settings, words):
    with pytest.raises(ArgumentError, match=words):
        MomentumSGD(**settings)
