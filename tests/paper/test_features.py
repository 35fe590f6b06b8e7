import dataclasses
import json
import pickle
import zipfile

import numpy as np
import pytest

from keras_alexnet import evaluate, rundir
from keras_alexnet.data.decoding import decode_center
from keras_alexnet.errors import RunError, UsageError
from keras_alexnet.paper import features


@pytest.fixture(scope="module")
def model(run_of_three_epochs):
    return evaluate.open_model(str(run_of_three_epochs))


@pytest.fixture
def index():
    rng = np.random.default_rng(0)
    numbers = rng.normal(size=(5, 7)).astype(np.float32)
    labels = np.array([0, 0, 1, 1, 1], np.int32)
    files = ("a/1.jpg", "a/2.jpg", "b/ü.jpg", "b/4.jpg", "b/5.jpg")
    return features.Index(numbers, files, labels, ("a", "b"), "photos/train", "m", "f", ("b/bad.jpg: why",))


def test_features_are_what_the_last_layer_multiplies(model, run_of_three_epochs, small_pictures):
    """Held against the probabilities: softmax(features * kernel + bias) of fc8, in NumPy."""
    source = features.list_pictures(str(small_pictures), "val")
    index = features.make(features.feature_extractor(model), "model", source)
    assert index.features.shape == (9, 256) and index.features.dtype == np.float32
    assert index.files == source.files and index.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    last = rundir.build(rundir.open_run(str(run_of_three_epochs))).get_layer("fc8")
    kernel, bias = (np.asarray(each, np.float64) for each in last.get_weights())
    logits = index.features.astype(np.float64) @ kernel + bias
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    files = [decode_center((small_pictures / "val" / file).read_bytes(), model.size) for file in index.files]
    np.testing.assert_allclose(model.served.center_view(np.stack(files)).numpy(), expected, rtol=1e-4)


def test_a_run_and_its_export_are_the_same_model(model, run_of_three_epochs, small_pictures):
    exported = evaluate.open_model(str(run_of_three_epochs / "export" / "1"))
    assert features.model_id(model) == features.model_id(exported)
    paths = [str(path) for path in sorted((small_pictures / "val").glob("*/*.jpg"))]
    answers = [features.extract(features.feature_extractor(each), paths)[0] for each in (model, exported)]
    np.testing.assert_allclose(*answers, rtol=1e-5, atol=1e-6)


def test_other_weights_are_another_model(model):
    before = features.model_id(model)
    bias = model.served.weights["fc8/bias"]
    kept = bias.numpy()
    bias.assign(kept + 1)
    changed = features.model_id(model)
    bias.assign(kept)
    assert changed != before == features.model_id(model)


def test_what_is_no_picture_costs_itself_only(model, small_pictures, tmp_path):
    good = sorted((small_pictures / "val").glob("*/*.jpg"))[:5]
    bad, empty = tmp_path / "bad.jpg", tmp_path / "empty.png"
    bad.write_bytes(b"no picture")
    empty.write_bytes(b"")
    paths = [*good[:2], bad, *good[2:4], empty, tmp_path / "missing.jpg", good[4]]
    seen = []
    describe = features.feature_extractor(model)
    rows, kept, left_out = features.extract(describe, [str(path) for path in paths], lambda *done: seen.append(done))
    assert kept == [0, 1, 3, 4, 7]
    assert [place for place, _ in left_out] == [2, 5, 6]
    assert "not a JPEG or PNG" in left_out[0][1] and "No such file" in left_out[2][1]
    alone, _, _ = features.extract(describe, [str(path) for path in good])
    np.testing.assert_allclose(rows, alone, rtol=1e-5, atol=1e-6)
    assert seen == [(8, 8)]
    with pytest.raises(RunError, match="no picture that can be decoded"):
        features.extract(describe, [str(bad), str(empty)])


def test_numbers_that_are_not_finite_are_no_features(small_pictures):
    path = str(next((small_pictures / "val").glob("*/*.jpg")))
    with pytest.raises(RunError, match="not finite"):
        features.extract(lambda files: np.full((len(files), 2), np.nan, np.float32), [path])


