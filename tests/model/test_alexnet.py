import keras
import numpy as np
import pytest

from keras_alexnet import AlexNet
from keras_alexnet.model import weights
from tests.reference import network as reference

# Section 3.5 and the shapes of the release, both towers together.
SHAPES = {
    "conv1": (55, 55, 96),
    "pool1": (27, 27, 96),
    "conv2": (27, 27, 256),
    "pool2": (13, 13, 256),
    "conv3": (13, 13, 384),
    "conv4": (13, 13, 384),
    "conv5": (13, 13, 256),
    "pool5": (6, 6, 256),
    "fc6": (4096,),
    "fc7": (4096,),
}
TINY = 1 / 16


def layers_named(model, start):
    return [layer for layer in model.layers if layer.name.split("_tower")[0] == start]


def grouped_weights(model):
    """The weights of either form, as the reference wants them: towers next to each other."""
    names = [*(f"conv{i}" for i in range(1, 6)), "fc6", "fc7", "fc8"]
    weights = {}
    for name in names:
        layers = layers_named(model, name)
        weights[f"{name}/kernel"] = np.concatenate([layer.kernel.numpy() for layer in layers], axis=-1)
        weights[f"{name}/bias"] = np.concatenate([layer.bias.numpy() for layer in layers])
    return weights


@pytest.mark.parametrize(
    "settings, parameters",
    [
        # 34,944 + 307,456 + 885,120 + 663,936 + 442,624 + 37,752,832 + 16,781,312 + 4,097,000
        ({}, 60_965_224),
        ({"towers": 1}, 60_965_224),
        ({"variant": "release2012"}, 60_965_224),
        ({"variant": "caffe"}, 60_965_224),
        # conv2, conv4 and conv5 see twice the channels: 307,200 + 663,552 + 442,368 more
        ({"towers": 1, "groups": 1}, 62_378_344),
        # conv6: 9 x 256 x 256 + 256 = 590,080 more
        ({"topology": "conv6"}, 61_555_304),
    ],
    ids=["paper", "grouped", "release2012", "caffe", "one group", "conv6"],
)
def test_parameters_and_shapes(settings, parameters):
    model = AlexNet(**settings)
    size = 227 if settings.get("variant") == "caffe" else 224
    assert model.count_params() == parameters
    assert model.input_shape == (None, size, size, 3)
    for name, shape in SHAPES.items():
        layers = layers_named(model, name)
        assert len(layers) == settings.get("towers", 2)
        assert all(layer.output.shape[1:-1] == shape[:-1] for layer in layers)
        assert sum(layer.output.shape[-1] for layer in layers) == shape[-1]


@pytest.mark.parametrize("towers", [1, 2], ids=["grouped", "two towers"])
@pytest.mark.parametrize("variant", ["paper", "release2012", "caffe"])
def test_forward_pass_is_the_reference(variant, towers):
    model = AlexNet(7, variant, towers, width=TINY, classifier_activation=None, seed=3)
    for layer in model.layers:
        for weight in layer.weights:  # weights large enough for every part of the sum to show
            weight.assign(keras.random.normal(weight.shape, stddev=0.2, seed=len(weight.path) + weight.shape[-1]))
    size = model.input_shape[1]
    images = np.random.default_rng(1).normal(scale=60, size=(1, size, size, 3)).astype(np.float32)
    expected = reference.forward(grouped_weights(model), images, variant)["logits"]
    # float32 against float64, over eight layers of sums of up to 2,304 terms
    np.testing.assert_allclose(model(images), expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())


