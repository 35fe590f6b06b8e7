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

FUNCTIONS = (statistics.compute, statistics.summarize)
FUNCTION_NAMES = ("compute", "summary")
COUNT = 70  # more than the 64 images that are summed at a time
BAD = {
    "bad/empty.jpg": b"",
    "bad/text.png": b"This is not an image, whatever its name says.",
    "bad/cut.jpg": encoded(photo(90, 70))[:900],
}


def pictures(count):
    """{name: bytes}: JPEG and PNG, enlarged, reduced and exact, color and grey."""
    files = {}
    for index in range(count):
        width, height = ((40, 30), (30, 44), (256, 256), (300, 280))[index % 4 if index < 8 else index % 2]
        picture = photo(width, height, seed=index)
        picture = picture.convert("L") if index % 5 == 4 else picture
        kind = "PNG" if index % 3 == 2 else "JPEG"
        files[f"good/{index:02d}.{kind.lower()}"] = encoded(picture, kind)
    return files


def among(good, bad):
    """Both, the bad ones first, last and in between."""
    items, (first, middle, last) = list(good.items()), bad.items()
    half = len(items) // 2
    return dict([first, *items[:half], middle, *items[half:], last])


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return flat_source(tmp_path_factory.mktemp("good"), pictures(COUNT))


@pytest.fixture(scope="module")
def computed(source):
    return statistics.compute(source)


def expected_of(source):
    """Of the package's own uint8 images, which have their own tests: only arithmetic is left to differ."""
    paths = [os.path.join(source.root, name) for name in source.files]
    return mean_and_covariance(np.stack([decode_center(tf.io.read_file(path)).numpy() for path in paths]))


def assert_same(first, second):
    """Equal to the last bit in all that they hold."""
    for field in dataclasses.fields(statistics.Statistics):
        a, b = getattr(first, field.name), getattr(second, field.name)
        assert type(a) is type(b)
        if isinstance(a, np.ndarray):
            assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


def test_compute_equals_the_reference(source, computed):
    mean_image, rgb_mean, rgb_covariance = expected_of(source)
    assert computed.count == COUNT and computed.skipped == ()
    assert computed.fingerprint == source.fingerprint()
    assert (computed.rgb_mean.dtype, computed.rgb_covariance.dtype) == (np.float64, np.float64)
    # A sum of whole numbers, divided once and rounded to float32 once.
    assert computed.mean_image.dtype == np.float32
    np.testing.assert_array_equal(computed.mean_image, mean_image.astype(np.float32))
    # float64 sums of 4.6 million numbers in another order, the reference's of deviations that are not whole.
    np.testing.assert_allclose(computed.rgb_mean, rgb_mean, rtol=1e-12)
    np.testing.assert_allclose(computed.rgb_covariance, rgb_covariance, rtol=1e-10)


@pytest.mark.parametrize("black", [1, 0, 70], ids=["half_black", "all_white", "mostly_black"])
def test_compute_of_extreme_images(tmp_path, black):
    # The largest sums there are: 65,536 pixels of 128^2 are 2^30 an image.
    files = {
        f"{color}{index:02d}.png": encoded(Image.new("RGB", (256, 256), color), "PNG")
        for color, count in (("black", black), ("white", 1))
        for index in range(count)
    }
    found = statistics.compute(flat_source(tmp_path, files))
    share = 1 / (black + 1)
    np.testing.assert_allclose(found.mean_image, np.full((256, 256, 3), 255 * share), rtol=1e-7)
    np.testing.assert_allclose(found.rgb_mean, np.full(3, 255 * share), rtol=1e-12)
    variance = 255**2 * share * (1 - share)
    np.testing.assert_allclose(found.rgb_covariance, np.full((3, 3), variance), rtol=1e-11, atol=1e-9)


@pytest.mark.parametrize("threads", [1, 5], ids=str)
def test_compute_does_not_depend_on_threads(source, computed, threads):
    assert_same(statistics.compute(source, threads=threads), computed)


