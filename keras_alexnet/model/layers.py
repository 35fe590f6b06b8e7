"""Layers that Keras does not have as the paper needs them: sections 3.3 and 4.2, and the release's in-map norm."""

import inspect

import keras
import numpy as np
import tensorflow as tf

from keras_alexnet.errors import ArgumentError

if keras.config.backend() != "tensorflow":
    raise ImportError(
        f"keras_alexnet computes with TensorFlow, and Keras is set to {keras.config.backend()}: set "
        "KERAS_BACKEND=tensorflow before Keras is imported"
    )


class _Layer(keras.layers.Layer):
    """A layer whose configuration is its attributes that are named as its arguments."""

    def get_config(self):
        names = inspect.signature(type(self).__init__).parameters
        own = {name: getattr(self, name) for name in names if name not in ("self", "kwargs") and hasattr(self, name)}
        return {**super().get_config(), **own}


@keras.saving.register_keras_serializable("keras_alexnet")
class LocalResponseNormalization(_Layer):
    """b_i = a_i / (k + alpha * sum_j a_j^2)^beta, j from max(0, i - n/2) to min(N - 1, i + n/2), along the channels.

    Section 3.3 of the paper: k = 2, n = 5, alpha = 1e-4 (on the sum, not on the mean), beta = 0.75. The released code
    divides its scale of 1e-4 by the window's size, which makes alpha 2e-5 (`layer.py`, NormLayerParser). The channels
    are `groups` equal parts, and no window reaches from one into another, as between the towers.

    Float (batch, height, width, channels) -> the same shape and dtype, computed in float32 whatever the precision.
    Raises ValueError where n is even or below 1, k is not positive, or the channels do not divide into the groups.
    """

    def __init__(self, k=2.0, n=5, alpha=1e-4, beta=0.75, groups=1, **kwargs):
        super().__init__(**kwargs)
        if int(n) != n or n < 1 or n % 2 == 0:
            raise ArgumentError("n", n, "must be an odd number of channels, at least 1")
        if not k > 0:
            raise ArgumentError("k", k, "must be positive, or a zero activation divides by zero")
        if groups < 1:
            raise ArgumentError("groups", groups, "must be at least 1")
        self.k, self.n, self.alpha, self.beta, self.groups = k, int(n), alpha, beta, groups

    def build(self, input_shape):
        if input_shape[-1] % self.groups:
            raise ValueError(f"{input_shape[-1]} channels do not divide into groups={self.groups}")
        super().build(input_shape)

    def call(self, inputs):
        channels, sizes = inputs.shape[-1], tf.shape(inputs)
        height, width = (sizes[axis] if inputs.shape[axis] is None else inputs.shape[axis] for axis in (1, 2))
        # Channels are last, so each group can be a column of its own without moving a byte; windows end with it.
        x = tf.reshape(tf.cast(inputs, tf.float32), (-1, height, width * self.groups, channels // self.groups))
        if tf.config.list_logical_devices("GPU"):
            x = tf.nn.local_response_normalization(x, self.n // 2, self.k, self.alpha, self.beta)
        else:
            x = _normalized_by_band(x, self.k, self.n, self.alpha, self.beta)
        return tf.cast(tf.reshape(x, (-1, height, width, channels)), inputs.dtype)

    def compute_output_shape(self, input_shape):
        return input_shape


def _normalized_by_band(x, k, n, alpha, beta):
    """What `tf.nn.local_response_normalization` computes, as x * (k + x^2 B)^-beta with B a band of alphas.

    Faster on a CPU: the sums are a matrix product, and the gradient reads the activations half as often.
    """
    channels, shape = x.shape[-1], tf.shape(x)
    place, scope = np.arange(channels), tf.get_current_name_scope()
    window = (abs(place[:, None] - place) <= n // 2).astype(np.float32)

    @tf.custom_gradient
    def normalized(x):
        x = tf.reshape(x, (-1, channels))
        # A bias is added within the matrix product, a constant after it.
        base = tf.nn.bias_add(tf.square(x) @ (alpha * window), tf.constant(k, x.dtype, (channels,)))
        factor = _to_minus(base, beta)
        y = x * factor

        def gradient(upstream):
            # With s = base: dy_j / dx_i = [i = j] s_i^-beta - 2 alpha beta x_i y_j / s_j, for j in the window of i.
            with tf.name_scope(f"gradient_tape/{scope or 'norm'}"):  # as TensorFlow names what is backward
                upstream = tf.reshape(upstream, (-1, channels))
                spread = (upstream * y / base) @ (2 * alpha * beta * window)
                return tf.reshape(upstream * factor - x * spread, shape)

        return tf.reshape(y, shape), gradient

    return normalized(x)


def _to_minus(base, power):
    """base^-power. Two roots take a quarter of the time of a power on a CPU, and 0.75 is the only power in use."""
    return tf.math.rsqrt(base * tf.sqrt(base)) if power == 0.75 else base**-power


@keras.saving.register_keras_serializable("keras_alexnet")
class InMapNormalization(_Layer):
    """y = x / (1 + scale / size^2 * S)^power, S the sum of x^2 over a zero-padded window of the same channel.

    The released code's second normalization of layer 2 (`layers-145.cfg`, cnorm2). Computed in float32.
    """

    def __init__(self, size=5, scale=0.001, power=0.75, **kwargs):
        super().__init__(**kwargs)
        if int(size) != size or size < 1 or size % 2 == 0:
            raise ArgumentError("size", size, "must be an odd number of pixels, at least 1")
        self.size, self.scale, self.power = int(size), scale, power

    def call(self, inputs):
        x = tf.cast(inputs, tf.float32)
        margin = self.size // 2
        # An average over explicit zeros is the sum over size^2; 'SAME' would average over what is inside the map.
        squares = tf.pad(tf.square(x), ((0, 0), (margin, margin), (margin, margin), (0, 0)))
        mean = tf.nn.avg_pool2d(squares, self.size, strides=1, padding="VALID")
        base = 1.0 + self.scale * mean
        return tf.cast(x * _to_minus(base, self.power), inputs.dtype)


@keras.saving.register_keras_serializable("keras_alexnet")
class Dropout(_Layer):
    """Dropout as published (section 4.2), which Keras' own is not: nothing is scaled up in training.

    Training: each number is kept with probability 1 - rate, else 0. Otherwise: every number times 1 - rate, the
    expected value of the former. Float tensor of any shape -> the same shape and dtype.

    Args:
        rate: float, 0 <= rate < 1, the probability of being zeroed; ValueError otherwise.
        seed: optional int.
        inverted: bool, as later networks have it: what is kept in training is divided by 1 - rate, and nothing is done
            otherwise.

    Attributes:
        replica_shard: None, or (worker, workers, images of a replica) where a batch is divided among the replicas of a
            strategy, see `training.distribution`: each then draws what one process would have drawn for its images.
    """

    def __init__(self, rate, seed=None, inverted=False, **kwargs):
        super().__init__(**kwargs)
        if not 0 <= rate < 1:
            raise ArgumentError("rate", rate, "must be a probability, 0 <= rate < 1")
        self.rate, self.seed, self.inverted, self.replica_shard = rate, seed, inverted, None
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, inputs, training=False):
        if not self.rate:
            return inputs
        if not training:
            return inputs if self.inverted else inputs * (1.0 - self.rate)
        shape = tf.shape(inputs)
        if self.replica_shard is None:
            uniform = keras.random.uniform(shape, dtype="float32", seed=self.seed_generator)
        else:
            worker, workers, images = self.replica_shard
            context = tf.distribute.get_replica_context()
            here = context.num_replicas_in_sync // workers
            rows = context.replica_id_in_sync_group % here * images + tf.range(shape[0])
            whole = tf.concat([[images * context.num_replicas_in_sync], shape[1:]], axis=0)
            uniform = keras.random.uniform(whole, dtype="float32", seed=self.seed_generator)
            uniform = tf.gather(uniform, rows * workers + worker)
        kept = inputs * tf.cast(uniform >= self.rate, inputs.dtype)
        return kept / (1.0 - self.rate) if self.inverted else kept

    def compute_output_shape(self, input_shape):
        return input_shape


@keras.saving.register_keras_serializable("keras_alexnet")
class ChannelShare(_Layer):
    """The channels from one share of all to another, such as 0.5 to 1: what a tower keeps of a layer that both see."""

    def __init__(self, start, stop, **kwargs):
        super().__init__(**kwargs)
        self.start, self.stop = start, stop

    def call(self, inputs):
        channels = inputs.shape[-1]
        return inputs[..., round(self.start * channels) : round(self.stop * channels)]


@keras.saving.register_keras_serializable("keras_alexnet")
class Copies(_Layer):
    """One copy of an activation for each tower that uses it: a list of `count` tensors.

    In the backward pass this layer adds their gradients on its own device; TensorFlow would add them on another one.
    """

    def __init__(self, count, **kwargs):
        super().__init__(**kwargs)
        self.count = count

    def call(self, inputs):
        return [tf.identity(inputs) for _ in range(self.count)]
