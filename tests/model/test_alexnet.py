import itertools

import keras
import numpy as np
import pytest

from keras_alexnet import AlexNet
from keras_alexnet.errors import ArgumentError
from keras_alexnet.model import variants, weights
from keras_alexnet.model.variants import TOPOLOGIES
from tests.reference import network as reference

# Section 3.5 and the shapes of the release, both towers together.
MAPS = {"conv1": 55, "pool1": 27, "conv2": 27, "pool2": 13, "conv3": 13, "conv4": 13, "conv5": 13, "pool5": 6}
UNITS = {"conv1": 96, "pool1": 96, "conv2": 256, "pool2": 256, "conv3": 384, "conv4": 384, "conv5": 256, "pool5": 256}
UNITS |= {"fc6": 4096, "fc7": 4096}
TINY = 1 / 16
VARIANTS = ["paper", "release2012", "caffe"]


def images_of(size, count=1):
    return np.random.default_rng(0).normal(scale=60, size=(count, size, size, 3)).astype(np.float32)


def layers_named(model, start):
    return [layer for layer in model.layers if layer.name.split("_tower")[0] == start]


def grouped_weights(model):
    """The weights of either form, as the reference wants them: towers next to each other."""
    return weights.to_grouped(weights.named(model))


@pytest.mark.parametrize(
    "settings, parameters",
    [
        # 34,944 + 307,456 + 885,120 + 663,936 + 442,624 + 37,752,832 + 16,781,312 + 4,097,000
        ({}, 60_965_224),
        ({"towers": 1}, 60_965_224),
        ({"variant": "release2012"}, 60_965_224),
        ({"variant": "caffe"}, 60_965_224),
        ({"variant": "imgclsmob"}, 62_378_344),
        # 23,296 + 307,392 + 663,936 + 884,992 + 590,080 and the dense layers
        ({"variant": "owt2014"}, 61_100_840),
        # conv2, conv4 and conv5 see twice the channels: 307,200 + 663,552 + 442,368 more
        ({"towers": 1, "groups": 1}, 62_378_344),
        # conv6: 9 x 256 x 256 + 256 = 590,080 more
        ({"topology": "conv6"}, 61_555_304),
        # conv1: (121 - 49) x 3 x 96 = 20,736 fewer
        ({"topology": "zf"}, 60_944_488),
        # 34,944 + 2 (25 x 48 + 1) 160 + 2 (9 x 160 + 1) 192 + 663,936 + 442,624 + 2 (4,608 + 1) 4,096
        # + 2 (4,096 + 1) 2,048 + 4,097,000
        ({"topology": "separate"}, 60_714_408),
        # 17,472 + 153,728 + 221,376 + 331,968 + 442,624 and the dense layers; the release's note says 59.8 million
        ({"topology": "half", "towers": 1, "groups": 1}, 59_798_312),
    ],
    ids=[
        "paper",
        "grouped",
        "release2012",
        "caffe",
        "imgclsmob",
        "owt2014",
        "one group",
        "conv6",
        "zf",
        "separate",
        "half",
    ],
)
def test_parameters_and_shapes(settings, parameters, monkeypatch):
    # Sixty million random numbers take a second.
    for name in ("RandomNormal", "VarianceScaling"):
        monkeypatch.setattr(keras.initializers, name, lambda *_, **__: keras.initializers.Zeros())
    model, variant = AlexNet(**settings), settings.get("variant", "paper")
    size = 227 if variant == "caffe" else 224
    assert model.count_params() == parameters
    assert model.input_shape == (None, size, size, 3)
    of_variant = variants.VARIANTS[variant]
    units = UNITS | of_variant.units | TOPOLOGIES[settings.get("topology", "alexnet")]
    for name in UNITS:
        layers = layers_named(model, name)
        assert len(layers) == (1 if of_variant.one_tower else settings.get("towers", 2))
        rows = MAPS.get(name) if (variant, name) != ("imgclsmob", "conv1") else 54  # 1 + (224 - 11) / 4 without padding
        if settings.get("topology") == "zf":  # 1 + (227 - 7) / 2, and Figure 3 of Zeiler and Fergus
            rows = {"conv1": 111, "pool1": 55, "conv2": 26}.get(name, rows)
        assert all(layer.output.shape[1:-1] == (rows,) * 2 for layer in layers if name in MAPS)
        before = name.replace("pool", "conv")
        assert sum(layer.output.shape[-1] for layer in layers) == units[before]


