"""What the network sees of a 256x256 image when it is tested: its center, or the ten views of section 4.1."""

import tensorflow as tf

VIEWS = (1, 10)


def center(images, size):
    """The center `size` x `size` pixels.

    Args:
        images: (..., 256, 256, 3), NumPy or TensorFlow.
        size: int.

    Returns:
        (..., size, size, 3), same dtype.
    """
    margin = (images.shape[-2] - size) // 2
    return images[..., margin : margin + size, margin : margin + size, :]


def ten(images, size):
    """The four corners and the center, then the reflections of the same five.

    In the order of the release (`convdata_jpeg.py`, __trim_borders): row and column (0, 0), (0, m), (m / 2, m / 2),
    (m, 0), (m, m) with a margin m of 32 for crops of 224.

    Args:
        images: (..., 256, 256, 3).
        size: int.

    Returns:
        Tensor (..., 10, size, size, 3), same dtype.
    """
    margin = images.shape[-2] - size
    corners = [(0, 0), (0, margin), (margin // 2, margin // 2), (margin, 0), (margin, margin)]
    crops = tf.stack([images[..., row : row + size, column : column + size, :] for row, column in corners], axis=-4)
    return tf.concat([crops, tf.reverse(crops, axis=[-2])], axis=-4)
