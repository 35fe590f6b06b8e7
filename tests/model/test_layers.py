import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_alexnet.model.layers import ChannelShare, Copies, Dropout, InMapNormalization, LocalResponseNormalization
from tests.reference import dropout as dropout_reference, normalization as reference

# Both sides compute x / (...)^0.75; float32 keeps 7 digits and loses one in the power and the sum.
RELATIVE = 2e-5
PAPER = {"k": 2.0, "n": 5, "alpha": 1e-4, "beta": 0.75}
OTHER = {"k": 0.5, "n": 3, "alpha": 0.7, "beta": 0.5}


def activations(shape, scale=100.0, seed=0):
    return (np.random.default_rng(seed).normal(size=shape) * scale).astype(np.float32)


@pytest.mark.parametrize("settings", [PAPER, OTHER], ids=["paper", "other"])
@pytest.mark.parametrize("channels", [1, 3, 48], ids=lambda c: f"{c}ch")
def test_response_normalization_is_the_formula(settings, channels):
    x = activations((2, 3, 4, channels), scale=3.0 if settings is OTHER else 100.0)
    y = LocalResponseNormalization(**settings)(x)
    np.testing.assert_allclose(y, reference.local_response_normalization(x, **settings), rtol=RELATIVE)


def test_response_normalization_of_any_rows_and_columns():
    layer, x = LocalResponseNormalization(groups=2), activations((2, 3, 4, 10))
    unknown = tf.function(layer).get_concrete_function(tf.TensorSpec((None, None, None, 10)))
    np.testing.assert_array_equal(unknown(tf.constant(x)), layer(x))


@pytest.mark.parametrize("on_gpu", [False, True], ids=["band", "kernel"])
@pytest.mark.parametrize("settings", [PAPER, {"k": 1, "n": 3, "alpha": 0.7, "beta": 0.5}], ids=["paper", "other"])
def test_groups_and_gradients_are_those_of_tensorflows_kernel(settings, on_gpu, monkeypatch):
    """Where there is a GPU the kernel is used; elsewhere the band product, with a gradient of its own."""
    monkeypatch.setattr(tf.config, "list_logical_devices", lambda kind=None: ["GPU:0"] if on_gpu else [])
    x, weight = activations((2, 3, 4, 10)), activations((2, 3, 4, 10), scale=1.0, seed=1)

    def value_and_gradient(function):
        variable = tf.constant(x)
        with tf.GradientTape() as tape:
            tape.watch(variable)
            y = function(variable)
            total = tf.reduce_sum(y * weight)
        return y, tape.gradient(total, variable)

    layer = LocalResponseNormalization(**settings, groups=2)
    graph = tf.function(layer).get_concrete_function(tf.TensorSpec(x.shape)).graph
    assert ("LRN" in {op.type for op in graph.get_operations()}) == on_gpu
    names = {"k": "bias", "alpha": "alpha", "beta": "beta"}
    given = {names[name]: number for name, number in settings.items() if name != "n"}

    def tensorflows(v):
        halves = tf.split(v, 2, axis=-1)
        return tf.concat([tf.nn.local_response_normalization(h, settings["n"] // 2, **given) for h in halves], axis=-1)

    expected = value_and_gradient(tensorflows)
    for ours, theirs in zip(value_and_gradient(layer), expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=RELATIVE * np.abs(theirs).max())
    whole = reference.local_response_normalization(x, **settings)
    assert np.abs(layer(x) - whole).max() > 1e-3  # a window over the border between the groups would have shown


@pytest.mark.parametrize("settings", [{}, {"size": 3, "scale": 0.02, "power": 0.4}], ids=["release", "other"])
def test_in_map_normalization_is_the_formula_at_borders_too(settings):
    x = activations((2, 7, 6, 3))
    expected = reference.in_map_normalization(x, **settings)
    np.testing.assert_allclose(InMapNormalization(**settings)(x), expected, rtol=RELATIVE)


@pytest.mark.parametrize("layer", [LocalResponseNormalization, InMapNormalization])
def test_bfloat16_in_gives_bfloat16_out_computed_in_float32(layer):
    x = tf.cast(activations((1, 4, 4, 6)), tf.bfloat16)
    y = layer(dtype="mixed_bfloat16")(x)
    expected = tf.cast(layer()(tf.cast(x, tf.float32)), tf.bfloat16)
    assert y.dtype == tf.bfloat16
    np.testing.assert_array_equal(tf.cast(y, tf.float32), tf.cast(expected, tf.float32))


def test_dropout_in_training_keeps_or_zeroes_and_never_rescales():
    layer, x = Dropout(0.3, seed=1), activations((400, 100))
    y = layer(x, training=True).numpy()
    kept = y != 0
    np.testing.assert_array_equal(y, dropout_reference.training(x, kept))
    # 40,000 fair draws: five standard deviations are 0.0115.
    assert abs(kept.mean() - 0.7) < 0.0115
    again = layer(x, training=True).numpy() != 0  # drawn anew for each unit, image and step
    assert abs((kept == again).mean() - (0.7**2 + 0.3**2)) < 0.0125
    assert len({row.tobytes() for row in kept}) == 400
    np.testing.assert_allclose(layer(x, training=False), dropout_reference.inference(x, 0.3), rtol=1e-6)


@pytest.mark.parametrize(
    "layer",
    [
        LocalResponseNormalization(1.0, 3, 0.1, 0.5, groups=2),
        InMapNormalization(3, 0.1, 0.5),
        Dropout(0.2, seed=3),
        ChannelShare(0.5, 1),
        Copies(2),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_configuration_round_trip(layer):
    again = keras.layers.deserialize(keras.layers.serialize(layer))
    x = activations((1, 4, 4, 4))
    assert again.get_config() == layer.get_config()
    np.testing.assert_array_equal(again(x), layer(x))
    if isinstance(layer, ChannelShare):
        np.testing.assert_array_equal(layer(x), x[..., 2:])


@pytest.mark.parametrize("layer", [LocalResponseNormalization(), Dropout(0.5)])
def test_a_layer_in_a_layer_of_keras(layer):
    assert keras.layers.TimeDistributed(layer)(keras.Input((3, 4, 4, 8))).shape == (None, 3, 4, 4, 8)


def test_wrong_arguments_are_named():
    for make, words in (
        (lambda: LocalResponseNormalization(n=4), "n must be an odd number.*n=4"),
        (lambda: LocalResponseNormalization(k=0), "k must be positive.*k=0"),
        (lambda: LocalResponseNormalization(groups=0), "groups must be at least 1.*groups=0"),
        (lambda: LocalResponseNormalization(groups=2)(activations((1, 1, 1, 3))), "3 channels do not divide"),
        (lambda: InMapNormalization(size=2), "size must be an odd number.*size=2"),
        (lambda: Dropout(1.0), "rate must be a probability.*rate=1.0"),
    ):
        with pytest.raises(ValueError, match=words):
            make()