def test_compute_does_not_depend_on_the_order_of_files(source, computed):
    columns = {name: getattr(source, name)[::-1] for name in ("files", "labels", "sizes")}
    found = statistics.compute(dataclasses.replace(source, **columns))
    assert found.fingerprint != computed.fingerprint
    assert_same(dataclasses.replace(found, fingerprint=computed.fingerprint), computed)


def test_bad_files_are_skipped_and_counted_nowhere(tmp_path):
    good = pictures(9)
    without = statistics.compute(flat_source(tmp_path / "without", good))
    source = flat_source(tmp_path / "with", among(good, BAD))
    found = statistics.compute(source)
    assert found.label_counts == tuple(int(name in good) for name in source.class_names)
    assert found.skipped == tuple(sorted(BAD))
    assert found.fingerprint == source.fingerprint() != without.fingerprint
    told = {name: getattr(without, name) for name in ("label_counts", "skipped", "fingerprint")}
    assert_same(dataclasses.replace(found, **told), without)
    assert source.without(found.skipped).files == tuple(good)


@pytest.mark.parametrize("function", FUNCTIONS, ids=FUNCTION_NAMES)
def test_a_file_that_cannot_be_read_is_not_taken_for_a_bad_image(tmp_path, function):
    source = flat_source(tmp_path, among(pictures(3), BAD))
    os.unlink(tmp_path / source.files[2])
    with pytest.raises(RunError, match=f"train/{source.files[2]}: cannot be read") as caught:
        function(source)
    assert "\n" not in str(caught.value)


def test_progress_tells_how_far_it_is(source):
    for function in FUNCTIONS:
        calls = []
        function(source, progress=lambda *numbers, calls=calls: calls.append(numbers))
        assert calls == [(64, COUNT), (COUNT, COUNT)]


def test_labels_are_counted(tmp_path):
    good = pictures(12)
    source = flat_source(tmp_path, among(good, BAD))
    labels = tuple(index % 5 if index % 5 < 3 else 3 for index in range(source.count))
    source = dataclasses.replace(source, class_names=("a", "b", "c", "d", "none"), labels=labels)
    found, computed = (function(source) for function in FUNCTIONS[::-1])
    kept = [label for name, label in zip(source.files, labels, strict=True) if name in good]
    assert found.label_counts == computed.label_counts == tuple(kept.count(label) for label in range(5))
    assert sum(found.label_counts) == 12 and found.label_counts[4] == 0
    assert found.skipped == tuple(sorted(BAD))
    assert found.fingerprint == source.fingerprint()
    assert statistics.summarize(source, threads=1) == found


@pytest.mark.parametrize("function", FUNCTIONS, ids=FUNCTION_NAMES)
def test_no_image_at_all(tmp_path, function):
    with pytest.raises(RunError, match="train: none of the 3 files is an image that can be decoded"):
        function(flat_source(tmp_path, BAD))


@pytest.mark.parametrize("skipped", [(), ("a/ä.jpg", "b/with space.png")], ids=["none", "two"])
def test_save_and_load(tmp_path, computed, skipped):
    path = tmp_path / "statistics.npz"
    path.write_bytes(b"an older file")
    saved = dataclasses.replace(computed, skipped=skipped)
    statistics.save(saved, str(path))
    assert_same(statistics.load(str(path)), saved)
    assert [entry.name for entry in tmp_path.iterdir()] == ["statistics.npz"]
    (tmp_path / "other").touch()
    assert path.stat().st_mode == (tmp_path / "other").stat().st_mode


def test_save_beside_the_program(tmp_path, computed, monkeypatch):
    monkeypatch.chdir(tmp_path)
    statistics.save(computed, "statistics.npz")
    assert_same(statistics.load("statistics.npz"), computed)


def test_a_save_that_fails_leaves_the_old_file(tmp_path, computed, monkeypatch):
    path = tmp_path / "statistics.npz"
    path.write_bytes(b"an older file")

    def fail(*_, **__):
        raise OSError("no space left")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.raises(OSError, match="no space left"):
        statistics.save(computed, str(path))
    assert [entry.read_bytes() for entry in tmp_path.iterdir()] == [b"an older file"]


