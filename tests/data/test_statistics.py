"""The mean image and the RGB covariance against the two-pass NumPy reference, and their file."""

import dataclasses
import io
import os
import pickle

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_alexnet.data import statistics
from keras_alexnet.data.decoding import decode_center
from keras_alexnet.errors import RunError
from tests.data.conftest import encoded, flat_source, photo
from tests.reference.statistics import mean_and_covariance

COUNT = 70  # more than the 64 images that are summed at a time
GOOD_JPEG = encoded(photo(90, 70))
BAD = {
    "bad/empty.jpg": b"",
    "bad/text.png": b"This is not an image, whatever its name says.",
    "bad/cut.jpg": GOOD_JPEG[:900],
    "bad/end\x1b.jpg": encoded(photo(300, 600))[:-2],
}


def images(count):
    """{name: bytes}: JPEG and PNG, enlarged, reduced and exact, color and grey."""
    files = {}
    for index in range(count):
        width, height = ((40, 30), (30, 44), (256, 256), (300, 280))[index % 4 if index < 8 else index % 2]
        image = photo(width, height, seed=index)
        image = image.convert("L") if index % 5 == 4 else image
        kind = "PNG" if index % 3 == 2 else "JPEG"
        files[f"good/{index:02d}.{kind.lower()}"] = encoded(image, kind)
    return files


def among(good, bad):
    """Both, the bad ones first, last and in between."""
    items, (first, *middle, last) = list(good.items()), bad.items()
    half = len(items) // 2
    return dict([first, *items[:half], *middle, *items[half:], last])


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return flat_source(tmp_path_factory.mktemp("good"), images(COUNT))


@pytest.fixture(scope="module")
def computed(source):
    return statistics.compute(source)


def assert_same(first, second):
    """Equal to the last bit in all that they hold."""
    for field in dataclasses.fields(statistics.Statistics):
        a, b = getattr(first, field.name), getattr(second, field.name)
        assert type(a) is type(b)
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_compute_equals_the_reference(source, computed):
    # Of the package's own uint8 images, which have their own tests: only arithmetic is left to differ.
    paths = [os.path.join(source.root, name) for name in source.files]
    decoded = np.stack([decode_center(tf.io.read_file(path)).numpy() for path in paths])
    mean_image, rgb_mean, rgb_covariance = mean_and_covariance(decoded)
    assert (computed.count, computed.skipped, computed.fingerprint) == (COUNT, (), source.fingerprint())
    assert (computed.rgb_mean.dtype, computed.rgb_covariance.dtype) == (np.float64, np.float64)
    # A sum of whole numbers, divided once and rounded to float32 once.
    assert computed.mean_image.dtype == np.float32
    np.testing.assert_array_equal(computed.mean_image, mean_image.astype(np.float32))
    # float64 sums of 4.6 million numbers in another order, the reference's of deviations that are not whole.
    np.testing.assert_allclose(computed.rgb_mean, rgb_mean, rtol=1e-12)
    np.testing.assert_allclose(computed.rgb_covariance, rgb_covariance, rtol=1e-10)


@pytest.mark.parametrize("black", [0, 70], ids=["all_white", "mostly_black"])
def test_compute_of_extreme_images(tmp_path, black):
    # The largest sums there are: 65,536 pixels of 128^2 are 2^30 an image.
    colors = ["black"] * black + ["white"]
    files = {f"{n}.png": encoded(Image.new("RGB", (256, 256), color), "PNG") for n, color in enumerate(colors)}
    found = statistics.compute(flat_source(tmp_path, files))
    share = 1 / (black + 1)
    np.testing.assert_allclose(found.mean_image, np.full((256, 256, 3), 255 * share), rtol=1e-7)
    np.testing.assert_allclose(found.rgb_mean, np.full(3, 255 * share), rtol=1e-12)
    variance = 255**2 * share * (1 - share)
    np.testing.assert_allclose(found.rgb_covariance, np.full((3, 3), variance), rtol=1e-11, atol=1e-9)


def test_compute_depends_neither_on_threads_nor_on_the_order_of_files(source, computed):
    assert_same(statistics.compute(source, threads=5), computed)
    columns = {name: getattr(source, name)[::-1] for name in ("files", "labels", "sizes")}
    found = statistics.compute(dataclasses.replace(source, **columns))
    assert found.fingerprint != computed.fingerprint
    assert_same(dataclasses.replace(found, fingerprint=computed.fingerprint), computed)


