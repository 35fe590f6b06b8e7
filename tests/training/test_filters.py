import numpy as np
import pytest

from keras_alexnet import AlexNet
from keras_alexnet.training.filters import conv1_grid


@pytest.mark.parametrize("towers", [1, 2])
def test_one_row_of_filters_per_tower(towers):
    model = AlexNet(3, towers=towers, width=1 / 16, seed=1)
    kernels = [layer.kernel for layer in model.layers if layer.name.startswith("conv1")]
    weights = np.concatenate([np.asarray(kernel) for kernel in kernels], axis=-1)  # (11, 11, 3, 6)
    grid = conv1_grid(model, scale=1)
    assert grid.shape == (2 * 12, 3 * 12, 3) and grid.dtype == np.uint8
    shades = np.round((weights / np.abs(weights).max() * 0.5 + 0.5) * 255)
    for index in range(6):
        row, column = divmod(index, 3)
        picture = grid[row * 12 : row * 12 + 11, column * 12 : column * 12 + 11]
        np.testing.assert_allclose(picture, shades[..., index], atol=1)


def test_scale_repeats_pixels():
    model = AlexNet(3, width=1 / 16, seed=1)
    np.testing.assert_array_equal(conv1_grid(model, scale=3)[::3, ::3], conv1_grid(model, scale=1))
