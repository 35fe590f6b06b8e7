import keras
import numpy as np
import pytest

from keras_alexnet.paper import cifar_network
from tests.reference.normalization import in_map_normalization, local_response_normalization


def pooled(x, kind):
    """Windows of 3 every 2 that hang over the edge and see what is inside, (B, H, W, C) float64."""
    size = -(-(x.shape[1] - 3) // 2) + 1  # ceil((in - k) / stride) + 1, the release's PoolLayerParser
    y = np.empty((len(x), size, size, x.shape[-1]))
    for row in range(size):
        for column in range(size):
            window = x[:, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
            y[:, row, column] = window.max((1, 2)) if kind == "max" else window.mean((1, 2))
    return y


def convolved(x, kernel, bias):
    """A convolution with zeros around, by its definition."""
    reach, height, width = kernel.shape[0] // 2, *x.shape[1:3]
    padded = np.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    y = np.zeros((*x.shape[:3], kernel.shape[-1]))
    for row in range(kernel.shape[0]):
        for column in range(kernel.shape[1]):
            y += padded[:, row : row + height, column : column + width] @ kernel[row, column]
    return y + bias


def local(x, kernel, bias):
    """A convolution whose filters are each position's own: kernel (H, W, 3 * 3 * C, filters), bias (H, W, filters)."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    y = np.empty((*x.shape[:3], kernel.shape[-1]))
    for row in range(x.shape[1]):
        for column in range(x.shape[2]):
            patch = padded[:, row : row + 3, column : column + 3].reshape(len(x), -1)
            y[:, row, column] = patch @ kernel[row, column] + bias[row, column]
    return y


def computed(model, name, images, activation):
    """The logits by NumPy in float64."""
    w = {
        layer.name: [each.numpy().astype(np.float64) for each in layer.weights]
        for layer in model.layers
        if layer.weights
    }

    def norm(x):
        if name == "18pct":
            return in_map_normalization(x, 3, 5e-5, 0.75)
        if name == "11pct":
            return local_response_normalization(x, 1.0, 5, 2e-4, 0.75)
        return x

    x = images.astype(np.float64)
    if name in ("19pct", "18pct"):
        x = norm(pooled(activation(convolved(x, *w["conv1"])), "max"))
        x = norm(pooled(activation(convolved(x, *w["conv2"])), "mean"))
        x = pooled(activation(convolved(x, *w["conv3"])), "mean")
    else:
        x = pooled(norm(activation(convolved(x, *w["conv1"]))), "max")
        x = pooled(norm(activation(convolved(x, *w["conv2"]))), "max")
        x = activation(local(x, *w["local3"]))
        x = activation(local(x, *w["local4"]))
    kernel, bias = w["fc10"]
    return x.reshape(len(x), -1) @ kernel + bias


def relu(x):
    return np.maximum(x, 0)


@pytest.mark.parametrize("size", [32, 24])
@pytest.mark.parametrize("name", cifar_network.NETWORKS)
def test_each_network_is_what_the_layer_file_says(name, size):
    model = cifar_network.build(name, size=size, seed=1)
    rng = np.random.default_rng(0)
    for weight in model.trainable_variables:  # wide enough that every layer matters, and biases that are not 0
        weight.assign(rng.normal(0, 1 / np.sqrt(np.prod(weight.shape[-3:-1]) + 1), weight.shape))
    images = rng.normal(0, 60, (2, size, size, 3)).astype(np.float32)
    expected = computed(model, name, images, relu)
    np.testing.assert_allclose(model(images), expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


def test_tanh_instead_of_relu():
    model = cifar_network.build("18pct", activation="tanh", seed=1)
    model.get_layer("conv1").kernel.assign(model.get_layer("conv1").kernel * 100)
    images = np.random.default_rng(0).normal(0, 60, (2, 32, 32, 3)).astype(np.float32)
    expected = computed(model, "18pct", images, np.tanh)
    np.testing.assert_allclose(model(images), expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize(
    ("name", "count"),
    [
        # 5*5*3*32+32, 5*5*32*32+32, 5*5*32*64+64, 4*4*64*10+10
        ("19pct", 2432 + 25632 + 51264 + 10250),
        ("18pct", 2432 + 25632 + 51264 + 10250),
        # 5*5*3*64+64, 5*5*64*64+64, 8*8*(3*3*64*32+32), 8*8*(3*3*32*32+32), 8*8*32*10+10
        ("13pct", 4864 + 102464 + 1181696 + 591872 + 20490),
        ("11pct", 4864 + 102464 + 1181696 + 591872 + 20490),
    ],
)
def test_parameters_and_maps(name, count):
    model = cifar_network.build(name)
    assert model.count_params() == count
    sizes = [layer.output.shape[1] for layer in model.layers if layer.name.startswith("pool")]
    assert sizes == ([16, 8, 4] if name in ("19pct", "18pct") else [16, 8])
    assert model.output_shape == (None, 10) and model.output.dtype == "float32"


@pytest.mark.parametrize(
    ("name", "deviations"),
    [
        ("19pct", {"conv1": 1e-4, "conv2": 0.01, "conv3": 0.01, "fc10": 0.01}),
        ("13pct", {"conv1": 1e-4, "conv2": 0.01, "local3": 0.04, "local4": 0.04, "fc10": 0.01}),
    ],
)
def test_the_start(name, deviations):
    model = cifar_network.build(name, seed=5)
    for layer, deviation in deviations.items():
        kernel, bias = (each.numpy() for each in model.get_layer(layer).weights)
        # The spread of an estimated deviation is about 1 / sqrt(2 n): 1 % for the 4,800 weights of conv1.
        assert kernel.std() == pytest.approx(deviation, rel=0.05) and abs(kernel.mean()) < 0.05 * deviation
        assert not bias.any()


def test_the_seed_decides_the_weights_of_every_layer():
    first, again, other = (cifar_network.build("13pct", seed=seed).get_weights() for seed in (1, 1, 2))
    kernels = [place for place, weight in enumerate(first) if weight.any()]
    assert len(kernels) == 5
    for place in kernels:
        np.testing.assert_array_equal(first[place], again[place])
        assert not np.array_equal(first[place], other[place])
    local3, local4 = (first[place].ravel()[:1000] for place in kernels[2:4])
    assert not np.array_equal(local3, local4)  # of the same deviation: layers do not share their numbers


def test_a_locally_connected_layer_is_saved_and_read_back(tmp_path):
    layer = cifar_network.LocallyConnected2D(4, 3, kernel_initializer=keras.initializers.RandomNormal(stddev=0.1))
    model = keras.Sequential([keras.Input((5, 6, 2)), layer])
    layer.bias.assign(np.random.default_rng(1).normal(size=layer.bias.shape))
    path = tmp_path / "model.keras"
    model.save(path)
    x = np.random.default_rng(0).normal(size=(2, 5, 6, 2)).astype(np.float32)
    again = keras.saving.load_model(path)
    np.testing.assert_array_equal(again(x), model(x))
    expected = local(x.astype(np.float64), layer.kernel.numpy(), layer.bias.numpy())
    np.testing.assert_allclose(model(x), expected, rtol=1e-5, atol=1e-6)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="name must be one of 19pct, 18pct, 13pct, 11pct.*'12pct'"):
        cifar_network.build("12pct")
    with pytest.raises(ValueError, match="padding must be same.*'valid'"):
        cifar_network.LocallyConnected2D(4, 3, padding="valid")
