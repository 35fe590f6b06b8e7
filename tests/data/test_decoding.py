"""Section 2, from the bytes of a file to a window of 256x256 pixels, against the NumPy reference."""

import contextlib
import io
import itertools
import resource
import shutil
import struct
import subprocess
import zlib
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_alexnet.data.decoding import REDUCTIONS, center_of, decode_center, decode_window, window_of
from tests.data.conftest import encoded, photo
from tests.reference import decoding as reference

# Levels. Decoders agree to the bit, reductions included. The package then resamples in float32, the reference in
# float64: places of up to 512 are off by a few times 2^-24 of that, and two neighbors may be 255 levels apart. What is
# this close to a half may be rounded the other way; 0.0015 was the most that was found, in black and white.
NEAR = 0.01

SIZES = {
    "landscape": (380, 300),
    "odd": (257, 333),
    "one_less": (255, 300),
    "exact": (301, 256),
    "small": (100, 80),
    "not_halved": (530, 511),
    "halved": (700, 512),
    "just_halved": (515, 513),
    "quartered": (1024, 1100),
    "divided_by_8": (2048, 2050),
    "not_divided_by_8": (2060, 2047),
    "wide": (700, 180),
    "row": (9, 1),
    "pixel": (1, 1),
}
VIEWS = {
    "full": (0, 0, 256),
    "top_left": (0, 0, 224),
    "bottom_right": (32, 32, 224),
    "center_227": (14, 14, 227),
    "somewhere_227": (3, 17, 227),
}
QUICKLY = {"JPEG": {}, "PNG": {"compress_level": 1}}


def png_16_bit(image):
    """(16 bit PNG whose low bytes are noise that must not be seen, 8 bit PNG of the same high bytes)."""
    high = np.asarray(image).astype(np.uint16) << 8
    numbers = high + np.random.default_rng(0).integers(0, 256, high.shape).astype(np.uint16)
    numbers = numbers if numbers.ndim == 3 else numbers[..., None]
    return tf.io.encode_png(numbers).numpy(), encoded(image, "PNG")


def kinds_of_files():
    """{name: (bytes of a file, bytes for the reference)}"""
    image = photo(311, 272)
    grey = image.convert("L")
    # An alpha channel that is neither 0 nor 255 everywhere.
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


@cache
def file_of(name, kind):
    return encoded(photo(*SIZES[name]), kind, **QUICKLY[kind])


def assert_close(image, expected):
    """Levels are those of the reference, rounded; where nothing was resampled, that is to the bit."""
    assert image.shape == expected.shape and image.dtype == np.uint8
    assert np.abs(image - expected).max() <= 0.5 + NEAR


def center(data):
    return decode_center(tf.constant(data)).numpy()


def expected_center(data):
    return reference.window(data, 0, 0, 256)


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_files(kind):
    data, for_reference = KINDS[kind]
    assert_close(center(data), expected_center(for_reference))


@pytest.mark.parametrize("name, kind", [(name, kind) for name in SIZES for kind in ("JPEG", "PNG")])
def test_sizes(name, kind):
    data = file_of(name, kind)
    assert_close(center(data), expected_center(data))


def test_orientation_is_ignored():
    image = photo(300, 280)
    tag = Image.Exif()
    tag[0x0112] = 6  # turned by a quarter
    np.testing.assert_array_equal(center(encoded(image, exif=tag)), center(encoded(image)))


@pytest.mark.parametrize(
    "name, kind",
    [(name, "JPEG") for name in ("landscape", "odd", "small", "not_halved", "halved", "exact")]
    + [(name, "PNG") for name in ("landscape", "one_less", "row", "just_halved")],
)
def test_windows(name, kind):
    data = file_of(name, kind)
    whole = center(data)
    for row, column, size in VIEWS.values():
        found = decode_window(tf.constant(data), row, column, size).numpy()
        assert_close(found, reference.window(data, row, column, size))
        if min(SIZES[name]) <= 256:  # nothing is resampled, or all of it at once
            np.testing.assert_array_equal(found, whole[row : row + size, column : column + size])


