"""Section 2: the shorter side to 256 pixels, the center 256x256; always this, in training, validation and serving.

Or, for weights that were trained so, all of the image stretched to 256x256, as Caffe does ("stretch").

One way of resizing everywhere: the JPEG decoder's own reduction by 2, 4 or 8 (of a PNG the means of whole blocks), the
largest that leaves at least 256 pixels, and then `tf.image.resize(..., "bilinear")` by what remains, a factor below 2,
rounded to uint8: fast, and large images do not alias. The release does not show how its images were resized.

Where the EXIF orientation is applied, a window is decoded where it lies in the file and then turned upright.
"""

import functools

import tensorflow as tf

from keras_alexnet.standalone import EXIF, EXIF_BYTES

STORED_SIZE = 256  # rows and columns of an image as section 2 leaves it
SHORTER_SIDE, STRETCH = "shorter_side", "stretch"  # how it becomes that
IGNORE, APPLY = "ignore", "apply"  # what is done with the EXIF orientation of a JPEG
MAX_PIXELS = 2**27  # 134 million; a header that claims more is refused before anything is decoded
REDUCTIONS = (1, 2, 4, 8)  # what libjpeg can divide by while it decodes
_MARGIN = 2  # columns beside a window that its colors depend on: they are stored for pairs of columns
_PNG, _PNG_END = b"\x89PNG\r\n\x1a\n", b"\x60\x82"  # how a PNG begins and ends
_JPEG, _END_OF_IMAGE, _START_OF_SCAN = b"\xff\xd8", b"\xff\xd9", b"\xff\xda"  # markers
# RGB -> luma and the differences of blue and red from it (JFIF 1.02), which are 128 for a gray pixel.
_TO_YUV = (0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312)
_NOT_INLINED = {"_noinline": True}
# How a file of orientation 0 (unused), 1 to 8 is turned upright: are rows reversed, columns reversed; axes after that.
_TURNS = (0, 0, 0, 1), (0, 0, 0, 1), (0, 1, 0, 1), (1, 1, 0, 1), (1, 0, 0, 1)
_TURNS += (0, 0, 1, 0), (1, 0, 1, 0), (1, 1, 1, 0), (0, 1, 1, 0)


