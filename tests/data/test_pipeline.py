import os
from functools import cache

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_alexnet.data import augmentation as augment, pipeline
from keras_alexnet.data.augmentation import Augmentation, draws
from keras_alexnet.data.statistics import Statistics
from tests.data.conftest import encoded, flat_source, operations, photo, preprocessed
from tests.reference import color, decoding as reference
from tests.reference.statistics import mean_and_covariance

COUNT = 11
PLAIN = Augmentation(pca_color="none")
ALIGNED = Augmentation(pca_color="none", aligned_mean=True)
SIZE = 64  # of crops, where it makes no difference, for speed
SETTINGS = {"size": SIZE, "batch_size": 4, "seed": 5, "epoch": 2}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """256 pixels on the shorter side, so nothing is resampled."""
    sizes, files = ((256, 256), (256, 290), (301, 256)), {}
    for index in range(COUNT):
        image = photo(*sizes[index % 3], seed=index)
        files[f"{index:02d}"] = encoded(image, ("JPEG", "PNG")[index % 2])
    return flat_source(tmp_path_factory.mktemp("exact"), files)


@pytest.fixture(scope="module")
def images_of(source):
    """uint8 (256, 256, 3) of each file, by Pillow and slicing alone."""
    found = []
    for name in source.files:
        with Image.open(os.path.join(source.root, name)) as opened:
            found.append(reference.center_window(np.asarray(opened.convert("RGB"))))
    return found


@pytest.fixture(scope="module")
def statistics():
    rng = np.random.default_rng(1)
    mean_image = rng.uniform(90, 160, (256, 256, 3)).astype(np.float32)
    covariance = np.array([[5000.0, 4700.0, 4300.0], [4700.0, 4900.0, 4600.0], [4300.0, 4600.0, 5300.0]])
    return Statistics(mean_image, mean_image.mean((0, 1), np.float64), covariance, COUNT)


def batches_of(dataset):
    return list(dataset.as_numpy_iterator())


def joined(dataset):
    images, labels = zip(*dataset.as_numpy_iterator(), strict=True)
    return np.concatenate(images), np.concatenate(labels)


def train(source, statistics, augmentation=PLAIN, **changes):
    """An epoch's batches as the network sees them."""
    dataset = pipeline.training(source, statistics, augmentation, **(SETTINGS | changes))
    return preprocessed(dataset, statistics.mean_image, augmentation.aligned_mean)


@pytest.fixture(scope="module")
def epoch_of(source, statistics):
    return cache(lambda augmentation=PLAIN: joined(train(source, statistics, augmentation)))


def middle(image, size):
    first = (256 - size) // 2
    return image[first : first + size, first : first + size]


def views_of(whole, part):
    """All (row, column, reflected) at which `part` is found in `whole`."""
    whole, size, found = np.asarray(whole, np.float32), len(part), []
    places = len(whole) - size + 1
    for reflected, wanted in ((False, part), (True, part[:, ::-1])):
        # One pixel rules out most places.
        near = np.all(whole[:places, :places] == wanted[0, 0], axis=-1)
        for row, column in np.argwhere(near).tolist():
            if np.array_equal(whole[row : row + size, column : column + size], wanted):
                found.append((row, column, reflected))
    return found


def crop_of(image, mean):
    """The uint8 crop that gives this float32 image when the mean is subtracted, exactly."""
    crop = np.rint(image + mean).astype(np.uint8)
    np.testing.assert_array_equal(crop.astype(np.float32) - mean, image)
    return crop


@pytest.mark.parametrize("size, positions", [(224, 32), (227, 30)], ids=["2048_views", "caffe"])
def test_an_image_is_a_crop_less_the_center_of_the_mean(source, images_of, statistics, size, positions):
    dataset = train(source, statistics, Augmentation(pca_color="none", crop_positions=positions), size=size)
    assert dataset.element_spec == (tf.TensorSpec((None, size, size, 3)), tf.TensorSpec((None,), tf.int32))
    assert [len(labels) for _, labels in batches_of(dataset)] == [4, 4, 3]
    images, labels = joined(dataset)
    assert sorted(labels) == list(range(COUNT)) and list(labels) != sorted(labels)
    mean, views = middle(statistics.mean_image, size), []
    for image, label in zip(images, labels, strict=True):
        # The mean lies as it is under a crop that may be reflected.
        (view,) = views_of(images_of[label], crop_of(image, mean))
        views.append(view)
    rows, columns, reflected = (np.array(values) for values in zip(*views, strict=True))
    first = (257 - size - positions) // 2
    for offsets in (rows, columns):
        assert first <= offsets.min() and offsets.max() < first + positions and len(set(offsets)) > COUNT // 2
    assert set(reflected) == {False, True} and np.any(rows != columns)


