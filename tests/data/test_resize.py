"""--resize=stretch from the settings to batches and prepared folders; its pixels are tested in test_decoding.py."""

import dataclasses

import numpy as np
import pytest

from keras_alexnet.config import DataConfig
from keras_alexnet.data import pipeline, prepare, records, sources, statistics
from keras_alexnet.data.augmentation import Augmentation
from keras_alexnet.data.decoding import decode_center
from tests.data.conftest import encoded, flat_source, photo, preprocessed, refusal

FILES = {"a/1.jpg": encoded(photo(400, 260)), "b/2.png": encoded(photo(120, 310), "PNG")}
STRETCHED = np.stack([decode_center(data, resize="stretch") for data in FILES.values()])


@pytest.fixture
def folder(tmp_path):
    for split in ("train", "val"):
        flat_source(tmp_path / "images" / split, FILES)
    return str(tmp_path / "images")


def test_all_ways_see_the_stretched_image(folder):
    train, val = sources.open_training(DataConfig(dataset="folder", data_dir=folder, resize="stretch"))
    known = statistics.compute(train)
    np.testing.assert_allclose(known.mean_image, STRETCHED.mean(0), rtol=1e-6)
    ((images,), _) = next(iter(pipeline.evaluation_batches(val, (256,), batch_size=2)))
    np.testing.assert_array_equal(images, STRETCHED)
    centers = np.stack([decode_center(data, 224, "stretch") for data in FILES.values()])
    expected = centers - known.mean_image[16:240, 16:240]
    images, _ = next(iter(preprocessed(pipeline.center_view(val, size=224, batch_size=2), known.mean_image)))
    np.testing.assert_allclose(images, expected, atol=1e-4)
    augmentation = Augmentation(crop_positions=1, reflections=False, pca_color="none")
    batches = pipeline.training(train, known, augmentation, size=224, batch_size=2, seed=1, epoch=0)
    images, labels = next(iter(preprocessed(batches, known.mean_image)))
    np.testing.assert_allclose(images, expected[labels.numpy()], atol=1e-4)
    # Statistics of images that were resized in another way are of another set.
    plain, _ = sources.open_training(DataConfig(dataset="folder", data_dir=folder))
    assert train.fingerprint() == f"{plain.fingerprint()} stretch"
    assert np.abs(statistics.compute(plain).mean_image - known.mean_image).mean() > 1


@pytest.mark.parametrize("encoding", ["raw", "jpeg"])
def test_prepared_folders_say_how_they_were_resized(folder, tmp_path, capsys, encoding):
    out, settings = str(tmp_path / "out"), prepare.Settings(encoding=encoding, resize="stretch")
    prepare.prepare(*sources.open_folder(folder), out, settings)
    data = DataConfig(dataset="records", data_dir=out, resize="stretch")
    train, val = sources.open_training(data)
    ((images,), _) = next(iter(pipeline.evaluation_batches(val, (256,), batch_size=2)))
    found = sorted(image.astype(float).mean() for image in images.numpy())
    # Quality 90 of a JPEG moves the mean of an image by less than one level.
    np.testing.assert_allclose(found, sorted(STRETCHED.mean((1, 2, 3))), atol=1e-9 if encoding == "raw" else 1)
    assert statistics.load(f"{out}/{records.STATISTICS}").fingerprint == train.fingerprint()
    said = refusal(capsys, lambda: sources.open_training(dataclasses.replace(data, resize="shorter_side")))
    assert said.startswith(f"train: --resize=shorter_side: {out} was prepared with --resize=stretch; prepare the image")
    with pytest.raises(prepare.UsageError, match="holds images that were prepared with --resize=stretch; prepare"):
        prepare.prepare(*sources.open_folder(folder), out, prepare.Settings(encoding=encoding))
