"""The small networks for CIFAR-10 that came with the authors' code.

Four of them, named by the test error in the names of their files (`example-layers/*.cfg` of the release; 11pct of the
earlier cuda-convnet, where its methodology is written down). The paper's "four-layer network" (Figure 1, section 3.3)
is 19pct by its count of learned layers, three convolutions and the output. Its 13 and 11 percent, without and with
response normalization, are the numbers in the names of 13pct and 11pct; that they are of these networks, which have
five learned layers, is an inference.
"""

import keras
import numpy as np
import tensorflow as tf

from keras_alexnet.model.layers import InMapNormalization, LocalResponseNormalization

NETWORKS = ("19pct", "18pct", "13pct", "11pct")
NORMALIZED = ("18pct", "11pct")
# Decay by the start of a layer's name (`layer-params-*.cfg`, key wc).
DECAYS = {
    "19pct": {"conv": 0.004, "fc10": 3.0},
    "18pct": {"conv": 0.004, "fc10": 1.0},
    "13pct": {"conv": 0.0, "local": 0.004, "fc10": 0.004},
    "11pct": {"conv": 0.0, "local": 0.004, "fc10": 0.004},
}
LEARNING_RATE = 0.001  # of kernels; epsW of every layer
BIAS_MULTIPLIER = 2.0  # epsB over epsW


def build(name, classes=10, *, size=32, activation="relu", dtype="float32", seed=None):
    """One of the networks.

    Args:
        name: one of NETWORKS.
        classes: int >= 1, units of the output.
        size: int, rows and columns of the input; 24 after crops from 32.
        activation: a Keras activation, after every layer but the last.
        dtype: Keras dtype policy or its name; the output is float32 always.
        seed: optional int.

    Returns:
        keras.Model on float32 (B, size, size, 3), RGB, 0..255 minus the mean image -> float32 (B, classes), logits.

    Raises:
        ValueError: there is no such network.
    """
    if name not in NETWORKS:
        raise ValueError(f"name must be one of {', '.join(NETWORKS)}. Received: name={name!r}")
    seeds = iter([None] * 8 if seed is None else np.random.SeedSequence(seed).generate_state(8).tolist())

    def start(stddev):
        return keras.initializers.RandomNormal(stddev=stddev, seed=next(seeds))

    def layer(kind, layer_name, filters, size, stddev, x):
        x = kind(filters, size, padding="same", kernel_initializer=start(stddev), dtype=dtype, name=layer_name)(x)
        return keras.layers.Activation(activation, dtype=dtype, name=f"{layer_name}_{activation}")(x)

    # The release's pools hang over the edge, 32 -> 16 -> 8 -> 4, and average over what is inside; so does "same".
    def pooled(kind, layer_name, x):
        return kind(3, 2, padding="same", dtype=dtype, name=layer_name)(x)

    convolution, maximum, average = keras.layers.Conv2D, keras.layers.MaxPooling2D, keras.layers.AveragePooling2D
    image = keras.Input((size, size, 3), dtype="float32", name="images")
    if name in ("19pct", "18pct"):

        def normalized(layer_name, x):
            if name == "19pct":
                return x
            return InMapNormalization(3, 5e-5, 0.75, dtype=dtype, name=layer_name)(x)

        # Where the file pools before its ReLU, the maximum is the same; with tanh too, which rises as well.
        x = pooled(maximum, "pool1", layer(convolution, "conv1", 32, 5, 0.0001, image))  # 16x16x32
        x = normalized("norm1", x)
        x = pooled(average, "pool2", layer(convolution, "conv2", 32, 5, 0.01, x))  # 8x8x32
        x = normalized("norm2", x)
        x = pooled(average, "pool3", layer(convolution, "conv3", 64, 5, 0.01, x))  # 4x4x64
    else:

        def normalized(layer_name, x):
            if name == "13pct":
                return x
            # scale 0.001 over 5 kernels, constant 1 (`layers-conv-local-11pct.cfg`)
            return LocalResponseNormalization(1.0, 5, 2e-4, 0.75, dtype=dtype, name=layer_name)(x)

        x = layer(convolution, "conv1", 64, 5, 0.0001, image)
        x = pooled(maximum, "pool1", normalized("norm1", x))  # 16x16x64
        x = layer(convolution, "conv2", 64, 5, 0.01, x)
        x = pooled(maximum, "pool2", normalized("norm2", x))  # 8x8x64
        x = layer(LocallyConnected2D, "local3", 32, 3, 0.04, x)  # 8x8x32
        x = layer(LocallyConnected2D, "local4", 32, 3, 0.04, x)  # 8x8x32
    x = keras.layers.Flatten(dtype=dtype, name="flatten")(x)
    x = keras.layers.Dense(classes, kernel_initializer=start(0.01), dtype=dtype, name="fc10")(x)
    return keras.Model(
        image, keras.layers.Activation("linear", dtype="float32", name="logits")(x), name=f"cifar_{name}"
    )


@keras.saving.register_keras_serializable("keras_alexnet")
class LocallyConnected2D(keras.layers.Layer):
    """A convolution whose filters are not shared between positions (type `local` of the layer files).

    Keras 3 has none any more. Bias: one number per filter and position.

    Args:
        filters: int >= 1.
        kernel_size: odd int >= 1, rows and columns of a filter.
        padding: "same": zeros around the map, so that its size stays.
        kernel_initializer: of the kernels; biases begin at 0.

    Call arguments:
        inputs: float (B, height, width, channels); all but B known.

    Returns:
        float (B, height, width, filters), same dtype.

    Raises:
        ValueError: another padding is asked for.
    """

    def __init__(self, filters, kernel_size, padding="same", kernel_initializer="glorot_uniform", **kwargs):
        super().__init__(**kwargs)
        if padding != "same":
            raise ValueError(f"padding must be same. Received: padding={padding!r}")
        self.filters, self.kernel_size = filters, kernel_size
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, input_shape):
        _, height, width, channels = input_shape
        patch = self.kernel_size**2 * channels
        shape = (height, width, patch, self.filters)
        self.kernel = self.add_weight(shape=shape, initializer=self.kernel_initializer, name="kernel")
        self.bias = self.add_weight(shape=(height, width, self.filters), initializer="zeros", name="bias")

    def call(self, inputs):
        size = (1, self.kernel_size, self.kernel_size, 1)
        patches = tf.image.extract_patches(inputs, size, (1, 1, 1, 1), (1, 1, 1, 1), "SAME")
        return tf.einsum("bhwp,hwpf->bhwf", patches, self.kernel) + self.bias

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.filters)

    def get_config(self):
        initializer = keras.initializers.serialize(self.kernel_initializer)
        own = {"filters": self.filters, "kernel_size": self.kernel_size, "kernel_initializer": initializer}
        return {**super().get_config(), **own}