def test_small_pictures_are_means_of_blocks(small_pictures):
    files = [path.read_bytes() for path in sorted((small_pictures / "val").glob("*/*.jpg"))[:3]]
    found = features.small_pictures(32)(files)
    whole = np.stack([decode_center(file).numpy() for file in files]).astype(np.float64)
    expected = whole.reshape(3, 32, 8, 32, 8, 3).mean(axis=(2, 4)).reshape(3, -1)
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_folders_with_and_without_classes(small_pictures, tmp_path):
    with_classes = features.list_pictures(str(small_pictures / "train"), ".")
    assert len(with_classes.class_names) == 3 and with_classes.count == 18
    for name in ("b.jpg", "a.PNG", "note.txt", ".hidden.jpg"):
        (tmp_path / name).write_bytes(b"x")
    flat = features.list_pictures(str(tmp_path), ".")
    assert (flat.files, flat.labels, flat.class_names) == (("a.PNG", "b.jpg"), (-1, -1), ())
    assert flat.other_files == ("note.txt",)
    with pytest.raises(UsageError, match="--query_split=test: there is no folder"):
        features.list_pictures(str(tmp_path), "test", "query_split")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UsageError, match="neither class folders nor pictures"):
        features.list_pictures(str(empty), ".")


def test_an_index_comes_back_as_it_was(index, tmp_path):
    path = str(tmp_path / "index.npz")
    features.save(index, path)
    back = features.load(path)
    for field in dataclasses.fields(index):
        np.testing.assert_array_equal(getattr(back, field.name), getattr(index, field.name))
    assert back.features.dtype == np.float32 and back.labels.dtype == np.int32
    assert [entry.name for entry in tmp_path.iterdir()] == ["index.npz"]


def test_files_of_another_size_are_other_files(index, tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"x")
    source = features.list_pictures(str(tmp_path), ".")
    own = dataclasses.replace(index, fingerprint=source.fingerprint())
    assert features.is_of(own, "m", source) and not features.is_of(own, "other", source)
    (tmp_path / "a.jpg").write_bytes(b"xy")
    assert not features.is_of(own, "m", features.list_pictures(str(tmp_path), "."))


def damaged(index, path, kind):
    if kind == "text":
        path.write_text("no index")
    elif kind == "pickle":
        path.write_bytes(pickle.dumps({"features": [1.0]}))
    elif kind == "pickled array":
        np.savez(path, features=np.array([{}], object), labels=index.labels, about=index.labels)
    elif kind == "npy":
        np.save(path.with_suffix(".npy"), index.features)
        path.with_suffix(".npy").rename(path)
    elif kind == "cut":
        features.save(index, str(path))
        path.write_bytes(path.read_bytes()[:-200])
    elif kind == "flipped":
        features.save(index, str(path))
        content = bytearray(path.read_bytes())
        content[content.index(index.features.tobytes()) + 3] ^= 1  # the archive's own sum finds it
        path.write_bytes(content)
    elif kind == "without":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("labels.npy", b"")
    else:
        features.save(dataclasses.replace(index, **kind), str(path))


@pytest.mark.parametrize(
    "kind",
    [
        "text",
        "pickle",
        "pickled array",
        "npy",
        "cut",
        "flipped",
        "without",
        {"features": np.zeros((5, 7))},
        {"features": np.zeros((5, 7, 1), np.float32)},
        {"features": np.zeros((4, 7), np.float32)},
        {"features": np.full((5, 7), np.inf, np.float32)},
        {"labels": np.zeros(5, np.int64)},
        {"labels": np.full(5, 2, np.int32)},
        {"labels": np.full(5, -1, np.int32)},
        {"class_names": ()},
        {"root": 3},
    ],
    ids=str,
)
def test_damaged_indexes_are_named_in_one_line(index, tmp_path, kind):
    path = tmp_path / "index.npz"
    damaged(index, path, kind)
    with pytest.raises(RunError, match=r"index.npz: is no index \(.*\); delete it") as raised:
        features.load(str(path))
    assert "\n" not in str(raised.value)


def test_other_versions_and_missing_files(index, tmp_path):
    path = str(tmp_path / "index.npz")
    about = np.frombuffer(json.dumps({"format": 2}).encode(), np.uint8)
    np.savez(path, features=index.features, labels=index.labels, about=about)
    with pytest.raises(RunError, match="of another version"):
        features.load(path)
    with pytest.raises(UsageError, match="there is no such index"):
        features.load(str(tmp_path / "none.npz"))
