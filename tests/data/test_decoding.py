import contextlib
import io
import itertools
import resource
import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_alexnet.data.decoding import REDUCTIONS, center_of, decode_center, decode_window, window_function
from tests.data.conftest import encoded, photo
from tests.reference import decoding as reference

# Levels. Decoders agree to the bit, reductions included. The package then resamples in float32, the reference in
# float64: what is this close to a half may be rounded the other way; 0.0015 was the most that was found.
NEAR = 0.01

# Below, at and above 256, 512, 1024 and 2048, where the decoder begins to divide by 2, 4 and 8.
SIZES = [(380, 300), (257, 333), (255, 300), (301, 256), (100, 80), (530, 511), (700, 512), (515, 513), (1024, 1100)]
SIZES += [(2048, 2050), (2060, 2047), (9, 1), (1, 1)]
VIEWS = ((0, 0, 224), (32, 32, 224), (3, 17, 227))
QUICKLY = {"JPEG": {}, "PNG": {"compress_level": 1}}


def png_16_bit(image):
    """(16 bit PNG with noise in its low bytes, 8 bit PNG of the same high bytes)."""
    high = np.asarray(image).astype(np.uint16) << 8
    numbers = high + np.random.default_rng(0).integers(0, 256, high.shape).astype(np.uint16)
    return tf.io.encode_png(numbers.reshape(*high.shape[:2], -1)).numpy(), encoded(image, "PNG")


def kinds_of_files():
    """{name: (bytes of a file, bytes for the reference)}"""
    image = photo(311, 272)
    grey = image.convert("L")
    alpha = Image.merge("RGBA", (*image.split(), photo(*image.size, seed=9).split()[0]))
    same = {
        "jpeg": encoded(image),
        "jpeg_no_subsampling": encoded(image, subsampling=0),
        "jpeg_progressive": encoded(image, progressive=True),
        "jpeg_grey": encoded(grey),
        "jpeg_cmyk": encoded(image.convert("CMYK")),
        "png_rgb": encoded(image, "PNG"),
        "png_grey": encoded(grey, "PNG"),
        "png_grey_alpha": encoded(image.convert("LA"), "PNG"),
        "png_rgba": encoded(alpha, "PNG"),
        "png_palette": encoded(image.quantize(64), "PNG"),
        "png_1_bit": encoded(image.convert("1"), "PNG"),
    }
    both = {name: (data, data) for name, data in same.items()}
    return both | {"png_16_bit": png_16_bit(image), "png_16_bit_grey": png_16_bit(grey)}


KINDS = kinds_of_files()


def assert_close(image, expected):
    assert image.shape == expected.shape and image.dtype == np.uint8
    assert np.abs(image - expected).max() <= 0.5 + NEAR


def center(data):
    return decode_center(tf.constant(data)).numpy()


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_files(kind):
    data, for_reference = KINDS[kind]
    assert_close(center(data), reference.window(for_reference, 0, 0, 256))


@pytest.mark.parametrize("kind", QUICKLY)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_sizes_and_windows(size, kind):
    data, short = encoded(photo(*size), kind, **QUICKLY[kind]), min(size)
    whole = center(data)
    assert_close(whole, reference.window(data, 0, 0, 256))
    for row, column, size in VIEWS if short < 1000 else ():
        found = decode_window(tf.constant(data), row, column, size).numpy()
        assert_close(found, reference.window(data, row, column, size))
        if short <= 256:  # nothing is resampled, or all of it at once
            np.testing.assert_array_equal(found, whole[row : row + size, column : column + size])


@pytest.mark.parametrize("kind", QUICKLY)
@pytest.mark.parametrize("size", [(380, 300), (257, 333), (700, 512), (515, 513), (700, 180), (1, 9)], ids=str)
def test_stretched(size, kind):
    """All of the image becomes 256x256; one direction may be enlarged and the other not."""
    data = encoded(photo(*size), kind, **QUICKLY[kind])
    for row, column, size in (*VIEWS, (0, 0, 256)):
        found = decode_window(tf.constant(data), row, column, size, resize="stretch").numpy()
        assert_close(found, reference.window(data, row, column, size, resize="stretch"))
    square = encoded(photo(300, 300), kind)
    np.testing.assert_array_equal(decode_center(square, 224, "stretch"), decode_center(square, 224))


STORED = {"as_prepared": {"quality": 90}, "half_subsampling": {"subsampling": 1}, "progressive": {"progressive": True}}


