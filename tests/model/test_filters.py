import numpy as np
import pytest

from keras_alexnet import AlexNet
from keras_alexnet.model import filters
from tests.runs import REMOVED


@pytest.mark.parametrize(("towers", "width", "per_line", "lines"), [(1, 1 / 16, 3, 1), (2, 1, 16, 3), (2, 0.5, 16, 2)])
def test_one_block_of_filters_per_tower(towers, width, per_line, lines):
    model = AlexNet(3, towers=towers, width=width, removed_layers=REMOVED, seed=1)
    kernels = [layer.kernel for layer in model.layers if layer.name.startswith("conv1")]
    weights = np.concatenate([kernel.numpy() for kernel in kernels], axis=-1)  # (11, 11, 3, filters)
    grid = filters.conv1_grid(model, scale=1)
    assert grid.shape == (2 * lines * 12 + 4, per_line * 12, 3) and grid.dtype == np.uint8
    shades = np.round((weights / np.abs(weights).max() * 0.5 + 0.5) * 255)
    for index in range(weights.shape[-1]):
        tower, place = divmod(index, weights.shape[-1] // 2)
        row, column = tower * (lines * 12 + 4) + place // per_line * 12, place % per_line * 12
        np.testing.assert_allclose(grid[row : row + 11, column : column + 11], shades[..., index], atol=1)
        assert np.all(grid[row + 11, column : column + 11] == 255)
    np.testing.assert_array_equal(filters.conv1_grid(model, scale=3)[::3, ::3], grid)
    smooth = filters.conv1_grid(model, scale=4, smooth=True)
    assert smooth.shape == (4 * grid.shape[0], 4 * grid.shape[1], 3) and np.all(smooth[11 * 4 : 12 * 4] == 255)
    # Between the weights, so that the means of their squares are near them; a constant stays one.
    squares = smooth[: 11 * 4, : 11 * 4].reshape(11, 4, 11, 4, 3).mean((1, 3))
    assert np.corrcoef(squares.ravel(), grid[:11, :11].ravel())[0, 1] > 0.95
    np.testing.assert_allclose(filters.upsampled(np.full((7, 7, 1, 2), 0.3), 3, smooth=True), 0.3, rtol=1e-6)


def test_energy_beyond_the_nyquist_frequency_is_that_of_a_long_fourier_transform():
    place, rng = np.arange(11), np.random.default_rng(0)
    slow, fast = (np.cos(2 * np.pi * frequency * place) * np.hanning(11) for frequency in (0.02, 0.25))
    kernel = np.stack([np.outer(a, b) for a, b in ((slow, slow), (slow, fast), (fast, fast))], axis=-1)
    kernel = np.concatenate([kernel, np.zeros((11, 11, 1)), rng.normal(size=(11, 11, 2))], axis=-1)
    kernel = kernel[:, :, None] * np.array([1.0, -0.5, 0.2])[:, None]
    found = filters.aliasing(kernel, 4)
    power = np.square(np.abs(np.fft.fft2(kernel, (256, 256), axes=(0, 1)))).sum(2)
    inside = np.clip(33 - 256 * np.abs(np.fft.fftfreq(256)), 0, 1) - 0.5 * (np.abs(np.fft.fftfreq(256)) == 1 / 8)
    within, energy = np.einsum("i,j,ijf->f", inside, inside, power), power.sum((0, 1))
    expected = 1 - within[energy > 0] / energy[energy > 0]
    np.testing.assert_allclose(np.delete(found, 3), expected, atol=2e-3)
    assert found[3] == 0 and found[0] < 0.1 < 0.9 < found[1] < found[2]
    random = filters.aliasing(rng.normal(size=(11, 11, 3, 2000)), 2)
    assert random.mean() == pytest.approx(1 - 1 / 4, abs=0.003)


def test_summary_of_a_network():
    model = AlexNet(3, removed_layers=REMOVED, width=0.25, topology="zf", seed=1)
    layer = model.get_layer("conv1_tower1")
    kernel = layer.kernel.numpy()
    kernel[..., 2] *= 0.01
    kernel[..., 3] *= 0.2
    layer.kernel.assign(kernel)
    found = filters.summary(model)
    assert (found["filters"], found["stride"], found["dead"], found["random_aliasing"]) == (24, 2, 1, 0.75)
    assert found["aliasing"] == pytest.approx(0.75, abs=0.05)
