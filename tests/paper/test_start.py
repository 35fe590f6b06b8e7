import json
import math

import numpy as np
import pytest

from keras_alexnet import AlexNet
from keras_alexnet.cli import run_command
from keras_alexnet.paper import config, start

PUBLISHED, RELEASED, TENTH, ZERO = start.STARTS


def network(seed=1):
    return AlexNet(3, "paper", 1, 2, (), None, width=1 / 16, seed=seed)


def weights_of(model):
    return {f"{layer.name}/{each.name}": each.numpy() for layer in model.layers for each in layer.weights}


@pytest.mark.parametrize("which", start.STARTS, ids=lambda each: each.name)
def test_only_what_the_start_says_is_another(which):
    model, before = network(), weights_of(network())
    start.begin(model, which)
    for name, value in weights_of(model).items():
        layer, kind = name.split("/")
        if kind == "kernel":
            wide = which is RELEASED and layer in ("conv3", "conv4", "conv5")
            np.testing.assert_array_equal(value, before[name] * np.float32(3 if wide else 1))
        elif kind == "bias":
            expected = which.bias if layer in ("conv2", "conv4", "conv5", "fc6", "fc7") else 0
            np.testing.assert_array_equal(value, np.float32(expected))


def test_wider_kernels_have_the_releases_deviation():
    model = network()
    start.begin(model, RELEASED)
    kernel = model.get_layer("conv4").kernel.numpy()  # 3 * 3 * 12 * 24 = 2,592 weights
    assert kernel.std() == pytest.approx(0.03, rel=0.05)
    start.begin(model := network(), PUBLISHED)
    assert model.get_layer("conv4").kernel.numpy().std() == pytest.approx(0.01, rel=0.05)


def test_measures_are_the_formulas():
    """Signals and the gradients of fc8 and fc7 by NumPy, from what conv1 and pool5 give."""
    import keras

    model = network(seed=2)
    rng = np.random.default_rng(0)
    # Wide enough that images differ by more than rounding, and biases that differ, so that some units are silent.
    for layer in start.LAYERS[1:]:
        kernel = model.get_layer(layer).kernel
        kernel.assign(kernel * 8)
    model.get_layer("fc6").bias.assign(rng.normal(0, 0.5, 256))
    model.get_layer("fc7").bias.assign(rng.normal(0, 0.5, 256))
    images = rng.normal(0, 60, (6, 224, 224, 3)).astype(np.float32)
    labels = np.array([0, 1, 2, 2, 1, 0], np.int32)
    found = start.gauge(model)(images, labels)

    w = {name: value.astype(np.float64) for name, value in weights_of(model).items()}
    parts = keras.Model(model.input, [model.get_layer("conv1").output, model.get_layer("pool5").output])
    conv1, pool5 = (each.numpy().astype(np.float64) for each in parts(images))
    flat = pool5.reshape(6, -1)
    a6 = np.maximum(flat @ w["fc6/kernel"] + w["fc6/bias"], 0)
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


def test_equal_images_differ_in_nothing():
    image = np.random.default_rng(0).normal(0, 60, (1, 224, 224, 3)).astype(np.float32)
    found = start.gauge(network())(np.repeat(image, 4, axis=0), np.zeros(4, np.int32))
    assert all(found[layer]["share"] < 1e-10 for layer in start.LAYERS)


def test_the_loss_of_a_constant_answer():
    assert start.entropy([5, 5, 5, 5, 5]) == pytest.approx(math.log(5))
    assert start.entropy([3, 1, 0]) == pytest.approx(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))


def test_when_the_loss_leaves_it():
    losses = [1.0] * 30 + [0.0] * 30
    points = start.smoothed(losses)
    assert points[0] == (20, 1.0) and points[-1] == (60, 0.0) and points[11] == (31, 0.95)
    assert start.left(losses, 1.0) == 32  # 0.95 is not below 0.95
    assert start.left(losses[:31], 1.0) is None and start.left([0.0] * 19, 1.0) is None


def values_of(leave, between):
    def own(step, deviation):
        layer = {
            "signal_rms": 1.0, "signal_between": deviation, "share": deviation**2, "gradient_rms": 2e-4,
            "gradient_relative": 0.02,
        }  # fmt: skip
        losses = [1.6] * 60 if step is None else [1.6] * (step - 20) + [1.0] * (80 - step)
        return {
            "losses": losses,
            "measures": {"0": {"loss": 1.6, **dict.fromkeys(start.LAYERS, layer)}},
            "diverged": False,
        }

    starts = {each.name: own(*pair) for each, pair in zip(start.STARTS, zip(leave, between, strict=True), strict=True)}
    return {"classes": 5, "images": 9, "pictures": 4, "constant": 1.6, "measured": [0, 50], "starts": starts}


@pytest.mark.parametrize(
    ("leave", "words"),
    [
        ((None, 40, None, None), "Cannot be told in 60 steps"),
        ((50, 40, None, None), "Holds here, for one seed"),
        ((50, 40, 51, None), "Cannot be told: the starts are less than the 20 steps apart"),
        ((60, 40, 20, None), "Does not hold here"),
        ((None, 40, None, 40), "Does not hold here"),
    ],
)
def test_no_more_is_claimed_than_was_seen(leave, words):
    assert start.verdict(values_of(leave, (0.1, 0.5, 0.05, 0.02))).startswith(words)


