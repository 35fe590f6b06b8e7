"""Section 4.1: which views are drawn, and the color noise, against the NumPy reference's covariances."""

from functools import cache

import numpy as np
import pytest
import tensorflow as tf

from keras_alexnet.data import augmentation as augment
from tests.data.conftest import photo
from tests.reference import color as reference
from tests.reference.statistics import mean_and_covariance

DRAWS = 20_000
# Standard errors that a sample may be off. The seeds are fixed, so no test fails now and then; one sample in
# two million is further off, and what is wrong shows: an offset drawn a third too often or too rarely, a
# noise 3 % too strong.
FAR = 5.0

POSITIONS = {
    "33_of_33": (32, 33, 0),
    "32_of_33": (32, 32, 0),
    "30_of_30": (29, 30, 0),
    "1_of_33": (32, 1, 16),
}

# Of pixels in 0..255 units, about as of photographs: strongly correlated channels.
PHOTOGRAPHS = np.array([[5000.0, 4700.0, 4300.0], [4700.0, 4900.0, 4600.0], [4300.0, 4600.0, 5300.0]])
COVARIANCES = {
    "photographs": PHOTOGRAPHS,
    "uncorrelated": np.diag([400.0, 2500.0, 6400.0]),
    "grey": np.full((3, 3), 4000.0),  # two eigenvalues are 0, which rounding may make negative
}
NOISE = {
    "eigenvalue": reference.paper_noise_covariance,
    "stddev": reference.release_noise_covariance,
}


@cache
def drawn(count=DRAWS, run=7, epoch=1, start=0, margin=32, positions=33):
    """float32 (count, 6): what the pipeline draws for so many places of an epoch."""
    places = augment.draws(run, epoch, start, margin, positions).take(count).batch(count)
    (values,) = places.as_numpy_iterator()
    assert values.shape == (count, 6) and values.dtype == np.float32
    return values


def views(margin=32, positions=33, **options):
    """rows, columns: int; reflected: bool."""
    values = drawn(margin=margin, positions=positions, **options)
    whole = values[:, :3].astype(np.int32)
    np.testing.assert_array_equal(whole, values[:, :3])
    assert set(whole[:, 2]) <= {0, 1}
    return whole[:, 0], whole[:, 1], whole[:, 2].astype(bool)


def factors(**options):
    return drawn(**options)[:, 3:]


def assert_uniform(values, kinds):
    """Chi-square of how often each of 0 .. kinds - 1 occurs; its cube root is about normal."""
    counts = np.bincount(values, minlength=kinds)
    assert len(counts) == kinds
    expected = len(values) / kinds
    freedom = kinds - 1
    square = ((counts - expected) ** 2 / expected).sum()
    variance = 2 / (9 * freedom)
    assert abs((square / freedom) ** (1 / 3) - (1 - variance)) < FAR * np.sqrt(variance)


def assert_uncorrelated(a, b):
    assert abs(np.corrcoef(a, b)[0, 1]) < FAR / np.sqrt(len(a))


def assert_noise(noise, covariance):
    """The sample has mean zero and this covariance."""
    assert noise.shape == (DRAWS, 3) and noise.dtype == np.float32
    noise = noise.astype(np.float64)
    deviation = np.sqrt(np.diag(covariance))
    # 1e-4 grey levels: float32 leaves some noise along components that have none.
    assert np.all(np.abs(noise.mean(0)) < FAR * deviation / np.sqrt(DRAWS) + 1e-4)
    # The standard error of a covariance of normal numbers is sqrt((c_ii c_jj + c_ij^2) / n).
    error = np.sqrt((np.outer(deviation, deviation) ** 2 + covariance**2) / DRAWS)
    assert np.all(np.abs(noise.T @ noise / DRAWS - covariance) < FAR * error + 1e-8)


@pytest.mark.parametrize("margin, positions, first", POSITIONS.values(), ids=POSITIONS)
def test_every_offset_is_drawn_equally_often(margin, positions, first):
    rows, columns, _ = views(margin, positions)
    for offsets in (rows, columns):
        assert set(offsets) == set(range(first, first + positions))
        if positions > 1:
            assert_uniform(offsets - first, positions)


