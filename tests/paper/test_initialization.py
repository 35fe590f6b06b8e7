import json
import math
import types

import keras
import numpy as np
import pytest

from keras_alexnet import AlexNet, config, flags
from keras_alexnet.paper import experiment, initialization

RELEASED = initialization.STARTS[1]


def weights_of(model):
    return {f"{layer.name}/{each.name}": each.numpy() for layer in model.layers for each in layer.weights}


def test_starts_and_activation_statistics_are_the_formulas():
    model = AlexNet(3, "paper", 1, 2, (), None, width=1 / 16, seed=2)
    before = weights_of(model)
    for start in (*initialization.STARTS[2:], initialization.STARTS[0], RELEASED):
        initialization.set_start(model, start)
        for name, value in weights_of(model).items():
            layer, kind = name.split("/")
            if kind == "kernel":
                wide = start is RELEASED and layer in ("conv3", "conv4", "conv5")
                np.testing.assert_array_equal(value, before[name] * np.float32(3 if wide else 1))
            elif kind == "bias":
                expected = start.bias if layer in ("conv2", "conv4", "conv5", "fc6", "fc7") else 0
                np.testing.assert_array_equal(value, np.float32(expected))
    kernel = model.get_layer("conv4").kernel.numpy()  # 3 * 3 * 12 * 24 = 2,592 weights
    assert kernel.std() == pytest.approx(0.03, rel=0.05)

    # Wide enough that images differ by more than rounding, and biases that differ, so that some units are silent.
    rng = np.random.default_rng(0)
    for layer in (model.get_layer(name) for name in initialization.LAYERS[1:]):
        layer.kernel.assign(before[f"{layer.name}/kernel"] * 8)
        layer.bias.assign(rng.normal(0, 0.5, 256) if layer.name in ("fc6", "fc7") else 0 * layer.bias + 1)
    images = rng.normal(0, 60, (6, 224, 224, 3)).astype(np.float32)
    labels = np.array([0, 1, 2, 2, 1, 0], np.int32)
    statistics_of = initialization.activation_statistics(model)
    found = statistics_of(images, labels)

    w = {name: value.astype(np.float64) for name, value in weights_of(model).items()}
    parts = keras.Model(model.input, [model.get_layer("conv1").output, model.get_layer("pool5").output])
    conv1, pool5 = (each.astype(np.float64) for each in parts.predict(images, verbose=0))
    a6 = np.maximum(pool5.reshape(6, -1) @ w["fc6/kernel"] + w["fc6/bias"], 0)
    z7 = 0.5 * a6 @ w["fc7/kernel"] + w["fc7/bias"]
    a7 = np.maximum(z7, 0)
    logits = 0.5 * a7 @ w["fc8/kernel"] + w["fc8/bias"]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    assert found["loss"] == pytest.approx(-np.log(p[np.arange(6), labels]).mean(), rel=1e-5)
    for name, signal in (("conv1", np.maximum(conv1, 0)), ("fc6", a6), ("fc7", a7), ("fc8", logits)):
        rms = math.sqrt((signal**2).mean())
        between = math.sqrt(((signal - signal.mean(0)) ** 2).mean())
        assert found[name]["signal_rms"] == pytest.approx(rms, rel=1e-4)
        assert found[name]["signal_between"] == pytest.approx(between, rel=1e-3)
        assert found[name]["share"] == pytest.approx((between / rms) ** 2, rel=2e-3)
    delta = (p - np.eye(3)[labels]) / 6
    fc8 = 0.5 * a7.T @ delta
    fc7 = 0.5 * a6.T @ ((delta @ w["fc8/kernel"].T) * 0.5 * (z7 > 0))
    for name, gradient in (("fc8", fc8), ("fc7", fc7)):
        rms = math.sqrt((gradient**2).mean())
        assert found[name]["gradient_rms"] == pytest.approx(rms, rel=1e-3)
        weight = math.sqrt((w[f"{name}/kernel"] ** 2).mean())
        assert found[name]["gradient_relative"] == pytest.approx(rms / weight, rel=1e-3)

    same = statistics_of(np.repeat(images[:1], 6, axis=0), labels)
    assert all(same[layer]["share"] < 1e-10 for layer in initialization.LAYERS)