@pytest.mark.parametrize("towers", [1, 2], ids=["grouped", "two towers"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_forward_pass_is_the_reference(variant, towers):
    model = AlexNet(7, variant, towers, width=TINY, classifier_activation=None, seed=3)
    for index, weight in enumerate(model.trainable_variables):  # large enough for every part of the sum to show
        weight.assign(keras.random.normal(weight.shape, stddev=0.2, seed=index))
    images = images_of(model.input_shape[1])
    expected = reference.forward(grouped_weights(model), images, variant)
    # float32 against float64, over eight layers of sums of up to 2,304 terms
    np.testing.assert_allclose(model(images), expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("variant", VARIANTS)
def test_start_of_the_weights(variant):
    weights = grouped_weights(AlexNet(variant=variant, width=0.25, seed=1))
    wide = 0.03 if variant == "release2012" else 0.01
    hidden, one = (0.005, 0.1) if variant == "caffe" else (0.01, 1.0)
    expected = {"conv1": (0.01, 0.0), "conv2": (0.01, one), "conv3": (wide, 0.0), "conv4": (wide, one)}
    expected |= {"conv5": (wide, one), "fc6": (hidden, one), "fc7": (hidden, one), "fc8": (0.01, 0.0)}
    for name, (stddev, bias) in expected.items():
        kernel = weights[f"{name}/kernel"]
        # Of n normal numbers the measured deviation scatters by 1 / sqrt(2 n); five times that.
        assert kernel.std() == pytest.approx(stddev, rel=5 / np.sqrt(2 * kernel.size)), name
        assert abs(kernel.mean()) < 5 * stddev / np.sqrt(kernel.size), name
        assert np.all(weights[f"{name}/bias"] == np.float32(bias)), name


def test_seeds_repeat_and_neighbors_share_no_weights():
    first, again, second = (AlexNet(3, width=TINY, seed=seed) for seed in (5, 5, 6))
    np.testing.assert_equal(first.get_weights(), again.get_weights())
    # No kernel is another one's, neither the other tower's nor another layer's of the next seed.
    kernels = [w for w in (*first.get_weights(), *second.get_weights()) if w.ndim > 1]
    assert len({w.ravel()[:8].tobytes() for w in kernels}) == len(kernels)


@pytest.mark.parametrize(
    "topology, joins",
    [("alexnet", ("conv3", "fc6", "fc7", "fc8")), ("separate", ("fc8",))],
    ids=["alexnet", "separate"],
)
def test_layers_see_their_own_tower_or_both(topology, joins):
    """A change of tower 1's layer before shows in tower 0's layer exactly where the towers are joined."""
    model = AlexNet(5, topology=topology, width=TINY, classifier_activation=None, seed=2)
    image, names = images_of(224), ["conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8"]
    for before, name in itertools.pairwise(names):
        probe = keras.Model(model.input, layers_named(model, name)[0].output)
        original = probe(image).numpy()
        bias = layers_named(model, before)[1].bias
        bias.assign_add(np.full(bias.shape, 50.0))
        assert np.any(probe(image).numpy() != original) == (name in joins), name
        bias.assign_sub(np.full(bias.shape, 50.0))


@pytest.mark.parametrize(
    "settings, first",
    [
        ({"topology": "conv6"}, "conv3"),
        ({"removed_layers": ("conv2", "conv3")}, "conv4"),
        ({"removed_layers": ("conv3", "conv4", "fc7")}, "conv5"),
    ],
    ids=str,
)
def test_other_networks_are_the_same_function_in_both_forms(settings, first):
    """Two towers against one grouped stack; `first` sees both towers, as its kernel shows."""
    towers, grouped = (
        AlexNet(5, "release2012", towers, width=TINY, classifier_activation=None, seed=3, **settings)
        for towers in (2, 1)
    )
    weights.copy(towers, grouped)
    image = images_of(224, count=2)
    np.testing.assert_allclose(towers(image), grouped(image), rtol=2e-4, atol=1e-6)
    layer = grouped.get_layer(first)
    assert layer.kernel.shape[2] == layer.input.shape[-1]
    # What is removed is gone with what belongs to it; pools and the exchange between the towers stay.
    names = {layer.name.split("_tower")[0] for layer in towers.layers}
    removed = [name[-1] for name in settings.get("removed_layers", ())]
    kinds = ("conv", "fc", "relu", "norm", "in_map_norm", "dropout")
    assert names.isdisjoint(f"{kind}{index}" for kind in kinds for index in removed)
    assert {"pool2", "join3", "pool5", "join6"} <= names


def test_ablations_leave_out_what_they_say():
    norms = {"LocalResponseNormalization", "InMapNormalization"}
    model = AlexNet(3, "release2012", width=TINY, local_response_normalization=False)
    assert norms.isdisjoint(type(layer).__name__ for layer in model.layers)
    model = AlexNet(3, width=TINY, overlapping_pooling=False, activation="tanh", dropout=0.2)
    assert {layer.pool_size for layer in model.layers if "pool" in layer.name} == {(2, 2)}
    assert {layer.activation.__name__ for layer in model.layers if layer.name.startswith("relu")} == {"tanh"}
    assert {layer.rate for layer in model.layers if "dropout" in layer.name} == {0.2}


@pytest.mark.parametrize("is_global", [False, True], ids=["argument", "global policy"])
def test_mixed_precision_ends_in_float32(is_global):
    keras.config.set_dtype_policy("mixed_bfloat16" if is_global else "float32")
    try:
        model = AlexNet(4, width=TINY, dtype=None if is_global else "mixed_bfloat16", seed=1)
    finally:
        keras.config.set_dtype_policy("float32")
    answer, layer = model(images_of(224, count=2)), model.get_layer("conv3_tower0")
    np.testing.assert_allclose(answer.numpy().sum(axis=1), 1.0, rtol=1e-5)
    assert (answer.dtype, layer.compute_dtype, layer.kernel.dtype) == ("float32", "bfloat16", "float32")


@pytest.mark.parametrize("towers", [1, 2])
def test_without_the_top_it_ends_with_the_maps_of_pool5(towers):
    """And channels are last whatever Keras is set to."""
    form = {"towers": towers, "width": TINY, "removed_layers": ("conv3", "conv4", "fc7"), "seed": 1}
    whole, images = AlexNet(7, **form), images_of(224, count=2)
    names = ["pool5_tower0", "pool5_tower1"] if towers == 2 else ["pool5"]
    parts = [keras.Model(whole.input, whole.get_layer(name).output)(images) for name in names]
    expected = np.concatenate(parts, axis=-1)
    keras.config.set_image_data_format("channels_first")
    try:
        model, average, maximum = (AlexNet(include_top=False, pooling=name, **form) for name in (None, "avg", "max"))
    finally:
        keras.config.set_image_data_format("channels_last")
    np.testing.assert_array_equal(model(images), expected)
    np.testing.assert_allclose(average(images), expected.mean((1, 2)), rtol=1e-5)
    np.testing.assert_allclose(maximum(images), expected.max((1, 2)), rtol=1e-5)


def test_images_of_other_sizes_and_layers_in_front():
    """Maps of even sizes are pooled as the tables of torch.nn.MaxPool2d(ceil_mode=True) say: 1 + ceil((n - 3) / 2)."""
    model = AlexNet(include_top=False, width=TINY, towers=1, input_shape=(300, 237, 3))  # conv1: 74 x 58
    shapes = [model.get_layer(name).output.shape[1:3] for name in ("conv1", "pool1", "pool2", "pool5")]
    assert shapes == [(74, 58), (37, 29), (18, 14), (9, 7)]
    model = AlexNet(include_top=False, width=TINY, towers=1, input_shape=(101, 93, 3))  # conv1: 24 x 22, 12 x 11
    names = [name for name in (layer.name for layer in model.layers) if name.startswith("pool")]
    assert names == ["pool1", "pool2_rows", "pool2", "pool5_rows", "pool5"] and model.output_shape == (None, 3, 2, 16)
    maps = np.random.default_rng(0).normal(size=(1, 12, 11, 4)).astype(np.float32)
    found = maps
    for name in ("pool2_rows", "pool2"):
        layer = model.get_layer(name)
        found = type(layer).from_config(layer.get_config())(found)
    padded = np.pad(maps, ((0, 0), (0, 1), (0, 0), (0, 0)), constant_values=-np.inf)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))[:, ::2, ::2]
    np.testing.assert_array_equal(found, windows.max((-1, -2)))
    images = keras.Input((40, 60, 3))
    model = AlexNet(classes=5, width=TINY, input_tensor=keras.layers.Resizing(224, 224)(images))
    assert model.input_shape == (None, 40, 60, 3) and model.output_shape == (None, 5)


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"variant": "vgg"}, "variant must be one of paper, release2012, caffe.*'vgg'"),
        ({"towers": 3}, "towers must be 1 or 2.*towers=3"),
        ({"groups": 1}, "groups must be 2 with two towers"),
        ({"num_classes": "10"}, "num_classes must be a whole number, at least 1.*num_classes='10'"),
        ({"width": 0.01}, "width must give two towers the same units.*width=0.01"),
        ({"dropout": 1.0}, "dropout must be at least 0 and below 1.*dropout=1.0"),
        ({"devices": ("CPU:0", "CPU:0")}, "devices must be one device, or a different one for each tower .towers=2"),
        ({"topology": "half"}, "topology is one tower without groups, not towers=2, groups=2"),
        ({"topology": "separate", "variant": "caffe"}, "topology is two towers, each normalized by itself"),
        ({"removed_layers": ("conv1",)}, "removed_layers must be of conv2, .*'conv1'"),
        ({"pooling": "avg"}, "pooling must be None, or without the top avg or max .include_top=True"),
        ({"weights": 5}, "weights must be the path of a run's folder.*weights=5"),
        ({"weights": "imagenet"}, "^weights must be a path; no weights of its 1,000 classes come with the package"),
        ({"classes": 4, "num_classes": 3}, "classes must be left out, or 3 as num_classes is.*classes=4"),
        ({"input_shape": (300, 300, 3)}, r"input_shape must be \(224, 224, 3\) with the top"),
        ({"input_shape": (224, 224, 1)}, "input_shape must be .rows, columns, 3., .* repeat the channel of grey"),
        ({"input_shape": (35, 224, 3), "include_top": False}, "input_shape must have known numbers .* 36 or more"),
        ({"input_tensor": keras.Input((99, 99, 3))}, r"input_tensor must be \(224, 224, 3\) with the top"),
        ({"input_tensor": [keras.Input((224, 224, 3))] * 3}, "input_tensor must be one image, or one for each tower"),
    ],
)
def test_wrong_arguments_are_named(settings, words):
    with pytest.raises(ValueError, match=words) as raised:
        AlexNet(**settings)
    assert "\n" not in str(raised.value)