@pytest.mark.parametrize("margin, positions", [(32, 33), (32, 32), (29, 30)], ids=str)
def test_every_view_is_drawn_equally_often(margin, positions):
    # The 2178, 2048 or 1800 views as a whole: rows, columns and reflections do not go together either.
    rows, columns, reflect = views(margin, positions)
    assert_uniform((rows * positions + columns) * 2 + reflect, 2 * positions**2)


def test_reflection_is_fair():
    _, _, reflect = views()
    assert abs(reflect.mean() - 0.5) < FAR * 0.5 / np.sqrt(DRAWS)


def test_without_reflections_all_else_is_drawn_as_with_them():
    with_them, without = (
        np.stack(list(augment.draws(7, 1, 3, 32, 33, each).take(200).as_numpy_iterator())) for each in (True, False)
    )
    assert 0 < with_them[:, 2].sum() < 200 and not without[:, 2].any()
    np.testing.assert_array_equal(np.delete(with_them, 2, 1), np.delete(without, 2, 1))


def test_same_seed_same_draws():
    np.testing.assert_array_equal(drawn(count=500), drawn.__wrapped__(count=500))


@pytest.mark.parametrize("start", [1, 500, 1023, 1024, 1025, 5000])
def test_draws_of_a_place_do_not_depend_on_where_one_begins(start):
    np.testing.assert_array_equal(drawn(count=300, start=start), drawn()[start : start + 300])


OTHERS = {"another_run": {"run": 8}, "another_epoch": {"epoch": 2}, "swapped": {"run": 1, "epoch": 7}}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_another_seed_another_view(other):
    # Two independent views have the same row in 1 of 33 cases, and so on.
    for first, second, chance in zip(views(), views(**other), (1 / 33, 1 / 33, 1 / 2), strict=True):
        error = np.sqrt(chance * (1 - chance) / DRAWS)
        assert abs(np.mean(first == second) - chance) < FAR * error
        assert_uncorrelated(first, second)


def test_views_of_neighbors_are_independent():
    for values in views():
        assert_uncorrelated(values[1:], values[:-1])


def test_blocks_are_independent():
    # Draws are made 1024 at a time.
    for values in drawn().T:
        assert_uncorrelated(values[1024:], values[:-1024])


def test_no_draw_comes_again():
    # Neither at another place of the epoch, as when blocks repeat, nor at one of another epoch or run.
    everything = np.concatenate([factors(), *(factors(**other) for other in OTHERS.values())])
    assert len(np.unique(everything, axis=0)) == len(everything)


def test_factors_are_normal_and_independent():
    assert_noise(factors(), np.eye(3))
    # A normal distribution's fourth moment is 3; its standard error here is sqrt(96 / n).
    assert np.all(np.abs((factors().astype(np.float64) ** 4).mean(0) - 3) < FAR * np.sqrt(96 / DRAWS))
    for values in factors().T:
        assert_uncorrelated(values[1:], values[:-1])


def test_colors_are_independent_of_views():
    for values in views():
        for channel in factors().T:
            assert_uncorrelated(values, channel)
            assert_uncorrelated(values, np.abs(channel))


@pytest.mark.parametrize("stddev", [0.1, 0.25], ids=str)
@pytest.mark.parametrize("scale", NOISE)
@pytest.mark.parametrize("covariance", COVARIANCES.values(), ids=COVARIANCES)
def test_noise_matrix(covariance, scale, stddev):
    matrix = augment.noise_matrix(covariance, scale, stddev)
    assert matrix.shape == (3, 3) and matrix.dtype == np.float32
    product = matrix.astype(np.float64) @ matrix.T.astype(np.float64)
    expected = NOISE[scale](covariance, stddev)
    # float32 numbers: relative errors of 6e-8 each, here relative to the largest entry.
    np.testing.assert_allclose(product, expected, rtol=0, atol=1e-6 * expected.max())


def test_noise_matrix_of_no_noise_is_zero():
    np.testing.assert_array_equal(augment.noise_matrix(PHOTOGRAPHS, "stddev", 0.0), np.zeros((3, 3)))
    np.testing.assert_array_equal(augment.noise_matrix(np.zeros((3, 3)), "eigenvalue", 0.1), np.zeros((3, 3)))


