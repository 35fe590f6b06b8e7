from functools import cache

import numpy as np
import pytest
import tensorflow as tf

from keras_alexnet.data import augmentation as augment
from tests.data.conftest import photo
from tests.reference import color as reference
from tests.reference.statistics import mean_and_covariance

DRAWS = 20_000
FAR = 5.0  # standard errors that a sample may be off: a noise 3 % too strong shows
# In 0..255 units, strongly correlated channels; two eigenvalues of the other are 0, which rounding may make negative.
NATURAL = np.array([[5000.0, 4700.0, 4300.0], [4700.0, 4900.0, 4600.0], [4300.0, 4600.0, 5300.0]])
GREY = np.full((3, 3), 4000.0)
NOISE = {"eigenvalue": reference.paper_noise_covariance, "stddev": reference.release_noise_covariance}


@pytest.mark.parametrize(("size", "margin"), [(224, 32), (227, 29)])
def test_ten_crops_are_the_releases_in_its_order(size, margin):
    image = np.asarray(photo(256, 256))
    found, middle = augment.ten_crops(np.stack([image, 255 - image]), size).numpy(), margin // 2
    assert found.shape == (2, 10, size, size, 3) and found.dtype == np.uint8
    for place, (row, column) in enumerate([(0, 0), (0, margin), (middle, middle), (margin, 0), (margin, margin)]):
        part = image[row : row + size, column : column + size]
        np.testing.assert_array_equal(found[0, place], part)
        np.testing.assert_array_equal(found[0, place + 5], part[:, ::-1])
        np.testing.assert_array_equal(found[1, place], 255 - part)
    np.testing.assert_array_equal(found[0, 2], augment.center_crop(image, size))


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("count", [1, 5])
def test_each_device_makes_its_own_input_of_the_crops(aligned, count):
    rng = np.random.default_rng(count)
    mean_image = rng.uniform(90, 160, (256, 256, 3)).astype(np.float32)
    crops = rng.integers(0, 256, (count, 224, 224, 3)).astype(np.uint8)
    (rows, columns), reflected = rng.integers(0, 33, (2, count)), rng.integers(0, 2, count)
    noise = rng.normal(0, 20, (count, 3)).astype(np.float32)
    factors = np.float32(1) / rng.choice(np.array([1, 1.1], np.float32), count)
    means = mean_image[None, 16:240, 16:240].repeat(count, axis=0)
    if aligned:
        parts = [mean_image[row : row + 224, column : column + 224] for row, column in zip(rows, columns, strict=True)]
        means = np.stack([part[:, ::-1] if turned else part for part, turned in zip(parts, reflected, strict=True)])
    seen = np.stack([crop[:, ::-1] if turned else crop for crop, turned in zip(crops, reflected, strict=True)])
    expected = (seen.astype(np.float32) - means + noise[:, None, None]) * factors[:, None, None, None]
    adjustments = np.column_stack([rows, columns, reflected, noise, factors]).astype(np.float32)
    preprocess = augment.Preprocessing(mean_image, 224, aligned, ("CPU:0", "CPU:1"))
    # One pass rounds as these operations do in this order.
    for made, device in zip(preprocess((crops, adjustments)), preprocess.devices, strict=True):
        np.testing.assert_array_equal(made, expected)
        assert made.device.endswith(device)


@cache
def drawn(count=DRAWS, run=7, epoch=1, start=0, margin=32, positions=33):
    (values,) = augment.draws(run, epoch, start, margin, positions).take(count).batch(count).as_numpy_iterator()
    assert values.shape == (count, 6) and values.dtype == np.float32
    return values


def views(**options):
    return drawn(**options)[:, :3].astype(np.int32).T


def factors(**options):
    return drawn(**options)[:, 3:]


def assert_uniform(values, kinds):
    """Chi-square of how often each of 0 .. kinds - 1 occurs; its cube root is about normal."""
    counts, expected, freedom = np.bincount(values, minlength=kinds), len(values) / kinds, kinds - 1
    assert len(counts) == kinds
    square, variance = ((counts - expected) ** 2 / expected).sum(), 2 / (9 * freedom)
    assert abs((square / freedom) ** (1 / 3) - (1 - variance)) < FAR * np.sqrt(variance)


def assert_uncorrelated(a, b):
    assert abs(np.corrcoef(a, b)[0, 1]) < FAR / np.sqrt(len(a))


def assert_noise(noise, covariance):
    assert noise.shape == (DRAWS, 3) and noise.dtype == np.float32
    noise, deviation = noise.astype(np.float64), np.sqrt(np.diag(covariance))
    # 1e-4 grey levels: float32 leaves some noise along components that have none.
    assert np.all(np.abs(noise.mean(0)) < FAR * deviation / np.sqrt(DRAWS) + 1e-4)
    # The standard error of a covariance of normal numbers is sqrt((c_ii c_jj + c_ij^2) / n).
    error = np.sqrt((np.outer(deviation, deviation) ** 2 + covariance**2) / DRAWS)
    assert np.all(np.abs(noise.T @ noise / DRAWS - covariance) < FAR * error + 1e-8)