def test_a_run_gives_its_settings_with_the_top_and_without(tiny_run):
    whole = AlexNet(weights=tiny_run)  # release2012, one tower without most layers, three classes
    bottom = AlexNet(include_top=False, weights=tiny_run)
    assert whole.output_shape == (None, 3) and "conv2" not in [layer.name for layer in whole.layers]
    images = images_of(224, count=2)
    flat = keras.Model(whole.input, whole.get_layer("flatten").output)(images)
    np.testing.assert_array_equal(np.reshape(bottom(images), flat.shape), flat)
    removed = ["fc7", "conv5", "conv4", "conv3", "conv2"]  # arguments that do not contradict it
    AlexNet(3, "release2012", 1, weights=tiny_run, activation=keras.activations.relu, removed_layers=removed)
    exported = AlexNet(weights=tiny_run / "export" / "1")
    np.testing.assert_array_equal(exported(images), whole(images))
    # Towers are a form only.
    network = variants.combined({"towers": 2, "width": None}, {"towers": 1, "width": 0.5}, "a run")
    assert network == variants.Network(towers=2, width=0.5)


def test_an_argument_that_contradicts_the_weights_is_an_error(tiny_run):
    for argument, words in (
        ({"num_classes": 4}, "num_classes must be left out, or 3 as the weights of .*num_classes=4"),
        ({"activation": keras.activations.tanh}, "activation must be left out, or 'relu'"),
        ({"removed_layers": ["fc7"]}, r"removed_layers must be left out, or \('conv2', "),
        ({"towers": 2}, "towers must be left out, or 1: the weights of .* are without groups"),
        ({"dropout": 0.1}, "dropout must be left out, or 0.5"),
    ):
        with pytest.raises(ArgumentError, match=words):
            AlexNet(weights=tiny_run, **argument)