@pytest.mark.parametrize(
    "name, kind",
    [(name, "JPEG") for name in ("landscape", "odd", "small", "halved", "quartered", "wide", "pixel")]
    + [(name, "PNG") for name in ("landscape", "just_halved", "wide", "row")],
)
def test_stretched(name, kind):
    """All of the image becomes 256x256; one direction may be enlarged and the other not."""
    data = file_of(name, kind)
    for row, column, size in VIEWS.values():
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
        np.testing.assert_array_equal(window_of("jpeg", tf.constant(data), row, column, size).numpy(), expected)
        np.testing.assert_array_equal(window_of("raw", tf.constant(pixels), row, column, size).numpy(), expected)
    for stored, image in (("jpeg", data), ("raw", pixels), ("", data)):
        middle = pixels[margin // 2 : margin // 2 + size, margin // 2 : margin // 2 + size]
        np.testing.assert_array_equal(center_of(stored, tf.constant(image), size).numpy(), middle)


def test_stored_images_that_are_none_and_windows_beyond_them():
    image = photo(256, 256)
    for data in (encoded(image, "PNG"), encoded(photo(256, 255)), encoded(photo(255, 256)), encoded(image)[:4000]):
        with pytest.raises(tf.errors.InvalidArgumentError):
            window_of("jpeg", tf.constant(data), 32, 32, 224)
    for stored, content in (("jpeg", encoded(image)), ("raw", np.asarray(image))):
        for place in ((33, 0), (0, -1)):
            with pytest.raises(tf.errors.InvalidArgumentError):
                window_of(stored, tf.constant(content), *place, 224)


# Samplings of the colors.


def sampled(image, sampling, progressive):
    """The bytes of a JPEG whose components have these sampling factors; None where cjpeg cannot write it."""
    command = ["cjpeg", "-quality", "90", "-sample", sampling] + ["-progressive"] * progressive
    done = subprocess.run(command, input=encoded(image, "PPM"), capture_output=True)
    return done.stdout if done.returncode == 0 else None


FACTORS = [(rows, columns) for rows in range(1, 5) for columns in range(1, 5)]


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


@pytest.mark.parametrize("size", [(600, 520), (1090, 1030)], ids=["halved", "quartered"])
def test_a_sampling_whose_columns_libjpeg_cuts_wrongly(size):
    if not shutil.which("cjpeg"):
        pytest.skip("cjpeg (libjpeg-turbo-progs) is not installed")
    for sampling in ("4x2,1x1,1x1", "2x4,1x1,1x1", "1x1,4x1,1x2"):
        assert_as_whole(sampled(photo(*size), sampling, progressive=False), 2 if size[0] < 1024 else 4)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("cjpeg"), reason="cjpeg (libjpeg-turbo-progs) is not installed")
@pytest.mark.parametrize("ratio", REDUCTIONS)
def test_all_samplings(ratio):
    image, written = photo(276 * ratio + 3, 262 * ratio + 1), 0
    for components in itertools.product(FACTORS, repeat=3):
        if sum(rows * columns for rows, columns in components) > 10:
            continue  # more than a JPEG may have in one of its blocks
        sampling = ",".join(f"{columns}x{rows}" for rows, columns in components)
        for progressive in (False, True):
            data = sampled(image, sampling, progressive)
            if data:
                written += 1
                assert_as_whole(data, ratio)
    assert written > 600


# What is not an image.