def arrays(**changes):
    """The arrays of a file of statistics, some of them changed, or left out where None."""
    whole = {
        "mean_image": np.zeros((256, 256, 3), np.float32),
        "rgb_mean": np.zeros(3),
        "rgb_covariance": np.eye(3),
        "count": np.array(5),
    }
    return {name: value for name, value in (whole | changes).items() if value is not None}


def npz(compressed=False, **changes):
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, **arrays(**changes))
    return buffer.getvalue()


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def damaged(data):
    """The same file with other bytes inside its first array."""
    return data[:5000] + b"\x55" * 40 + data[5040:]


def damaged_compressed(data):
    """The same file with other bytes where its first array's compressed data begins."""
    start = data.index(b"mean_image.npy") + len(b"mean_image.npy") + data[28]
    return data[:start] + b"\xff" * 8 + data[start + 8 :]


class Trap:
    """Writes a file where it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


GARBAGE = {
    "empty": b"",
    "text": b"nothing of the kind",
    "random_bytes": np.random.default_rng(0).bytes(5000),
    "npy": npy(np.zeros(3)),
    "zip_cut_short": npz()[:-40],
    "zip_cut_in_half": npz()[:100_000],
    "damaged": damaged(npz()),
    "damaged_compressed": damaged_compressed(npz(compressed=True)),
    "damaged_header": npz().replace(b"(256, 256, 3)", b"(256, 256, 3 "),
    "no_mean": npz(mean_image=None),
    "no_covariance": npz(rgb_covariance=None),
    "no_count": npz(count=None),
    "words_for_numbers": npz(rgb_mean=np.array(["red", "green", "blue"])),
    "several_counts": npz(count=np.arange(3)),
}
OTHER_SHAPES = {
    "mean_of_crops": {"mean_image": np.zeros((224, 224, 3))},
    "channels_first": {"mean_image": np.zeros((3, 256, 256))},
    "rgba_mean": {"rgb_mean": np.zeros(4)},
    "variances": {"rgb_covariance": np.ones(3)},
}


def test_load_of_the_least_that_is_needed(tmp_path):
    path = tmp_path / "statistics.npz"
    for compressed in (False, True):
        path.write_bytes(npz(compressed))
        loaded = statistics.load(str(path))
        assert (loaded.count, loaded.label_counts, loaded.skipped, loaded.fingerprint) == (5, (), (), "")


@pytest.mark.parametrize("content", GARBAGE.values(), ids=GARBAGE)
def test_load_of_something_else(tmp_path, content):
    path = tmp_path / "statistics.npz"
    path.write_bytes(content)
    with pytest.raises(RunError, match="no statistics of a training set") as caught:
        statistics.load(str(path))
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("changes", OTHER_SHAPES.values(), ids=OTHER_SHAPES)
def test_load_of_other_shapes(tmp_path, changes):
    path = tmp_path / "statistics.npz"
    path.write_bytes(npz(**changes))
    with pytest.raises(RunError, match="of other shapes") as caught:
        statistics.load(str(path))
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("kind", ["pickle", "npy_of_an_object", "mean_image", "skipped", "fingerprint"])
def test_load_unpickles_nothing(tmp_path, kind):
    sprung, path = tmp_path / "sprung", tmp_path / "statistics.npz"
    trap = np.array([Trap(sprung)], object)
    if kind == "pickle":
        path.write_bytes(pickle.dumps(Trap(sprung)))
    elif kind == "npy_of_an_object":
        path.write_bytes(npy(trap))
    else:
        path.write_bytes(npz(**{kind: trap}))
    with pytest.raises(RunError, match="no statistics of a training set"):
        statistics.load(str(path))
    assert not sprung.exists()


def test_the_trap_works(tmp_path):
    pickle.loads(pickle.dumps(Trap(tmp_path / "sprung"))).close()
    assert (tmp_path / "sprung").exists()
