"""The color noise of section 4.1 and of the release (convdata_jpeg.py), as covariances of what is added."""

import numpy as np


def paper_noise_covariance(covariance_255, stddev=0.1):
    """Section 4.1: [p1 p2 p3] [a1 l1, a2 l2, a3 l3]^T is added to each pixel, a_i ~ N(0, stddev^2).

    The eigenvalues l are those of pixels scaled to 0..1; the noise is brought back to 0..255 units. Its covariance,
    float64 (3, 3), is the sum of variance(255 a_i l_i) p_i p_i^T. `covariance_255` is that of RGB values in 0..255.
    """
    eigenvalues, vectors = np.linalg.eigh(np.asarray(covariance_255, np.float64) / 255**2)
    total = np.zeros((3, 3))
    for i in range(3):
        total += (255 * stddev * eigenvalues[i]) ** 2 * np.outer(vectors[:, i], vectors[:, i])
    return total


def release_noise_covariance(covariance_255, stddev=0.1):
    """Release, convdata_jpeg.py: stddev * V (sigma * g) is added, g ~ N(0, I), before the division by 1.1.

    sigma are standard deviations: the square roots of the eigenvalues of the covariance in 0..255 units.
    """
    eigenvalues, vectors = np.linalg.eigh(np.asarray(covariance_255, np.float64))
    total = np.zeros((3, 3))
    for i in range(3):
        sigma = np.sqrt(max(0.0, eigenvalues[i]))  # rounding may push an eigenvalue of 0 below 0
        total += (stddev * sigma) ** 2 * np.outer(vectors[:, i], vectors[:, i])
    return total
