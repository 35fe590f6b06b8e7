"""Explanations against plain NumPy, on networks small enough to follow."""

import keras
import numpy as np
import pytest

from keras_alexnet import AlexNet
from keras_alexnet.errors import ArgumentError
from keras_alexnet.model import explanations, weights
from tests.reference.convolution import convolve
from tests.reference.normalization import local_response_normalization
from tests.runs import REMOVED

TOWERS, CLASSES = 2, 3


@pytest.fixture(scope="module")
def tiny():
    """conv5 of two towers, two maps each, and fc8: the last layers of an AlexNet."""
    image = keras.Input((8, 8, 3))
    towers = [keras.layers.Conv2D(2, 3, padding="same", name=f"conv5_tower{each}")(image) for each in range(TOWERS)]
    towers = [keras.layers.Activation("relu", name=f"relu5_tower{each}")(part) for each, part in enumerate(towers)]
    flat = keras.layers.Concatenate()([keras.layers.Flatten()(part) for part in towers])
    model = keras.Model(image, keras.layers.Dense(CLASSES, name="fc8")(flat))
    for index, weight in enumerate(model.weights):
        weight.assign(keras.random.normal(weight.shape, stddev=0.5, seed=index))
    return model


def numpy_maps(model, images):
    """What the towers of `tiny` answer: list of float64 (B, 8, 8, 2)."""
    layers = [model.get_layer(f"conv5_tower{tower}") for tower in range(TOWERS)]
    return [np.maximum(convolve(images, *layer.get_weights(), 1, ((1, 1), (1, 1))), 0) for layer in layers]


def numpy_probabilities(model, images):
    kernel, bias = model.get_layer("fc8").get_weights()
    flat = np.concatenate([maps.reshape(len(images), -1) for maps in numpy_maps(model, images)], axis=1)
    scores = np.exp(flat @ kernel + bias)
    return scores / scores.sum(axis=1, keepdims=True)


def images_of(size, count):
    return np.random.default_rng(0).normal(size=(count, size, size, 3)).astype(np.float32)


