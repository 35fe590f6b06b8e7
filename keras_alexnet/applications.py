"""What users of `keras.applications` look for beside a model, here for ImageNet or for a run of one's own.

model = keras_alexnet.AlexNet(weights="runs/quickstart")
image = keras_alexnet.load_image("image.jpg", run="runs/quickstart")
scores = model(keras_alexnet.preprocess_input(image[None], run="runs/quickstart"))
print(keras_alexnet.decode_predictions(scores, run="runs/quickstart"))
"""

import numbers
import os

import keras
import numpy as np
import tensorflow as tf

from keras_alexnet import rundir
from keras_alexnet.data import imagenet, statistics
from keras_alexnet.data.decoding import APPLY, SHORTER_SIDE, STORED_SIZE, decode_center
from keras_alexnet.errors import ArgumentError, brief
from keras_alexnet.model.caffe import IMAGENET_MEAN
from keras_alexnet.model.variants import VARIANTS


def load_image(path, size=None, run=None):
    """An image file -> the pixels that an exported model takes of it: the shorter side to 256 pixels, the center view.

    An EXIF orientation is applied, unless the run was told to ignore it.

    Args:
        path: str, a JPEG or PNG file.
        size: int, 1 to 256: rows and columns of the network's input (default: that of the run, or 224).
        run: optional path of a run's folder: how its images are resized, which for Caffe's weights is another way.

    Returns:
        uint8 (size, size, 3), RGB. Raises ValueError where the file is not an image, and OSError.
    """
    resize, orientation, default = SHORTER_SIDE, APPLY, 224
    if run is not None:
        config = rundir.read_config(run)
        resize, orientation = config.data.resize, config.data.served_orientation
        default = VARIANTS[config.network.variant].input_size
    size = default if size is None else size
    if not isinstance(size, numbers.Integral) or not 1 <= size <= STORED_SIZE:
        raise ArgumentError("size", size, f"must be a whole number from 1 to {STORED_SIZE}")
    with open(path, "rb") as file:
        content = file.read()
    try:
        return decode_center(tf.constant(content), size, resize, orientation).numpy()
    except tf.errors.InvalidArgumentError as error:
        raise ValueError(f"{path}: {brief(error)}") from None


def preprocess_input(images, mean=IMAGENET_MEAN, run=None):
    """Pixels -> what the network takes: the mean is subtracted, nothing is divided (networks of PyTorch do it inside).

    Args:
        images: array, tensor or KerasTensor (..., height, width, 3), RGB, 0..255, of any dtype; already of the
            network's size (224, for "caffe" 227).
        mean: what is subtracted: three numbers, red, green and blue (default: ImageNet's); an image (rows, columns, 3)
            at least as large as the images, of which the center is taken; or the path of a run's folder or of a
            statistics.npz, whose mean image it is.
        run: the path of a run's folder, the same as to give it as the mean.

    Returns:
        float32, same shape; a NumPy array for an array, else a tensor. Raises ValueError where the images do not have
        three channels, or the mean does not fit them.
    """
    is_array = isinstance(images, (np.ndarray, list, tuple, float, int))
    images = np.asarray(images) if is_array else images
    shape = tuple(images.shape) if getattr(images.shape, "rank", 0) is not None else ()
    if len(shape) < 3 or shape[-1] != 3:
        raise ArgumentError("images", shape, "must be RGB, of the shape (..., height, width, 3)")
    mean = mean if run is None else run
    if isinstance(mean, (str, os.PathLike)):
        mean = statistics.load(_file_of(mean, "statistics.npz")).mean_image
    mean = np.asarray(mean, np.float32)
    if mean.ndim not in (1, 3) or mean.shape[-1] != 3:
        raise ArgumentError("mean", mean.shape, "must be three numbers, an image, or the path of a run")
    if mean.ndim == 3:
        rows, columns = shape[-3:-1]
        if rows is None or columns is None:
            raise ArgumentError("images", shape, "must have a known height and width for a mean image")
        first, left = (mean.shape[0] - rows) // 2, (mean.shape[1] - columns) // 2
        if min(first, left) < 0:
            raise ArgumentError("mean", mean.shape, f"must be at least as large as the images, {shape}")
        mean = mean[first : first + rows, left : left + columns]
    return (images.astype(np.float32) if is_array else keras.ops.cast(images, "float32")) - mean


def decode_predictions(predictions, top=5, class_names=None, run=None):
    """Probabilities -> the best classes, in words.

    Args:
        predictions: numbers (B, classes), such as a model returns.
        top: int >= 1, how many.
        class_names: sequence of str, one a class; the path of a run's folder or of its class_names.txt; or None for
            the 1000 classes of ImageNet in the order of their WordNet ids.
        run: the path of a run's folder, the same as to give it as the class_names.

    Returns:
        list, one an image, of lists of (id, name, score), best first: id and name as `keras.applications` has them
        (WordNet id and a word); a name of `class_names` that is no such id is both. Raises ValueError of another
        number of classes, and of what are no real numbers.
    """
    if not isinstance(top, numbers.Integral) or top < 1:
        raise ArgumentError("top", top, "must be a whole number, at least 1")
    class_names = class_names if run is None else run
    if isinstance(class_names, (str, os.PathLike)):
        with open(_file_of(class_names, "class_names.txt"), encoding="utf-8", newline="\n") as file:
            class_names = file.read().removesuffix("\n").split("\n")
    words = imagenet.classes()
    names = [(name, words.get(name, name)) for name in (words if class_names is None else class_names)]
    predictions = np.asarray(predictions)
    if predictions.dtype.kind in "OSUcmM":
        raise ArgumentError("predictions", str(predictions.dtype), "must be real numbers")
    predictions = predictions.astype(np.float64)  # unsigned numbers have no negative, by which to sort
    if predictions.ndim != 2 or predictions.shape[1] != len(names):
        problem = f"must be of the shape (images, {len(names)}); give the class_names of other classes"
        raise ArgumentError("predictions", predictions.shape, problem)
    # Stable, so that of equal scores the first class comes first.
    best = np.argsort(-predictions, axis=1, kind="stable")[:, :top]
    rows = zip(predictions, best, strict=True)
    return [[(*names[place], float(scores[place])) for place in places] for scores, places in rows]


def _file_of(path, name):
    """The file of a run's folder, or the path itself."""
    path = rundir.located(path)
    return os.path.join(path, name) if os.path.isdir(path) else path
