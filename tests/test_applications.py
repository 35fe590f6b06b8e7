import importlib.util
import re
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_alexnet
from keras_alexnet import predict, rundir
from keras_alexnet.data import shapes, statistics
from keras_alexnet.model import layers
from tests.runs import call


def test_another_backend_of_keras_is_one_line(monkeypatch):
    monkeypatch.setattr(keras.config, "backend", lambda: "torch")
    spec = importlib.util.spec_from_file_location("layers_again", layers.__file__)
    with pytest.raises(ImportError, match="^keras_alexnet computes with TensorFlow, and Keras is set to torch: set KE"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_an_image_file_is_seen_as_it_is_served(tiny_run, tmp_path):
    served = tf.saved_model.load(str(tiny_run / "export" / "1")).signatures["serving_default"]
    model = keras_alexnet.AlexNet(weights=tiny_run)
    for number, size in enumerate([(256, 256), (310, 248), (640, 1100)]):
        path = tmp_path / f"{number}.jpg"
        shapes.draw("red_star", number).resize(size).save(path, quality=90)
        image = keras_alexnet.load_image(path)
        assert image.shape == (224, 224, 3) and image.dtype == np.uint8
        scores = model(keras_alexnet.preprocess_input(image[None], mean=tiny_run))
        answer = served(image_bytes=tf.constant([path.read_bytes()]))
        np.testing.assert_allclose(scores, answer["probabilities"], rtol=1e-5)
        (best,) = keras_alexnet.decode_predictions(scores, class_names=tiny_run)
        assert [name for name, _, _ in best] == [name.decode() for name in answer["classes"].numpy()[0]]
    path.write_text("no image")
    with pytest.raises(ValueError, match="2.jpg: not a JPEG or PNG file$"):
        keras_alexnet.load_image(path)
    for size, run in ((257, None), (0, tiny_run)):
        with pytest.raises(ValueError, match=f"size must be a whole number from 1 to 256. Received: size={size}"):
            keras_alexnet.load_image(path, size, run=run)


def test_the_mean_is_subtracted_and_nothing_else():
    images = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3)).astype(np.uint8)
    before = images.copy()
    found = keras_alexnet.preprocess_input(images)
    expected = images - np.array([122.67891434, 116.66876762, 104.00698793])
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(images, before)
    for given in (tf.constant(images), images.astype(np.float64)):
        np.testing.assert_array_equal(keras_alexnet.preprocess_input(given), found)
    inputs = keras.Input((224, 224, 3), dtype="uint8")
    model = keras.Model(inputs, keras_alexnet.preprocess_input(inputs))
    np.testing.assert_array_equal(model(images), found)


def test_the_mean_of_a_run(tmp_path):
    mean = np.random.default_rng(0).uniform(0, 255, (256, 256, 3)).astype(np.float32)
    statistics.save(statistics.Statistics(mean, np.zeros(3), np.zeros((3, 3)), 1), str(tmp_path / "statistics.npz"))
    images = np.full((1, 224, 224, 3), 7, np.uint8)
    for given in (mean, str(tmp_path / "statistics.npz"), tmp_path):
        np.testing.assert_allclose(keras_alexnet.preprocess_input(images, given)[0], 7 - mean[16:240, 16:240])


def test_what_cannot_be_preprocessed():
    for images, mean, words in (
        (np.zeros((2, 224, 224)), (1, 2, 3), r"images must be RGB, of the shape \(..., height, width, 3\)"),
        (np.zeros((224, 224, 3)), (1, 2), "mean must be three numbers"),
        (np.zeros((224, 224, 3)), np.zeros((200, 200, 3)), "mean must be at least as large as the images"),
        (keras.Input((None, 224, 3)), np.zeros((256, 256, 3)), "images must have a known height and width"),
    ):
        with pytest.raises(ValueError, match=words):
            keras_alexnet.preprocess_input(images, mean)


@pytest.mark.parametrize("kind", [np.float32, np.uint8])
def test_predictions_in_words(kind):
    scores = np.zeros((2, 1000), kind)
    scores[0, [0, 134, 517]] = 2, 3, 5
    scores[1, 999] = 1
    first, second = keras_alexnet.decode_predictions(scores, top=3)
    assert first == [("n03126707", "crane", 5.0), ("n02012849", "crane", 3.0), ("n01440764", "tench", 2.0)]
    assert second[0] == ("n15075141", "toilet_tissue", 1.0) and second[1][1] == "tench" and len(second) == 3


def test_predictions_of_other_classes(tmp_path):
    (tmp_path / "class_names.txt").write_text("daisy\nrose\ntulip\n")
    for names in (["daisy", "rose", "tulip"], str(tmp_path / "class_names.txt"), tmp_path):
        found = keras_alexnet.decode_predictions(tf.constant([[0.2, 0.7, 0.1]]), class_names=names)
        assert [entry[:2] for entry in found[0]] == [("rose", "rose"), ("daisy", "daisy"), ("tulip", "tulip")]
    with pytest.raises(ValueError, match=r"predictions must be of the shape \(images, 1000\); give the class_names"):
        keras_alexnet.decode_predictions(np.zeros((1, 3)))
    with pytest.raises(ValueError, match="top must be a whole number, at least 1"):
        keras_alexnet.decode_predictions(np.zeros((1, 1000)), top=-1)


@pytest.mark.parametrize("scores", [[["0.1", "0.9"]], [[1j, 2]], [[None, 1.0]]])
def test_predictions_that_are_no_numbers(scores):
    with pytest.raises(ValueError, match="predictions must be real numbers. Received: predictions="):
        keras_alexnet.decode_predictions(scores, class_names=["a", "b"])


def test_the_network_that_comes_with_the_package(tmp_path, monkeypatch):
    (tmp_path / "photos [1]").mkdir()
    monkeypatch.chdir(tmp_path / "photos [1]")
    shapes.draw(shapes.CLASS_NAMES[0], 0).resize((400, 300)).save("image.png")
    image = keras_alexnet.load_image("image.png", run="imagenette")
    model = keras_alexnet.AlexNet(weights="imagenette")
    scores = model.predict(keras_alexnet.preprocess_input(image[None], run="imagenette"), verbose=0)
    best = keras_alexnet.decode_predictions(scores, run="imagenette")[0]
    _, said, _ = call(predict, "--model=imagenette", "image.png")
    answers = re.findall(r"([0-9.]+) %  (.+)", said)
    assert [name.replace("_", " ") for _, name, _ in best] == [name for _, name in answers]
    np.testing.assert_allclose([100 * score for *_, score in best], [float(score) for score, _ in answers], atol=0.0051)
    assert rundir.located(Path("imagenette")) == rundir.located("imagenette/") == rundir.located("imagenette")
    assert best[0][0] in rundir.read_class_names("imagenette") and model.count_params() == 3_572_842
    files = [path for path in Path(rundir.located("imagenette")).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 8e6
