"""An autoencoder from the 4096 numbers to short codes, real-valued and binary, as section 6.1 proposes.

    4096 -> 512 ReLU -> code -> 512 ReLU -> 4096, mean squared error, Adam, 30 epochs, batches of 128

- real: a linear code of float32, compared by Euclidean distance.
- binary: noise (standard deviation 4) before a sigmoid pushes the code to 0 or 1 in training, as in semantic hashing
  (Salakhutdinov and Hinton, 2009; the same noise); bits are the sigmoid above 0.5, eight a byte, compared by Hamming
  distance.

The paper trains none: depth, sizes and rates are chosen here, by leaving one out within the training photographs.
Features lose the mean of each number and are divided by one standard deviation for all, so that distances between
pictures stay as they are; a standard deviation each would make the rarest units the loudest.
"""

import dataclasses
import hashlib
import os
import zipfile

import numpy as np

from keras_alexnet.files import atomic_write

HIDDEN = 512
BATCH = 128
LEARNING_RATE = 0.001
NOISE = 4.0  # standard deviation, before the sigmoid
_ROWS = 1024  # that are coded at a time
_NETWORKS = ("encoder", "decoder")


@dataclasses.dataclass(frozen=True)
class Coder:
    """A trained autoencoder.

    Attributes:
        length: int, numbers or bits of a code.
        binary: bool.
        mean: float32 (D,), of the features it was trained on.
        scale: float, their one standard deviation.
        encoder, decoder: functions of float32, (B, D) -> (B, length) before any sigmoid, and (B, length) -> (B, D);
            both of standardized features.
        weights: dict of "encoder" and "decoder" -> list of float32, kernel and bias of each layer.
    """

    length: int
    binary: bool
    mean: np.ndarray
    scale: float
    encoder: object
    decoder: object
    weights: dict

    @property
    def size(self):
        """Bytes of a code, int."""
        return self.length // 8 if self.binary else 4 * self.length

    def encode(self, features):
        """float32 (B, D) -> codes: float32 (B, length), or uint8 (B, length / 8), the first bit the highest."""
        codes = _in_parts(self.encoder, (features - self.mean) / self.scale)
        return np.packbits(codes > 0, axis=1) if self.binary else codes

    def decode(self, codes):
        """Codes as of `encode` -> features, float32 (B, D)."""
        if self.binary:
            codes = np.unpackbits(codes, axis=1).astype(np.float32)
        return _in_parts(self.decoder, codes) * self.scale + self.mean

    def error(self, features):
        """What the codes lose of features: float, 0 nothing, 1 as much as if the mean stood for each.

        The squared error of all numbers over their squared distance from the mean of the features of training.
        """
        lost = np.square(self.decode(self.encode(features)) - features).sum(dtype=np.float64)
        return float(lost / np.square(features - self.mean).sum(dtype=np.float64))


def train(features, length, binary, epochs, seed, show=None):
    """Trains an autoencoder; the same numbers give the same one, on the same machine.

    Args:
        features: float32 (N, D).
        length: int, numbers of a code, or bits, a multiple of 8 then.
        binary: bool.
        epochs: int.
        seed: int.
        show: function of (epochs done, epochs), or None.

    Returns:
        Coder.
    """
    import keras

    keras.utils.set_random_seed(seed)
    mean = features.mean(axis=0, dtype=np.float64).astype(np.float32)
    standardized = features - mean
    scale = float(np.sqrt(np.square(standardized).mean(dtype=np.float64))) or 1.0
    standardized /= scale
    width = features.shape[1]
    encoder, decoder = _networks(width, length)
    between = []
    if binary:
        # Keras' noise goes up to 1: a deviation of 1 before a factor of 4 is one of 4 on four times the code.
        between = [
            keras.layers.GaussianNoise(1.0, seed=seed),
            keras.layers.Rescaling(NOISE),
            keras.layers.Activation("sigmoid"),
        ]
    model = keras.Sequential([keras.Input((width,)), encoder, *between, decoder], name="autoencoder")
    model.compile(keras.optimizers.Adam(LEARNING_RATE), "mean_squared_error")
    told = []
    if show:
        told = [keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: show(epoch + 1, epochs))]
    model.fit(standardized, standardized, batch_size=BATCH, epochs=epochs, callbacks=told, verbose=0)
    return _coder(length, binary, mean, scale, encoder, decoder)


def kept(path, features, length, binary, epochs, seed, show=None):
    """As `train`, but once: what it gives is kept in a file, and read from it where it was trained on the same numbers.

    Args:
        path: str, .npz; of other numbers or settings, or damaged: it is written anew.
        the others: as of `train`.

    Returns:
        Coder.
    """
    settings = (length, binary, epochs, seed, features.shape, HIDDEN, BATCH, LEARNING_RATE, NOISE)
    key = hashlib.sha256(repr(settings).encode() + np.ascontiguousarray(features).tobytes()).hexdigest()
    if os.path.exists(path):
        try:
            with np.load(path, allow_pickle=False) as stored:
                if str(stored["key"]) == key:
                    networks = _networks(features.shape[1], length)
                    for name, network in zip(_NETWORKS, networks, strict=True):
                        network.set_weights([stored[f"{name}_{place}"] for place in range(len(network.weights))])
                    return _coder(length, binary, stored["mean"], float(stored["scale"]), *networks)
        except (OSError, ValueError, KeyError, EOFError, AttributeError, TypeError, zipfile.BadZipFile):
            pass  # cut, or something else: training makes it again
    coder = train(features, length, binary, epochs, seed, show)
    arrays = {f"{name}_{place}": array for name in _NETWORKS for place, array in enumerate(coder.weights[name])}
    with atomic_write(path, "wb") as file:
        np.savez(file, key=key, mean=coder.mean, scale=coder.scale, **arrays)
    return coder


def _networks(width, length):
    """(encoder, decoder): keras.Model."""
    import keras

    def through(inputs, outputs, name):
        layers = [keras.Input((inputs,)), keras.layers.Dense(HIDDEN, "relu"), keras.layers.Dense(outputs)]
        return keras.Sequential(layers, name=name)

    return tuple(
        through(*sizes, name) for name, sizes in zip(_NETWORKS, ((width, length), (length, width)), strict=True)
    )


def _coder(length, binary, mean, scale, encoder, decoder):
    weights = {name: network.get_weights() for name, network in zip(_NETWORKS, (encoder, decoder), strict=True)}
    return Coder(length, binary, mean, scale, _compiled(encoder), _compiled(decoder), weights)


def _compiled(model):
    """Keras' own call of one row at a time takes longer than its arithmetic."""
    import tensorflow as tf

    rows = tf.TensorSpec(model.input_shape, tf.float32)
    return tf.function(lambda values: model(values, training=False), input_signature=[rows])


def _in_parts(function, rows):
    return np.concatenate([function(rows[start : start + _ROWS]).numpy() for start in range(0, len(rows), _ROWS)])