def test_bad_files_are_skipped_and_counted_nowhere(tmp_path):
    good, calls = images(9), []
    without = statistics.compute(flat_source(tmp_path / "without", good))
    source = flat_source(tmp_path / "with", among(good, BAD))
    found = statistics.compute(source, progress=lambda *numbers: calls.append(numbers))
    assert calls == [(9, 13)]
    assert found.label_counts == tuple(int(name in good) for name in source.class_names)
    assert found.skipped == tuple(sorted(BAD)) and source.without(found.skipped).files == tuple(good)
    told = {name: getattr(without, name) for name in ("label_counts", "skipped", "fingerprint")}
    assert_same(dataclasses.replace(found, **told), without)
    summary = statistics.summarize(source, threads=1, progress=lambda *numbers: calls.append(numbers))
    assert dataclasses.asdict(summary) == {
        "label_counts": found.label_counts,
        "skipped": found.skipped,
        "fingerprint": source.fingerprint(),
    }
    assert calls == [(9, 13)] * 2


@pytest.mark.parametrize("function", [statistics.compute, statistics.summarize], ids=["compute", "summarize"])
def test_files_that_cannot_be_read_and_no_image_at_all(tmp_path, function):
    source = flat_source(tmp_path / "some", among(images(3), BAD))
    gone = "bad/end\\x1b.jpg"
    os.unlink(os.path.join(source.root, "bad/end\x1b.jpg"))
    with pytest.raises(RunError, match="cannot be read .No such file or directory.; repair it") as caught:
        function(source)
    assert str(caught.value).startswith(f"train/{gone}: ")
    with pytest.raises(RunError, match="train: none of the 4 files is an image that can be decoded"):
        function(flat_source(tmp_path / "none", BAD))


def test_save_and_load(tmp_path, computed, monkeypatch):
    path = tmp_path / "statistics.npz"
    path.write_bytes(b"an older file")
    for skipped in ((), ("a/ä.jpg", "b/with space.png")):
        saved = dataclasses.replace(computed, skipped=skipped)
        statistics.save(saved, str(path))
        assert_same(statistics.load(str(path)), saved)
    (tmp_path / "other").touch()
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode
    content = path.read_bytes()
    # A save that fails leaves the old file.
    monkeypatch.setattr(np, "savez", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        statistics.save(computed, str(path))
    assert path.read_bytes() == content and sorted(os.listdir(tmp_path)) == ["other", "statistics.npz"]


def npz(compressed=False, **changes):
    """A file of statistics, some of its arrays changed, or left out where None."""
    whole = {"mean_image": np.zeros((256, 256, 3), np.float32), "rgb_mean": np.zeros(3), "rgb_covariance": np.eye(3)}
    arrays = {name: value for name, value in (whole | {"count": np.array(5)} | changes).items() if value is not None}
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **arrays)
    return buffer.getvalue()


def damaged(data, start):
    """The same file with other bytes at a place."""
    return data[:start] + b"\x55" * 40 + data[start + 40 :]


class Trap:
    """Writes a file where it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


ELSE, SHAPES = "does not hold the statistics of a training set", "holds statistics of other shapes"
WRONG = {
    "empty": (b"", ELSE),
    "text": (b"nothing of the kind", ELSE),
    "zip_cut_short": (npz()[:-40], ELSE),
    "damaged": (damaged(npz(), 5000), ELSE),
    "damaged_compressed": (damaged(npz(compressed=True), 80), ELSE),
    "no_mean": (npz(mean_image=None), ELSE),
    "no_count": (npz(count=None), ELSE),
    "words_for_numbers": (npz(rgb_mean=np.array(["red", "green", "blue"])), ELSE),
    "several_counts": (npz(count=np.arange(3)), ELSE),
    "mean_of_crops": (npz(mean_image=np.zeros((224, 224, 3))), SHAPES),
    "variances": (npz(rgb_covariance=np.ones(3)), SHAPES),
    "not_finite": (npz(rgb_covariance=np.full((3, 3), np.nan)), "numbers that are not finite"),
}


@pytest.mark.parametrize("content, words", WRONG.values(), ids=WRONG)
def test_load_of_something_else(tmp_path, content, words):
    path = tmp_path / "statistics.npz"
    path.write_bytes(content)
    with pytest.raises(RunError, match=words) as caught:
        statistics.load(str(path))
    assert str(caught.value).startswith(f"{path}: ")


def test_load_of_the_least_that_is_needed(tmp_path):
    path = tmp_path / "statistics.npz"
    path.write_bytes(npz(compressed=True))
    loaded = statistics.load(str(path))
    assert (loaded.count, loaded.label_counts, loaded.skipped, loaded.fingerprint) == (5, (), (), "")


def test_load_unpickles_nothing(tmp_path):
    sprung, path = tmp_path / "sprung", tmp_path / "statistics.npz"
    trap = np.array([Trap(sprung)], object)
    for content in (pickle.dumps(Trap(sprung)), npz(mean_image=trap), npz(skipped=trap), npz(fingerprint=trap)):
        path.write_bytes(content)
        with pytest.raises(RunError, match=ELSE):
            statistics.load(str(path))
    assert not sprung.exists()
    pickle.loads(pickle.dumps(Trap(sprung))).close()  # the trap works
    assert sprung.exists()
