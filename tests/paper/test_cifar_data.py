import numpy as np
import pytest
from PIL import Image

from keras_alexnet.errors import RunError, UsageError
from keras_alexnet.files import progress_bar
from keras_alexnet.paper import cifar_data


def pictures(root, classes=("cat", "dog"), count=3, size=(32, 32), kind="png"):
    """Random pictures below root; returns them by their path."""
    rng, made = np.random.default_rng(0), {}
    for split in ("train", "test"):
        for name in classes:
            (root / split / name).mkdir(parents=True, exist_ok=True)
            for index in range(count):
                pixels = rng.integers(0, 256, (size[1], size[0], 3), np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{index}.{kind}")
                made[split, name, index] = pixels
    return made


def test_a_folder_is_read_to_the_bit(tmp_path):
    made = pictures(tmp_path)
    images = cifar_data.load("folder", str(tmp_path), progress_bar)
    assert images.class_names == ("cat", "dog")
    for split in ("train", "test"):
        assert images.labels[split].tolist() == [0, 0, 0, 1, 1, 1] and images.labels[split].dtype == np.int32
        expected = np.stack([made[split, name, index] for name in ("cat", "dog") for index in range(3)])
        assert images.images[split].dtype == np.uint8
        np.testing.assert_array_equal(images.images[split], expected)
    assert images.description == "6 / 6 images of class folders (files)"


def test_the_mean_is_of_the_training_images(tmp_path):
    made = pictures(tmp_path)
    images = cifar_data.load("folder", str(tmp_path), progress_bar)
    expected = sum(pixels.astype(float) for (split, _, _), pixels in made.items() if split == "train") / 6
    mean = images.mean_image()
    assert mean.shape == (32, 32, 3) and mean.dtype == np.float32
    np.testing.assert_allclose(mean, expected, rtol=1e-6)


def test_jpeg_files_are_said_to_lose_a_little(tmp_path):
    pictures(tmp_path, kind="jpg")
    images = cifar_data.load("folder", str(tmp_path), progress_bar)
    assert "JPEG files, which lose a little" in images.description


def test_gray_pictures_become_rgb(tmp_path):
    pictures(tmp_path)
    gray = np.random.default_rng(1).integers(0, 256, (32, 32), np.uint8)
    Image.fromarray(gray).save(tmp_path / "train" / "cat" / "0.png")
    images = cifar_data.load("folder", str(tmp_path), progress_bar)
    np.testing.assert_array_equal(images.images["train"][0], np.repeat(gray[..., None], 3, axis=2))


def test_the_built_in_shapes_stand_in():
    images = cifar_data.load("shapes", None, progress_bar)
    assert [len(images.labels[split]) for split in ("train", "test")] == [400, 100]
    assert images.images["train"].shape == (400, 32, 32, 3) and images.images["train"].dtype == np.uint8
    assert set(images.labels["train"]) == set(images.labels["test"]) == set(range(len(images.class_names)))
    assert "not CIFAR-10" in images.description
    same = (images.images["train"][:100] == images.images["test"]).all((1, 2, 3))
    assert not same.any()  # other pictures are tested on than trained on


def test_a_picture_of_another_size_or_none_at_all(tmp_path):
    pictures(tmp_path)
    path = tmp_path / "train" / "dog" / "1.png"
    Image.new("RGB", (40, 32)).save(path)
    with pytest.raises(RunError, match=r"dog/1.png: is 40x32; these networks take 32x32"):
        cifar_data.load("folder", str(tmp_path), progress_bar)
    path.write_bytes(b"no picture")
    with pytest.raises(RunError, match=r"dog/1.png: is no picture"):
        cifar_data.load("folder", str(tmp_path), progress_bar)


def test_folders_that_are_no_set(tmp_path):
    with pytest.raises(UsageError, match="--data_dir is missing"):
        cifar_data.load("folder", None, progress_bar)
    with pytest.raises(UsageError, match="there is no folder"):
        cifar_data.load("folder", str(tmp_path), progress_bar)
    pictures(tmp_path, ("cat",))
    with pytest.raises(UsageError, match="holds one class"):
        cifar_data.load("folder", str(tmp_path), progress_bar)
    (tmp_path / "train" / "dog").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "train" / "dog" / "0.png")
    with pytest.raises(UsageError, match="train and test hold different classes"):
        cifar_data.load("folder", str(tmp_path), progress_bar)
