"""Section 2, from the bytes of a file to a window of 256x256 pixels, against the NumPy reference."""

import io
import resource
import struct
import sys
import zlib
from functools import cache, partial

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from keras_alexnet.data.decoding import REDUCTIONS, decode_center, decode_stored_window, decode_window, window_of
from tests.data.conftest import encoded, photo
from tests.reference import decoding as reference

# The package resamples in float32, the reference in float64: a value close to a half may be rounded the other way.
# That happened to 0.03 % of the values at most.
LEVELS = 1
SHARE = 0.001

SIZES = {
    "landscape": (380, 300),
    "portrait": (290, 377),
    "odd": (333, 257),
    "one_less": (255, 300),
    "exact_square": (256, 256),
    "exact_landscape": (301, 256),
    "exact_portrait": (256, 350),
    "small": (100, 80),
    "halved": (700, 512),
    "not_halved": (530, 511),
    "just_halved": (515, 513),
    "quartered": (1024, 1100),
    "not_quartered": (1023, 1500),
    "divided_by_8": (2048, 2050),
    "not_divided_by_8": (2100, 2047),
    "row": (9, 1),
    "column": (1, 9),
    "pixel": (1, 1),
}
VIEWS = {
    "full": (0, 0, 256),
    "top_left_224": (0, 0, 224),
    "top_right_224": (0, 32, 224),
    "bottom_left_224": (32, 0, 224),
    "bottom_right_224": (32, 32, 224),
    "center_224": (16, 16, 224),
    "top_left_227": (0, 0, 227),
    "bottom_right_227": (29, 29, 227),
    "center_227": (14, 14, 227),
    "somewhere_227": (3, 17, 227),
}


def low_bytes(picture):
    """The picture as 16 bit numbers whose low bytes are noise that must not be seen."""
    high = np.asarray(picture).astype(np.uint16) << 8
    return high + np.random.default_rng(0).integers(0, 256, high.shape).astype(np.uint16)


def png_16_bit(picture):
    """(16 bit PNG, 8 bit PNG of the same high bytes): Pillow writes no 16 bit RGB, and clips grey."""
    numbers = low_bytes(picture)
    numbers = numbers if numbers.ndim == 3 else numbers[..., None]
    return tf.io.encode_png(numbers).numpy(), encoded(picture, "PNG")


def with_alpha(picture):
    """The picture with an alpha channel that is neither 0 nor 255 everywhere."""
    return Image.merge("RGBA", (*picture.split(), photo(*picture.size, seed=9).split()[0]))


def files():
    """{name: (bytes of a file, bytes for the reference)}"""
    picture = photo(311, 272)
    grey = picture.convert("L")
    same = {
        "jpeg": encoded(picture),
        "jpeg_no_subsampling": encoded(picture, subsampling=0),
        "jpeg_progressive": encoded(picture, progressive=True),
        "jpeg_grey": encoded(grey),
        "jpeg_cmyk": encoded(picture.convert("CMYK")),
        "png_rgb": encoded(picture, "PNG"),
        "png_grey": encoded(grey, "PNG"),
        "png_grey_alpha": encoded(picture.convert("LA"), "PNG"),
        "png_rgba": encoded(with_alpha(picture), "PNG"),
        "png_palette": encoded(picture.quantize(64), "PNG"),
        "png_1_bit": encoded(picture.convert("1"), "PNG"),
    }
    both = {name: (data, data) for name, data in same.items()}
    return both | {"png_16_bit": png_16_bit(picture), "png_16_bit_grey": png_16_bit(grey)}


KINDS = (
    *("jpeg", "jpeg_no_subsampling", "jpeg_progressive", "jpeg_grey", "jpeg_cmyk"),
    *("png_rgb", "png_grey", "png_grey_alpha", "png_rgba", "png_palette", "png_1_bit"),
    *("png_16_bit", "png_16_bit_grey"),
)
files_once = cache(files)


def assert_close(image, expected, levels=LEVELS, share=SHARE):
    assert image.shape == expected.shape and image.dtype == np.uint8
    difference = np.abs(image.astype(int) - expected)
    assert difference.max() <= levels
    assert np.mean(difference > 0) <= share


def center(data):
    return decode_center(tf.constant(data)).numpy()


def through_tf_data(items, function):
    """What `function` makes of each of a list of byte strings, as a dataset."""
    return tf.data.Dataset.from_tensor_slices(tf.constant(items)).map(function)


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_files(kind):
    data, for_reference = files_once()[kind]
    assert_close(center(data), reference.decode(for_reference))


def test_every_kind_of_file_is_tested():
    assert set(KINDS) == set(files_once())


@pytest.mark.parametrize(
    "name, kind",
    [(name, kind) for name in SIZES for kind in ("JPEG", "PNG")],
)
def test_sizes(name, kind):
    data = encoded(photo(*SIZES[name]), kind)
    exact = name.startswith("exact")
    # With 256 pixels on the shorter side there is nothing to resample, and nothing to round.
    assert_close(center(data), reference.decode(data), *((0, 0) if exact else ()))