@pytest.mark.parametrize("variant", ["paper", "release2012", "caffe"])
def test_start_of_the_weights(variant):
    weights = grouped_weights(AlexNet(variant=variant, seed=1))
    wide = 0.03 if variant == "release2012" else 0.01
    hidden = 0.005 if variant == "caffe" else 0.01
    one = 0.1 if variant == "caffe" else 1.0
    expected = {
        "conv1": (0.01, 0.0),
        "conv2": (0.01, one),
        "conv3": (wide, 0.0),
        "conv4": (wide, one),
        "conv5": (wide, one),
        "fc6": (hidden, one),
        "fc7": (hidden, one),
        "fc8": (0.01, 0.0),
    }
    for name, (stddev, bias) in expected.items():
        kernel = weights[f"{name}/kernel"]
        # Of n normal numbers the measured deviation scatters by 1 / sqrt(2 n); five times that.
        assert kernel.std() == pytest.approx(stddev, rel=5 / np.sqrt(2 * kernel.size)), name
        assert abs(kernel.mean()) < 5 * stddev / np.sqrt(kernel.size), name
        assert np.all(weights[f"{name}/bias"] == np.float32(bias)), name


def test_neighboring_seeds_share_no_weights():
    first, second = (AlexNet(3, width=TINY, seed=seed).get_weights() for seed in (5, 6))
    kernels = [w for w in (*first, *second) if w.ndim > 1]
    assert len({w.ravel()[:8].tobytes() for w in kernels}) == len(kernels)


