import zipfile

import numpy as np
import pytest
import tensorflow as tf

from keras_alexnet import AlexNet, rundir
from keras_alexnet.errors import RequeueError
from keras_alexnet.model import weights

TINY = 1 / 16


@pytest.fixture(scope="module")
def two_towers():
    return AlexNet(5, "release2012", 2, classifier_activation=None, width=TINY, seed=1)


def test_a_tower_is_half_of_the_outputs_and_the_way_back_is_exact(two_towers):
    """That both forms compute the same is in test_alexnet.py and test_towers.py."""
    grouped = AlexNet(5, "release2012", 1, width=TINY, seed=2)
    weights.copy(two_towers, grouped)
    found, towers = weights.named(grouped), weights.named(two_towers)
    layers = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")
    assert list(found) == [f"{layer}/{kind}" for layer in layers for kind in ("kernel", "bias")]
    np.testing.assert_array_equal(towers["conv2_tower1/kernel"], found["conv2/kernel"][..., 8:])
    np.testing.assert_array_equal(towers["fc7_tower0/bias"], found["fc7/bias"][:128])
    np.testing.assert_equal(weights.to_towers(found), towers)
    assert weights.to_towers(towers).keys() == towers.keys()  # what is in towers is unchanged


def test_a_network_without_groups_does_not_fit(two_towers):
    other = AlexNet(5, "release2012", 1, 1, width=TINY, seed=2)
    for source, target in ((two_towers, other), (other, two_towers)):
        before = weights.named(target)
        with pytest.raises(ValueError, match=r"conv2.*/kernel should be \(5, 5, .*Received: \(5, 5, "):
            weights.copy(source, target)
        np.testing.assert_equal(weights.named(target), before)


def test_halves_that_do_not_match_are_named():
    four, three = np.zeros(4), np.zeros(3)
    for other in ({}, {"fc6_tower1/bias": three}, {"fc6/bias": four}):
        with pytest.raises(
            ValueError, match=r"fc6/bias should have two halves of the same shape.*fc6_tower0/bias \(4,"
        ):
            weights.to_grouped({"fc6_tower0/bias": four} | other)
    with pytest.raises(ValueError, match=r"fc6/bias is \(3,\): its last dimension does not divide"):
        weights.to_towers({"fc6/bias": three})


def test_layers_can_keep_what_they_have(two_towers):
    target = AlexNet(3, "release2012", 2, width=TINY, seed=2)
    before, values = weights.named(target), weights.named(two_towers)
    weights.assign(values, target, without=("fc8", "conv"))  # "conv" is all convolutions
    np.testing.assert_equal(
        weights.named(target), {n: before[n] if n.startswith(("fc8", "conv")) else values[n] for n in values}
    )


def test_an_npz_of_the_names_is_read_and_other_arrays_are_left(two_towers, tmp_path):
    np.savez(tmp_path / "weights.npz", **weights.named(two_towers), epoch=5)
    again = AlexNet(variant="release2012", towers=1, weights=tmp_path / "weights.npz", width=TINY)  # five classes
    np.testing.assert_equal(weights.named(again), weights.to_grouped(weights.named(two_towers)))


def test_a_run_its_export_and_its_checkpoint_hold_the_same(tiny_run):
    run = rundir.open_run(str(tiny_run))
    expected = weights.named(rundir.build(run))
    for path in (tiny_run, tiny_run / "export" / "1", run.checkpoint):
        settings, found = weights.read_with_settings(path)
        np.testing.assert_equal(found, expected)
        assert (settings["variant"], settings["width"], settings["num_classes"]) == ("release2012", TINY, 3)


def test_of_a_run_the_last_whole_epoch_that_can_be_read_is_taken(tmp_path, capsys):
    """A checkpoint within an epoch is not what evaluation and export take."""
    (tmp_path / "checkpoints").mkdir()
    for name, number in (("epoch-1", 1), ("epoch-2", 2), ("epoch-2-step-7", 3)):
        path, values = str(tmp_path / "checkpoints" / name), [np.full(3, number, np.float32)]
        tf.raw_ops.SaveV2(prefix=path, tensor_names=["fc8/bias"], shape_and_slices=[""], tensors=values)
    assert weights.read(tmp_path)["fc8/bias"][0] == 2
    (tmp_path / "checkpoints" / "epoch-2.index").write_bytes(b"damaged")
    assert weights.read(tmp_path)["fc8/bias"][0] == 1
    assert "epoch-2: " in capsys.readouterr().err
    (tmp_path / "flags.cfg").write_text("--width=wide\n")
    with pytest.raises(ValueError, match="flags.cfg: is not the flags of a run .*wide"):
        weights.read_with_settings(tmp_path)
    (tmp_path / "checkpoints" / "epoch-1.index").write_bytes(b"damaged")
    with pytest.raises(ValueError, match="epoch-1: cannot be read"):
        weights.read(tmp_path)


def test_a_signal_while_weights_are_read_stays_one_that_the_run_can_resume_after(tiny_run, monkeypatch):
    def stopped(*_):
        raise RequeueError("stopped by SIGTERM")

    monkeypatch.setattr(weights, "first_readable", stopped)
    with pytest.raises(RequeueError):
        weights.read(tiny_run)


def savez(**arrays):
    return lambda path: np.savez(path.open("wb"), **arrays)


def zipped(name):
    return lambda path: zipfile.ZipFile(path, "w").writestr(name, b"content")


OTHERS = {
    "nothing": (lambda path: None, "there is no such file or folder; give a run's folder"),
    "folder": (lambda path: path.mkdir(), "holds no weights; give a run's folder"),
    "text": (lambda path: path.write_text("no arrays"), "is another kind of file; give"),
    ".keras": (zipped("config.json"), "is a model of Keras, which keras.saving.load_model reads; give"),
    "other arrays": (savez(mean_image=np.zeros(3), count=5), "is the statistics of a training set"),
    "scalar kernel": (savez(**{"conv1/kernel": 5}), r"conv1/kernel must be an array of numbers. Received: int64, sh"),
    "kernel of objects": (savez(**{"conv1/kernel": np.array([{}], object)}), "cannot be read .*allow_pickle"),
    "other checkpoint": (
        lambda path: tf.train.Checkpoint(other=tf.Variable(1.0)).write(str(path)),
        "is a checkpoint of something else, without a layer named conv1",
    ),
    "changed": (zipped("conv1/kernel.npy"), "cannot be read"),
}


@pytest.mark.parametrize("write, words", OTHERS.values(), ids=OTHERS)
def test_what_holds_no_weights_is_named_in_one_line(tmp_path, write, words):
    path = tmp_path / "file"
    write(path)
    with pytest.raises(ValueError, match=words) as raised:
        weights.read(path)
    assert str(raised.value).startswith(f"{path}: ") and "\n" not in str(raised.value)
    with pytest.raises(ValueError, match=r"weights /.*/run \[1\] must not contain \[ \]"):
        weights.read(tmp_path / "run [1]")
