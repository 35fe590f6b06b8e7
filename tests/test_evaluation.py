import itertools
import shutil

import numpy as np
import pytest

from keras_alexnet import evaluation, load_image
from keras_alexnet.errors import UsageError
from keras_alexnet.evaluate import EvaluateConfig
from tests.reference.errors import top_k_credit

NAMES = ["a", "b", "c", "d"]


def some(count, classes=4, seed=0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(count, classes)) * 2
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return probabilities.astype(np.float32), rng.integers(0, classes, count).astype(np.int32)


@pytest.fixture
def answers():
    probabilities, labels = some(50)
    return evaluation.joined([([probabilities[part]], labels[part]) for part in (slice(32), slice(32, None))])[0]


def test_errors_by_class_and_confusions(answers):
    rows = evaluation.by_class(answers, [*NAMES, "never"])
    for label, row in enumerate(rows[:4]):
        own = answers["labels"] == label
        assert row["images"] == own.sum()
        assert row["top1_error"] == pytest.approx(100 * (answers["predicted"][own] != label).mean())
    assert rows[4] == {"class_name": "never", "images": 0, "top1_error": None, "top5_error": None}
    pairs = evaluation.confusions(answers, NAMES, 100)
    wrong = [pair for pair in zip(answers["labels"], answers["predicted"], strict=True) if pair[0] != pair[1]]
    for row in pairs:
        pair = NAMES.index(row["class_name"]), NAMES.index(row["taken_for"])
        assert row["images"] == wrong.count(pair)
        assert row["percent"] == pytest.approx(100 * row["images"] / (answers["labels"] == pair[0]).sum())
    assert sum(row["images"] for row in pairs) == len(wrong)
    assert pairs == sorted(pairs, key=lambda row: -row["images"])


def test_calibration_by_hand():
    probabilities = np.array([[0.55, 0.45], [0.95, 0.05], [0.9, 0.1], [0.2, 0.8]], np.float32)
    found = evaluation.calibration(evaluation.of_batch(probabilities, np.array([0, 0, 1, 1])), bins=10)
    # bins: (0.5, 0.6] one right at 0.55; (0.7, 0.8] one right at 0.8; (0.8, 0.9] one wrong at 0.9; (0.9, 1] right, 0.95
    assert [row["images"] for row in found["bins"]] == [0, 0, 0, 0, 0, 1, 0, 1, 1, 1]
    assert found["expected_calibration_error"] == pytest.approx((0.45 + 0.2 + 0.9 + 0.05) / 4, abs=1e-6)
    assert found["maximum_calibration_error"] == pytest.approx(0.9, abs=1e-6)
    assert found["bins"][0]["accuracy"] is None
    found = evaluation.calibration(evaluation.of_batch(np.eye(4, dtype=np.float32), np.arange(4)))
    assert found["expected_calibration_error"] == 0 and found["bins"][-1]["images"] == 4


def error_of(weights, probabilities, labels):
    total = np.tensordot(weights, probabilities, 1)
    return tuple(100 - 100 * top_k_credit(total.astype(np.float32), labels, k).mean() for k in (5, 1))


@pytest.mark.parametrize("classes", [4, 12])
def test_searched_weights_are_the_releases(classes):
    """`avg-valid.py` in words: begin at 0.5, one coordinate after the other, 0 to 1 in twenty steps, five passes."""
    _, labels = some(40, classes)
    probabilities = np.stack([some(40, classes, seed)[0] for seed in (1, 2, 3)])
    probabilities[1, np.arange(40), labels] += np.random.default_rng(9).uniform(0, 0.8, 40)  # one that knows something
    weights = [0.5] * 3
    best = error_of(weights, probabilities, labels)
    for _ in range(5):
        for model, step in itertools.product(range(3), range(21)):
            tried = [step / 20 if other == model else weight for other, weight in enumerate(weights)]
            if any(tried) and error_of(tried, probabilities, labels) < best:
                best, weights = error_of(tried, probabilities, labels), tried
    np.testing.assert_allclose(evaluation.search_weights(probabilities, labels), np.array(weights) / sum(weights))


def test_a_set_that_would_be_downloaded_can_be_refused(tiny_run, monkeypatch):
    monkeypatch.setattr(evaluation.records, "is_prepared", lambda name, data_dir: False)
    config, model = EvaluateConfig(dataset="flowers"), evaluation.open_model(str(tiny_run))
    with pytest.raises(UsageError, match="--dataset=flowers: is not prepared here"):
        evaluation.open_set(config, [model], None, may_download=False)


def test_wordnet_ids_and_names_of_imagenet_are_the_same_classes(tiny_run, small_images, tmp_path, monkeypatch):
    ids = {"n1": "blue_disk", "n2": "red_square", "n3": "striped_red_disk"}
    monkeypatch.setattr(evaluation.imagenet, "classes", lambda: ids)
    for wordnet_id, name in ids.items():
        shutil.copytree(small_images / "val" / name, tmp_path / wordnet_id)
    model = evaluation.open_model(str(tiny_run))
    source, described = evaluation.open_set(EvaluateConfig(data_dir=str(tmp_path)), [model], None)
    assert source.class_names == tuple(ids.values()) and source.count == 9  # all of a folder that is not split
    assert described["split"] == "."
    assert evaluation.imagenet.as_known(("blue_disk", "n2", "n4"), ("n1", "red_square")) == ("n1", "red_square", "n4")


def test_a_sample_of_a_set(tiny_run, small_images):
    config, model = EvaluateConfig(), evaluation.open_model(str(tiny_run))
    images = [load_image(path, 224) for path in sorted(small_images.glob("val/*/*.jpg"))]
    np.testing.assert_array_equal(evaluation.sample(config, model, 100), images)
    some = evaluation.sample(config, model, 3)
    places = [next(place for place, image in enumerate(images) if np.array_equal(image, each)) for each in some]
    assert len(set(places)) == 3 and not np.array_equal(evaluation.sample(config, model, 3, seed=1), some)
