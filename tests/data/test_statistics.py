import dataclasses
import io
import os

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_alexnet.data import statistics
from keras_alexnet.data.decoding import decode_center
from keras_alexnet.errors import RunError, UsageError
from tests.data.conftest import encoded, flat_source, photo
from tests.reference.statistics import mean_and_covariance

COUNT = 70  # more than the 64 images that are summed at a time
BAD = {
    "bad/empty.jpg": b"",
    "bad/text.png": b"This is not an image, whatever its name says.",
    "bad/cut.jpg": encoded(photo(90, 70))[:900],
    "bad/end\x1b.jpg": encoded(photo(300, 600))[:-2],
}


def images(count):
    """JPEG and PNG, enlarged, reduced and exact, color and grey."""
    files = {}
    for index in range(count):
        size = ((40, 30), (30, 44), (256, 256), (300, 280))[index % 4 if index < 8 else index % 2]
        image = photo(*size, seed=index).convert("L" if index % 5 == 4 else "RGB")
        files[f"good/{index:02d}"] = encoded(image, "PNG" if index % 3 == 2 else "JPEG")
    return files


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return flat_source(tmp_path_factory.mktemp("good"), images(COUNT))


@pytest.fixture(scope="module")
def computed(source):
    return statistics.compute(source)


def assert_same(first, second):
    for field in dataclasses.fields(statistics.Statistics):
        a, b = getattr(first, field.name), getattr(second, field.name)
        assert type(a) is type(b) and getattr(a, "dtype", None) == getattr(b, "dtype", None)
        np.testing.assert_array_equal(a, b)


def test_compute_equals_the_reference(source, computed):
    # Of the package's own uint8 images, which have their own tests: only arithmetic is left to differ.
    paths = [os.path.join(source.root, name) for name in source.files]
    decoded = np.stack([decode_center(tf.io.read_file(path)).numpy() for path in paths])
    mean_image, rgb_mean, rgb_covariance = mean_and_covariance(decoded)
    assert (computed.count, computed.skipped, computed.fingerprint) == (COUNT, (), source.fingerprint())
    assert (computed.rgb_mean.dtype, computed.rgb_covariance.dtype) == (np.float64, np.float64)
    np.testing.assert_array_equal(computed.mean_image, mean_image.astype(np.float32))
    # float64 sums of 4.6 million numbers in another order, the reference's of deviations that are not whole.
    np.testing.assert_allclose(computed.rgb_mean, rgb_mean, rtol=1e-12)
    np.testing.assert_allclose(computed.rgb_covariance, rgb_covariance, rtol=1e-10)


def test_compute_of_extreme_images(tmp_path, black=70):
    # The largest sums there are: 65,536 pixels of 128^2 are 2^30 an image.
    colors = ["black"] * black + ["white"]
    files = {f"{n}.png": encoded(Image.new("RGB", (256, 256), color), "PNG") for n, color in enumerate(colors)}
    found, share = statistics.compute(flat_source(tmp_path, files)), 1 / (black + 1)
    np.testing.assert_allclose(found.mean_image, np.full((256, 256, 3), 255 * share), rtol=1e-7)
    np.testing.assert_allclose(found.rgb_mean, np.full(3, 255 * share), rtol=1e-12)
    np.testing.assert_allclose(found.rgb_covariance, np.full((3, 3), 255**2 * share * (1 - share)), rtol=1e-11)


def test_compute_depends_neither_on_threads_nor_on_the_order_of_files(source, computed):
    columns = {name: getattr(source, name)[::-1] for name in ("files", "labels", "sizes")}
    found = statistics.compute(dataclasses.replace(source, **columns), threads=5)
    assert found.fingerprint != computed.fingerprint
    assert_same(dataclasses.replace(found, fingerprint=computed.fingerprint), computed)


def test_bad_files_are_skipped_and_counted_nowhere(tmp_path, monkeypatch):
    good, calls = images(9), []
    monkeypatch.setattr(statistics, "progress_bar", lambda label: lambda *numbers: calls.append((label, *numbers)))
    without = statistics.compute(flat_source(tmp_path / "without", good))
    # The bad ones first, last and in between.
    (first, *middle, last), items = BAD.items(), list(good.items())
    source = flat_source(tmp_path / "with", dict([first, *items[:4], *middle, *items[4:], last]))
    found = statistics.compute(source)
    assert found.label_counts == tuple(int(name in good) for name in source.class_names)
    assert found.skipped == tuple(sorted(BAD)) and source.without(found.skipped).files == tuple(good)
    told = {name: getattr(without, name) for name in ("label_counts", "skipped", "fingerprint")}
    assert_same(dataclasses.replace(found, **told), without)
    summary = statistics.summarize(source, threads=1)
    assert summary == statistics.DatasetSummary(found.label_counts, found.skipped, source.fingerprint())
    assert calls[1:] == [("reading train", 9, 13)] * 2


def test_files_that_cannot_be_read_and_no_image_at_all(tmp_path):
    source = flat_source(tmp_path / "some", images(3) | BAD)
    os.unlink(os.path.join(source.root, "bad/end\x1b.jpg"))
    with pytest.raises(RunError, match=r"^train/bad/end\\x1b.jpg: cannot be read .No such file or directory.; repair"):
        statistics.compute(source)
    with pytest.raises(RunError, match="train: none of the 4 files is an image that can be decoded"):
        statistics.summarize(flat_source(tmp_path / "none", BAD))
    unlabeled = dataclasses.replace(flat_source(tmp_path / "unlabeled", images(3)), labels=(0, -1, 0))
    for read in (statistics.compute, statistics.summarize):
        with pytest.raises(UsageError, match="train: has images without a label .-1.; name a split"):
            read(unlabeled)


def npz(save=np.savez, **changes):
    """A file of statistics, some of its arrays changed, or left out where None."""
    whole = {"mean_image": np.zeros((256, 256, 3), np.float32), "rgb_mean": np.zeros(3), "rgb_covariance": np.eye(3)}
    buffer, arrays = io.BytesIO(), whole | {"count": np.array(5)} | changes
    save(buffer, **{name: value for name, value in arrays.items() if value is not None})
    return buffer.getvalue()


def test_save_and_load(tmp_path, computed):
    path = tmp_path / "statistics.npz"
    path.write_bytes(SMALL)
    least = statistics.load(str(path))
    assert (least.count, least.label_counts, least.skipped, least.fingerprint) == (5, (), (), "")
    other = dataclasses.replace(least, mean_image=least.mean_image + 1)
    assert least.identity not in ("", other.identity) and computed.identity == computed.fingerprint
    for saved in (computed, dataclasses.replace(computed, skipped=("a/ä.jpg", "b/with space.png"))):
        statistics.save(saved, str(path))
        assert_same(statistics.load(str(path)), saved)


class Trap:
    """Ends a test where it is unpickled."""

    def __reduce__(self):
        return pytest.exit, ("unpickled",)


SMALL = npz(np.savez_compressed)
ELSE, SHAPES = "does not hold the statistics of a training set", "holds statistics of other shapes"
WRONG = {
    "empty": (b"", ELSE),
    "damaged_compressed": (SMALL[:80] + b"\x55" * 40 + SMALL[120:], ELSE),
    "no_mean": (npz(mean_image=None), ELSE),
    "words_for_numbers": (npz(rgb_mean=np.array(["red", "green", "blue"])), ELSE),
    "pickled_name": (npz(skipped=np.array([Trap()], object)), ELSE),
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