def test_grad_cam(tiny):
    images, labels = images_of(8, 4), [0, 1, 2, 0]
    towers, joined = explanations.grad_cam(tiny, images, labels)
    kernel = tiny.get_layer("fc8").kernel.numpy().reshape(TOWERS, 8, 8, 2, CLASSES)
    sums = []
    for maps, own in zip(numpy_maps(tiny, images), kernel, strict=True):
        # fc8 is linear: its weights are the gradients of its logits.
        sums.append(np.stack([image @ own[..., label].mean((0, 1)) for image, label in zip(maps, labels, strict=True)]))
    np.testing.assert_allclose(towers, np.maximum(sums, 0), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(joined, np.maximum(sum(sums), 0), rtol=1e-4, atol=1e-5)
    assert not np.allclose(joined, sum(towers))  # what speaks against the class counts, too


def test_occlusion(tiny):
    (image,) = images_of(8, 1)
    found = explanations.occlusion(tiny, image, 1, square=3, step=2, batch_size=4)
    expected = np.empty((3, 3))
    for row in range(3):
        for column in range(3):
            covered = image.copy()
            covered[2 * row : 2 * row + 3, 2 * column : 2 * column + 3] = 0
            expected[row, column] = numpy_probabilities(tiny, covered[None])[0, 1]
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    with pytest.raises(ArgumentError, match="square must be at most the image's 8 pixels"):
        explanations.occlusion(tiny, image, 1, square=9)


def test_deconvnet_of_a_hand_made_case():
    """Two maps, pooled in windows of 3 every 2: what comes back goes to the places of the maxima, and is rectified."""
    image = keras.Input((7, 7, 3))
    x = keras.layers.Activation("relu", name="relu1")(keras.layers.Conv2D(2, 1, name="conv1")(image))
    x = keras.layers.MaxPooling2D(3, 2, name="pool1")(x)
    x = keras.layers.Activation("relu", name="relu2")(keras.layers.Conv2D(1, 2, name="conv2")(x))
    model = keras.Model(image, keras.layers.Dense(2, name="fc8")(keras.layers.Flatten()(x)))
    red_and_blue = np.zeros((1, 1, 3, 2), np.float32)
    red_and_blue[0, 0, 0, 0] = 2.0
    red_and_blue[0, 0, 2, 1] = 1.0
    model.get_layer("conv1").set_weights([red_and_blue, np.full(2, 5.0)])
    # Of the first map 1 at the upper left and 3 at the lower right; of the second -1, which a rectifier stops.
    kernel = np.zeros((2, 2, 2, 1), np.float32)
    kernel[0, 0, 0, 0], kernel[1, 1, 0, 0], kernel[0, 1, 1, 0] = 1.0, 3.0, -1.0
    model.get_layer("conv2").set_weights([kernel, np.array([-100.0])])
    pixels = np.zeros((1, 7, 7, 3), np.float32)
    pixels[0, 1, 0, 0], pixels[0, 3, 2, 0], pixels[0, 5, 5, 0], pixels[0, 0, 4, 2] = 40.0, 60.0, 7.0, 30.0
    # Maxima of the first map, 5 + 2 x red: 85, 5, 5 / 125, 125, 5 / 5, 5, 19; of the second, 5 + blue, in the middle of
    # the first line: 35. conv2 at the upper left: 85 + 3 x 125 - 35 - 100 = 325, and elsewhere less.
    values = explanations.feature_maps(model, pixels)["conv2"][0][0, :, :, 0]
    assert values.max() == values[0, 0] == 325
    projected = explanations.project(explanations.deconvnet(model), pixels, "conv2", 0, 0)
    expected = np.zeros_like(pixels)
    expected[0, 1, 0, 0], expected[0, 3, 2, 0] = 325 * 1 * 2, 325 * 3 * 2
    np.testing.assert_allclose(projected, expected)
    assert explanations.patch(projected[0]) == (slice(1, 4), slice(0, 3))
    silent = explanations.project(explanations.deconvnet(model), -pixels, "conv2", 0, 0)
    assert not silent.any() and explanations.patch(silent[0]) == (slice(0, 1), slice(0, 1))


def test_the_square_of_a_patch_stays_inside():
    projection = np.zeros((9, 9, 3))
    projection[8, 1, 2] = projection[7, 6, 0] = -1
    assert explanations.patch(projection) == (slice(3, 9), slice(1, 7))


@pytest.mark.parametrize(
    "settings",
    [{"variant": "release2012"}, {"variant": "owt2014"}, {"topology": "conv6", "activation": "tanh"}]
    + [{"topology": "zf", "dtype": "mixed_bfloat16"}, {"removed_layers": REMOVED}],
    ids=["release2012", "one tower", "conv6 tanh", "zf bfloat16", "conv1 only"],
)
def test_any_network(settings):
    model, images = AlexNet(4, width=1 / 16, devices=(), seed=3, **settings), 60 * images_of(224, 2)
    maps, network = explanations.feature_maps(model, images), explanations.deconvnet(model)
    np.testing.assert_allclose(network(images), model(images), rtol=1e-5)
    np.testing.assert_allclose(explanations.probabilities(model, images), model(images), rtol=1e-5)
    last = explanations.convolutions(model)[-1]
    assert list(maps) == explanations.convolutions(model) and last == max(maps)
    towers, joined = explanations.grad_cam(model, images, [0, 1])
    assert len(towers) == len(maps[last]) and joined.shape == maps[last][0].shape[:3]
    peaks = explanations.peaks(model, images)[last][-1]
    unit = int(peaks[0].argmax())
    projected = explanations.project(network, images, last, len(towers) - 1, unit)
    assert projected.shape == images.shape and projected.dtype == np.float32
    assert np.array_equal(np.abs(projected).max((1, 2, 3)) > 0, peaks[:, unit] > 0)


def test_normalization_of_caffe_is_over_both_towers():
    towers, whole = (AlexNet(3, "caffe", each, width=1 / 16, devices=(), seed=1) for each in (2, 1))
    weights.copy(towers, whole)
    images = 200 * images_of(227, 1)
    parts = explanations.normalization(towers, images)
    (joined,) = explanations.normalization(whole, images)
    for name in ("before", "after"):
        both = np.concatenate([getattr(part, name) for part in parts], axis=-1)
        np.testing.assert_allclose(both, getattr(joined, name), rtol=1e-4, atol=1e-5)
    before = joined.before.astype(np.float64)
    np.testing.assert_allclose(before, explanations.feature_maps(whole, images)["conv1"][0])
    after = local_response_normalization(before, 1.0, 5, 2e-5, 0.75)
    expected = 1 - after.sum((1, 2)) / before.sum((1, 2))
    np.testing.assert_allclose(joined.inhibited(), expected, atol=1e-5)
    assert expected.max() > 0.001 and explanations.normalization(whole, images, "norm9") == []