def test_aligned_mean_is_the_part_under_the_crop(epoch_of, images_of, statistics):
    images, labels = epoch_of(ALIGNED)
    views = []
    for image, label in zip(images, labels, strict=True):
        (view,) = views_of(images_of[label].astype(np.float32) - statistics.mean_image, image)
        views.append(view)
    # The two ways to subtract differ in nothing but the mean; without a choice, a view is the center or its reflection.
    centered, mean = epoch_of()[0], middle(statistics.mean_image, SIZE)
    crops = [crop_of(image, mean) for image in centered]
    assert [views_of(images_of[label], crop)[0] for crop, label in zip(crops, labels, strict=True)] == views
    for image, label in zip(*epoch_of(Augmentation(pca_color="none", crop_positions=1)), strict=True):
        crop, center = crop_of(image, mean), middle(images_of[label], SIZE)
        assert np.array_equal(crop, center) or np.array_equal(crop, center[:, ::-1])


def same(first, second):
    flat = [[array for batch in batches for array in batch] for batches in (first, second)]
    return len(flat[0]) == len(flat[1]) and all(map(np.array_equal, *flat))


ALIGNED_NOISY = Augmentation(pca_scale="stddev", aligned_mean=True)
EACH = {"image_stddev": Augmentation(pca_color="image", pca_scale="stddev"), "aligned_dataset_stddev": ALIGNED_NOISY}


@pytest.mark.parametrize("augmentation", EACH.values(), ids=EACH)
def test_same_seed_and_epoch_same_batches(source, statistics, augmentation):
    dataset = train(source, statistics, augmentation)
    batches = batches_of(dataset)
    assert same(batches, batches_of(dataset))
    assert same(batches, batches_of(train(source, statistics, augmentation, threads=1)))
    for change in ({"seed": 6}, {"epoch": 3}):
        assert not same(batches, batches_of(train(source, statistics, augmentation, **change)))
    assert dataset.options().deterministic is True  # so few images would come in order by chance, too
    # Python in the graph would be slow.
    for graph in (dataset, pipeline.center_view(source, size=224, batch_size=4)):
        found = operations(graph)
        assert "DecodeAndCropJpeg" in found and not {name for name in found if "pyfunc" in name.lower()}


def test_start_is_the_rest_of_the_epoch(source, statistics, epoch_of):
    images, labels = epoch_of(ALIGNED_NOISY)
    # To the bit where the batches are the same, as when a run resumes; a batch of another length is another program.
    for start, tolerance in ((8, 0), (1, 1e-4)):
        rest, rest_labels = joined(train(source, statistics, ALIGNED_NOISY, start=start))
        np.testing.assert_allclose(rest, images[start:], rtol=0, atol=tolerance)
        np.testing.assert_array_equal(rest_labels, labels[start:])
    assert batches_of(train(source, statistics, start=COUNT)) == []


def noise_of(source, statistics, color, scale, plain):
    """Noise (N, 3), the same at all pixels of an image."""
    noisy, labels = joined(train(source, statistics, Augmentation(pca_color=color, pca_scale=scale)))
    np.testing.assert_array_equal(labels, plain[1])
    difference = noisy.astype(np.float64) * (1.1 if scale == "stddev" else 1.0) - plain[0]
    noise = difference.mean((1, 2))
    # Values up to a few hundred in float32 are off by up to 2e-5 each time that they are rounded.
    assert np.abs(difference - noise[:, None, None]).max() < 1e-4
    return noise


def assert_normal(noise, covariances):
    """Whitened with these covariances, mean and variance are those of N(0, 1) within 5 standard errors."""
    values = []
    for deviation, covariance in zip(noise, covariances, strict=True):
        lengths, vectors = np.linalg.eigh(covariance)
        values += list(deviation @ vectors / np.sqrt(lengths))
    assert abs(np.mean(np.square(values)) - 1) < 5 * np.sqrt(2 / len(values))
    assert abs(np.mean(values)) < 5 / np.sqrt(len(values))


NOISE = {"eigenvalue": color.paper_noise_covariance, "stddev": color.release_noise_covariance}


