"""Section 2: the shorter side to 256 pixels, the center 256x256; always this, in training, validation and serving.

One resampling everywhere: a triangle filter as wide as the reduction (what `tf.image.resize(..., "bilinear",
antialias=True)` computes), rounded to uint8. The release does not show how its images were resized.
"""

import tensorflow as tf

STORED_SIZE = 256  # rows and columns of an image as section 2 leaves it
MAX_PIXELS = 2**27  # 134 million; a header that claims more is refused before anything is decoded
_MARGIN = 2  # columns beyond what a window needs: JPEG colors are stored for pairs of columns


def decode_window(image_bytes, row, column, size):
    """A window of the 256x256 image that a JPEG or PNG file holds, decoding only what the window needs.

    The image is what section 2 describes: shorter side to 256, the longer one to floor(256 * long / short + 1/2), the
    center 256x256, whose first row and column are at floor((longer - 256) / 2). Greyscale files give three equal
    channels, CMYK ones are converted, an alpha channel is dropped, an orientation tag is not heeded.

    Args:
        image_bytes: string scalar, a whole JPEG or PNG file.
        row: int32 scalar, 0 <= row <= 256 - size, the window's first row in the 256x256 image.
        column: int32 scalar, likewise.
        size: int, rows and columns of the window.

    Returns:
        uint8 (size, size, 3), RGB.

    Raises:
        tf.errors.InvalidArgumentError: (when the graph runs) the bytes are no JPEG or PNG, are cut short within or
            before what the window needs, or their header claims more than MAX_PIXELS.
    """
    is_jpeg = tf.equal(tf.strings.substr(image_bytes, 0, 2), b"\xff\xd8")
    is_png = tf.equal(tf.strings.substr(image_bytes, 0, 8), b"\x89PNG\r\n\x1a\n")
    height, width = tf.cond(is_jpeg, lambda: _jpeg_shape(image_bytes), lambda: _png_shape(image_bytes, is_png))
    with tf.control_dependencies(
        [
            tf.debugging.assert_positive(tf.minimum(height, width), "an image without pixels"),
            tf.debugging.assert_less_equal(height * width, tf.constant(MAX_PIXELS, tf.int64), "too many pixels"),
        ]
    ):
        short = tf.minimum(height, width)
    first_row, rows, row_scale, row_shift = _span(height, short, row, size)
    first_column, columns, column_scale, column_shift = _span(width, short, column, size)
    window = tf.cast(tf.stack([first_row, first_column, rows, columns]), tf.int32)
    pixels = tf.cond(
        is_jpeg,
        # The accurate transform is what other decoders (libjpeg-turbo's default, Pillow) give, to the bit.
        lambda: tf.io.decode_and_crop_jpeg(image_bytes, window, channels=3, dct_method="INTEGER_ACCURATE"),
        lambda: tf.slice(
            tf.io.decode_png(image_bytes, channels=3), [window[0], window[1], 0], [window[2], window[3], 3]
        ),
    )

    def resampled():
        resized = tf.raw_ops.ScaleAndTranslate(
            images=tf.cast(pixels, tf.float32)[None],
            size=[size, size],
            scale=tf.cast(tf.stack([row_scale, column_scale]), tf.float32),
            translation=tf.cast(tf.stack([row_shift, column_shift]), tf.float32),
            kernel_type="triangle",
            antialias=True,
        )[0]
        return tf.cast(tf.clip_by_value(tf.round(resized), 0.0, 255.0), tf.uint8)

    def unscaled():
        # Already 256 on its shorter side, as prepared images are: the window is there to the pixel.
        start = tf.cast(tf.stack([-row_shift, -column_shift, 0.0]), tf.int32)
        return tf.slice(pixels, start, [size, size, 3])

    image = tf.cond(tf.equal(short, STORED_SIZE), unscaled, resampled)
    return tf.ensure_shape(image, (size, size, 3))


def decode_center(image_bytes, size=STORED_SIZE):
    """The center `size` x `size` pixels of the 256x256 image. See `decode_window`."""
    margin = (STORED_SIZE - size) // 2
    return decode_window(image_bytes, margin, margin, size)


def _span(length, short, start, size):
    """One axis: which source pixels a window needs, and how they map to it.

    Args:
        length, short: int64 scalars, pixels along this axis and along the shorter one.
        start: int scalar, the window's first pixel in the 256x256 image.
        size: int, the window's pixels.

    Returns:
        first, count: int64, the source pixels; scale, shift: float64 with
        window coordinate = (source coordinate - first) * scale + shift.
    """
    resized = (2 * STORED_SIZE * length + short) // (2 * short)
    scale = tf.cast(resized, tf.float64) / tf.cast(length, tf.float64)
    start = tf.cast(start, tf.int64) + (resized - STORED_SIZE) // 2
    # The filter reaches one resized pixel (when shrinking) or one source pixel (when enlarging) to both sides.
    reach = tf.cast(tf.math.ceil(tf.maximum(1.0 / scale, 1.0)), tf.int64) + _MARGIN
    low = tf.cast(tf.math.floor(tf.cast(start, tf.float64) / scale), tf.int64) - reach
    high = tf.cast(tf.math.ceil(tf.cast(start + size, tf.float64) / scale), tf.int64) + reach
    low, high = tf.maximum(low, 0), tf.minimum(high, length)
    return low, high - low, scale, tf.cast(low, tf.float64) * scale - tf.cast(start, tf.float64)


def _jpeg_shape(image_bytes):
    shape = tf.cast(tf.image.extract_jpeg_shape(image_bytes), tf.int64)
    return shape[0], shape[1]


def _png_shape(image_bytes, is_png):
    """Height and width from the IHDR chunk, which every PNG begins with."""
    has_header = tf.logical_and(is_png, tf.strings.length(image_bytes) >= 24)
    with tf.control_dependencies([tf.debugging.Assert(has_header, ["not a JPEG or PNG file"])]):
        numbers = tf.cast(tf.io.decode_raw(tf.strings.substr(image_bytes, 16, 8), tf.uint8), tf.int64)
    powers = tf.constant([2**24, 2**16, 2**8, 1], tf.int64)
    return tf.reduce_sum(numbers[4:] * powers), tf.reduce_sum(numbers[:4] * powers)
