"""Section 3.2: the network in two towers, their devices, and layers that stay on theirs, forward and backward."""

import contextlib
import functools
import itertools
import re
from functools import partial

import keras
import numpy as np
import tensorflow as tf

from keras_alexnet.errors import ArgumentError
from keras_alexnet.model.layers import ChannelShare, Copies, Dropout, InMapNormalization, LocalResponseNormalization
from keras_alexnet.model.variants import TOPOLOGIES, UNITS, VARIANTS

_ORDER = "channels_last"  # whatever Keras' global image_data_format is
# From which compute capability on a GPU has a type (NVIDIA's CUDA C++ Programming Guide, "Arithmetic Instructions").
CAPABILITY = {"mixed_float16": (5, 3), "mixed_bfloat16": (8, 0)}


class TowerLayers:
    """The kinds of layers of a variants.Network. Each method makes one for each tower, on the tower's device.

    A value of the graph is the list of its parts, one for each tower; with two towers the names of their layers end in
    "_tower0" and "_tower1". Devices are as `choose_devices` returns them.
    """

    def __init__(self, network, devices, dtype, seed):
        self.network, self.variant, self.dtype = network, VARIANTS[network.variant], dtype
        self.units, self.count = {**UNITS, **self.variant.units, **TOPOLOGIES[network.topology]}, network.towers
        self.devices = devices if len(devices) == self.count else (devices or (None,)) * self.count
        # Far apart for neighboring seeds: seed + 1 must not be seed with its layers moved up by one.
        states = None if seed is None else np.random.SeedSequence(seed).generate_state(64).tolist()
        self.seeds = itertools.repeat(None) if states is None else iter(states)
        self.own_groups = network.groups if self.count == 1 else 1  # where a layer sees its own tower only
        # The convolution that sees both towers, as the others of these three do not.
        self.linking = next(filter(self.has_layer, ("conv3", "conv4", "conv5")), None)

    def has_layer(self, name):
        return name not in self.network.removed_layers

    def padding(self, name, parts, margin):
        """Zeros: so many rows and columns before the maps, and so many behind them."""
        return self._layer(partial(keras.layers.ZeroPadding2D, (margin, margin), data_format=_ORDER), name, parts)

    def scaling(self, name, parts, factors):
        """Each channel times its factor, in float32."""
        # As (1, 1, channels), which Keras does not reshape where its global image_data_format is channels_first.
        make = partial(keras.layers.Rescaling, [[list(factors)]])
        return self._layer(lambda name, dtype: make(name=name, dtype="float32"), name, parts)

    def convolution(self, name, parts, size, stddev, bias, strides=1):
        options = {
            "strides": strides,
            "padding": "valid" if strides > 1 else "same",
            "data_format": _ORDER,
            "groups": 1 if name in ("conv1", "conv6", self.linking) else self.own_groups,
        }
        make = partial(keras.layers.Conv2D, self._units_of(name), size, **options)
        return self._layer(partial(self._with_weights, make, stddev, bias), name, parts)

    def dense(self, name, parts, stddev, bias):
        make = partial(keras.layers.Dense, self._units_of(name))
        return self._layer(partial(self._with_weights, make, stddev, bias), name, parts)

    def classifier(self, parts, activation):
        """fc8 and its softmax, which belong to no tower."""
        make = partial(self._with_weights, partial(keras.layers.Dense, self.network.num_classes), 0.01, 0.0)
        logits = self._on_first(make, "fc8", self._join("join8", parts))
        make = partial(keras.layers.Activation, activation)
        return pinned(make, "predictions", "float32", self.devices[0])(logits)

    def nonlinearity(self, name, parts):
        return self._layer(partial(keras.layers.Activation, self.network.activation), name, parts)

    def max_pooling(self, name, parts):
        """Section 3.4. In a map of even size the last window of 3 reaches over the edge, as in cuda-convnet and Caffe.

        Nothing counts there. The sizes of section 3.5 are odd.
        """
        size = 3 if self.network.overlapping_pooling else 2
        over = [length % 2 == 0 and name not in self.variant.floor_pools for length in parts[0].shape[1:3]]
        rows, columns = ("same" if each else "valid" for each in over)
        pool = partial(keras.layers.MaxPooling2D, data_format=_ORDER)
        if rows == columns:
            return self._layer(partial(pool, size, 2, padding=rows), name, parts)
        # In an image that is not square perhaps in one direction only: a maximum over rows, then over columns.
        parts = self._layer(partial(pool, (size, 1), (2, 1), padding=rows), f"{name}_rows", parts)
        return self._layer(partial(pool, (1, size), (1, 2), padding=columns), name, parts)

    def flatten(self, name, parts):
        return self._layer(partial(keras.layers.Flatten, data_format=_ORDER), name, parts)

    def dropout(self, name, parts):
        inverted = self.network.inverted_dropout or self.variant.dropout != "published"
        make = partial(Dropout, self.network.dropout, inverted=inverted)
        return self._layer(lambda **common: make(seed=next(self.seeds), **common), name, parts)

    def normalization(self, name, parts):
        """Section 3.3, within each tower or, as Caffe has it, across both."""
        v = self.variant
        if not self.network.local_response_normalization or v.k is None:
            return parts
        make = partial(LocalResponseNormalization, v.k, 5, v.alpha, 0.75)
        if not v.whole_layer:
            return self._layer(partial(make, groups=self.own_groups), name, parts)
        # Each tower normalizes the whole layer and keeps its part.
        whole = self._layer(make, name, self.exchange(f"{name}_whole", parts))
        if self.count == 1:
            return whole
        halves = iter(((0, 0.5), (0.5, 1)))
        return self._layer(lambda **common: ChannelShare(*next(halves), **common), f"{name}_own", whole)

    def in_map_normalization(self, name, parts):
        return self._layer(InMapNormalization, name, parts) if self.network.local_response_normalization else parts

    def exchange(self, name, parts):
        """Every tower gets all parts, concatenated where they are used, so that each half crosses once."""
        if self.count == 1 or self.network.topology == "separate":
            return parts
        copies = self._layer(partial(Copies, self.count), f"{name}_copies", parts)
        received = [list(parts) for parts in zip(*copies, strict=True)]  # by the tower that gets them
        return self._layer(keras.layers.Concatenate, name, received)

    def features(self, parts, pooling):
        """The maps of both towers, pooled or not."""
        maps = self._join("features", parts)
        if pooling is None:
            return maps
        kind = keras.layers.GlobalAveragePooling2D if pooling == "avg" else keras.layers.GlobalMaxPooling2D
        return self._on_first(partial(kind, data_format=_ORDER), f"{pooling}_pool", maps)

    def _units_of(self, name):
        """The number of units of a layer in one tower."""
        return round(self.units[name] * self.network.width) // self.count

    def _with_weights(self, make, stddev, bias, **common):
        if self.variant.fan_in:
            kernel = keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform", seed=next(self.seeds))
        else:
            kernel = keras.initializers.RandomNormal(stddev=stddev, seed=next(self.seeds))
        return make(kernel_initializer=kernel, bias_initializer=keras.initializers.Constant(bias), **common)

    def _join(self, name, parts):
        """All parts as one value, on the first device."""
        return parts[0] if self.count == 1 else self._on_first(keras.layers.Concatenate, name, parts)

    def _layer(self, make, name, parts):
        """What one layer per tower returns for the tower's part."""
        names = [f"{name}_tower{tower}" for tower in range(self.count)] if self.count == 2 else [name]
        layers = [pinned(make, name, self.dtype, device) for name, device in zip(names, self.devices, strict=True)]
        return [layer(part) for layer, part in zip(layers, parts, strict=True)]

    def _on_first(self, make, name, value):
        """What a layer of no tower returns; it is on the first device (`layers-145.cfg`: fc1000 on gpu 0)."""
        return pinned(make, name, self.dtype, self.devices[0])(value)


