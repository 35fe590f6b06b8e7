"""The network of section 3.5, as one flat functional graph in the paper's order.

    from keras_alexnet import AlexNet
    model = AlexNet()                          # as published: two towers, 60,965,224 parameters
    probabilities = model(images)              # float32 (B, 224, 224, 3), RGB, 0..255 minus the mean
    model = AlexNet(weights="runs/quickstart") # the network of a run, whatever its settings

Variants differ where the paper, the code that its authors released and later networks do, see `variants.VARIANTS`.
"""

import numbers

import keras

from keras_alexnet.errors import ArgumentError
from keras_alexnet.model import weights as stored_weights
from keras_alexnet.model.towers import TowerLayers, choose_devices
from keras_alexnet.model.variants import VARIANTS, combined, first_layers


def AlexNet(  # noqa: N802 (a model is named as keras.applications name theirs)
    num_classes=None,
    variant=None,
    towers=None,
    groups=None,
    devices=None,
    classifier_activation="softmax",
    *,
    topology=None,
    removed_layers=None,
    include_top=True,
    weights=None,
    pooling=None,
    activation=None,
    local_response_normalization=None,
    overlapping_pooling=None,
    dropout=None,
    inverted_dropout=None,
    width=None,
    dtype=None,
    seed=None,
    name="alexnet",
    classes=None,
    input_shape=None,
    input_tensor=None,
):
    """The AlexNet of 2012 as a functional model: 60,965,224 parameters with 1000 classes and two towers or groups.

    Layers are conv1 ... conv5, fc6, fc7, fc8 with their norms and pools between them; in two towers each name but fc8
    ends in `_tower0` or `_tower1`. conv2, conv4 and conv5 see their own tower only; conv3, fc6, fc7 and fc8 see both.

    Args:
        num_classes: int >= 1, units of fc8 (default: 1000).
        variant: "paper" (as published; default), "release2012" (the authors' code), "caffe" (BVLC AlexNet), "caffe224"
            (its ONNX file), "owt2014" (torchvision's) or "imgclsmob" (pytorchcv's); the last two have one tower.
        towers: 2, one stack of layers per tower (default), or 1, one stack for all.
        groups: with one tower, 2 for grouped convolutions (the same function as two towers; default) or 1 for none.
        devices: names of the towers' devices such as ("GPU:0", "GPU:1"), None for two GPUs where there are two, () to
            pin nothing.
        classifier_activation: "softmax" for probabilities, None for logits.
        topology: "alexnet" (default), "half" (towers and groups 1), "separate", "conv6" or "zf", see
            `variants.TOPOLOGIES`.
        removed_layers: names of conv2 ... conv5 and fc7, which are left out with their nonlinearity, normalization and
            dropout, while pools stay (section 7); the first of conv3 to conv5 sees both towers.
        include_top: False ends with pool5, the maps of both towers next to each other.
        weights: None for a random start, or a path, see `keras_alexnet.model.weights.read`, in towers or in groups. A
            run and an export also give every setting of the network that is not an argument here.
        pooling: without the top, "avg" or "max" for one number a map, None for the maps.
        activation: "relu" (section 3.1; default) or another Keras activation, such as "tanh".
        local_response_normalization: False leaves out the normalizations (section 3.3, and the release's in-map one).
        overlapping_pooling: False pools windows of 2 every 2 pixels instead of 3 every 2 (section 3.4).
        dropout: float, 0 <= dropout < 1, probability of a hidden unit being zeroed (section 4.2; default: 0.5).
        inverted_dropout: True scales up in training what dropout keeps, as Keras has it, in place of halving in tests.
        width: float > 0, factor on the units of every layer but fc8 (default: 1).
        dtype: Keras dtype policy or its name, such as "mixed_bfloat16" (default: Keras' global one); the output
            of fc8 is float32 always.
        seed: optional int; the same seed gives the same weights and the same dropout.
        name: str.
        classes: the same as num_classes, as `keras.applications` call it.
        input_shape: without the top, (rows, columns, 3) of the images, from about 40 on (default: the variant's).
        input_tensor: optional KerasTensor that is the image, such as the output of layers in front of the network,
            which become part of the model; or a list of one for each tower.

    Returns:
        keras.Model on float32 (B, 224, 224, 3) -> float32 (B, num_classes); (B, 227, 227, 3) for "caffe". Without the
        top: (B, 6, 6, 256), or (B, 256) pooled, in the dtype that is computed in. Input: RGB, 0..255 minus the mean of
        the training set.

    Raises:
        ValueError: an argument is outside what is listed or contradicts the weights, or the weights cannot be read.
    """
    if None not in (num_classes, classes) and num_classes != classes:
        raise ArgumentError("classes", classes, f"must be left out, or {num_classes} as num_classes is")
    count = classes if num_classes is None else num_classes
    arguments = {**locals(), "num_classes": count if include_top else None}
    settings, values = ({}, {}) if weights is None else stored_weights.read_with_settings(weights)
    network = combined(arguments, settings, weights)
    if pooling not in (None, "avg", "max") or (pooling and include_top):
        problem = f"must be None, or without the top avg or max (include_top={include_top})"
        raise ArgumentError("pooling", pooling, problem)
    devices = choose_devices(devices, network.towers) if devices is None or len(devices) else ()
    layers = TowerLayers(network, devices, dtype, seed)
    tensors = input_tensor if isinstance(input_tensor, (list, tuple)) else [input_tensor]
    if len(tensors) not in (1, network.towers):
        problem = f"must be one image, or one for each tower (towers={network.towers})"
        raise ArgumentError("input_tensor", f"{len(tensors)} images", problem)
    images = [_input(network, include_top, input_shape, tensor) for tensor in tensors]
    x = _convolutional_layers(layers, images * (network.towers // len(images)))
    output = _dense_layers(layers, x, classifier_activation) if include_top else layers.features(x, pooling)
    sources = {id(each): each for image in images for each in keras.utils.get_source_inputs(image)}
    model = keras.Model(images[0] if input_tensor is None else [*sources.values()], output, name=name)
    if values:
        stored_weights.assign(values, model)
    return model


def _input(network, include_top, shape, tensor):
    """The images: KerasTensor (B, rows, columns, 3). Raises ArgumentError of a shape that the layers do not allow."""
    variant = VARIANTS[network.variant]
    size = variant.input_size
    name, given = ("input_shape", shape) if tensor is None else ("input_tensor", tensor.shape[1:])
    found = (size, size, 3) if given is None else tuple(given)
    if tensor is not None and shape is not None and tuple(shape) != found:
        raise ArgumentError("input_shape", shape, f"must be left out, or {found} as the input_tensor is")
    if len(found) != 3 or found[2] != 3:
        problem = "must be (rows, columns, 3), red, green and blue; repeat the channel of grey images three times"
        raise ArgumentError(name, found, problem)
    if include_top and found != (size, size, 3):
        raise ArgumentError(name, found, f"must be {(size, size, 3)} with the top (include_top=False takes others)")
    smallest = first_layers(network)[3] - sum(variant.padding)
    if not all(isinstance(length, numbers.Integral) and length >= smallest for length in found[:2]):
        raise ArgumentError(name, found, f"must have known numbers of rows and columns, {smallest} or more")
    return keras.Input(found, dtype="float32", name="images") if tensor is None else tensor


def _convolutional_layers(layers, x):
    """Layers 1 to 5, as Figure 2 has them; shapes are those of the paper, of both towers together."""
    network, v = layers.network, layers.variant
    size, stride, stride2, _ = first_layers(network)
    if v.pixel_scale:
        x = layers.scaling("scale", x, v.pixel_scale)
    if any(v.padding):
        # The release's output size is 1 + ceil((224 - 11) / 4) = 55: its last window hangs 3 pixels over the edge.
        x = layers.padding("pad1", x, v.padding)
    x = layers.convolution("conv1", x, size, 0.01, 0.0, strides=stride)  # 55x55x96
    if v.late_relu1:
        x = layers.nonlinearity("relu1", layers.max_pooling("pool1", layers.normalization("norm1", x)))  # 27x27x96
    else:
        x = layers.max_pooling("pool1", layers.normalization("norm1", layers.nonlinearity("relu1", x)))  # 27x27x96

    if layers.has_layer("conv2"):
        x = layers.nonlinearity("relu2", layers.convolution("conv2", x, 5, 0.01, v.bias, stride2))  # 27x27x256
        x = layers.normalization("norm2", x)
        if v.in_map:
            x = layers.in_map_normalization("in_map_norm2", x)
    x = layers.max_pooling("pool2", x)  # 13x13x256

    if layers.linking:
        x = layers.exchange("join3", x)
    for index, bias in ((3, 0.0), (4, v.bias), (5, v.bias)):  # 13x13x384, 13x13x384, 13x13x256
        if layers.has_layer(f"conv{index}"):
            x = layers.convolution(f"conv{index}", x, 3, v.middle_stddev, bias)
            x = layers.nonlinearity(f"relu{index}", x)
    # The release pools conv5 before its ReLU; a maximum and a ReLU give the same in either order.
    x = layers.max_pooling("pool5", x)  # 6x6x256
    if network.topology == "conv6":
        x = layers.convolution("conv6", layers.exchange("join_conv6", x), 3, v.middle_stddev, v.bias)
        x = layers.nonlinearity("relu_conv6", x)  # 6x6x256
    return x


def _dense_layers(layers, x, classifier_activation):
    """Layers 6 to 8."""
    x = _hidden_layer(layers, 6, layers.flatten("flatten", layers.exchange("join6", x)))  # 9216 -> 4096
    if layers.has_layer("fc7"):
        x = _hidden_layer(layers, 7, layers.exchange("join7", x))  # 4096
    return layers.classifier(x, classifier_activation)


def _hidden_layer(layers, number, x):
    """Layer 6 or 7 with its dropout (section 4.2), which is behind it, or as torchvision has it on its inputs."""
    v, in_front = layers.variant, layers.variant.dropout == "inverted_inputs"
    if in_front:
        x = layers.dropout(f"dropout{number}", x)
    x = layers.nonlinearity(f"relu{number}", layers.dense(f"fc{number}", x, v.hidden_stddev, v.bias))
    return x if in_front else layers.dropout(f"dropout{number}", x)