@pytest.mark.parametrize("size", [224, 256], ids=str)
@pytest.mark.parametrize("options", STORED.values(), ids=STORED)
def test_windows_of_stored_images_are_slices_of_them(options, size):
    data = encoded(photo(256, 256, seed=3), **options)
    with Image.open(io.BytesIO(data)) as opened:
        pixels = np.asarray(opened)
    margin = 256 - size
    places = sorted({max(0, min(place, margin)) for place in (0, 1, 2, 7, margin - 1, margin)})
    for row, column in itertools.product(places, places):
        expected = pixels[row : row + size, column : column + size]
        np.testing.assert_array_equal(window_function("jpeg", size)(tf.constant(data), row, column).numpy(), expected)
        np.testing.assert_array_equal(window_function("raw", size)(tf.constant(pixels), row, column).numpy(), expected)
    for stored, image in (("jpeg", data), ("raw", pixels), ("", data)):
        middle = pixels[margin // 2 : margin // 2 + size, margin // 2 : margin // 2 + size]
        np.testing.assert_array_equal(center_of(stored, tf.constant(image), size).numpy(), middle)


def test_stored_images_that_are_none_and_windows_beyond_them():
    image = photo(256, 256)
    for data in (encoded(image, "PNG"), encoded(photo(256, 255)), encoded(photo(255, 256)), encoded(image)[:4000]):
        with pytest.raises(tf.errors.InvalidArgumentError):
            window_function("jpeg", 224)(tf.constant(data), 32, 32)
    for stored, content in (("jpeg", encoded(image)), ("raw", np.asarray(image))):
        with pytest.raises(tf.errors.InvalidArgumentError):
            window_function(stored, 224)(tf.constant(content), 33, 0)


def sampled(image, sampling, progressive):
    """A JPEG whose components have these sampling factors, bytes; None where cjpeg cannot write it."""
    command = ["cjpeg", "-quality", "90", "-sample", sampling] + ["-progressive"] * progressive
    done = subprocess.run(command, input=encoded(image, "PPM"), capture_output=True)
    return done.stdout if done.returncode == 0 else None


def assert_as_whole(data, ratio):
    """Windows are those of a full decoding, each time."""
    options = {"channels": 3, "ratio": ratio, "dct_method": "INTEGER_ACCURATE"}
    whole = tf.cast(tf.io.decode_jpeg(data, **options), tf.float32)[None]
    height, width = whole.shape[1:3]
    short = min(height, width)
    count = int(np.floor(224 * short / 256 + 0.5))
    for place in (0, 16, 32):
        first = min(int(np.floor(place * short / 256 + 0.5)), short - count)
        row, column = (height - short) // 2 + first, (width - short) // 2 + first
        resized = tf.image.resize(whole[:, row : row + count, column : column + count], (224, 224))
        for _ in range(2):
            found = decode_window(tf.constant(data), place, place, 224)
            np.testing.assert_array_equal(found, tf.cast(resized + 0.5, tf.uint8)[0])


needs_cjpeg = pytest.mark.skipif(not shutil.which("cjpeg"), reason="cjpeg (libjpeg-turbo-progs) is not installed")


@needs_cjpeg
@pytest.mark.parametrize("size, ratio", [((600, 520), 2), ((1090, 1030), 4)])
def test_a_sampling_whose_columns_libjpeg_cuts_wrongly(size, ratio):
    for sampling in ("4x2,1x1,1x1", "2x4,1x1,1x1", "1x1,4x1,1x2"):
        assert_as_whole(sampled(photo(*size), sampling, progressive=False), ratio)


@pytest.mark.slow
@needs_cjpeg
@pytest.mark.parametrize("ratio", REDUCTIONS)
def test_all_samplings(ratio):
    image, written = photo(276 * ratio + 3, 262 * ratio + 1), 0
    for components in itertools.product(itertools.product(range(1, 5), repeat=2), repeat=3):
        if sum(rows * columns for rows, columns in components) > 10:
            continue  # more than a JPEG may have in one of its blocks
        sampling = ",".join(f"{columns}x{rows}" for rows, columns in components)
        for progressive in (False, True):
            data = sampled(image, sampling, progressive)
            if data:
                written += 1
                assert_as_whole(data, ratio)
    assert written > 600


def claiming(data, height, width):
    """A small file whose header is rewritten to claim another size, with a check sum that is right."""
    numbers = bytearray(data)
    if data[:2] == b"\xff\xd8":
        frame = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
        numbers[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    else:
        numbers[16:24] = struct.pack(">II", width, height)
        numbers[29:33] = struct.pack(">I", zlib.crc32(bytes(numbers[12:29])))
    return bytes(numbers)


SMALL, SMALL_PNG = encoded(photo(90, 70)), encoded(photo(90, 70), "PNG")
LANDSCAPE, TALL = encoded(photo(120, 90)), encoded(photo(300, 600))
PROGRESSIVE = encoded(photo(90, 120), progressive=True)
WITH_THUMBNAIL = LANDSCAPE[:2] + b"\xff\xe1" + struct.pack(">H", len(SMALL) + 2) + SMALL + LANDSCAPE[2:]
BELOW_THE_SQUARE = TALL[: len(TALL) * 9 // 10]
CUT_SHORT = {
    "in_half": LANDSCAPE[: len(LANDSCAPE) // 2],
    "by_two_bytes": LANDSCAPE[:-2],
    "by_one_byte": LANDSCAPE[:-1],
    "progressive": PROGRESSIVE[: len(PROGRESSIVE) // 2],
    "behind_a_thumbnail": WITH_THUMBNAIL[: len(WITH_THUMBNAIL) * 9 // 10],
    "below_the_central_square": BELOW_THE_SQUARE,
}
TEXT, GIF = b"No image, but a sentence that is long enough to hold a header.", encoded(photo(90, 70), "GIF")
BAD = [b"", b"\xff", TEXT, GIF, b"\xff\xd8", b"\xff\xd8\xff\xd9", SMALL[:100], claiming(SMALL, 0, 0)]
BAD += [SMALL_PNG[:8], SMALL_PNG[:20], SMALL_PNG[: len(SMALL_PNG) // 2], SMALL_PNG[:-20]]
BAD += [claiming(SMALL_PNG, 0, 0), claiming(SMALL_PNG, 140, 90)]
HUGE = {
    "png_largest": claiming(SMALL_PNG, 2**31 - 1, 2**31 - 1),
    "jpeg_largest": claiming(SMALL, 65500, 65500),
    # TensorFlow would refuse those above by itself, but not these.
    "png_12000x12000": claiming(SMALL_PNG, 12000, 12000),
    "progressive_12000x12000": claiming(PROGRESSIVE, 12000, 12000),
}


@pytest.mark.parametrize("data", CUT_SHORT.values(), ids=CUT_SHORT)
@pytest.mark.parametrize("size", [224, 256], ids=str)
def test_a_jpeg_that_is_cut_short_is_refused_whatever_is_wanted_of_it(data, size):
    with pytest.raises(tf.errors.InvalidArgumentError, match="cut short: its end-of-image marker is missing"):
        decode_center(tf.constant(data), size)


def test_bytes_behind_the_end_of_a_jpeg():
    expected = center(LANDSCAPE)
    for more in (b"\0", b"\r\n", bytes(3000), b"\xff\xd9"):
        np.testing.assert_array_equal(center(LANDSCAPE + more), expected)
    np.testing.assert_array_equal(center(WITH_THUMBNAIL), expected)


def test_what_is_cut_off_below_a_window_does_not_reach_it():
    # In training, whose files were seen whole before, no more is read than the window needs.
    np.testing.assert_array_equal(decode_window(BELOW_THE_SQUARE, 0, 0, 256), decode_window(TALL, 0, 0, 256))
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode_window(TALL[: len(TALL) * 6 // 10], 0, 0, 256)


def test_in_tf_data_as_eagerly_and_bad_files_leave_the_others_alone():
    bad = [*BAD, *CUT_SHORT.values(), *HUGE.values()]
    good = [data for data, _ in KINDS.values()] + [encoded(photo(*size)) for size in ((100, 80), (700, 512), (1, 1))]
    items = [data for pair in zip(bad, itertools.cycle(good), strict=False) for data in pair]
    dataset = tf.data.Dataset.from_tensor_slices(tf.constant(items)).map(decode_center)
    assert dataset.element_spec == tf.TensorSpec((256, 256, 3), tf.uint8)
    images = list(dataset.ignore_errors().as_numpy_iterator())
    assert len(images) == len(bad) > len(good)  # each of the bad ones was refused
    for image, data in zip(images, itertools.cycle(good), strict=False):
        np.testing.assert_array_equal(image, center(data))


@pytest.mark.parametrize("data", HUGE.values(), ids=HUGE)
def test_huge_claim_is_refused_before_memory_is_taken(data):
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux forgets an earlier peak when it is asked to
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(tf.errors.InvalidArgumentError, match="a header that claims more than 134,217,728 pixels"):
        center(data)
    # In kB; 12000x12000 pixels are 432 MB, and four times that as float32.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000