def choose_devices(names, towers):
    """The devices of the towers: a name for each, one for all, or () where TensorFlow places everything itself.

    Names are such as "GPU:0"; None takes two GPUs where there are two. Logical CPUs are made. Raises ArgumentError
    where a device is missing or named twice, or there are more devices than towers.
    """
    if names is None:
        if towers == 1 or not tf.config.list_physical_devices("GPU"):
            return ()  # without asking for logical devices, which settles how many there are
        gpus = _present("GPU")
        return tuple(gpus[:2]) if len(gpus) >= 2 else ()
    names = tuple(name.strip().upper() for name in (names.split(",") if isinstance(names, str) else names))
    text = ",".join(names)
    if not 1 <= len(set(names)) == len(names) <= towers:
        raise ArgumentError("devices", text, f"must be one device, or a different one for each tower (towers={towers})")
    cpus = 1 + max(map(int, re.findall(r"\bCPU:(\d{1,3})\b", text)), default=0)
    if 1 < cpus <= 8:
        with contextlib.suppress(RuntimeError):  # TensorFlow has started, and its devices are fixed: see below
            cpu = tf.config.list_physical_devices("CPU")[0]
            tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * cpus)
    present = _present("CPU") + _present("GPU")
    for name in names:
        if name not in present:
            problem = f"must be names of devices that are present: {name} is missing, there are {', '.join(present)}"
            raise ArgumentError("devices", text, problem)
    return names