def test_noise_is_one_color_an_image(tmp_path, statistics):
    # Enough images for the variance of the noise to show in one epoch.
    many = flat_source(tmp_path, {f"{index:02d}": encoded(photo(256, 256, seed=index)) for index in range(48)})
    plain = joined(train(many, statistics))
    crops = [crop_of(image, middle(statistics.mean_image, SIZE)) for image in plain[0]]
    drawn = draws(SETTINGS["seed"], SETTINGS["epoch"], 0, 256 - SIZE, 33).take(many.count)
    factors = tf.stack(list(drawn))[:, 3:]
    for scale, covariance in NOISE.items():
        noise = noise_of(many, statistics, "dataset", scale, plain)
        assert_normal(noise, [covariance(statistics.rgb_covariance)] * many.count)
        # Nothing is lost or gained on the way: the release divides its noise along with the image.
        matrix = augment.noise_matrix(statistics.rgb_covariance, scale, 0.1)
        np.testing.assert_allclose(noise, factors.numpy() @ matrix.T, rtol=0, atol=1e-3)
        # Along the components of each crop.
        noise = noise_of(many, statistics, "image", scale, plain)
        assert_normal(noise, [covariance(mean_and_covariance(crop[None])[2]) for crop in crops])
        expected = augment.image_noise(factors, np.stack(crops), scale, 0.1)
        np.testing.assert_allclose(noise, expected, rtol=0, atol=1e-3)


def test_noise_and_aligned_mean_together(epoch_of):
    noise = (epoch_of(Augmentation())[0] - epoch_of()[0]).mean((1, 2), np.float64)
    both = epoch_of(Augmentation(aligned_mean=True))[0]
    assert np.abs(both - epoch_of(ALIGNED)[0] - noise[:, None, None]).max() < 1e-4
    silent, _ = epoch_of(Augmentation(pca_scale="stddev", pca_stddev=0.0))
    np.testing.assert_array_equal(silent, epoch_of()[0])


def test_center_view_and_evaluation_give_every_image_once_in_order(source, images_of, statistics):
    settings = {"size": 224, "batch_size": 4}
    batches = batches_of(preprocessed(pipeline.center_view(source, **settings), statistics.mean_image))
    assert [labels.tolist() for _, labels in batches] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
    dataset = pipeline.evaluation_batches(source, (224, 256), batch_size=4)
    found = [(small.numpy(), whole.numpy(), labels.numpy()) for (small, whole), labels in dataset]
    assert [labels.tolist() for *_, labels in found] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10]]
    small, whole = (np.concatenate([batch[index] for batch in found]) for index in (0, 1))
    assert small.dtype == whole.dtype == np.uint8 and whole.shape == (11, 256, 256, 3)
    mean, images = middle(statistics.mean_image, 224), np.concatenate([images for images, _ in batches])
    np.testing.assert_array_equal(small - mean, images)
    # Their places are those of the center: the part of the mean image under them is its center.
    aligned = preprocessed(pipeline.center_view(source, **settings), statistics.mean_image, aligned=True)
    np.testing.assert_array_equal(joined(aligned)[0], images)
    np.testing.assert_array_equal(small, np.stack([middle(image, 224) for image in images_of]))
    for part in (0, 1):
        dataset = pipeline.center_view(source, **settings, part=(part, 2))
        own, its_labels = joined(preprocessed(dataset, statistics.mean_image))
        np.testing.assert_array_equal(own, images[part::2])
        assert its_labels.tolist() == list(range(part, COUNT, 2)) and source.part_count(None, (part, 2)) == 6 - part


def test_a_batch_is_bytes_until_it_is_on_the_device(source, statistics):
    settings = {"size": 224, "batch_size": 4}
    for dataset in (
        pipeline.training(source, statistics, Augmentation(), **settings, seed=5, epoch=2),
        pipeline.center_view(source, **settings),
    ):
        assert dataset.element_spec[0] == augment.Preprocessing(statistics.mean_image, 224).signature
        (crops, adjustments), _ = next(dataset.as_numpy_iterator())
        assert (crops.nbytes, adjustments.nbytes) == (4 * 150_528, 4 * 28)


def test_the_batches_of_two_parts_are_those_of_the_whole(source, statistics):
    whole = batches_of(train(source, statistics, Augmentation(), start=4))
    for part in (0, 1):
        batches = batches_of(train(source, statistics, Augmentation(), start=2, batch_size=2, part=(part, 2)))
        for (images, labels), (all_images, all_labels) in zip(batches, whole, strict=True):
            # The compiled loop rounds the rest of a batch that fills no vector in another order.
            np.testing.assert_allclose(images, all_images[part::2], rtol=0, atol=1e-4)
            np.testing.assert_array_equal(labels, all_labels[part::2])
