"""What a network sees: feature maps, normalization, Grad-CAM, occlusion and the deconvolutional network, as arrays.

Each function takes a keras.Model of `keras_alexnet.AlexNet` in any variant, with or without its softmax, and images as
the network takes them: float32 (B, rows, columns, 3), minus the mean. A value of a layer is a list with a part for each
tower, as in `model.towers`. Computed outside training (no dropout), returned as float32 arrays of NumPy.
"""

import re
import typing

import keras
import numpy as np
import tensorflow as tf

from keras_alexnet.errors import ArgumentError
from keras_alexnet.model.layers import InMapNormalization, LocalResponseNormalization


def convolutions(model):
    """The names of a network's convolutional layers in the order of the paper, list of str such as "conv1"."""
    return sorted({layer.name.split("_tower")[0] for layer in model.layers if re.match(r"conv\d", layer.name)})


def feature_maps(model, images):
    """What convolutional layers answer, after their nonlinearity: dict of name -> list of (B, rows, columns, maps).

    In the variant "release2012" conv1 is normalized and pooled before its nonlinearity.
    """
    answers = _answers(model, images, {name: _outputs(model, name) for name in convolutions(model)})
    return {name: [_array(part) for part in parts] for name, parts in answers.items()}


class Normalized(typing.NamedTuple):
    """The maps of a tower before and behind a response normalization, (B, rows, columns, maps) both."""

    before: np.ndarray
    after: np.ndarray
    factor: float  # k^beta: what a small activation without active neighbors is divided by

    def inhibited(self):
        """The share of each map's activation that its neighbors take away, (B, maps): 0 nothing, 1 all."""
        total, left = (np.abs(maps).sum((1, 2)) for maps in (self.before, self.after * self.factor))
        return np.where(total > 0, 1 - left / np.maximum(total, 1e-30), 0.0)


def normalization(model, images, name="norm1"):
    """The response normalization (section 3.3) of a layer: list of Normalized by tower, [] if it is missing."""
    layers = _layers(model, name)
    pairs, found = _answers(model, images, [(layer.input, layer.output) for layer in layers]), []
    for tower, (layer, pair) in enumerate(zip(layers, pairs, strict=True)):
        before, after = map(_array, pair)
        if _layers(model, f"{name}_own"):  # Caffe's: each tower normalizes the whole layer and keeps its part
            before, after = (np.array_split(maps, len(layers), axis=-1)[tower] for maps in (before, after))
        found.append(Normalized(before, after, layer.k**layer.beta))
    return found


def probabilities(model, images, training=False):
    """The probabilities of the classes, (B, classes), whether the network ends in a softmax or in logits.

    `training`: bool, True with dropout, drawn anew for each image.
    """
    (logits,) = _answers(model, images, [model.get_layer("fc8").output], training)
    return tf.nn.softmax(tf.cast(logits, tf.float32)).numpy()


def last_hidden(model, images):
    """The numbers that fc8 multiplies, (B, units): the features of section 6.1."""
    return _array(_answers(model, images, [model.get_layer("fc8").input])[0])


def grad_cam(model, images, labels):
    """Where the last convolution speaks for a class: (list of (B, rows, columns) by tower; (B, rows, columns)).

    R. R. Selvaraju et al., "Grad-CAM" (2017, arXiv 1610.02391), equations 1 and 2: each map is weighted by the mean
    over its positions of the gradient of the class's logit; the sum, where positive. The second array is the sum over
    the maps of both towers, which is that of the whole network: one tower has only half of the last convolution.

    `labels`: int (B,), any classes.
    """
    last = _outputs(model, convolutions(model)[-1])
    images, labels = tf.convert_to_tensor(images), tf.convert_to_tensor(labels)
    with tf.GradientTape() as tape:
        tape.watch(images)
        maps, logits = _answers(model, images, (last, model.get_layer("fc8").output))
        scores = tf.gather(logits, labels, axis=1, batch_dims=1)
    sums = []
    for own, gradient in zip(maps, tape.gradient(scores, maps), strict=True):
        own, gradient = tf.cast(own, tf.float32), tf.cast(gradient, tf.float32)
        sums.append(tf.reduce_sum(own * tf.reduce_mean(gradient, (1, 2), keepdims=True), -1))
    return [tf.nn.relu(each).numpy() for each in sums], tf.nn.relu(tf.add_n(sums)).numpy()