def test_towers_start_with_weights_of_their_own_and_a_seed_repeats():
    first, second = (AlexNet(3, width=TINY, seed=5) for _ in range(2))
    for a, b in zip(first.get_weights(), second.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    for name in ("conv1", "conv3", "fc7"):
        towers = [layer.kernel.numpy() for layer in layers_named(first, name)]
        assert not np.any(towers[0] == towers[1])


@pytest.mark.parametrize(
    "name, sees_both",
    [
        ("conv2", False),
        ("conv3", True),
        ("conv4", False),
        ("conv5", False),
        ("fc6", True),
        ("fc7", True),
        ("fc8", True),
    ],
)
def test_who_sees_whom(name, sees_both):
    """A change of tower 1's layer before shows in tower 0's layer exactly where the paper joins the towers."""
    before = {
        "conv2": "conv1",
        "conv3": "conv2",
        "conv4": "conv3",
        "conv5": "conv4",
        "fc6": "conv5",
        "fc7": "fc6",
        "fc8": "fc7",
    }
    model = AlexNet(5, width=TINY, classifier_activation=None, seed=2)
    probe = keras.Model(model.input, layers_named(model, name)[0].output)
    image = np.random.default_rng(0).normal(scale=60, size=(1, 224, 224, 3)).astype(np.float32)
    was = probe(image).numpy()
    layers_named(model, before[name])[1].bias.assign_add(np.full(layers_named(model, before[name])[1].bias.shape, 50.0))
    assert np.any(probe(image).numpy() != was) == sees_both


def test_one_tower_of_two_has_the_parameters_of_145_half():
    model = AlexNet(topology="half", towers=1, groups=1)
    # conv1 17,472 + conv2 153,728 + conv3 221,376 + conv4 331,968 + conv5 442,624, and the dense layers as ever:
    # 37,752,832 + 16,781,312 + 4,097,000. The release's note says 59.8 million.
    assert model.count_params() == 59_798_312
    assert model.get_layer("conv4").output.shape == (None, 13, 13, 192)
    assert model.get_layer("pool5").output.shape == (None, 6, 6, 256)


def test_separate_towers_meet_at_fc8_only():
    # 34,944 + 2 (25 x 48 + 1) 160 + 2 (9 x 160 + 1) 192 + 663,936 + 442,624 + 2 (4,608 + 1) 4,096
    # + 2 (4,096 + 1) 2,048 + 4,097,000
    assert AlexNet(topology="separate").count_params() == 60_714_408
    model = AlexNet(5, topology="separate", width=TINY, classifier_activation=None, seed=2)
    probe = keras.Model(model.input, [layers_named(model, "fc7")[0].output, model.output])
    image = np.random.default_rng(0).normal(scale=60, size=(1, 224, 224, 3)).astype(np.float32)
    own, answer = (value.numpy() for value in probe(image))
    for layer in model.layers:
        if layer.name.endswith("_tower1") and layer.weights:
            layer.bias.assign_add(np.full(layer.bias.shape, 5.0))
    own_after, answer_after = (value.numpy() for value in probe(image))
    np.testing.assert_array_equal(own, own_after)
    assert np.all(answer != answer_after)


@pytest.mark.parametrize(
    "settings, first",
    [
        ({"topology": "conv6"}, "conv3"),
        ({"removed_layers": ("conv2",)}, "conv3"),
        ({"removed_layers": ("conv3",)}, "conv4"),
        ({"removed_layers": ("conv3", "conv4")}, "conv5"),
        ({"removed_layers": ("fc7",)}, "conv3"),
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
    image = np.random.default_rng(0).normal(scale=60, size=(2, 224, 224, 3)).astype(np.float32)
    np.testing.assert_allclose(towers(image), grouped(image), rtol=2e-4, atol=1e-6)
    (layer,) = layers_named(grouped, first)
    assert layer.kernel.shape[2] == layer.input.shape[-1]


@pytest.mark.parametrize("name", ["conv2", "conv3", "conv4", "conv5", "fc7"])
def test_a_removed_layer_is_gone_and_its_pool_is_not(name):
    model = AlexNet(5, "release2012", width=TINY, removed_layers=(name,))
    index = name[-1]
    gone = {name, f"relu{index}", f"norm{index}", f"in_map_norm{index}", f"dropout{index}", f"join{name[-1]}"}
    gone -= {"join3"}  # where the towers meet stays
    assert not gone & {layer.name.split("_tower")[0] for layer in model.layers}
    assert len(layers_named(model, "pool2")) == len(layers_named(model, "pool5")) == 2


def test_zeros_at_the_bottom_and_right_reach_only_the_last_windows():
    model = AlexNet(3, towers=1, width=TINY)
    conv1 = keras.Model(model.input, model.get_layer("conv1").output)
    image = np.random.default_rng(0).normal(size=(1, 224, 224, 3)).astype(np.float32)
    kernel = model.get_layer("conv1").kernel.numpy()
    # The first window begins at pixel 0; the last one covers rows and columns 216 to 226, of which 3 are zeros.
    first = np.einsum("hwc,hwcf->f", image[0, :11, :11], kernel)
    last = np.einsum("hwc,hwcf->f", image[0, 216:, 216:], kernel[:8, :8])
    np.testing.assert_allclose(conv1(image)[0, 0, 0], first, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(conv1(image)[0, 54, 54], last, rtol=1e-3, atol=1e-5)


def test_ablations_leave_out_what_they_say():
    def kinds(**settings):
        return {type(layer).__name__ for layer in AlexNet(3, "release2012", width=TINY, **settings).layers}

    assert {"LocalResponseNormalization", "InMapNormalization"} <= kinds()
    assert not {"LocalResponseNormalization", "InMapNormalization"} & kinds(local_response_normalization=False)
    plain = AlexNet(3, width=TINY, overlapping_pooling=False)
    assert {layer.pool_size for layer in plain.layers if "pool" in layer.name} == {(2, 2)}
    tanh = AlexNet(3, width=TINY, activation="tanh", classifier_activation=None)
    assert {layer.activation.__name__ for layer in tanh.layers if layer.name.startswith("relu")} == {"tanh"}
    assert {layer.rate for layer in AlexNet(3, width=TINY, dropout=0.2).layers if "dropout" in layer.name} == {0.2}


def test_outputs_are_probabilities_or_logits_in_float32():
    image = np.random.default_rng(0).normal(scale=60, size=(2, 224, 224, 3)).astype(np.float32)
    model = AlexNet(4, width=TINY, dtype="mixed_bfloat16", seed=1)
    np.testing.assert_allclose(model(image).numpy().sum(axis=1), 1.0, rtol=1e-5)
    assert model(image).dtype == "float32"
    assert model.get_layer("conv3_tower0").compute_dtype == "bfloat16"
    assert model.get_layer("conv3_tower0").kernel.dtype == "float32"


@pytest.mark.parametrize("variant", ["paper", "release2012", "caffe"])
def test_saved_and_loaded_by_keras(variant, tmp_path):
    model = AlexNet(3, variant, width=TINY, seed=1)
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    size = model.input_shape[1]
    image = np.random.default_rng(0).normal(scale=60, size=(1, size, size, 3)).astype(np.float32)
    np.testing.assert_array_equal(again(image), model(image))


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"variant": "vgg"}, "variant must be one of paper, release2012, caffe.*'vgg'"),
        ({"towers": 3}, "towers and groups must be 1 or 2.*towers=3"),
        ({"groups": 4}, "towers and groups must be 1 or 2.*groups=4"),
        ({"groups": 1}, "two towers are two groups"),
        ({"num_classes": 0}, "num_classes must be at least 1.*num_classes=0"),
        ({"width": 0.01}, "width must give each of two towers.*width=0.01"),
        ({"devices": ("GPU:77",)}, "there is no GPU:77; present: CPU:0"),
        ({"topology": "vgg"}, "topology must be one of alexnet, half, separate, conv6.*'vgg'"),
        ({"topology": "half"}, "half is one tower without groups.*towers=2, groups=2"),
        ({"topology": "separate", "towers": 1}, "separate towers are two"),
        ({"topology": "separate", "variant": "caffe"}, "separate towers are two, each normalized by itself"),
        ({"removed_layers": ("conv1",)}, "removed_layers must be of conv2, .*'conv1'"),
    ],
)
def test_wrong_arguments_are_named(settings, words):
    with pytest.raises(ValueError, match=words):
        AlexNet(**settings)