def decode_window(image_bytes, row, column, size, side=STORED_SIZE, resize=SHORTER_SIDE, orientation=IGNORE):
    """A window, uint8 (size, size, 3), RGB, of the 256x256 image of a JPEG or PNG; no more is decoded than it needs.

    The 256x256 image is the central square of the file, resized, or all of it. A window of it begins and ends at whole
    pixels of the file (after the decoder's reduction): it is that of the resized square to within half of such a pixel
    where it begins and one where it ends, and exactly that of a file whose shorter side has 256 pixels or fewer (of a
    direction that has so many, where the image is stretched). Greyscale files give three equal channels, CMYK ones are
    converted, an alpha channel is dropped.

    `image_bytes`: string scalar, the file; `row`, `column`: int32 scalar, 0 to side - size, where the window begins in
    the resized image; `size`, `side`: int, rows and columns of the window and of the resized image; `resize`:
    SHORTER_SIDE or STRETCH; `orientation`: APPLY, the window is one of the image that the EXIF orientation of a JPEG
    turns upright (CIPA DC-008, tag 0x0112; a PNG has none here), or IGNORE. The graph raises a
    tf.errors.InvalidArgumentError where the bytes are not a JPEG or PNG, are damaged or cut short within or before what
    the window needs, or their header claims more than MAX_PIXELS.
    """
    start, are_reversed = tf.stack([row, column]), 0
    if orientation == APPLY:
        code = exif_orientation(image_bytes)
        turn = tf.gather(_TURNS, code)
        start, are_reversed = tf.gather(start, turn[2:]), turn[:2]
        start += are_reversed * (side - size - 2 * start)
    is_png = tf.equal(tf.strings.substr(image_bytes, 0, len(_PNG)), _PNG)
    shape = tf.cond(is_png, lambda: _png_shape(image_bytes), lambda: _jpeg_shape(image_bytes))
    # Each below 2^32, so that the product of both cannot wrap around to something small and positive unnoticed.
    fits = tf.logical_and(tf.reduce_max(shape) <= MAX_PIXELS, tf.reduce_prod(shape) <= MAX_PIXELS)
    with (
        _checked(tf.reduce_min(shape) > 0, "an image without pixels"),
        _checked(fits, f"a header that claims more than {MAX_PIXELS:,} pixels"),
    ):
        image_bytes, shape = tf.identity(image_bytes), tf.cast(shape, tf.int32)
    halvings = tf.reduce_sum(tf.cast(tf.reduce_min(shape) >= [side * factor for factor in REDUCTIONS[1:]], tf.int32))
    factor = tf.gather(REDUCTIONS, halvings)
    # libjpeg counts an incomplete last block; the means of a PNG leave it out.
    reduced = (shape + tf.where(is_png, 0, factor - 1)) // factor
    # What becomes the resized image, in rows and columns.
    region = reduced if resize == STRETCH else tf.fill([2], tf.reduce_min(reduced))
    # A direction that is enlarged is decoded whole, and the window cut from the result.
    enlarged = region < side
    first = tf.where(enlarged, 0, (2 * start * region + side) // (2 * side))  # rounded
    count = tf.where(enlarged, region, (2 * size * region + side) // (2 * side))
    first = tf.minimum(first, region - count)  # both may have been rounded up
    # Rounded so that the square is that of the upright image.
    corner = (reduced - region + are_reversed) // 2 + first
    resized = functools.partial(tf.raw_ops.ResizeBilinear, size=tf.where(enlarged, side, size), half_pixel_centers=True)
    image = tf.cond(
        is_png,
        lambda: resized(images=_png_pixels(image_bytes, corner, count, factor)),
        lambda: resized(images=_jpeg_pixels(image_bytes, corner, count, reduced[1], halvings)[None]),
    )[0]
    window = tf.slice(image, tf.concat([tf.where(enlarged, start, 0), [0]], 0), (size, size, 3))
    window = tf.cast(window + 0.5, tf.uint8)  # rounded, halves up
    if orientation == APPLY:
        window = tf.cond(code > 1, lambda: _upright(window, turn), lambda: window)
    return tf.ensure_shape(window, (size, size, 3))


def decode_center(image_bytes, size=STORED_SIZE, resize=SHORTER_SIDE, orientation=IGNORE):
    """The center `size` x `size` pixels of the 256x256 image of a whole file. See `decode_window`, `require_whole`."""
    margin = (STORED_SIZE - size) // 2
    whole = require_whole(image_bytes)
    return decode_window(whole, margin, margin, size, resize=resize, orientation=orientation)


def require_whole(image_bytes):
    """The same bytes; a tf.errors.InvalidArgumentError where a JPEG's end-of-image marker is missing."""
    last = tf.strings.substr(image_bytes, tf.maximum(tf.strings.length(image_bytes) - 2, 0), 2)
    ends = tf.reduce_any(tf.equal(last, [_END_OF_IMAGE, _PNG_END]))
    ends = tf.cond(ends, lambda: True, lambda: _ends_earlier(image_bytes))
    with _checked(ends, "a JPEG file that is cut short: its end-of-image marker is missing"):
        return tf.identity(image_bytes)


# Not inlined: what is inside of a branch costs time by the operation, taken or not.
@tf.function(autograph=False, experimental_attributes=_NOT_INLINED)
def _ends_earlier(image_bytes):
    """Whether a file is not a JPEG, or one with other bytes behind its end, as cameras write them."""
    rest = tf.strings.split(image_bytes, _END_OF_IMAGE)[-1]
    # Compressed data holds none of these markers by chance; a thumbnail's end is before the image's scan.
    ends = tf.not_equal(rest, image_bytes) & tf.equal(tf.size(tf.strings.split(rest, _START_OF_SCAN)), 1)
    return ends | tf.not_equal(tf.strings.substr(image_bytes, 0, 2), _JPEG)


def exif_orientation(image_bytes):
    """The EXIF orientation of a file, int32 scalar, 1 to 8; 1 where it has none. As `standalone.exif_orientation`."""
    head = tf.strings.substr(image_bytes, 0, EXIF_BYTES)[None]
    parts = tf.raw_ops.StringSplitV2(input=head, sep=EXIF, maxsplit=1).values
    return tf.cond(tf.equal(tf.size(parts), 2), lambda: _tiff_orientation(parts), lambda: 1)


# Not inlined, as `_ends_earlier`.
@tf.function(autograph=False, experimental_attributes=_NOT_INLINED)
def _tiff_orientation(parts):
    """As `exif_orientation`, of what is before and after EXIF: a TIFF structure with entries of 12 bytes."""
    is_jpeg = tf.equal(tf.strings.substr(parts[0], 0, 2), _JPEG)
    numbers = tf.cast(tf.io.decode_raw(tf.strings.join([parts[1], bytes(8)]), tf.uint8), tf.int64)
    is_big = tf.equal(numbers[0], ord("M"))

    def number(digits):  # (..., bytes) -> (...)
        digits = tf.where(is_big, tf.reverse(digits, [-1]), digits)
        return tf.reduce_sum(digits * tf.cast(2, tf.int64) ** (8 * tf.range(tf.shape(digits, tf.int64)[-1])), -1)

    first = number(numbers[4:8])
    entries = numbers[first + 2 : first + 2 + 12 * number(numbers[first : first + 2])]
    entries = tf.reshape(entries[: tf.size(entries) // 12 * 12], (-1, 12))
    values = tf.boolean_mask(number(entries[:, 8:10]), tf.equal(number(entries[:, :2]), 0x0112))
    value = tf.cast(tf.concat([values, [1]], 0)[0], tf.int32)
    return tf.where(is_jpeg & (value >= 1) & (value <= 8), value, 1)


@tf.function(autograph=False, experimental_attributes=_NOT_INLINED)
def _upright(window, turn):
    """Turns a window, uint8 (size, size, 3), as an entry of _TURNS says."""
    axes = tf.concat([tf.range(turn[0]), tf.range(1, 1 + turn[1])], 0)
    return tf.transpose(tf.reverse(window, axes), tf.concat([turn[2:], [2]], 0))


@functools.cache
def window_function(stored, size, resize=SHORTER_SIDE, orientation=IGNORE):
    """A function of (image, row, column), as `decode_window`, of images as their source has them; traced once for all.

    `stored`: "" for the bytes of any file, "jpeg" for those of a JPEG of 256x256, "raw" for uint8 (256, 256, 3). Of a
    stored image the window is, bit for bit, what all of it has there.
    """

    def window(image, row, column):
        if stored == "raw":
            return tf.slice(image, tf.stack([row, column, 0]), (size, size, 3))
        if stored == "jpeg":
            return tf.ensure_shape(_decode_jpeg(image, row, column, size, size, STORED_SIZE, 1), (size, size, 3))
        return decode_window(image, row, column, size, resize=resize, orientation=orientation)

    image = tf.TensorSpec((STORED_SIZE, STORED_SIZE, 3), tf.uint8) if stored == "raw" else tf.TensorSpec((), tf.string)
    place = tf.TensorSpec((), tf.int32)
    return tf.function(window, input_signature=[image, place, place], autograph=False)


def center_of(stored, image, size=STORED_SIZE, resize=SHORTER_SIDE, orientation=IGNORE):
    """The center `size` x `size` pixels of an image as its source has it. See `window_function`."""
    margin = (STORED_SIZE - size) // 2
    return window_function(stored, size, resize, orientation)(image, margin, margin)


def to_yuv420(image):
    """A 256x256 image, uint8 (256, 256, 3), RGB -> half as many bytes, uint8 (128, 768): luma and halved color.

    For every two rows of pixels the luma of both, then blue's and then red's difference from it, each the mean of 2x2
    pixels, which JPEG's usual files do not keep finer either. The numbers are JFIF's, which are those of a JPEG.
    """
    yuv = tf.tensordot(tf.cast(image, tf.float32), tf.constant(_TO_YUV, tf.float32), [[2], [1]]) + (0.0, 128.0, 128.0)
    luma = tf.reshape(yuv[..., 0], (STORED_SIZE // 2, -1))
    color = tf.reduce_mean(tf.reshape(yuv[..., 1:], (STORED_SIZE // 2, 2, STORED_SIZE // 2, 2, 2)), (1, 3))
    planes = tf.concat([luma, tf.reshape(tf.transpose(color, (0, 2, 1)), (STORED_SIZE // 2, -1))], 1)
    return tf.cast(tf.clip_by_value(planes + 0.5, 0, 255), tf.uint8)


# Compiled, a whole batch is converted in one pass.
@tf.function(jit_compile=True)
def from_yuv(planes):
    """Luma and color of every pixel, as of `to_yuv420`, uint8 (B, 3, rows, columns) -> uint8 (B, rows, columns, 3)."""
    luma, blue, red = tf.unstack(tf.cast(planes, tf.float32), axis=1)
    blue, red = blue - 128, red - 128
    rgb = tf.stack([luma + 1.402 * red, luma - 0.344136 * blue - 0.714136 * red, luma + 1.772 * blue], axis=-1)
    return tf.cast(tf.clip_by_value(rgb + 0.5, 0, 255), tf.uint8)


def _jpeg_shape(image_bytes):
    """Height and width as the header says, int64 (2,)."""
    is_jpeg = tf.equal(tf.strings.substr(image_bytes, 0, 2), _JPEG)
    with _checked(is_jpeg, "not a JPEG or PNG file"):
        return tf.cast(tf.image.extract_jpeg_shape(image_bytes)[:2], tf.int64)


def _png_shape(image_bytes):
    """As `_jpeg_shape`, from the IHDR chunk, which every PNG begins with."""
    with _checked(tf.strings.length(image_bytes) >= 24, "a PNG file without a header"):
        numbers = tf.cast(tf.io.decode_raw(tf.strings.substr(image_bytes, 16, 8), tf.uint8), tf.int64)
    width, height = (tf.reduce_sum(part * [2**24, 2**16, 2**8, 1]) for part in (numbers[:4], numbers[4:]))
    return tf.stack([height, width])


def _checked(condition, words):
    """A block whose operations fail unless the condition holds. (`tf.debugging.Assert` is a branch, and slower.)"""
    return tf.control_dependencies([tf.raw_ops.Assert(condition=condition, data=[words])])


def _jpeg_pixels(image_bytes, corner, count, width, halvings):
    """A part of a JPEG after a reduction to this width, uint8."""
    # In the branches nothing but what has to differ: they cost time by the operation, taken or not.
    part = corner[0], corner[1], count[0], count[1]
    branches = [functools.partial(_decode_jpeg, image_bytes, *part, width, ratio) for ratio in REDUCTIONS]
    return tf.switch_case(halvings, branches)


def _decode_jpeg(image_bytes, row, column, rows, columns, width, ratio):
    """So many rows and columns of a JPEG, to the bit what a decoding of the whole file has there, uint8."""
    # All columns of a reduced image: libjpeg cuts them wrongly where a color has a sampling factor of 4, and decoding
    # all takes hardly longer.
    first = tf.maximum(column - _MARGIN, 0) if ratio == 1 else 0
    count = tf.minimum(column + columns + _MARGIN, width) - first if ratio == 1 else width
    # The accurate transform is that of other decoders (libjpeg-turbo's default, Pillow).
    wide = tf.io.decode_and_crop_jpeg(
        image_bytes, tf.stack([row, first, rows, count]), channels=3, ratio=ratio, dct_method="INTEGER_ACCURATE"
    )
    return tf.slice(wide, tf.stack([0, column - first, 0]), tf.stack([rows, columns, 3]))


def _png_pixels(image_bytes, corner, count, factor):
    """A part of a PNG after a reduction, float32, as a batch of one."""
    pixels = tf.io.decode_png(image_bytes, channels=3)
    part = tf.slice(pixels, tf.concat([corner * factor, [0]], 0), tf.concat([count * factor, [3]], 0))
    return tf.raw_ops.ResizeArea(images=part[None], size=count)
