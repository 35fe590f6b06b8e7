import numpy as np
import pytest

from keras_alexnet.data import views


@pytest.fixture
def image():
    """Every pixel says where it is: row, column, 0."""
    rows, columns = np.meshgrid(np.arange(256), np.arange(256), indexing="ij")
    return np.stack([rows, columns, np.zeros_like(rows)], axis=-1).astype(np.uint8)


@pytest.mark.parametrize(("size", "margin"), [(224, 32), (227, 29)])
def test_ten_views_are_the_releases_in_its_order(image, size, margin):
    found = views.ten(np.stack([image, 255 - image]), size).numpy()
    assert found.shape == (2, 10, size, size, 3) and found.dtype == np.uint8
    middle = margin // 2
    corners = [(0, 0), (0, margin), (middle, middle), (margin, 0), (margin, margin)]
    for place, (row, column) in enumerate(corners):
        part = image[row : row + size, column : column + size]
        np.testing.assert_array_equal(found[0, place], part)
        np.testing.assert_array_equal(found[0, place + 5], part[:, ::-1])
        np.testing.assert_array_equal(found[1, place], 255 - part)


def test_the_third_view_is_the_center_view(image):
    np.testing.assert_array_equal(views.ten(image, 224)[2], views.center(image, 224))
    assert views.center(image, 224)[0, 0].tolist() == [16, 16, 0]
    assert views.center(image, 227)[0, 0].tolist() == [14, 14, 0]
