"""The network of section 3.5, as one flat functional graph in the paper's order.

    from keras_alexnet import AlexNet
    model = AlexNet(num_classes=1000)          # as published: two towers, 60,965,224 parameters
    probabilities = model(images)              # float32 (B, 224, 224, 3), RGB, 0..255 minus the mean

Three variants differ where the paper, the code that its authors released and Caffe's copy differ: order and constants
of the normalization, start of the weights, size of the input.
"""

import dataclasses
import itertools
import math
import os

import keras
import numpy as np

from keras_alexnet.model import weights as stored_weights
from keras_alexnet.model.layers import ChannelShare, Copies, Dropout, InMapNormalization, LocalResponseNormalization
from keras_alexnet.model.towers import choose_devices, pinned


@dataclasses.dataclass(frozen=True)
class Variant:
    """Where the three descriptions of the network differ."""

    input_size: int  # rows and columns of a crop
    padding: int  # rows and columns of zeros at the bottom and at the right of it
    k: float  # of the normalization, section 3.3
    alpha: float
    whole_layer: bool  # normalization across the towers
    middle_stddev: float  # start of the kernels of conv3, conv4 and conv5
    hidden_stddev: float  # start of the kernels of fc6 and fc7
    bias: float  # start of the biases of conv2, conv4, conv5, fc6 and fc7
    crop_positions: int  # where a random crop may begin, per direction


# - paper: section 3.3's constants; section 5's start: N(0, 0.01), biases 1. Its factor of 2048 (section 4.1) is 32
#   positions in both directions, twice. Normalization stays within a tower: the paper's sum runs over all kernels of a
#   layer, but its two halves never meet on one GPU before layer 3.
# - release2012: `layers-145.cfg` and `layer-params-145.cfg` of the authors' code.
# - caffe: `train_val.prototxt` of bvlc_alexnet.
VARIANTS = {
    "paper": Variant(224, 3, 2.0, 1e-4, False, 0.01, 0.01, 1.0, 32),
    "release2012": Variant(224, 3, 2.0, 2e-5, False, 0.03, 0.01, 1.0, 33),
    "caffe": Variant(227, 0, 1.0, 2e-5, True, 0.01, 0.005, 0.1, 30),
}

# The networks that the authors trained beside network 145, by what differs from it (`layers-*.cfg` of the release).
TOPOLOGIES = {
    "alexnet": {},
    # 145-half: one tower of the two. "The one-GPU net actually has the same number of kernels as the two-GPU net in the
    # final convolutional layer", and its dense layers whole (section 3.2, footnote).
    "half": {"conv1": 48, "conv2": 128, "conv3": 192, "conv4": 192},
    # 150: no links between the towers below fc8; wider conv2 and fc6 make up for the parameters of the links.
    "separate": {"conv2": 320, "fc6": 8192},
    # 146: a sixth convolution over the last pooling (section 6, "1 CNN*").
    "conv6": {},
}
REMOVABLE = ("conv2", "conv3", "conv4", "conv5", "fc7")
_UNITS = {"conv1": 96, "conv2": 256, "conv3": 384, "conv4": 384, "conv5": 256, "conv6": 256, "fc6": 4096, "fc7": 4096}