@pytest.mark.parametrize("towers", [1, 2])
def test_without_the_top_it_ends_with_the_maps_of_pool5(towers):
    model = AlexNet(include_top=False, towers=towers, width=1 / 16, seed=1)
    whole = AlexNet(7, towers=towers, width=1 / 16, seed=1)
    assert model.output_shape == (None, 6, 6, 16) and model.input_shape == (None, 224, 224, 3)
    images = np.random.default_rng(0).normal(size=(2, 224, 224, 3), scale=50).astype(np.float32)
    names = ["pool5_tower0", "pool5_tower1"] if towers == 2 else ["pool5"]
    parts = [keras.Model(whole.input, whole.get_layer(name).output)(images) for name in names]
    expected = np.concatenate(parts, axis=-1)
    np.testing.assert_array_equal(model(images), expected)
    for pooling, reduce in (("avg", np.mean), ("max", np.max)):
        pooled = AlexNet(include_top=False, towers=towers, width=1 / 16, seed=1, pooling=pooling)(images)
        np.testing.assert_allclose(pooled, reduce(expected, axis=(1, 2)).reshape(2, 16), rtol=1e-5)


def test_the_size_without_the_top():
    dense = 37_752_832 + 16_781_312 + 4_097_000
    assert AlexNet(include_top=False).count_params() == 60_965_224 - dense


def test_features_of_the_last_hidden_layer():
    model = AlexNet(7, width=1 / 16, seed=1)
    features = keras.Model(model.input, model.get_layer("fc8").input)
    assert features.output_shape == (None, 256)


def test_weights_are_taken_from_a_run_with_the_top_and_without(run_of_three_epochs):
    arguments = {"variant": "release2012", "width": 1 / 16, "weights": run_of_three_epochs}
    whole = AlexNet(3, **arguments)
    bottom = AlexNet(include_top=False, towers=1, **arguments)
    images = np.random.default_rng(0).normal(size=(2, 224, 224, 3), scale=50).astype(np.float32)
    flat = keras.Model(whole.input, whole.get_layer("flatten_tower0").output)(images)
    np.testing.assert_allclose(np.reshape(bottom(images), flat.shape), flat, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="fc8/kernel should be"):
        AlexNet(4, **arguments)


@pytest.mark.parametrize("arguments", [{"pooling": "avg"}, {"pooling": "sum", "include_top": False}])
def test_pooling_that_is_none(arguments):
    with pytest.raises(ValueError, match="pooling must be None, or without the top avg or max"):
        AlexNet(width=1 / 16, **arguments)