@pytest.mark.parametrize("size", [(20, 100), (100, 20)], ids=["portrait", "landscape"])
def test_enlarged_extreme_aspect(size):
    data = encoded(photo(*size), "PNG")
    assert_close(center(data), reference.decode(data))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_a_window_of_a_file_that_is_already_right_is_cut_from_it(kind):
    data = encoded(photo(300, 256), kind)
    with Image.open(io.BytesIO(data)) as opened:
        pixels = np.asarray(opened)
    window = decode_window(tf.constant(data), 5, 9, 224).numpy()
    np.testing.assert_array_equal(window, pixels[5:229, 22 + 9 : 22 + 9 + 224])  # 22 = (300 - 256) / 2


def test_orientation_tag_is_not_heeded():
    picture = photo(300, 280)
    tag = Image.Exif()
    tag[0x0112] = 6  # turned by a quarter
    np.testing.assert_array_equal(center(encoded(picture, exif=tag)), center(encoded(picture)))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_very_large(kind):
    data = encoded(photo(4003, 3001), kind)
    assert_close(center(data), reference.decode(data))


def test_reductions_are_those_of_the_reference():
    assert {reference.reduction(short, 256) for short in range(1, 4000)} == set(REDUCTIONS)
    for factor in REDUCTIONS[1:]:
        assert reference.reduction(256 * factor, 256) == factor == 2 * reference.reduction(256 * factor - 1, 256)


def test_a_large_photograph_does_not_alias():
    # Stripes of one pixel: grey when they are resized well, stripes again when pixels are left out.
    stripes = np.zeros((2048, 2048, 3), np.uint8)
    stripes[:, ::2] = 255
    for kind in ("JPEG", "PNG"):
        assert center(encoded(Image.fromarray(stripes), kind)).std() < 2


@cache
def file_of(name, kind):
    return encoded(photo(*SIZES[name]), kind)