def AlexNet(  # noqa: N802 (a model is named as keras.applications name theirs)
    num_classes=1000,
    variant="paper",
    towers=2,
    groups=2,
    devices=None,
    classifier_activation="softmax",
    *,
    topology="alexnet",
    removed_layers=(),
    include_top=True,
    weights=None,
    pooling=None,
    activation="relu",
    local_response_normalization=True,
    overlapping_pooling=True,
    dropout=0.5,
    width=1.0,
    dtype="float32",
    seed=None,
    name="alexnet",
):
    """The AlexNet of 2012 as a functional model.

    With 1000 classes it has exactly 60,965,224 parameters in two towers or two groups, and 62,378,344 in one group.
    Layers are named conv1 ... conv5, fc6, fc7, fc8 with their norms and pools between them; in two towers each name
    but fc8 ends in `_tower0` or `_tower1`. conv2, conv4 and conv5 see their own tower only; conv3, fc6, fc7 and fc8
    see both.

    Args:
        num_classes: int >= 1, units of fc8.
        variant: "paper" (as published), "release2012" (as the authors' code had it) or "caffe" (BVLC AlexNet).
        towers: 2, one stack of layers per tower, or 1, one stack for all.
        groups: with one tower, 2 for grouped convolutions (the same function as two towers) or 1 for none.
        devices: names of the towers' devices such as ("GPU:0", "GPU:1"), None for two GPUs where there are two, () to
            pin nothing. Where it runs never changes what it computes.
        classifier_activation: "softmax" for probabilities, None for logits.
        topology: "alexnet"; "half", one tower of half the kernels in conv1 to conv4 (the release's 145-half, 59.8 M
            parameters; towers and groups 1); "separate", towers that meet at fc8 only (150; two towers); or "conv6",
            with a sixth convolution after pool5 that sees both towers (146, section 6's "1 CNN*").
        removed_layers: sequence of names in REMOVABLE, layers that are left out with their nonlinearity, normalization
            and dropout, while pools stay (section 7: "removing any of the middle layers"). What comes first of conv3,
            conv4 and conv5 sees both towers.
        include_top: False ends with pool5, the maps of both towers next to each other, and leaves out the dense layers.
        weights: None for a random start, or where they are: a run's folder, an exported model's, or a file, see
            `keras_alexnet.model.weights.read`. They may be in towers or in groups, whichever form this network has.
        pooling: without the top, "avg" or "max" for one number a map, None for the maps.
        activation: "relu" (section 3.1) or another Keras activation, such as "tanh".
        local_response_normalization: False leaves out the normalizations (section 3.3, and the release's in-map one).
        overlapping_pooling: False pools windows of 2 every 2 pixels instead of 3 every 2 (section 3.4).
        dropout: float, 0 <= dropout < 1, probability of a hidden unit being zeroed (section 4.2).
        width: float > 0, factor on the units of every layer but fc8.
        dtype: Keras dtype policy or its name, such as "mixed_bfloat16"; the output is float32 always.
        seed: optional int; the same seed gives the same weights and the same dropout.
        name: str.

    Returns:
        keras.Model on float32 (B, 224, 224, 3) -> float32 (B, num_classes); (B, 227, 227, 3) for "caffe". Without the
        top: float32 (B, 6, 6, 256), or (B, 256) pooled. Input: RGB, 0..255 minus the training set's mean.

    Raises:
        ValueError: an argument is outside what is listed, or the weights do not fit; the message says what was
            received.
        UsageError: (a ValueError) a device is not there.
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant must be one of {', '.join(VARIANTS)}. Received: variant={variant!r}")
    if towers not in (1, 2) or groups not in (1, 2):
        raise ValueError(f"towers and groups must be 1 or 2. Received: towers={towers}, groups={groups}")
    if num_classes < 1:
        raise ValueError(f"num_classes must be at least 1. Received: num_classes={num_classes}")
    if towers == 2 and groups == 1:
        raise ValueError(
            "two towers are two groups. Received: towers=2, groups=1; towers=1 is a network without groups"
        )
    if pooling not in (None, "avg", "max") or (pooling and include_top):
        raise ValueError(
            f"pooling must be None, or without the top avg or max. Received: pooling={pooling!r}, "
            f"include_top={include_top}"
        )
    check_topology(topology, towers, groups, variant)
    check_removed(removed_layers)
    check_width(width)
    v = VARIANTS[variant]
    all_units = {**_UNITS, **TOPOLOGIES[topology]}
    linked = topology != "separate"
    devices = choose_devices(devices, towers) if devices is None or len(devices) else ()
    places = devices if len(devices) == towers else (devices or (None,)) * towers
    own = groups if towers == 1 else 1  # groups of a convolution that sees its own tower only
    # Far apart for neighboring seeds: seed + 1 must not be seed with its layers moved up by one.
    states = None if seed is None else np.random.SeedSequence(seed).generate_state(64).tolist()
    seeds = itertools.repeat(None) if states is None else iter(states)

    # A value of the graph is the list of its parts, one per tower. A layer is one Keras layer per tower.
    def per_tower(layer_name, make, parts):
        named = [f"{layer_name}_tower{tower}" for tower in range(towers)] if towers == 2 else [layer_name]
        return [pinned(make, name, device)(part) for name, device, part in zip(named, places, parts, strict=True)]

    def there(layer_name):
        return layer_name not in removed_layers

    def convolution(layer_name, parts, size, stddev, bias, *, strides=1, groups=1):
        return per_tower(
            layer_name,
            lambda full_name: keras.layers.Conv2D(
                round(all_units[layer_name] * width) // towers,
                size,
                strides=strides,
                padding="valid" if strides > 1 else "same",
                groups=groups,
                kernel_initializer=keras.initializers.RandomNormal(stddev=stddev, seed=next(seeds)),
                bias_initializer=keras.initializers.Constant(bias),
                dtype=dtype,
                name=full_name,
            ),
            parts,
        )

    def dense(layer_name, parts, stddev):
        return per_tower(
            layer_name,
            lambda full_name: keras.layers.Dense(
                round(all_units[layer_name] * width) // towers,
                kernel_initializer=keras.initializers.RandomNormal(stddev=stddev, seed=next(seeds)),
                bias_initializer=keras.initializers.Constant(v.bias),
                dtype=dtype,
                name=full_name,
            ),
            parts,
        )

    def nonlinearity(layer_name, parts):
        return per_tower(layer_name, lambda n: keras.layers.Activation(activation, dtype=dtype, name=n), parts)

    def max_pooling(layer_name, parts):
        size = 3 if overlapping_pooling else 2
        return per_tower(layer_name, lambda n: keras.layers.MaxPooling2D(size, 2, dtype=dtype, name=n), parts)

    def zeroed(layer_name, parts):
        return per_tower(layer_name, lambda n: Dropout(dropout, seed=next(seeds), dtype=dtype, name=n), parts)

    def both(layer_name, parts):
        """Every tower gets all parts, put together where they are used, so that each half crosses once."""
        if towers == 1 or not linked:
            return parts
        copies = per_tower(f"{layer_name}_copies", lambda n: Copies(towers, dtype=dtype, name=n), parts)
        wanted = [list(parts) for parts in zip(*copies, strict=True)]  # by the tower that gets them
        return per_tower(layer_name, lambda n: keras.layers.Concatenate(dtype=dtype, name=n), wanted)

    def normalization(layer_name, parts):
        if not local_response_normalization:
            return parts
        if v.whole_layer:
            # Windows reach across the towers: each tower normalizes the whole layer and keeps its part.
            whole = both(f"{layer_name}_whole", parts)
            settings = {"k": v.k, "n": 5, "alpha": v.alpha, "beta": 0.75, "dtype": dtype}
            whole = per_tower(layer_name, lambda n: LocalResponseNormalization(name=n, **settings), whole)
            if towers == 1:
                return whole
            halves = iter(((0, 0.5), (0.5, 1)))
            return per_tower(f"{layer_name}_own", lambda n: ChannelShare(*next(halves), dtype=dtype, name=n), whole)
        return per_tower(
            layer_name,
            lambda n: LocalResponseNormalization(v.k, 5, v.alpha, 0.75, groups=own, dtype=dtype, name=n),
            parts,
        )

    def in_map_normalization(layer_name, parts):
        if not local_response_normalization:
            return parts
        return per_tower(layer_name, lambda n: InMapNormalization(dtype=dtype, name=n), parts)

    image = keras.Input((v.input_size, v.input_size, 3), dtype="float32", name="images")
    x = [image] * towers
    if v.padding:
        # The release's output size is 1 + ceil((224 - 11) / 4) = 55: its last window hangs 3 pixels over the edge.
        margin = ((0, v.padding), (0, v.padding))
        x = per_tower("pad1", lambda n: keras.layers.ZeroPadding2D(margin, dtype=dtype, name=n), x)
    x = convolution("conv1", x, 11, 0.01, 0.0, strides=4)  # 55x55x96
    if variant == "release2012":
        x = nonlinearity("relu1", max_pooling("pool1", normalization("norm1", x)))  # 27x27x96
    else:
        x = max_pooling("pool1", normalization("norm1", nonlinearity("relu1", x)))  # 27x27x96

    if there("conv2"):
        x = nonlinearity("relu2", convolution("conv2", x, 5, 0.01, v.bias, groups=own))  # 27x27x256
        x = normalization("norm2", x)
        if variant == "release2012":
            x = in_map_normalization("in_map_norm2", x)
    x = max_pooling("pool2", x)  # 13x13x256

    linking = next(
        filter(there, ("conv3", "conv4", "conv5")), None
    )  # sees both towers, as the rest of the three do not
    if linking:
        x = both("join3", x)

    def groups_of(layer_name):
        return 1 if layer_name == linking and linked else own

    if there("conv3"):
        x = convolution("conv3", x, 3, v.middle_stddev, 0.0, groups=groups_of("conv3"))
        x = nonlinearity("relu3", x)  # 13x13x384
    if there("conv4"):
        x = convolution("conv4", x, 3, v.middle_stddev, v.bias, groups=groups_of("conv4"))
        x = nonlinearity("relu4", x)  # 13x13x384
    if there("conv5"):
        x = convolution("conv5", x, 3, v.middle_stddev, v.bias, groups=groups_of("conv5"))
        x = nonlinearity("relu5", x)  # 13x13x256
    # The release pools conv5 before its ReLU; a maximum and a ReLU give the same in either order.
    x = max_pooling("pool5", x)  # 6x6x256
    if topology == "conv6":
        x = convolution("conv6", both("join_conv6", x), 3, v.middle_stddev, v.bias)
        x = nonlinearity("relu_conv6", x)  # 6x6x256

    # fc8, softmax and loss belong to the first device (`layers-145.cfg`: fc1000 on gpu 0).
    def on_first(make, layer_name, value):
        return pinned(make, layer_name, places[0])(value)

    def joined(layer_name, parts):
        if towers == 1:
            return parts[0]
        return on_first(lambda n: keras.layers.Concatenate(dtype=dtype, name=n), layer_name, parts)

    if include_top:
        x = both("join6", x)
        x = per_tower("flatten", lambda n: keras.layers.Flatten(dtype=dtype, name=n), x)  # 9216
        x = zeroed("dropout6", nonlinearity("relu6", dense("fc6", x, v.hidden_stddev)))  # 4096
        if there("fc7"):
            x = both("join7", x)
            x = zeroed("dropout7", nonlinearity("relu7", dense("fc7", x, v.hidden_stddev)))  # 4096
        output = on_first(
            lambda full_name: keras.layers.Dense(
                num_classes,
                kernel_initializer=keras.initializers.RandomNormal(stddev=0.01, seed=next(seeds)),
                dtype=dtype,
                name=full_name,
            ),
            "fc8",
            joined("join8", x),
        )
        output = on_first(
            lambda n: keras.layers.Activation(classifier_activation, dtype="float32", name=n), "predictions", output
        )
    else:
        output = joined("features", x)
        if pooling:
            pool = keras.layers.GlobalAveragePooling2D if pooling == "avg" else keras.layers.GlobalMaxPooling2D
            output = on_first(lambda n: pool(dtype=dtype, name=n), f"{pooling}_pool", output)
    model = keras.Model(image, output, name=name)
    if weights is not None:
        stored_weights.assign(stored_weights.read(os.fspath(weights)), model)
    return model


def check_topology(topology, towers, groups, variant):
    """Raises ValueError unless there is such a network."""
    if topology not in TOPOLOGIES:
        raise ValueError(f"topology must be one of {', '.join(TOPOLOGIES)}. Received: topology={topology!r}")
    if topology == "half" and (towers, groups) != (1, 1):
        raise ValueError(f"half is one tower without groups. Received: towers={towers}, groups={groups}")
    if topology == "separate" and (towers == 1 or variant == "caffe"):
        raise ValueError(
            f"separate towers are two, each normalized by itself. Received: towers={towers}, variant={variant!r}"
        )


def check_removed(removed_layers):
    """Raises ValueError unless a network can do without these layers."""
    unknown = [name for name in removed_layers if name not in REMOVABLE]
    if unknown:
        raise ValueError(f"removed_layers must be of {', '.join(REMOVABLE)}. Received: {unknown[0]!r}")


def check_width(width):
    """Raises ValueError unless a width gives every layer a whole and even number of units."""
    if not 0 < width < math.inf or any(
        round(units * width) < 2 or round(units * width) % 2 for units in (96, 256, 384, 4096)
    ):
        raise ValueError(f"width must give each of two towers the same units in every layer. Received: width={width}")
