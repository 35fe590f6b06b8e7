import dataclasses
import shutil
import types

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import text_format
from PIL import Image
from tensorboard.plugins.projector import ProjectorConfig

from keras_alexnet import rundir
from keras_alexnet.config import DataConfig
from keras_alexnet.data.decoding import decode_center
from keras_alexnet.errors import ArgumentError, RunError
from keras_alexnet.paper import features


def listed(data_dir, split=".", quick=False):
    settings = types.SimpleNamespace(data_dir=str(data_dir), index_split=split, quick=quick)
    return features.list_images(settings, "index_split", DataConfig())


def indexed(extractor, source, folder):
    return features.open_index(types.SimpleNamespace(results_dir=str(folder)), extractor, source)


@pytest.fixture(scope="module")
def extractor(tiny_run):
    return features.feature_extractor(str(tiny_run))


@pytest.fixture(scope="module")
def pixels(small_images, tmp_path_factory):
    """An index of 4x4 pixels of the training images."""
    return indexed(features.pixel_extractor(4), listed(small_images, "train"), tmp_path_factory.mktemp("results"))


def test_features_are_what_the_last_layer_multiplies(extractor, tiny_run, small_images, tmp_path):
    source = listed(small_images, "val")
    index = indexed(extractor, source, tmp_path)
    assert index.features.shape == (9, 256) and index.features.dtype == np.float32
    assert index.files == source.files and index.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    last = rundir.build(rundir.open_run(str(tiny_run))).get_layer("fc8")
    kernel, bias = (np.asarray(each, np.float64) for each in last.get_weights())
    logits = index.features.astype(np.float64) @ kernel + bias
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    files = [decode_center((small_images / "val" / file).read_bytes(), extractor.model.size) for file in index.files]
    np.testing.assert_allclose(extractor.model.served.center_view(np.stack(files)).numpy(), expected, rtol=1e-4)


def test_what_is_not_an_image_is_left_out(extractor, small_images, tmp_path):
    good = sorted((small_images / "val").glob("*/*.jpg"))[:5]
    bad, shown = tmp_path / "bad.jpg", []
    bad.write_bytes(b"not an image")
    paths = [*good[:2], bad, *good[2:4], tmp_path / "missing.jpg", good[4]]
    rows, left_out = features.extract_features(extractor, paths, lambda *done: shown.append(done))
    assert list(left_out) == [2, 5] and shown == [(7, 7)]
    assert "not a JPEG or PNG" in left_out[2] and "No such file" in left_out[5]
    np.testing.assert_allclose(rows, features.extract_features(extractor, good)[0], rtol=1e-5, atol=1e-6)
    with pytest.raises(RunError, match="not an image that can be decoded, nor any other of 2 files"):
        features.extract_features(extractor, [bad, bad])
    none = features.Extractor("features", "m", lambda files: np.full((len(files), 2), np.nan, np.float32))
    with pytest.raises(RunError, match="non-finite"):
        features.extract_features(none, good)


def test_pixels_are_means_of_blocks(small_images):
    files = [path.read_bytes() for path in sorted((small_images / "val").glob("*/*.jpg"))[:3]]
    whole = np.stack([decode_center(file).numpy() for file in files]).astype(np.float64)
    expected = whole.reshape(3, 32, 8, 32, 8, 3).mean(axis=(2, 4)).reshape(3, -1)
    np.testing.assert_allclose(features.pixel_extractor(32).extract(files), expected, atol=1e-3)


def test_folders_with_and_without_classes(small_images, tmp_path):
    with_classes = listed(small_images / "train")
    assert len(with_classes.class_names) == 3 and with_classes.count == 18
    few = listed(small_images / "train", quick=True)
    assert few.count == 12 and few.files[:5] == (*with_classes.files[:4], with_classes.files[6])
    for name in ("b.jpg", "a.PNG", "note.txt", ".hidden.jpg"):
        (tmp_path / name).write_bytes(b"x")
    flat = listed(tmp_path)
    assert (flat.files, flat.labels, flat.class_names) == (("a.PNG", "b.jpg"), (-1, -1), ())
    (tmp_path / "empty").mkdir()
    for data_dir, split, words in (
        (tmp_path, "test", "index_split there is no folder"),
        (tmp_path / "none", ".", "data_dir there is no folder"),
        (tmp_path, "empty", "neither class folders nor images"),
    ):
        with pytest.raises(ArgumentError, match=words):
            listed(data_dir, split)