@pytest.mark.parametrize("view", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize(
    "name, kind",
    [(name, "JPEG") for name in ("landscape", "portrait", "odd", "exact_landscape", "small", "not_halved", "halved")]
    + [(name, "PNG") for name in ("landscape", "one_less", "exact_portrait", "row", "just_halved")],
)
def test_windows(name, kind, view):
    data = file_of(name, kind)
    exact = name.startswith("exact")
    found = decode_window(tf.constant(data), *view).numpy()
    assert_close(found, reference.window(data, *view), *((0, 0) if exact else ()))


@pytest.mark.parametrize("name, kind", [("exact_landscape", "JPEG"), ("small", "JPEG"), ("one_less", "PNG")])
def test_a_window_of_a_small_file_is_that_part_of_the_whole(name, kind):
    data = tf.constant(file_of(name, kind))
    whole = center(file_of(name, kind))
    for row, column, size in VIEWS.values():
        part = whole[row : row + size, column : column + size]
        np.testing.assert_array_equal(decode_window(data, row, column, size).numpy(), part)


def test_a_window_of_a_large_file_is_that_part_to_half_a_pixel():
    # On a ramp of 2 levels a pixel half a pixel is one level, and rounding another half of one.
    ramp = np.tile(np.arange(120, dtype=np.uint8)[None, :, None] * 2, (120, 1, 3))
    data = encoded(Image.fromarray(ramp).resize((420, 420), Image.Resampling.BILINEAR), "PNG")
    whole = center(data).astype(int)
    slope = 240 / 256  # levels a pixel of the whole
    for row, column, size in VIEWS.values():
        part = decode_window(tf.constant(data), row, column, size).numpy().astype(int)
        difference = np.abs(part - whole[row : row + size, column : column + size])
        assert difference.max() <= np.ceil(slope / 2 + 1)


@pytest.mark.parametrize("margin", [0, 1, 2, 3, 7, 16, 29, 30, 31, 32])
def test_windows_of_stored_images_are_slices_of_them(margin):
    picture = photo(256, 256, seed=3)
    data = encoded(picture, quality=90)
    with Image.open(io.BytesIO(data)) as opened:
        pixels = np.asarray(opened)
    for row, column in ((margin, 0), (0, margin), (32 - margin, margin)):
        expected = pixels[row : row + 224, column : column + 224]
        np.testing.assert_array_equal(decode_stored_window(tf.constant(data), row, column, 224).numpy(), expected)
        np.testing.assert_array_equal(window_of("raw", tf.constant(pixels), row, column, 224).numpy(), expected)


@pytest.mark.parametrize("data", [b"", b"no image", encoded(photo(200, 200)), encoded(photo(256, 256))[:4000]])
def test_stored_images_that_are_none(data):
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode_stored_window(tf.constant(data), 32, 32, 224)


@pytest.mark.parametrize("size", [256, 227, 224], ids=str)
def test_center_is_the_window_in_the_middle(size):
    data = tf.constant(encoded(photo(333, 280)))
    margin = (256 - size) // 2
    expected = decode_window(data, margin, margin, size)
    np.testing.assert_array_equal(decode_center(data, size).numpy(), expected.numpy())
    assert expected.shape == (size, size, 3)


def test_same_in_tf_data_as_eagerly():
    items = [data for data, _ in files_once().values()] + [encoded(photo(*size)) for size in SIZES.values()]
    window = partial(decode_window, row=5, column=32, size=224)
    dataset = through_tf_data(items, window)
    assert dataset.element_spec == tf.TensorSpec((224, 224, 3), tf.uint8)
    for data, image in zip(items, dataset.as_numpy_iterator(), strict=True):
        np.testing.assert_array_equal(image, window(tf.constant(data)).numpy())


def test_bytes_decide_not_the_name(tmp_path):
    path = tmp_path / "a.JPEG"
    path.write_bytes(encoded(photo(300, 280), "PNG"))
    image = decode_center(tf.io.read_file(str(path))).numpy()
    assert_close(image, reference.decode(str(path)))


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


SMALL = encoded(photo(90, 70))
SMALL_PNG = encoded(photo(90, 70), "PNG")
LANDSCAPE = encoded(photo(120, 90))
PROGRESSIVE = encoded(photo(90, 120), progressive=True)
BAD = {
    "empty": b"",
    "one_byte": b"\xff",
    "text": b"No image, but a sentence that is long enough to hold a header.",
    "gif": encoded(photo(90, 70), "GIF"),
    "bmp": encoded(photo(90, 70), "BMP"),
    "jpeg_two_bytes": b"\xff\xd8",
    "jpeg_cut_in_header": SMALL[:100],
    "jpeg_cut_in_half": cut(LANDSCAPE, 0.5),
    "jpeg_cut_near_the_end": cut(LANDSCAPE, 0.97),
    "jpeg_cut_by_two_bytes": LANDSCAPE[:-2],
    "progressive_cut_in_half": cut(PROGRESSIVE, 0.5),
    "progressive_cut_near_the_end": cut(PROGRESSIVE, 0.97),
    "png_signature_only": SMALL_PNG[:8],
    "png_cut_in_header": SMALL_PNG[:20],
    "png_header_only": SMALL_PNG[:33],
    "png_cut_in_half": cut(SMALL_PNG, 0.5),
    "png_cut_near_the_end": SMALL_PNG[:-20],
    "png_without_pixels": claiming(SMALL_PNG, 0, 0),
    "png_claims_more_pixels_than_there_are": claiming(SMALL_PNG, 140, 90),
    "jpeg_without_pixels": claiming(SMALL, 0, 0),
}
HUGE = {
    "png_20000x20000": claiming(SMALL_PNG, 20000, 20000),
    "png_largest": claiming(SMALL_PNG, 2**31 - 1, 2**31 - 1),
    "png_product_wraps": claiming(SMALL_PNG, 2**32 - 1, 2**32 - 1),
    "jpeg_20000x20000": claiming(SMALL, 20000, 20000),
    "jpeg_largest": claiming(SMALL, 65500, 65500),
    "progressive_20000x20000": claiming(PROGRESSIVE, 20000, 20000),
    # TensorFlow would refuse those above by itself, but not these.
    "png_12000x12000": claiming(SMALL_PNG, 12000, 12000),
    "jpeg_12000x12000": claiming(SMALL, 12000, 12000),
    "progressive_12000x12000": claiming(PROGRESSIVE, 12000, 12000),
}


def peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_bad_file(data):
    with pytest.raises(tf.errors.InvalidArgumentError):
        center(data)


@pytest.mark.parametrize("data", HUGE.values(), ids=HUGE)
def test_huge_claim_is_refused_before_memory_is_taken(data):
    assert len(data) < 50_000
    before = peak_bytes()
    with pytest.raises(tf.errors.InvalidArgumentError):
        center(data)
    # 12000x12000 pixels are 432 MB, and four times that as float32.
    assert peak_bytes() - before < 100 * 2**20


def test_the_right_headers_are_rewritten(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    for data in (SMALL, SMALL_PNG, PROGRESSIVE):
        with Image.open(io.BytesIO(claiming(data, 20000, 20001))) as opened:
            assert opened.size == (20001, 20000)


def test_bad_files_in_tf_data_raise_and_leave_the_others_alone():
    good = encoded(photo(90, 70))
    items = [good]
    for data in (*BAD.values(), *HUGE.values()):
        items += [data, good]
    images = list(through_tf_data(items, decode_center).ignore_errors().as_numpy_iterator())
    assert len(images) == 1 + len(BAD) + len(HUGE)
    assert all(np.array_equal(image, center(good)) for image in images)
    with pytest.raises(tf.errors.InvalidArgumentError):
        list(through_tf_data(items[:2], decode_center))


@pytest.mark.parametrize("share", [0.9, 0.97], ids=["tenth", "last_rows"])
def test_what_is_cut_off_below_the_window_does_not_reach_it(share):
    # Of a tall JPEG only the rows of the window are read. What is missing below them goes unnoticed, and no
    # pixel comes from it.
    data = encoded(photo(300, 600))
    image = center(cut(data, share))
    np.testing.assert_array_equal(image, center(data))


def test_what_is_cut_off_inside_the_window_is_noticed_in_a_tall_jpeg():
    data = encoded(photo(300, 600))
    with pytest.raises(tf.errors.InvalidArgumentError):
        center(cut(data, 0.6))
