import numpy as np
import pytest

from keras_alexnet import AlexNet
from keras_alexnet.training.filters import conv1_grid


@pytest.mark.parametrize("width, per_line, lines", [(1 / 16, 3, 1), (1, 16, 3), (0.5, 16, 2)])
@pytest.mark.parametrize("towers", [1, 2])
def test_one_block_of_filters_per_tower(towers, width, per_line, lines):
    model = AlexNet(3, towers=towers, width=width, seed=1)
    kernels = [layer.kernel for layer in model.layers if layer.name.startswith("conv1")]
    weights = np.concatenate([kernel.numpy() for kernel in kernels], axis=-1)  # (11, 11, 3, filters)
    grid = conv1_grid(model, scale=1)
    assert grid.shape == (2 * lines * 12 + 4, per_line * 12, 3) and grid.dtype == np.uint8
    shades = np.round((weights / np.abs(weights).max() * 0.5 + 0.5) * 255)
    half = weights.shape[-1] // 2
    for index in range(weights.shape[-1]):
        tower, place = divmod(index, half)
        row = tower * (lines * 12 + 4) + place // per_line * 12
        column = place % per_line * 12
        np.testing.assert_allclose(grid[row : row + 11, column : column + 11], shades[..., index], atol=1)
        assert np.all(grid[row + 11, column : column + 11] == 255)


def test_scale_repeats_pixels():
    model = AlexNet(3, width=1 / 16, seed=1)
    np.testing.assert_array_equal(conv1_grid(model, scale=3)[::3, ::3], conv1_grid(model, scale=1))
