"""What users of `keras.applications` look for beside a model: `preprocess_input` and `decode_predictions`."""

import numpy as np

from keras_alexnet.data import imagenet_labels
from keras_alexnet.model.caffe import IMAGENET_MEAN


def preprocess_input(images, mean=IMAGENET_MEAN):
    """Pixels -> what the network takes: the mean is subtracted, nothing is divided.

    Args:
        images: array or tensor (..., height, width, 3), RGB, 0..255, of any dtype; already of the network's size (224,
            for "caffe" 227).
        mean: what is subtracted: three numbers, red, green and blue; an image (rows, columns, 3) at least as large as
            the images, of which the center is taken; or the path of a run's statistics.npz.

    Returns:
        float32, same shape; a NumPy array for an array, else a tensor. What was given is not changed.

    Raises:
        ValueError: the images have no three channels, or the mean does not fit them.
    """
    is_array = isinstance(images, (np.ndarray, list, tuple, float, int))
    if is_array:
        images = np.asarray(images)
    if len(images.shape) < 3 or images.shape[-1] != 3:
        raise ValueError(f"images must be RGB, (..., height, width, 3). Received: shape={tuple(images.shape)}")
    if isinstance(mean, str) or hasattr(mean, "__fspath__"):
        from keras_alexnet.data import statistics

        mean = statistics.load(mean).mean_image
    mean = np.asarray(mean, np.float32)
    if mean.ndim == 3:
        rows, columns = images.shape[-3:-1]
        first, left = (mean.shape[0] - rows) // 2, (mean.shape[1] - columns) // 2
        if min(first, left) < 0:
            raise ValueError(f"mean is smaller than the images. Received: mean {mean.shape}, images {images.shape}")
        mean = mean[first : first + rows, left : left + columns]
    if mean.shape[-1:] != (3,) or mean.ndim not in (1, 3):
        raise ValueError(f"mean must be three numbers or an image. Received: shape={mean.shape}")
    if is_array:
        return images.astype(np.float32) - mean
    import tensorflow as tf

    return tf.cast(images, tf.float32) - mean


def decode_predictions(predictions, top=5, class_names=None):
    """Probabilities -> the best classes, in words.

    Args:
        predictions: float (B, classes), such as a model returns.
        top: int, how many.
        class_names: sequence of str, one a class, such as the lines of a run's class_names.txt; None for the 1000
            classes of ImageNet in the order of their WordNet ids.

    Returns:
        list, one an image, of lists of (id, name, score), best first: id and name as `keras.applications` has them
        (WordNet id and a word); with `class_names` both are the name.

    Raises:
        ValueError: another number of classes.
    """
    predictions = np.asarray(predictions)
    names = imagenet_labels.classes() if class_names is None else [(name, name) for name in class_names]
    if predictions.ndim != 2 or predictions.shape[1] != len(names):
        raise ValueError(
            f"predictions must be (images, {len(names)}); give the class_names of other classes. Received: "
            f"shape={predictions.shape}"
        )
    # Stable, so that of equal scores the first class comes first.
    best = np.argsort(-predictions, axis=1, kind="stable")[:, :top]
    return [
        [(*names[index], float(row[index])) for index in indices]
        for row, indices in zip(predictions, best, strict=True)
    ]
