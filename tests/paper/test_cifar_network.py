import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_alexnet.data import records, sources
from keras_alexnet.errors import ArgumentError, RunError, UsageError
from keras_alexnet.paper import cifar_network
from keras_alexnet.paper.figure1 import CifarSettings
from tests.reference.convolution import convolve
from tests.reference.normalization import in_map_normalization, local_response_normalization
from tests.reference.update import momentum_sgd

TRIAL = cifar_network.Trial("19pct", batch_size=8, seed=3)
AROUND = ((2, 2), (2, 2))  # zeros around a map, for filters of 5x5


def write_images(root, classes=("cat", "dog"), test="test"):
    """Three random images of 32x32 of each class below root; returns those of each split."""
    rng, made = np.random.default_rng(0), {}
    for split in ("train", test):
        made[split] = rng.integers(0, 256, (3 * len(classes), 32, 32, 3), np.uint8)
        for place, pixels in enumerate(made[split]):
            folder = root / split / classes[place // 3]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(folder / f"{place}.png")
    return made


def load(root, **settings):
    return cifar_network.load(CifarSettings(dataset="folder", data_dir=str(root), **settings))


@pytest.mark.parametrize("test", ["test", "validation"])
def test_a_folder_is_read_to_the_bit(tmp_path, test, monkeypatch):
    made = write_images(tmp_path, test=test)
    made["train"][0] = made["train"][0, ..., :1]
    Image.fromarray(made["train"][0, ..., 0]).save(tmp_path / "train" / "cat" / "0.png")  # gray
    images = load(tmp_path)
    assert images.class_names == ("cat", "dog") and images.description == "6 / 6 images of class folders (files)"
    for split, (pixels, labels) in (("train", images.train), (test, images.test)):
        assert labels.tolist() == [0, 0, 0, 1, 1, 1] and (labels.dtype, pixels.dtype) == (np.int32, np.uint8)
        np.testing.assert_array_equal(pixels, made[split])
    monkeypatch.setattr(cifar_network, "_QUICK", 2)
    few = load(tmp_path, quick=True)
    assert few.description == "4 / 4 images of class folders (files), the first 2 of each class"
    np.testing.assert_array_equal(few.test[0], made[test][[0, 1, 3, 4]])


def test_tensorflow_datasets_and_shapes(monkeypatch, tmp_path):
    made, names = write_images(tmp_path, test="val"), {"train": "train", "test": "val"}
    monkeypatch.setattr(records, "open_tfds_split", lambda *each: sources.list_split(tmp_path, names[each[2]]))
    images = cifar_network.load(CifarSettings())
    assert images.description == "6 / 6 images of cifar10 (TensorFlow Datasets)"
    np.testing.assert_array_equal(images.test[0], made["val"])
    monkeypatch.setattr(cifar_network, "_SHAPES", (30, 30))
    shapes = cifar_network.load(CifarSettings(dataset="shapes"))
    assert set(shapes.train[1]) == set(shapes.test[1]) == set(range(len(shapes.class_names)))
    assert not (shapes.train[0] == shapes.test[0]).all((1, 2, 3)).any()

    def fail(*arguments):
        raise UsageError("--dataset=cifar10: could not be downloaded")

    monkeypatch.setattr(records, "open_tfds_split", fail)
    with pytest.raises(UsageError, match="could not be downloaded; or give images of your own: --dataset=folder"):
        cifar_network.load(CifarSettings())


def test_what_is_not_a_set_of_small_images(tmp_path):
    with pytest.raises(UsageError, match="--data_dir is missing"):
        CifarSettings(dataset="folder")
    with pytest.raises(ArgumentError, match=r"results_dir /.*/results\[1\] must not contain"):
        CifarSettings(results_dir="results[1]")
    write_images(tmp_path, ("cat",))
    with pytest.raises(UsageError, match="holds one class"):
        load(tmp_path)
    for split, size, error, message in (
        ("train", (40, 32), UsageError, "train and test hold different classes"),
        ("test", (32, 32), RunError, "train/dog/0.png: is 40x32; these networks take 32x32"),
    ):
        (tmp_path / split / "dog").mkdir()
        Image.new("RGB", size).save(tmp_path / split / "dog" / "0.png")
        with pytest.raises(error, match=message):
            load(tmp_path)


def pooled(x, kind):
    """Windows of 3 every 2 that hang over the edge and see what is inside, (B, H, W, C) float64."""
    size = -(-(x.shape[1] - 3) // 2) + 1  # ceil((in - k) / stride) + 1, the release's PoolLayerParser
    y = np.empty((len(x), size, size, x.shape[-1]))
    for row in range(size):
        for column in range(size):
            window = x[:, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
            y[:, row, column] = window.max((1, 2)) if kind == "max" else window.mean((1, 2))
    return y


def local(x, kernel, bias):
    """A convolution whose filters are each position's own: kernel (H, W, 3 * 3 * C, filters), bias (H, W, filters)."""
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    y = np.empty((*x.shape[:3], kernel.shape[-1]))
    for row in range(x.shape[1]):
        for column in range(x.shape[2]):
            patch = padded[:, row : row + 3, column : column + 3].reshape(len(x), -1)
            y[:, row, column] = patch @ kernel[row, column] + bias[row, column]
    return y


def computed(model, name, images, activation):
    """The logits by NumPy in float64."""
    w = {layer.name: [each.astype(np.float64) for each in layer.get_weights()] for layer in model.layers}

    def norm(x):
        if name == "18pct":
            return in_map_normalization(x, 3, 5e-5, 0.75)
        if name == "11pct":
            return local_response_normalization(x, 1.0, 5, 2e-4, 0.75)
        return x

    x = images.astype(np.float64)
    if name in ("19pct", "18pct"):
        x = norm(pooled(activation(convolve(x, *w["conv1"], 1, AROUND)), "max"))
        x = norm(pooled(activation(convolve(x, *w["conv2"], 1, AROUND)), "mean"))
        x = pooled(activation(convolve(x, *w["conv3"], 1, AROUND)), "mean")
    else:
        x = pooled(norm(activation(convolve(x, *w["conv1"], 1, AROUND))), "max")
        x = pooled(norm(activation(convolve(x, *w["conv2"], 1, AROUND))), "max")
        x = activation(local(x, *w["local3"]))
        x = activation(local(x, *w["local4"]))
    kernel, bias = w["fc10"]
    return x.reshape(len(x), -1) @ kernel + bias


@pytest.mark.parametrize(("activation", "size"), [("relu", 32), ("tanh", 24)])
@pytest.mark.parametrize("name", cifar_network.DECAYS)
def test_each_network_is_what_the_layer_file_says(name, activation, size):
    model = cifar_network.build(name, size=size, activation=activation, seed=1)
    assert model.output.dtype == "float32"
    rng = np.random.default_rng(0)
    for weight in model.trainable_variables:  # wide enough that every layer matters, and biases that are not 0
        weight.assign(rng.normal(0, 1 / np.sqrt(np.prod(weight.shape[-3:-1]) + 1), weight.shape))
    images = rng.normal(0, 60, (2, size, size, 3)).astype(np.float32)
    expected = computed(model, name, images, np.tanh if activation == "tanh" else lambda x: np.maximum(x, 0))
    np.testing.assert_allclose(model(images), expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


# 5*5*3*32+32, 5*5*32*32+32, 4*4*64*10+10; 8*8*(3*3*64*32+32), 8*8*(3*3*32*32+32)
WEIGHTS = {
    "19pct": {"conv1": (2432, 1e-4), "conv2": (25632, 0.01), "fc10": (10250, 0.01)},
    "13pct": {"local3": (1181696, 0.04), "local4": (591872, 0.04)},
}


@pytest.mark.parametrize("name", WEIGHTS)
def test_parameters_and_initialization(name):
    model, kernels = cifar_network.build(name, seed=5), []
    for layer, (count, deviation) in WEIGHTS[name].items():
        kernel, bias = (each.numpy() for each in model.get_layer(layer).weights)
        # The spread of an estimated deviation is about 1 / sqrt(2 n): 1 % for the 2,400 weights of conv1.
        assert kernel.std() == pytest.approx(deviation, rel=0.05) and abs(kernel.mean()) < 0.05 * deviation
        assert not bias.any() and kernel.size + bias.size == count
        kernels.append(kernel.ravel()[:1000])
    # Layers of the same deviation do not share their random numbers.
    assert not np.array_equal(*kernels[-2:])


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    train, test = (
        (rng.integers(0, 256, (count, 32, 32, 3), np.uint8), rng.integers(0, 3, count).astype(np.int32))
        for count in (45, 11)
    )
    return cifar_network.Images("random images", ("a", "b", "c"), train, test)


def test_an_interrupted_trial_is_an_uninterrupted_one_to_the_bit(images, tmp_path):
    trial = dataclasses.replace(TRIAL, crop_border=4, rate_drops=(1, 2), learning_rate=0.01)
    whole, learning_rates = cifar_network.Training(str(tmp_path / "whole"), trial, images), []
    whole.train(4, show=lambda done, total: learning_rates.append(float(whole.optimizer.learning_rate.numpy())))
    assert learning_rates == pytest.approx([0.01, 0.001, 0.0001, 0.0001])
    cifar_network.Training(str(tmp_path / "parts"), trial, images).train(1)
    parts = cifar_network.Training(str(tmp_path / "parts"), trial, images)
    assert parts.progress.epochs == 1 and len(parts.progress.history) == 5
    parts.train(4)
    assert parts.progress.history == whole.progress.history and len(whole.progress.history) == 20
    for one, other in zip(whole.model.get_weights(), parts.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    tested = parts.test()
    assert tested == whole.test()
    # The test is of the centers.
    views = (images.test[0] - images.train[0].mean(0))[:, 4:28, 4:28].astype(np.float32)
    logits, labels = parts.model(views).numpy().astype(np.float64), images.test[1]
    loss = np.log(np.exp(logits).sum(1)) - logits[np.arange(11), labels]
    assert tested["loss"] == pytest.approx(loss.mean(), rel=1e-4)
    assert tested["top1_error"] == pytest.approx(100 * (logits.argmax(1) != labels).mean(), rel=1e-5)


def test_an_epoch_sees_every_image_once_and_has_five_points(images, tmp_path):
    seen, training = [], cifar_network.Training(str(tmp_path), TRIAL, images)
    step = training.trainer.train_step
    training.trainer.train_step = lambda views, labels: (seen.append((views, labels)), step(views, labels))[1]
    training.train(5, enough=lambda curve: len(curve) >= 3)
    assert training.progress.epochs == 1  # whole epochs, so that another end can resume from here
    assert [len(labels) for _, labels in seen] == [8, 8, 8, 8, 8, 5]
    # 6 steps: the points are after 1, 2, 4, 5 and 6 (1.2, 2.4, 3.6, 4.8 and 6 rounded).
    curve = training.progress.history
    assert [row["epoch"] for row in curve] == pytest.approx([1 / 6, 2 / 6, 4 / 6, 5 / 6, 1])
    views, labels = (np.concatenate(each) for each in zip(*seen, strict=True))
    centered = images.train[0] - images.train[0].mean(0)
    places = [int(np.abs(centered - view).max((1, 2, 3)).argmin()) for view in views]
    assert sorted(places) == list(range(45)) and places != list(range(45))
    np.testing.assert_allclose(views, centered[places], atol=1e-3)
    np.testing.assert_array_equal(labels, images.train[1][places])


def test_an_update_by_the_layer_file(images, tmp_path):
    training = cifar_network.Training(str(tmp_path), dataclasses.replace(TRIAL, learning_rate=0.05), images)
    model = training.model
    paths = [variable.path for variable in model.trainable_variables]
    kinds = ["bias" if path.endswith("bias") else path.split("/")[0] for path in paths]
    expected = {"bias": 0.0, "conv1": 0.004, "conv2": 0.004, "conv3": 0.004, "fc10": 3.0}
    assert training.optimizer._decays == [expected[kind] for kind in kinds]
    # The first step of the last layer, whose input is known, by NumPy.
    before = model.get_layer("fc10").kernel.numpy().astype(np.float64)
    views, labels = training._views(images.train[0][:8], None), images.train[1][:8]
    a = keras.Model(model.input, model.get_layer("flatten").output)(views).numpy().astype(np.float64)
    p = np.exp(a @ before)
    p = p / p.sum(1, keepdims=True) - np.eye(3)[labels]
    training.trainer.train_step(tf.constant(views), tf.constant(labels))
    kernel, _ = momentum_sgd(before, 0.0, a.T @ p / 8, 0.05, 0.9, 3.0)
    bias, _ = momentum_sgd(np.zeros(3), 0.0, p.mean(0), 0.1, 0.9, 0.0)
    np.testing.assert_allclose(model.get_layer("fc10").kernel, kernel, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(model.get_layer("fc10").bias, bias, rtol=1e-4, atol=1e-6)
    without = cifar_network.Training(str(tmp_path), dataclasses.replace(TRIAL, weight_decay=False), images)
    assert not any(without.optimizer._decays)
    with pytest.raises(ArgumentError, match="batch_size 45 training images are fewer than 5 batches"):
        cifar_network.Training(str(tmp_path), dataclasses.replace(TRIAL, batch_size=10), images)


def test_crops_lose_the_mean_of_their_own_place(images, tmp_path):
    training = cifar_network.Training(str(tmp_path), dataclasses.replace(TRIAL, crop_border=4), images)
    centered = images.train[0][:20].astype(np.float32) - images.train[0].mean(0).astype(np.float32)
    windows = np.lib.stride_tricks.sliding_window_view(centered, (24, 24), (1, 2)).transpose(0, 1, 2, 4, 5, 3)
    found = []
    for epoch in range(12):
        views = training._views(images.train[0][:20], np.random.default_rng(epoch))
        for view, own in zip(views, windows, strict=True):
            for reflected, each in enumerate((view, view[:, ::-1])):
                found += [(*place, reflected) for place in np.argwhere((np.abs(own - each) < 1e-3).all((2, 3, 4)))]
    rows, columns, reflected = zip(*found, strict=True)
    assert len(found) == 240 and set(rows) == set(columns) == set(range(9))  # one place for every view
    assert 90 < sum(reflected) < 150  # 120 is expected, with a deviation of 8


def test_a_trial_that_diverges_stops_and_stays_stopped(images, tmp_path):
    trial = dataclasses.replace(TRIAL, learning_rate=1e30)
    training = cifar_network.Training(str(tmp_path), trial, images)
    training.train(3)
    assert training.progress.finished and training.progress.epochs == 0 and len(training.progress.history) < 5
    again = cifar_network.Training(str(tmp_path), trial, images)
    again.train(3)
    assert again.progress.finished and again.progress.history == training.progress.history