def claiming(data, height, width):
    """A small file whose header is rewritten to claim another size, with a check sum that is right."""
    numbers = bytearray(data)
    if numbers[:2] == b"\xff\xd8":
        frame = max(data.find(b"\xff\xc0"), data.find(b"\xff\xc2"))
        numbers[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    else:
        numbers[16:24] = struct.pack(">II", width, height)
        numbers[29:33] = struct.pack(">I", zlib.crc32(bytes(numbers[12:29])))
    return bytes(numbers)


def cut(data, share):
    return data[: int(len(data) * share)]


SMALL, SMALL_PNG = encoded(photo(90, 70)), encoded(photo(90, 70), "PNG")
LANDSCAPE, TALL = encoded(photo(120, 90)), encoded(photo(300, 600))
PROGRESSIVE = encoded(photo(90, 120), progressive=True)
WITH_THUMBNAIL = LANDSCAPE[:2] + b"\xff\xe1" + struct.pack(">H", len(SMALL) + 2) + SMALL + LANDSCAPE[2:]
CUT_SHORT = {
    "in_half": cut(LANDSCAPE, 0.5),
    "near_the_end": cut(LANDSCAPE, 0.97),
    "by_two_bytes": LANDSCAPE[:-2],
    "by_one_byte": LANDSCAPE[:-1],
    "progressive": cut(PROGRESSIVE, 0.5),
    "behind_a_thumbnail": cut(WITH_THUMBNAIL, 0.9),
    "below_the_central_square": cut(TALL, 0.9),
}
BAD = {
    "empty": b"",
    "one_byte": b"\xff",
    "text": b"No image, but a sentence that is long enough to hold a header.",
    "gif": encoded(photo(90, 70), "GIF"),
    "jpeg_two_bytes": b"\xff\xd8",
    "jpeg_only_markers": b"\xff\xd8\xff\xd9",
    "jpeg_cut_in_header": SMALL[:100],
    "png_signature_only": SMALL_PNG[:8],
    "png_cut_in_header": SMALL_PNG[:20],
    "png_cut_in_half": cut(SMALL_PNG, 0.5),
    "png_cut_near_the_end": SMALL_PNG[:-20],
    "png_without_pixels": claiming(SMALL_PNG, 0, 0),
    "png_claims_more_pixels_than_there_are": claiming(SMALL_PNG, 140, 90),
    "jpeg_without_pixels": claiming(SMALL, 0, 0),
}
HUGE = {
    "png_20000x20000": claiming(SMALL_PNG, 20000, 20000),
    "png_largest": claiming(SMALL_PNG, 2**31 - 1, 2**31 - 1),
    "jpeg_largest": claiming(SMALL, 65500, 65500),
    # TensorFlow would refuse those above by itself, but not these.
    "png_12000x12000": claiming(SMALL_PNG, 12000, 12000),
    "progressive_12000x12000": claiming(PROGRESSIVE, 12000, 12000),
}


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_bad_file(data):
    with pytest.raises(tf.errors.InvalidArgumentError):
        center(data)


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
    np.testing.assert_array_equal(decode_window(cut(TALL, 0.9), 0, 0, 256), decode_window(TALL, 0, 0, 256))
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode_window(cut(TALL, 0.6), 0, 0, 256)


def test_in_tf_data_as_eagerly_and_bad_files_leave_the_others_alone():
    bad = [*BAD.values(), *CUT_SHORT.values(), *HUGE.values()]
    good = [data for data, _ in KINDS.values()] + [file_of(name, "JPEG") for name in ("small", "halved", "pixel")]
    items = [data for pair in zip(bad, itertools.cycle(good), strict=False) for data in pair]
    dataset = tf.data.Dataset.from_tensor_slices(tf.constant(items)).map(decode_center)
    assert dataset.element_spec == tf.TensorSpec((256, 256, 3), tf.uint8)
    images = list(dataset.ignore_errors().as_numpy_iterator())
    assert len(images) == len(bad) > len(good)
    for image, data in zip(images, itertools.cycle(good), strict=False):
        np.testing.assert_array_equal(image, center(data))


@pytest.mark.parametrize("data", HUGE.values(), ids=HUGE)
def test_huge_claim_is_refused_before_memory_is_taken(data):
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux forgets an earlier peak when it is asked to
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(tf.errors.InvalidArgumentError, match="a header that claims more than 134,217,728 pixels"):
        center(data)
    # In kB, on Linux. 12000x12000 pixels are 432 MB, and four times that as float32.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000
