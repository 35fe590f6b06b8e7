import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_alexnet.training.optimizer import LossScale, MomentumSGD
from tests.reference.update import momentum_sgd


def variables(*names):
    rng = np.random.default_rng(0)
    return [keras.Variable(rng.normal(size=(3, 4)).astype(np.float32), name=name) for name in names]


def graph_of(optimizer, weights):
    """The update in a graph, as training runs it."""
    return tf.function(lambda *gradients: optimizer.apply(list(gradients), weights))


def run(optimizer, weights, steps, before_step=lambda step: None):
    """Several steps; returns the gradients given."""
    apply = graph_of(optimizer, weights)
    rng, given = np.random.default_rng(1), []
    for step in range(steps):
        before_step(step)
        given.append([rng.normal(size=(3, 4)).astype(np.float32) for _ in weights])
        apply(*given[-1])
    return given


def test_several_steps_are_the_published_rule_and_biases_are_not_decayed():
    kernel, bias = weights = variables("kernel", "bias")
    expected = {name: (weight.numpy().astype(np.float64), 0.0) for name, weight in zip("kb", weights, strict=True)}
    optimizer = MomentumSGD(0.1, 0.9, 0.05, 2.0)
    for kernel_gradient, bias_gradient in run(optimizer, weights, 12):
        expected["k"] = momentum_sgd(*expected["k"], kernel_gradient, 0.1, 0.9, 0.05)
        expected["b"] = momentum_sgd(*expected["b"], bias_gradient, 0.2, 0.9, 0.0)
    np.testing.assert_allclose(kernel, expected["k"][0], rtol=1e-5, atol=1e-6)  # float32 over 12 steps
    np.testing.assert_allclose(bias, expected["b"][0], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(optimizer.velocities[0], expected["k"][1], rtol=1e-5, atol=1e-6)


def test_decay_goes_through_the_momentum_unlike_keras_own():
    """Two steps with a zero gradient tell the rules apart: v2 = -wd lr (m w0 + w1), not -wd lr w1."""
    (kernel,) = weights = variables("kernel")
    start = kernel.numpy().astype(np.float64)
    optimizer = MomentumSGD(0.1, 0.9, 0.5)
    optimizer.apply([np.zeros((3, 4), np.float32)], weights)
    optimizer.apply([np.zeros((3, 4), np.float32)], weights)
    once = start * (1 - 0.05)
    np.testing.assert_allclose(kernel, once - 0.05 * (0.9 * start + once), rtol=1e-5)


def test_the_rate_can_be_changed_between_steps():
    (kernel,) = weights = variables("kernel")
    w, v = kernel.numpy().astype(np.float64), 0.0
    optimizer, rates = MomentumSGD(0.1, 0.9, 0.0), [0.1, 0.1, 0.01, 0.01]

    def cut(step):
        optimizer.learning_rate = rates[step]

    for rate, (gradient,) in zip(rates, run(optimizer, weights, 4, cut), strict=True):
        w, v = momentum_sgd(w, v, gradient, rate, 0.9, 0.0)
    np.testing.assert_allclose(kernel, w, rtol=1e-5, atol=1e-6)


def test_layers_with_a_rate_of_their_own_and_frozen_ones():
    model = keras.Sequential(
        [keras.Input((4,)), keras.layers.Dense(4, name="conv1_tower0"), keras.layers.Dense(4, name="conv2")]
    )
    optimizer = MomentumSGD(0.1, 0.9, 0.01, 1.0, {"conv1": 0.5})
    weights = model.trainable_variables
    optimizer.build(weights)
    one = [np.ones(weight.shape, np.float32) for weight in weights]
    start = [weight.numpy() for weight in weights]
    optimizer.apply(one, weights)
    for weight, was, rate in zip(weights, start, [0.05, 0.05, 0.1, 0.1], strict=True):
        decay = 0.0 if "bias" in weight.name else 0.01
        np.testing.assert_allclose(weight, was - rate * (1 + decay * was), rtol=1e-5, atol=1e-7)
    optimizer.set_multiplier("conv1", 0.0)
    start = [weight.numpy() for weight in weights]
    optimizer.apply(one, weights)
    changed = [bool(np.any(weight.numpy() != was)) for weight, was in zip(weights, start, strict=True)]
    assert changed == [False, False, True, True]  # a frozen layer does not coast on its velocity either


def test_the_longest_start_of_a_layers_name_counts():
    model = keras.Sequential([keras.Input((4,)), *(keras.layers.Dense(4, name=name) for name in ("conv1", "conv2"))])
    optimizer = MomentumSGD(0.1, 0.9, 0.0, 1.0, {"conv": 0.5, "conv1": 0.1})
    optimizer.build(model.trainable_variables)
    start = [weight.numpy() for weight in model.trainable_variables]
    optimizer.apply([np.ones(weight.shape, np.float32) for weight in start], model.trainable_variables)
    steps = [float((was - weight.numpy()).mean()) for was, weight in zip(start, model.trainable_variables, strict=True)]
    assert steps == pytest.approx([0.01, 0.01, 0.05, 0.05], rel=1e-4)


def test_layers_with_a_decay_of_their_own():
    names = ("conv1", "conv2_tower0", "fc10")
    model = keras.Sequential([keras.Input((4,)), *(keras.layers.Dense(4, name=name) for name in names)])
    weights = model.trainable_variables
    optimizer = MomentumSGD(0.1, 0.9, 0.02, 2.0, layer_weight_decays={"conv": 0.5, "conv2": 0.25, "fc1": 0.0})
    optimizer.build(weights)
    rng = np.random.default_rng(0)
    for weight in weights:
        weight.assign(rng.normal(size=weight.shape))
    decays = [0.5, 0.0, 0.25, 0.0, 0.0, 0.0]  # kernel and bias of each layer; the longest start counts
    rates = [0.1, 0.2] * 3
    expected = [(weight.numpy().astype(np.float64), 0.0) for weight in weights]
    apply = graph_of(optimizer, weights)
    for _ in range(5):
        gradients = [rng.normal(size=weight.shape).astype(np.float32) for weight in weights]
        apply(*gradients)
        expected = [
            momentum_sgd(*state, gradient, rate, 0.9, decay)
            for state, gradient, rate, decay in zip(expected, gradients, rates, decays, strict=True)
        ]
    for weight, (value, _) in zip(weights, expected, strict=True):
        np.testing.assert_allclose(weight, value, rtol=1e-5, atol=1e-6)


def test_layers_without_a_decay_of_their_own_have_the_common_one():
    model = keras.Sequential([keras.Input((4,)), *(keras.layers.Dense(4, name=name) for name in ("conv1", "fc10"))])
    weights = model.trainable_variables
    optimizer = MomentumSGD(0.1, 0.9, 0.02, layer_weight_decays={"fc": 3.0})
    optimizer.build(weights)
    start = [weight.numpy() for weight in weights]
    optimizer.apply([np.zeros(weight.shape, np.float32) for weight in weights], weights)
    for weight, was, decay in zip(weights, start, [0.02, 0.0, 3.0, 0.0], strict=True):
        np.testing.assert_allclose(weight, was * (1 - 0.1 * decay), rtol=1e-6)


def test_biases_with_a_rate_of_zero_stand_still():
    kernel, bias = weights = variables("kernel", "bias")
    optimizer = MomentumSGD(0.1)
    run(optimizer, weights, 2)
    optimizer.set_multiplier("bias", 0.0)
    was = kernel.numpy(), bias.numpy()
    run(optimizer, weights, 2)
    assert np.all(bias.numpy() == was[1]) and np.all(kernel.numpy() != was[0])


def test_configuration_round_trip():
    optimizer = MomentumSGD(0.02, 0.8, 0.001, 2.0, {"conv1": 0.1}, {"fc10": 3.0})
    again = MomentumSGD.from_config(optimizer.get_config())
    assert again.layer_decays == {"fc10": 3.0}
    assert again.get_config() == optimizer.get_config()
    assert again.momentum == 0.8 and again.kernel_decay == 0.001


def test_loss_scaling_of_float16_is_keras_own():
    """Updates, the scale and its growth, with an overflow on the way, next to Keras' optimizer of the same name."""
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
    "settings, words",
    [
        ({"momentum": 1.0}, "momentum must be at least 0 and below 1.*momentum=1.0"),
        ({"weight_decay": -0.1}, "weight_decay must not be negative.*-0.1"),
        ({"bias_learning_rate_multiplier": -1.0}, "bias must not be negative.*-1.0"),
        ({"layer_weight_decays": {"fc10": -3.0}}, "fc10 must not be negative.*-3.0"),
    ],
)
def test_wrong_arguments_are_named(settings, words):
    with pytest.raises(ValueError, match=words):
        MomentumSGD(**settings)
