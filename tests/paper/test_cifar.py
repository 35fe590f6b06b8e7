import numpy as np
import pytest
from PIL import Image

from keras_alexnet.errors import ArgumentError, RunError, UsageError
from keras_alexnet.paper import cifar


def write_images(root, classes=("cat", "dog"), count=3, test="test", kind="png"):
    """Random images of 32x32 below root; returns them by their path."""
    rng, made = np.random.default_rng(0), {}
    for split in ("train", test):
        for name in classes:
            (root / split / name).mkdir(parents=True, exist_ok=True)
            for index in range(count):
                pixels = rng.integers(0, 256, (32, 32, 3), np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{index}.{kind}")
                made[split, name, index] = pixels
    return made


def load(root, **settings):
    return cifar.load(cifar.CifarSettings(dataset="folder", data_dir=str(root), **settings))


@pytest.mark.parametrize("test", ["test", "val", "validation"])
def test_a_folder_is_read_to_the_bit(tmp_path, test):
    made = write_images(tmp_path, test=test)
    gray = np.random.default_rng(1).integers(0, 256, (32, 32), np.uint8)
    Image.fromarray(gray).save(tmp_path / "train" / "cat" / "0.png")
    made["train", "cat", 0] = np.repeat(gray[..., None], 3, axis=2)
    images = load(tmp_path)
    assert images.class_names == ("cat", "dog") and images.description == "6 / 6 images of class folders (files)"
    for split, folder in (("train", "train"), ("test", test)):
        assert images.labels[split].tolist() == [0, 0, 0, 1, 1, 1] and images.labels[split].dtype == np.int32
        expected = np.stack([made[folder, name, index] for name in ("cat", "dog") for index in range(3)])
        assert images.images[split].dtype == np.uint8
        np.testing.assert_array_equal(images.images[split], expected)


def test_quick_takes_the_first_of_each_class_and_jpeg_is_named(tmp_path, monkeypatch):
    write_images(tmp_path, kind="jpg")
    whole = load(tmp_path)
    assert whole.description.endswith("class folders (JPEG files, which lose a little against the original pixels)")
    monkeypatch.setattr(cifar, "_QUICK", 2)
    few = load(tmp_path, quick=True)
    assert "4 / 4 images" in few.description and few.description.endswith("the first 2 of each class")
    for split in ("train", "test"):
        assert few.labels[split].tolist() == [0, 0, 1, 1]
        np.testing.assert_array_equal(few.images[split], whole.images[split][[0, 1, 3, 4]])


def test_drawn_shapes_in_place_of_cifar10():
    images = cifar.load(cifar.CifarSettings(dataset="shapes"))
    assert [images.images[split].shape for split in ("train", "test")] == [(400, 32, 32, 3), (100, 32, 32, 3)]
    assert set(images.labels["train"]) == set(images.labels["test"]) == set(range(len(images.class_names)))
    assert images.description == "400 / 100 images of the built-in shapes, not CIFAR-10"
    assert not (images.images["train"][:100] == images.images["test"]).all((1, 2, 3)).any()


def test_tensorflow_datasets_are_decoded(monkeypatch, tmp_path):
    made = write_images(tmp_path, test="val")
    folders = cifar.load(cifar.CifarSettings(dataset="folder", data_dir=str(tmp_path)))
    from keras_alexnet.data import sources

    def open_split(name, data_dir, split, shuffle_buffer):
        return sources.list_split(tmp_path, {"train": "train", "test": "val"}[split])

    monkeypatch.setattr(sources, "open_tfds_split", open_split)
    images = cifar.load(cifar.CifarSettings())
    assert images.description == f"{len(made) // 2} / {len(made) // 2} images of cifar10 (TensorFlow Datasets)"
    np.testing.assert_array_equal(images.images["test"], folders.images["test"])

    def fail(*arguments):
        raise UsageError("--dataset=cifar10: could not be downloaded")

    monkeypatch.setattr(sources, "open_tfds_split", fail)
    with pytest.raises(UsageError, match="could not be downloaded; or give images of your own: --dataset=folder"):
        cifar.load(cifar.CifarSettings())


def test_what_is_not_a_set_of_small_images(tmp_path):
    with pytest.raises(UsageError, match="--data_dir is missing"):
        cifar.CifarSettings(dataset="folder")
    with pytest.raises(ArgumentError, match="results_dir must not contain"):
        cifar.CifarSettings(results_dir="results[1]")
    with pytest.raises(UsageError, match="there is no folder"):
        load(tmp_path)
    write_images(tmp_path, ("cat",))
    with pytest.raises(UsageError, match="holds one class"):
        load(tmp_path)
    (tmp_path / "train" / "dog").mkdir()
    Image.new("RGB", (40, 32)).save(tmp_path / "train" / "dog" / "0.png")
    with pytest.raises(UsageError, match="train and test hold different classes"):
        load(tmp_path)
    (tmp_path / "test" / "dog").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "test" / "dog" / "0.png")
    with pytest.raises(RunError, match="train/dog/0.png: is 40x32; these networks take 32x32"):
        load(tmp_path)
    (tmp_path / "train" / "dog" / "0.png").write_bytes(b"not an image")
    with pytest.raises(RunError, match="train/dog/0.png: cannot be read"):
        load(tmp_path)