def test_an_index_is_kept_until_something_changes(small_images, tmp_path, monkeypatch, capsys):
    images = tmp_path / "images"
    images.mkdir()
    for number, path in enumerate(sorted((small_images / "train").glob("*/0.jpg"))):
        shutil.copy(path, images / f"{number}.jpg")
    (images / "ü.jpg").write_bytes(b"not an image")
    made, extract_features = [], features.extract_features
    monkeypatch.setattr(features, "extract_features", lambda *given: made.append(1) or extract_features(*given))
    extractor = features.pixel_extractor(4)
    first, again = (indexed(extractor, listed(images), tmp_path) for _ in range(2))
    assert "1 files left out: ü.jpg: not a JPEG or PNG" in capsys.readouterr().out and len(made) == 1
    for field in dataclasses.fields(first):
        np.testing.assert_array_equal(getattr(again, field.name), getattr(first, field.name))
    assert again.features.dtype == np.float32 and again.labels.dtype == np.int32
    other = indexed(extractor._replace(identity="other"), listed(images), tmp_path)
    assert "is of another model and is computed again" in capsys.readouterr().out and other.model == "other"
    (images / "0.jpg").unlink()
    assert indexed(extractor._replace(identity="other"), listed(images), tmp_path).files == ("1.jpg", "2.jpg")
    assert "is of other files and is computed again" in capsys.readouterr().out and len(made) == 3
    (path,) = (tmp_path / "retrieval").iterdir()
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(RunError, match="pixels_all.npz: cannot be read"):
        features.load_index(str(path))


def test_a_folder_with_a_validation_folder_is_not_split_as_training_was(small_images):
    settings = types.SimpleNamespace(data_dir=str(small_images), query_split="val", quick=False)
    for own, root in (("elsewhere", small_images / "val"), (f"{small_images}/.", small_images / "train")):
        source = features.list_images(settings, "query_split", DataConfig(data_dir=own, val_fraction=0.2))
        assert source.root == str(root) and source.count


def test_an_index_may_lie_in_a_new_folder(small_images, tmp_path):
    path, settings = tmp_path / "new" / "x.npz", types.SimpleNamespace(results_dir=str(tmp_path))
    features.open_index(settings, features.pixel_extractor(4), listed(small_images, "val"), str(path))
    assert len(features.load_index(str(path)).files) == 9


def test_the_projector_shows_the_index(pixels, tmp_path):
    folder = tmp_path / "projector"
    features.write_projector(pixels, str(folder))
    (embedding,) = text_format.Parse((folder / "projector_config.pbtxt").read_text(), ProjectorConfig()).embeddings
    checkpoint = tf.train.load_checkpoint(str(folder))
    np.testing.assert_array_equal(checkpoint.get_tensor(embedding.tensor_name), pixels.features)
    lines = (folder / embedding.metadata_path).read_text().splitlines()
    assert lines[0] == "class\tfile" and len(lines) == 19 and lines[7] == "red_square\tred_square/0.jpg"
    assert list(embedding.sprite.single_image_dim) == [64, 64]
    sprite = np.asarray(Image.open(folder / embedding.sprite.image_path))
    cells = sprite.reshape(5, 64, 5, 64, 3).swapaxes(1, 2).reshape(25, 64, 64, 3)
    for place in (0, 4, 5, 17):
        with open(pixels.paths()[place], "rb") as file:
            whole = decode_center(file.read()).numpy().astype(np.float64)
        np.testing.assert_allclose(cells[place], whole.reshape(64, 4, 64, 4, 3).mean(axis=(1, 3)), atol=0.51)
    assert not cells[18:].any()


def test_thumbnails_of_files_that_are_gone_are_black(tmp_path):
    assert not features.thumbnails([str(tmp_path / "gone.jpg")], 8).any()


def test_the_network_in_the_package_describes_images(small_images):
    found = features.feature_extractor("imagenette").extract([next((small_images / "val").rglob("*.jpg")).read_bytes()])
    assert found.shape == (1, 1024) and np.isfinite(found).all() and found.any()
