"""An autoencoder from the 4096 numbers to short codes, real-valued and binary, as section 6.1 proposes.

    4096 -> 512 ReLU -> code -> 512 ReLU -> 4096, mean squared error, Adam, 30 epochs, batches of 128

- real: a linear code of float32, compared by Euclidean distance.
- binary: noise (standard deviation 4) before a sigmoid pushes the code to 0 or 1 in training, as in semantic hashing
  (Salakhutdinov and Hinton, 2009; the same noise); bits are the sigmoid above 0.5, eight a byte, compared by Hamming
  distance.

The paper trains none: depth, sizes and learning rate were chosen here by leave-one-out retrieval within the training
images. The mean of each feature is subtracted and all are divided by one standard deviation, so that the ratios of
distances between images stay; a standard deviation each would make the rarest units the loudest.
"""

import hashlib
import os

import keras
import numpy as np
import tensorflow as tf

from keras_alexnet.errors import reading
from keras_alexnet.files import atomic_write

HIDDEN = 512
BATCH = 128
LEARNING_RATE = 0.001
NOISE = 4.0  # standard deviation, before the sigmoid
_ROWS = 1024  # that are coded at a time


class Coder:
    """An autoencoder of features.

    Args:
        length: int, numbers of a code, or bits, a multiple of 8 then.
        binary: bool.
        mean: float32 (D,), of the features that it is trained on.
        scale: float, their one standard deviation.
    """

    def __init__(self, length, binary, mean, scale):
        self.binary, self.mean, self.scale = binary, mean, scale
        self.size = length // 8 if binary else 4 * length  # bytes
        # (B, D) -> (B, length) before any sigmoid, and (B, length) -> (B, D); both of standardized features.
        self.encoder, self.decoder = _network(len(mean), length, "encoder"), _network(length, len(mean), "decoder")
        # Keras' own call of one row at a time takes longer than its arithmetic.
        self._encode, self._decode = _compiled(self.encoder), _compiled(self.decoder)

    def encode(self, features):
        """float32 (B, D) -> codes: float32 (B, length), or uint8 (B, length / 8), the first bit the highest."""
        codes = _in_parts(self._encode, (features - self.mean) / self.scale)
        return np.packbits(codes > 0, axis=1) if self.binary else codes

    def decode(self, codes):
        """Codes as of `encode` -> features, float32 (B, D)."""
        if self.binary:
            codes = np.unpackbits(codes, axis=1).astype(np.float32)
        return _in_parts(self._decode, codes) * self.scale + self.mean

    def error(self, features):
        """What the codes lose of features: float, 0 nothing, 1 as much as if the mean stood for each.

        The squared error of all numbers over their squared distance from the mean of the features of training.
        """
        lost = np.square(self.decode(self.encode(features)) - features).sum(dtype=np.float64)
        return float(lost / np.square(features - self.mean).sum(dtype=np.float64))


def train(features, length, binary, epochs, seed, show=None):
    """Trains a Coder on features, float32 (N, D); the same numbers give the same one, on the same machine."""
    keras.utils.set_random_seed(seed)
    mean = features.mean(axis=0, dtype=np.float64).astype(np.float32)
    standardized = features - mean
    scale = float(np.sqrt(np.square(standardized).mean(dtype=np.float64))) or 1.0
    standardized /= scale
    coder = Coder(length, binary, mean, scale)
    between = []
    if binary:
        # Keras' noise goes up to 1: a deviation of 1 before a factor of 4 is one of 4 on four times the code.
        between = [
            keras.layers.GaussianNoise(1.0, seed=seed),
            keras.layers.Rescaling(NOISE),
            keras.layers.Activation("sigmoid"),
        ]
    model = keras.Sequential([keras.Input(mean.shape), coder.encoder, *between, coder.decoder], name="autoencoder")
    model.compile(keras.optimizers.Adam(LEARNING_RATE), "mean_squared_error")
    progress = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: show and show(epoch + 1, epochs))
    model.fit(standardized, standardized, batch_size=BATCH, epochs=epochs, callbacks=[progress], verbose=0)
    return coder


def load_or_train(path, features, length, binary, epochs, seed, show=None):
    """As `train`, but once: the Coder is kept in a file (.npz), and replaced for other numbers or settings."""
    settings = (length, binary, epochs, seed, features.shape, HIDDEN, BATCH, LEARNING_RATE, NOISE)
    key = hashlib.sha256(repr(settings).encode() + np.ascontiguousarray(features).tobytes()).hexdigest()
    if os.path.exists(path):
        with reading(path), np.load(path, allow_pickle=False) as stored:
            if str(stored["key"]) == key:
                coder = Coder(length, binary, stored["mean"], float(stored["scale"]))
                for name, network in (("encoder", coder.encoder), ("decoder", coder.decoder)):
                    network.set_weights([stored[f"{name}_{place}"] for place in range(len(network.weights))])
                return coder
    coder = train(features, length, binary, epochs, seed, show)
    arrays = {
        f"{name}_{place}": array
        for name, network in (("encoder", coder.encoder), ("decoder", coder.decoder))
        for place, array in enumerate(network.get_weights())
    }
    with atomic_write(path, "wb") as file:
        np.savez(file, key=key, mean=coder.mean, scale=coder.scale, **arrays)
    return coder


def _network(inputs, outputs, name):
    layers = [keras.Input((inputs,)), keras.layers.Dense(HIDDEN, "relu"), keras.layers.Dense(outputs)]
    return keras.Sequential(layers, name=name)


def _compiled(model):
    rows = tf.TensorSpec(model.input_shape, tf.float32)
    return tf.function(lambda values: model(values, training=False), input_signature=[rows])


def _in_parts(function, rows):
    return np.concatenate([function(rows[start : start + _ROWS]).numpy() for start in range(0, len(rows), _ROWS)])
