import numpy as np
import pytest
import tensorflow as tf

import keras_alexnet
from keras_alexnet.data import statistics


def test_the_mean_is_subtracted_and_nothing_else():
    images = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3)).astype(np.uint8)
    before = images.copy()
    found = keras_alexnet.preprocess_input(images)
    np.testing.assert_allclose(
        found, images - np.array([122.67891434, 116.66876762, 104.00698793]), rtol=1e-5, atol=1e-5
    )
    assert found.dtype == np.float32
    np.testing.assert_array_equal(images, before)
    np.testing.assert_array_equal(keras_alexnet.preprocess_input(tf.constant(images)), found)
    np.testing.assert_array_equal(keras_alexnet.preprocess_input(images.astype(np.float64)), found)
    np.testing.assert_array_equal(keras_alexnet.preprocess_input(images[0]), found[0])


def test_the_mean_of_a_run(tmp_path):
    mean = np.random.default_rng(0).uniform(0, 255, (256, 256, 3)).astype(np.float32)
    path = str(tmp_path / "statistics.npz")
    statistics.save(statistics.Statistics(mean, np.zeros(3), np.zeros((3, 3)), 1), path)
    images = np.full((1, 224, 224, 3), 7, np.uint8)
    for given in (mean, path, tmp_path / "statistics.npz"):
        np.testing.assert_allclose(keras_alexnet.preprocess_input(images, given)[0], 7 - mean[16:240, 16:240])


@pytest.mark.parametrize(
    ("images", "mean", "words"),
    [
        (np.zeros((2, 224, 224)), (1, 2, 3), r"RGB, \(..., height, width, 3\)"),
        (np.zeros((224, 224, 3)), (1, 2), "mean must be three numbers"),
        (np.zeros((224, 224, 3)), np.zeros((200, 200, 3)), "mean is smaller"),
    ],
)
def test_what_cannot_be_preprocessed(images, mean, words):
    with pytest.raises(ValueError, match=words):
        keras_alexnet.preprocess_input(images, mean)


def test_predictions_in_words():
    scores = np.zeros((2, 1000), np.float32)
    scores[0, [0, 134, 517]] = 0.2, 0.3, 0.5
    scores[1, 999] = 1
    first, second = keras_alexnet.decode_predictions(scores, top=3)
    assert [(wordnet_id, name) for wordnet_id, name, _ in first] == [
        ("n03126707", "crane"),
        ("n02012849", "crane"),
        ("n01440764", "tench"),
    ]
    assert [score for _, _, score in first] == pytest.approx([0.5, 0.3, 0.2])
    assert second[0][:2] == ("n15075141", "toilet_tissue") and len(second) == 3
    assert len(keras_alexnet.decode_predictions(scores)[0]) == 5


def test_predictions_of_other_classes():
    names = ["daisy", "rose", "tulip"]
    found = keras_alexnet.decode_predictions(tf.constant([[0.2, 0.7, 0.1]]), class_names=names)
    assert [entry[:2] for entry in found[0]] == [("rose", "rose"), ("daisy", "daisy"), ("tulip", "tulip")]
    with pytest.raises(ValueError, match=r"must be \(images, 1000\); give the class_names"):
        keras_alexnet.decode_predictions(np.zeros((1, 3)))