def test_what_the_signals_say_is_said_where_they_say_it():
    sentence = "larger with wider kernels only"
    said = start.verdict(values_of((None, 40, None, None), (0.1, 0.5, 0.05, 0.02)))
    assert sentence in said and "as published 1 %; as released 25 %" in said
    assert sentence not in start.verdict(values_of((None, 40, None, None), (0.1, 0.5, 0.2, 0.02)))


def test_tables():
    goes, shares, *rest = start.tables(values_of((None, 40, None, None), (0.1, 0.5, 0.05, 0.02)))
    assert goes.rows[0] == ("as published", "0.01", "1", "1.600", "1.600", "not in 60")
    assert goes.rows[1][:3] == ("as released", "0.03", "1") and goes.rows[1][5] == "23"  # 1.6 - 3 * 0.6 / 20
    assert goes.rows[3][2] == "0" and "ln 5 is 1.609" in goes.note
    assert shares.rows[6] == ("fc7", "1 / -", "25 / -", "0.25 / -", "0.04 / -")  # step 50 was not reached
    assert shares.note == "At step 0 / 50." and len(rest) == 4
    for table in start.tables(None):
        assert all(len(row) == len(table.columns) and row[-1] == "not run" for row in table.rows)
    assert start.verdict(None) == "not run"


def run_start(photos, out, *argv):
    settings = ["--dataset=folder", f"--data_dir={photos}", f"--results_dir={out}", "--quick", "--precision=float32"]
    return run_command("start", start.main, [*settings, *argv])


def test_a_trial_run_from_start_to_end_and_again(small_pictures, tmp_path, capsys, monkeypatch):
    assert run_start(small_pictures, tmp_path) == 0
    about = json.loads((tmp_path / "quick" / "start.json").read_text())
    values = about["values"]
    assert about["quick"] and values["classes"] == 3 and values["images"] == 18 and values["pictures"] == 8
    assert values["constant"] == pytest.approx(math.log(3)) and values["measured"] == [0, 2]
    first = {name: own["measures"]["0"]["conv1"] for name, own in values["starts"].items()}
    for own in values["starts"].values():
        assert len(own["losses"]) == 4 and set(own["measures"]) == {"0", "2"}
        # The same filters on the same pictures: conv1 gives the same, whatever comes after it.
        assert own["measures"]["0"]["conv1"]["signal_rms"] == first["published"]["signal_rms"]
    assert len({own["losses"][0] for own in values["starts"].values()}) == 4
    for file in ("start.svg", "start_signal.svg"):
        assert (tmp_path / "quick" / file).read_text().startswith("<?xml")

    # What is kept is not run again; what is lost is, and comes out the same.
    trained = []
    train = start._train
    monkeypatch.setattr(
        start, "_train", lambda settings, each, *rest: trained.append(each) or train(settings, each, *rest)
    )
    (tmp_path / "quick" / "start" / "released.json").unlink()
    assert run_start(small_pictures, tmp_path) == 0
    assert trained == [RELEASED]
    assert json.loads((tmp_path / "quick" / "start.json").read_text())["values"] == values

    capsys.readouterr()
    assert run_start(small_pictures, tmp_path, "--learning_rate=0.1") == 2
    assert "published.json was run with learning_rate 0.01; repeat its flags" in capsys.readouterr().err
    (tmp_path / "quick" / "start" / "published.json").write_text("{")
    assert run_start(small_pictures, tmp_path) == 1
    assert "published.json: cannot be read" in capsys.readouterr().err
    assert trained == [RELEASED]


def test_in_bfloat16_it_is_measured_in_float32(small_pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(start, "STARTS", (ZERO,))
    found = []
    for precision in ("float32", "mixed_bfloat16"):
        argv = ["--dataset=folder", f"--data_dir={small_pictures}", f"--results_dir={tmp_path / precision}", "--quick"]
        settings = config.parse_start([*argv, f"--precision={precision}"], "usage")
        found.append(start.compare(settings)["starts"]["biases_0"])
    assert found[0]["measures"]["0"] == found[1]["measures"]["0"]
    assert found[0]["losses"] != found[1]["losses"]
    assert found[0]["losses"] == pytest.approx(found[1]["losses"], abs=0.02)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--measure=50,0"], "--measure=50,0: give rising numbers of steps such as 0,50,150"),
        (["--measure=0,x"], "--measure=0,x: give rising"),
        (["--measure=0,300"], "--measure=0,300: there are 200 steps"),
        (["--steps=0"], "steps"),
        (["--learning_rate=nan"], "learning_rate"),
        (["--width=0.01"], "--width=0.01: width must give"),
        (["--data_dir="], "--data_dir is missing"),
    ],
)
def test_bad_flags_are_named(small_pictures, tmp_path, capsys, flags, words):
    argv = ["--dataset=folder", f"--data_dir={small_pictures}", f"--results_dir={tmp_path}", *flags]
    assert run_command("start", start.main, argv) == 2
    assert words in capsys.readouterr().err


def test_one_class_is_nothing_to_tell_apart(tmp_path, capsys, small_pictures):
    import shutil

    for split in ("train", "val"):
        shutil.copytree(small_pictures / split / "blue_disk", tmp_path / split / "blue_disk")
    assert run_start(tmp_path, tmp_path / "out") == 2
    assert "holds one class" in capsys.readouterr().err


def test_the_rest_is_the_papers_recipe():
    run = config.parse_start(["--data_dir=photos"], "usage").run
    paper = config.parse_train(["--dataset=folder", "--data_dir=photos", "--model_dir=run"], "usage")
    assert run.training == paper.training and run.data == paper.data
    assert (run.network.variant, run.network.towers, run.network.groups) == ("paper", 1, 2)