def values_of(exits):
    starts = {}
    for start, step, deviation in zip(initialization.STARTS, exits, (0.1, 0.5, 0.05, 0.02), strict=True):
        layer = {"signal_rms": 1.0, "signal_between": deviation, "share": deviation**2}
        layer |= {"gradient_rms": 2e-4, "gradient_relative": 0.02}
        losses = [1.6] * 60 if step is None else [1.6] * (step - 20) + [1.0] * (80 - step)
        measures = {"0": {"loss": 1.6, **dict.fromkeys(initialization.LAYERS, layer)}}
        starts[start.name] = {"losses": losses, "measures": measures, "diverged": False}
    return {"classes": 5, "images": 9, "pictures": 4, "constant": 1.6, "measured": [0, 50], "starts": starts}


@pytest.mark.parametrize(
    ("exits", "words"),
    [
        ((None, 40, None, None), "Cannot be told: in 60 steps"),
        ((50, 40, None, None), "Holds: for the biases and one seed"),
        ((50, 40, 51, None), "Cannot be told: the starts are less than the 20 steps apart"),
        ((None, 40, None, 40), "Does not hold"),
    ],
)
def test_no_more_is_claimed_than_was_seen(exits, words):
    said = str(initialization.verdict(values_of(exits)))
    assert said.startswith(words)
    assert "as published 1 % (standard deviation 0.1); as released 25 % (standard deviation 0.5)" in said


def test_a_trial_from_start_to_end(small_images, tmp_path, monkeypatch):
    given = [f"--data_dir={small_images}", f"--results_dir={tmp_path}"]
    small = [f"--{each}" for each in ("steps=2", "measure=0,2", "width=0.0625", "batch_size=4")]

    def values():
        assert experiment.main("initialization", ["--dataset=folder", *given, *small]) == 0
        return json.loads((tmp_path / "initialization.json").read_text())["values"]

    found = values()
    assert found["classes"] == 3 and found["images"] == found["pictures"] == 18 and found["measured"] == [0, 2]
    assert found["constant"] == pytest.approx(math.log(3))
    first = {name: own["measures"]["0"]["conv1"] for name, own in found["starts"].items()}
    for own in found["starts"].values():
        assert len(own["losses"]) == 2 and set(own["measures"]) == {"0", "2"}
        # The same filters and images: conv1 gives the same, whatever comes after it.
        assert own["measures"]["0"]["conv1"]["signal_rms"] == first["published"]["signal_rms"]
    assert len({own["losses"][0] for own in found["starts"].values()}) == 4
    for file in ("initialization.svg", "initialization_signal.svg"):
        assert (tmp_path / file).read_text().startswith("<?xml")
    # What is kept is not trained again.
    monkeypatch.setattr(initialization, "_train", None)
    assert values() == found
    # Statistics are of a float32 copy: in bfloat16 they begin with the same numbers.
    monkeypatch.setattr(initialization, "STARTS", (RELEASED,))
    monkeypatch.setattr(initialization, "_train", lambda *given: {"losses": [1], "diverged": 0, "0": given[3]()})
    monkeypatch.setattr(initialization, "_draw", lambda *given: ())
    settings = flags.parse(initialization.Settings, [*given, *small, "--precision=mixed_bfloat16"], "usage")
    result = initialization.run(settings)
    assert result.values["starts"]["released"]["0"] == found["starts"]["released"]["measures"]["0"]


def test_a_loss_that_is_non_finite_ends_a_start():
    losses = iter([1.5, math.nan])
    settings = types.SimpleNamespace(measure=(0, 1, 2), steps=2)
    given = lambda *batch: next(losses), iter([(), ()]), lambda: "measured", lambda *done: None
    found = initialization._train(settings, *given)
    assert found == {"losses": [1.5], "measures": {"0": "measured", "1": "measured"}, "diverged": True}


def test_the_rest_is_as_in_the_paper():
    given = "--dataset=folder", "--data_dir=images"
    own = flags.parse(initialization.Settings, given, "usage").training_config()
    paper = config.parse_train([*given, "--model_dir=run"], "usage")
    assert own.training == paper.training and own.data == paper.data
    assert (own.network.variant, own.network.towers, own.network.groups) == ("paper", 1, 2)
    quick = flags.parse(initialization.Settings, ["--dataset=shapes", "--quick"], "usage").training_config()
    assert quick.data.data_dir == "results/initialization/shapes" and quick.data.shapes_train == 4
    assert (quick.network.width, quick.training.batch_size) == (0.0625, 8)
