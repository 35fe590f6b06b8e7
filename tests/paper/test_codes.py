import numpy as np
import pytest

from keras_alexnet.paper import codes

EPOCHS = 15


@pytest.fixture(scope="module")
def features():
    """Numbers of three kinds of pictures, as after ReLU, of which two are always 0."""
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


def test_shapes_and_bytes(features, coders):
    real, bits = (coders[binary].encode(features) for binary in (False, True))
    assert (real.shape, real.dtype, coders[False].size) == ((60, 16), np.float32, 64)
    assert (bits.shape, bits.dtype, coders[True].size) == ((60, 2), np.uint8, 2)
    assert len(np.unique(bits, axis=0)) > 1
    for binary in (False, True):
        assert coders[binary].decode(coders[binary].encode(features)).shape == (60, 20)


def test_bits_are_the_sigmoid_above_a_half_packed_from_the_highest(features, coders):
    coder = coders[True]
    before = coder.encoder((features - coder.mean) / coder.scale).numpy().astype(np.float64)
    above = 1 / (1 + np.exp(-codes.NOISE * before)) > 0.5
    expected = [[sum(bit << (7 - place) for place, bit in enumerate(row[start : start + 8])) for start in (0, 8)]
                for row in above.astype(int).tolist()]  # fmt: skip
    np.testing.assert_array_equal(coder.encode(features), expected)


def test_standardized_by_one_deviation(features, coders):
    np.testing.assert_allclose(coders[False].mean, features.mean(axis=0), rtol=1e-5, atol=1e-7)
    centered = features.astype(np.float64) - features.mean(axis=0)
    assert coders[False].scale == pytest.approx(np.sqrt((centered**2).sum() / centered.size), rel=1e-5)


@pytest.mark.parametrize("binary", [False, True])
def test_the_error_is_the_share_of_the_variance(features, coders, binary):
    coder = coders[binary]
    error = coder.error(features)
    decoded = coder.decode(coder.encode(features)).astype(np.float64)
    expected = ((features - decoded) ** 2).sum() / ((features - features.mean(axis=0)) ** 2).sum()
    assert error == pytest.approx(expected, rel=1e-4)
    assert error < 0.6  # it has learned: the mean alone would have 1


@pytest.mark.parametrize("binary", [False, True])
def test_the_same_numbers_give_the_same_codes(features, coders, binary):
    again = codes.train(features, 16, binary, EPOCHS, 1)
    np.testing.assert_array_equal(again.encode(features), coders[binary].encode(features))
    other = codes.train(features, 16, binary, EPOCHS, 2)
    assert (other.encode(features) != coders[binary].encode(features)).any()


def test_progress_is_told(features):
    told = []
    codes.train(features, 8, False, 2, 0, lambda *done: told.append(done))
    assert told == [(1, 2), (2, 2)]


def test_features_that_are_all_the_same():
    coder = codes.train(np.ones((9, 6), np.float32), 8, True, 1, 0)
    assert coder.scale == 1.0 and coder.encode(np.ones((2, 6), np.float32)).shape == (2, 1)


def test_trained_once_only(features, coders, tmp_path, monkeypatch):
    path, trained = str(tmp_path / "code.npz"), []

    def train(*given):
        trained.append(given[1:])
        return coders[True]

    monkeypatch.setattr(codes, "train", train)
    first = codes.kept(path, features, 16, True, 1, 3)
    again = codes.kept(path, features, 16, True, 1, 3)
    assert trained == [(16, True, 1, 3, None)]
    np.testing.assert_array_equal(again.encode(features), first.encode(features))
    assert again.error(features) == first.error(features)
    codes.kept(path, features[1:], 16, True, 1, 3)  # other numbers
    codes.kept(path, features[1:], 16, True, 2, 3)  # other settings
    content = (tmp_path / "code.npz").read_bytes()
    (tmp_path / "code.npz").write_bytes(content[: len(content) // 2])
    codes.kept(path, features[1:], 16, True, 2, 3)
    assert len(trained) == 4
    codes.kept(path, features[1:], 16, True, 2, 3)
    assert len(trained) == 4
