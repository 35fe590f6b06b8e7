"""Autoencoders: what codes and their errors are, and that one is trained once only."""

import numpy as np
import pytest

from keras_alexnet.errors import RunError
from keras_alexnet.paper import codes

EPOCHS = 15


@pytest.fixture(scope="module")
def features():
    """Numbers of three kinds of images, as after ReLU, of which two are always 0."""
    rng = np.random.default_rng(0)
    numbers = np.maximum(rng.normal(size=(3, 20))[np.arange(60) % 3] + 0.3 * rng.normal(size=(60, 20)), 0)
    numbers[:, 5:7] = 0
    return numbers.astype(np.float32)


@pytest.fixture(autouse=True, scope="module")
def few_hidden_units():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(codes, "HIDDEN", 64)
        patch.setattr(codes, "BATCH", 16)
        yield


@pytest.fixture(scope="module")
def coders(features):
    return {binary: codes.train(features, 16, binary, EPOCHS, 1) for binary in (False, True)}


def test_bits_are_the_sigmoid_above_a_half_packed_from_the_highest(features, coders):
    coder = coders[True]
    before = coder.encoder((features - coder.mean) / coder.scale).numpy().astype(np.float64)
    above = 1 / (1 + np.exp(-codes.NOISE * before)) > 0.5
    places = [range(start, start + 8) for start in (0, 8)]
    expected = [[sum(int(row[place]) << (7 - place % 8) for place in byte) for byte in places] for row in above]
    bits = coder.encode(features)
    np.testing.assert_array_equal(bits, expected)
    assert (bits.dtype, coder.size) == (np.uint8, 2) and len(np.unique(bits, axis=0)) > 1


def test_standardized_by_one_deviation(features, coders):
    real = coders[False].encode(features)
    assert (real.shape, real.dtype, coders[False].size) == ((60, 16), np.float32, 64)
    np.testing.assert_allclose(coders[False].mean, features.mean(axis=0), rtol=1e-5, atol=1e-7)
    centered = features.astype(np.float64) - features.mean(axis=0)
    assert coders[False].scale == pytest.approx(np.sqrt((centered**2).sum() / centered.size), rel=1e-5)
    constant = codes.train(np.ones((9, 6), np.float32), 8, True, 1, 0)
    assert constant.scale == 1.0 and constant.encode(np.ones((2, 6), np.float32)).shape == (2, 1)


@pytest.mark.parametrize("binary", [False, True])
def test_the_error_is_the_share_of_the_variance(features, coders, binary):
    coder = coders[binary]
    error = coder.error(features)
    decoded = coder.decode(coder.encode(features)).astype(np.float64)
    expected = ((features - decoded) ** 2).sum() / ((features - features.mean(axis=0)) ** 2).sum()
    assert error == pytest.approx(expected, rel=1e-4)
    assert error < 0.6  # it has learned: the mean alone would have 1


def test_the_same_numbers_give_the_same_codes(features, coders):
    shown = []
    again = codes.train(features, 16, True, EPOCHS, 1, lambda *done: shown.append(done))
    np.testing.assert_array_equal(again.encode(features), coders[True].encode(features))
    assert shown == [(epoch, EPOCHS) for epoch in range(1, EPOCHS + 1)]
    other = codes.train(features, 16, True, EPOCHS, 2)
    assert (other.encode(features) != coders[True].encode(features)).any()


def test_trained_once_only(features, coders, tmp_path, monkeypatch):
    path, trained = tmp_path / "code.npz", []

    def train(*given):
        trained.append(given[1:])
        return coders[True]

    monkeypatch.setattr(codes, "train", train)
    first, again = (codes.load_or_train(str(path), features, 16, True, 1, 3) for _ in range(2))
    assert trained == [(16, True, 1, 3, None)]
    np.testing.assert_array_equal(again.encode(features), first.encode(features))
    assert again.error(features) == first.error(features)
    codes.load_or_train(str(path), features[1:], 16, True, 1, 3)  # other numbers
    codes.load_or_train(str(path), features[1:], 16, True, 2, 3)  # other settings
    assert len(trained) == 3
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RunError, match="code.npz: cannot be read"):
        codes.load_or_train(str(path), features, 16, True, 2, 3)