@pytest.mark.parametrize("margin, positions, first", [(32, 33, 0), (32, 32, 0), (29, 30, 0), (32, 1, 16)], ids=str)
def test_every_view_is_drawn_equally_often(margin, positions, first):
    rows, columns, reflect = views(margin=margin, positions=positions)
    for offsets in (rows, columns):
        assert set(offsets) == set(range(first, first + positions))
    # The 2178, 2048 or 1800 views as a whole: rows, columns and reflections do not go together either.
    assert_uniform(((rows - first) * positions + columns - first) * 2 + reflect, 2 * positions**2)


def test_draws_are_of_their_place_alone():
    np.testing.assert_array_equal(drawn(count=500), drawn.__wrapped__(count=500))
    for start in (1, 1023, 1024, 5000):
        np.testing.assert_array_equal(drawn(count=300, start=start), drawn()[start : start + 300])
    without = np.stack(list(augment.draws(7, 1, 3, 32, 33, reflections=False).take(200).as_numpy_iterator()))
    np.testing.assert_array_equal(without, drawn()[3:203] * [1, 1, 0, 1, 1, 1])


def test_draws_are_independent():
    others = {"run": 8}, {"epoch": 2}, {"run": 1, "epoch": 7}
    for other in others:
        # Two independent views have the same row in 1 of 33 cases, and so on.
        for first, second, chance in zip(views(), views(**other), (1 / 33, 1 / 33, 1 / 2), strict=True):
            assert abs(np.mean(first == second) - chance) < FAR * np.sqrt(chance * (1 - chance) / DRAWS)
            assert_uncorrelated(first, second)
    for values in drawn().T:  # of neighbors, and of blocks of 1024
        assert_uncorrelated(values[1:], values[:-1])
        assert_uncorrelated(values[1024:], values[:-1024])
    for values in views():
        for channel in factors().T:
            assert_uncorrelated(values, channel)
    # No draw comes again: neither at another place of the epoch, nor at one of another epoch or run.
    everything = np.concatenate([factors(), *(factors(**other) for other in others)])
    assert len(np.unique(everything, axis=0)) == len(everything)
    assert_noise(factors(), np.eye(3))


@pytest.mark.parametrize("scale, stddev", [("eigenvalue", 0.1), ("stddev", 0.25)])
def test_noise(scale, stddev):
    for covariance in (NATURAL, GREY):
        matrix = augment.noise_matrix(covariance, scale, stddev)
        expected = NOISE[scale](covariance, stddev)
        # float32 numbers: relative errors of 6e-8 each, here relative to the largest entry.
        np.testing.assert_allclose(matrix.astype(float) @ matrix.T, expected, rtol=0, atol=1e-6 * expected.max())
    # Along the components of each of two images in one batch.
    images = np.stack([photo(14, 9, seed=4), photo(14, 9, seed=5)])
    batch = np.concatenate([np.broadcast_to(image, (DRAWS, *image.shape)) for image in images])
    both = tf.constant(np.concatenate([factors(), factors(epoch=2)]))
    noise = augment.image_noise(both, tf.constant(batch), scale, stddev).numpy()
    for image, its_noise in zip(images, np.split(noise, 2), strict=True):
        assert_noise(its_noise, NOISE[scale](mean_and_covariance(image[None])[2], stddev))


@pytest.mark.parametrize("scale", NOISE)
def test_image_noise_of_difficult_images(scale):
    # Sums over 50,176 values near 255 in float32 must not lose the small deviations that the noise follows.
    image = (255 - np.random.default_rng(0).integers(0, 3, (224, 224, 1)) * [1, 2, 3]).astype(np.uint8)
    _, _, covariance = mean_and_covariance(image[None])
    draw, direction = tf.constant(factors(count=1)), np.linalg.eigh(covariance)[1][:, 2]
    noise = augment.image_noise(draw, image[None], scale, 0.1).numpy()[0]
    # Along one direction; float32 leaves less than 1 % elsewhere. The sign of an eigenvector is free.
    along = noise @ direction
    assert abs(along) > 0 and np.linalg.norm(noise - along * direction) < 0.01 * abs(along)
    same_draws = augment.noise_matrix(covariance, scale, 0.1) @ factors(count=1)[0]
    np.testing.assert_allclose(abs(along), abs(same_draws @ direction), rtol=1e-3)
    # Of one color there is none, but for roundings of the mean.
    noise = augment.image_noise(draw, np.full((1, 224, 224, 3), (250, 17, 130), np.uint8), scale, 0.1).numpy()
    assert np.all(np.isfinite(noise)) and np.abs(noise).max() < 1e-3