def _present(kind):
    return [device.name.removeprefix("/device:") for device in tf.config.list_logical_devices(kind)]


def check_precision(precision, devices):
    """Raises ArgumentError where a device, as `choose_devices` returns them, cannot compute in a Keras dtype policy."""
    if precision not in CAPABILITY:
        return
    gpus = tf.config.list_physical_devices("GPU")
    for name in devices or (("GPU:0",) if gpus else ("CPU:0",)):
        kind, index = name.split(":")
        if kind == "CPU":
            if precision == "mixed_float16":
                raise ArgumentError("precision", precision, f"{name} has no float16; use mixed_bfloat16 or float32")
            continue
        found = tf.config.experimental.get_device_details(gpus[int(index)]).get("compute_capability")
        if found is not None and found < CAPABILITY[precision]:
            has, needed = ("{}.{}".format(*each) for each in (found, CAPABILITY[precision]))
            problem = f"needs compute capability {needed}, and {name} has {has}; use float32"
            raise ArgumentError("precision", precision, problem)


def pinned(make, name, dtype, device):
    """A layer, `make(name=name, dtype=dtype)`, that does all its work on one device: variables, operations, gradients.

    A device scope around a call does not hold for the backward pass, which TensorFlow builds later. Here the layer's
    gradient is a function of its own that enters the same scope. The device is not part of the layer's configuration,
    nor of a saved model. With None for a device the layer is an ordinary one.
    """
    if device is None:
        return make(name=name, dtype=dtype)
    with tf.device(device):
        layer = make(name=name, dtype=dtype)  # may have variables before it is built, such as states of random numbers
    build, call = layer.build, layer.call

    @functools.wraps(build)
    def build_on_device(*args, **kwargs):
        with tf.device(device):
            return build(*args, **kwargs)

    @functools.wraps(call)
    def call_on_device(inputs, **options):
        several = isinstance(inputs, (list, tuple))

        @tf.custom_gradient
        def differentiated(*parts):
            # persistent: the tape that asks may ask more than once, or for a gradient of the gradient
            with tf.GradientTape(persistent=True) as tape:
                tape.watch(parts)
                outputs = call(list(parts) if several else parts[0], **options)

            def gradient(*upstream, variables=()):
                upstream = tf.nest.pack_sequence_as(outputs, upstream)
                with tf.device(device), tf.name_scope(f"gradient_tape/{name}/"):
                    gradients = tape.gradient(outputs, [*parts, *variables], upstream)
                of_parts, of_variables = gradients[: len(parts)], gradients[len(parts) :]
                return (of_parts, of_variables) if variables else of_parts

            return outputs, gradient

        with tf.device(device):  # around the decorated function, which adds operations of its own
            return differentiated(*inputs) if several else differentiated(inputs)

    layer.build, layer.call = build_on_device, call_on_device
    return layer