def occlusion(model, image, label, square=32, step=16, batch_size=32):
    """The probability of a class with a square of the mean color over each place of an image: (rows, columns).

    Zeiler and Fergus 2013, section 4.2. `image`: (rows, columns, 3); `square`, `step`: int, pixels; the square's corner
    is at 0, step, 2 step, ..., while it is inside. Raises ArgumentError where the square is larger than the image.
    """
    starts = [range(0, length - square + 1, step) for length in image.shape[:2]]
    if not all(starts):
        raise ArgumentError("square", square, f"must be at most the image's {min(image.shape[:2])} pixels")
    places = [(row, column) for row in starts[0] for column in starts[1]]
    found = []
    for first in range(0, len(places), batch_size):
        some = places[first : first + batch_size]
        covered = np.repeat(image[None], len(some), axis=0)
        for each, (row, column) in zip(covered, some, strict=True):
            each[row : row + square, column : column + square] = 0.0
        found.append(probabilities(model, covered)[:, label])
    return np.concatenate(found).reshape(len(starts[0]), len(starts[1]))


def peaks(model, images):
    """The largest number of each feature map: dict of name -> list of (B, maps), see `feature_maps`."""
    return {name: [maps.max((1, 2)) for maps in parts] for name, parts in feature_maps(model, images).items()}


def deconvnet(model):
    """The deconvolutional network of Zeiler and Fergus 2013 (arXiv 1311.2901, section 2.1), for `project`.

    A keras.Model with the weights and the answers of the network, whose gradient is their projection: pooling is undone
    with the switches, the places that the maxima came from; what comes back through a rectifier is rectified again; a
    convolution is undone with its transposed filters. The first and the last are what a gradient does anyway
    (K. Simonyan et al. 2013, arXiv 1312.6034, section 4). Normalization is passed unchanged.
    """

    def replaced(layer):
        is_rectifier = getattr(layer, "activation", None) is keras.activations.relu
        if is_rectifier or isinstance(layer, (LocalResponseNormalization, InMapNormalization)):
            backward = tf.nn.relu if is_rectifier else tf.identity
            function = tf.custom_gradient(lambda x: (layer(x), backward))
            return keras.layers.Lambda(function, name=layer.name, dtype=layer.dtype_policy)
        # A nonlinearity is copied: `project` asks for its output in this model.
        return type(layer).from_config(layer.get_config()) if isinstance(layer, keras.layers.Activation) else layer

    return keras.models.clone_model(model, clone_function=replaced)


def project(deconvnet, images, name, tower, unit):
    """The largest number of a feature map, projected back to pixels: (B, rows, columns, 3), around 0.

    `deconvnet`: of `deconvnet`; `name`: of a convolutional layer; `tower`, `unit`: int, the map. All others are set to
    0. Where the map is 0 everywhere, so is the projection.
    """
    images = tf.convert_to_tensor(images)
    with tf.GradientTape() as tape:
        tape.watch(images)
        maps = _answers(deconvnet, images, _outputs(deconvnet, name))[tower][..., unit]
    largest = tf.reduce_max(maps, (1, 2), keepdims=True)
    return _array(tape.gradient(maps, images, tf.where((maps == largest) & (maps > 0), maps, 0)))


def patch(projection):
    """The square around all pixels that a projection (rows, columns, 3) reaches: two slices, of rows and of columns."""
    used = np.abs(projection).max(axis=-1) > 0
    lengths = used.shape
    ends = [
        (each.argmax(), len(each) - each[::-1].argmax()) if each.any() else (0, 1) for each in map(used.any, (1, 0))
    ]
    side = min(max(end - start for start, end in ends), *lengths)
    # Moved into the image where a square around the middle would reach over its edge.
    firsts = [min(max((s + e - side) // 2, 0), length - side) for (s, e), length in zip(ends, lengths, strict=True)]
    return tuple(slice(int(first), int(first + side)) for first in firsts)


def _layers(model, name):
    return sorted((each for each in model.layers if each.name.split("_tower")[0] == name), key=lambda each: each.name)


def _outputs(model, name):
    """The values of a convolutional layer after its nonlinearity."""
    name = "relu_conv6" if name == "conv6" else name.replace("conv", "relu")
    return [layer.output for layer in _layers(model, name)]


def _answers(model, images, outputs, training=False):
    """What a structure of a model's tensors is for images, the same structure."""
    flat = {str(place): tensor for place, tensor in enumerate(tf.nest.flatten(outputs))}
    found = keras.Model(model.input, flat)(images, training=training) if flat else {}
    return tf.nest.pack_sequence_as(outputs, [found[place] for place in flat])


def _array(tensor):
    return tf.cast(tensor, tf.float32).numpy()