@pytest.mark.parametrize("scale", NOISE)
def test_dataset_noise(scale):
    matrix = augment.noise_matrix(PHOTOGRAPHS, scale, 0.1)
    noise = augment.dataset_noise(tf.constant(factors()), tf.constant(matrix)).numpy()
    assert_noise(noise, NOISE[scale](PHOTOGRAPHS, 0.1))


@pytest.mark.parametrize("scale, stddev", [("eigenvalue", 0.1), ("stddev", 0.25)])
def test_image_noise_follows_the_image(scale, stddev):
    # Two images in one batch, so that one's noise would show in the other's.
    images = np.stack([photo(14, 9, seed=4), photo(14, 9, seed=5)])
    batch = np.concatenate([np.broadcast_to(image, (DRAWS, *image.shape)) for image in images])
    both = np.concatenate([factors(), factors(epoch=2)])
    noise = augment.image_noise(tf.constant(both), tf.constant(batch), scale, stddev).numpy()
    for image, its_noise in zip(images, np.split(noise, 2), strict=True):
        _, _, covariance = mean_and_covariance(image[None])
        assert_noise(its_noise, NOISE[scale](covariance, stddev))


@pytest.mark.parametrize("scale", NOISE)
def test_image_noise_of_a_large_bright_image(scale):
    # Sums over 50,176 values near 255 in float32 must not lose the small deviations that the noise follows.
    # Both computations get the same draws; the sign of an eigenvector is free, so lengths are compared.
    rng = np.random.default_rng(0)
    image = (255 - rng.integers(0, 3, (224, 224, 1)) * [1, 2, 3]).astype(np.uint8)
    _, _, covariance = mean_and_covariance(image[None])
    draw = tf.constant(factors(count=1))
    noise = augment.image_noise(draw, image[None], scale, 0.1).numpy()[0]
    values, vectors = np.linalg.eigh(covariance)
    assert values[1] < 1e-6 * values[2]
    # All of the noise lies along one direction; float32 leaves less than 1 % elsewhere.
    along = noise @ vectors[:, 2]
    assert abs(along) > 0 and np.linalg.norm(noise - along * vectors[:, 2]) < 0.01 * abs(along)
    same_draws = augment.dataset_noise(draw, augment.noise_matrix(covariance, scale, 0.1))
    # 0.1 %: the float32 covariance of 50,176 pixels.
    np.testing.assert_allclose(abs(along), abs(same_draws.numpy()[0] @ vectors[:, 2]), rtol=1e-3)


@pytest.mark.parametrize("scale", NOISE)
def test_image_noise_of_grey_images_is_grey(scale):
    # Two eigenvalues are 0, which rounding may make negative.
    images = np.stack([photo(20, 17, seed=seed).convert("L").convert("RGB") for seed in range(32)])
    noise = augment.image_noise(tf.constant(factors(count=32)), images, scale, 0.1).numpy()
    assert np.all(np.isfinite(noise)) and np.abs(noise).mean() > 0.1
    # 1 % of a covariance's square root: float32 leaves 6e-8 of the covariance, and a root of that is 2e-4.
    assert np.abs(noise - noise.mean(1, keepdims=True)).max() < 0.01 * np.abs(noise).max()


@pytest.mark.parametrize("scale", NOISE)
def test_image_noise_of_one_color_is_none(scale):
    image = np.full((224, 224, 3), (250, 17, 130), np.uint8)
    noise = augment.image_noise(tf.constant(factors(count=1)), image[None], scale, 0.1).numpy()
    # The mean of equal numbers is off by a few float32 roundings at most; nothing of it can be seen.
    assert np.all(np.isfinite(noise)) and np.abs(noise).max() < 1e-3


@pytest.mark.parametrize(
    "scale, stddev, divisor", [("eigenvalue", 0.1, 1.0), ("stddev", 0.1, 1.1), ("stddev", 0.25, 1.25)]
)
def test_only_the_release_divides(scale, stddev, divisor):
    assert augment.noise_divisor(augment.Augmentation(pca_scale=scale, pca_stddev=stddev)) == divisor


def test_defaults_are_the_paper():
    expected = {
        "crop_positions": 33,
        "reflections": True,
        "pca_color": "dataset",
        "pca_scale": "eigenvalue",
        "pca_stddev": 0.1,
        "aligned_mean": False,
    }
    assert vars(augment.Augmentation()) == expected
