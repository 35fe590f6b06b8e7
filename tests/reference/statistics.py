"""Mean image (section 2) and covariance of the RGB values (section 4.1) of a set of images."""

import numpy as np


def mean_and_covariance(images):
    """Two passes: means first, then products of deviations from the mean.

    Of images, uint8 (N, H, W, 3): the mean image, float64 (H, W, 3); the mean of all pixels (3,); and their covariance
    (3, 3), divided by the count of pixels, not by the count less one.
    """
    count, height, width, _ = images.shape

    total = np.zeros((height, width, 3))
    for image in images:
        total += image.astype(np.float64)
    mean_image = total / count
    rgb_mean = total.sum(axis=(0, 1)) / (count * height * width)

    products = np.zeros((3, 3))
    for image in images:
        deviation = image.astype(np.float64) - rgb_mean
        for a in range(3):
            for b in range(3):
                products[a, b] += (deviation[..., a] * deviation[..., b]).sum()
    return mean_image, rgb_mean, products / (count * height * width)
