import numpy as np
import pytest
import tensorflow as tf

from keras_alexnet import AlexNet, rundir
from keras_alexnet.model import weights

TINY = 1 / 16


@pytest.mark.parametrize("variant", ["paper", "release2012", "caffe"])
def test_both_forms_compute_the_same_and_the_way_back_is_exact(variant):
    towers = AlexNet(5, variant, 2, classifier_activation=None, width=TINY, seed=1)
    grouped = AlexNet(5, variant, 1, classifier_activation=None, width=TINY, seed=2)
    again = AlexNet(5, variant, 2, classifier_activation=None, width=TINY, seed=3)
    weights.copy(towers, grouped)
    weights.copy(grouped, again)
    for name, value in weights.named(towers).items():
        np.testing.assert_array_equal(weights.named(again)[name], value)
    size = towers.input_shape[1]
    images = np.random.default_rng(0).normal(scale=60, size=(2, size, size, 3)).astype(np.float32)
    # the same sums in another order, eight layers of them
    np.testing.assert_allclose(grouped(images), towers(images), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(again(images), towers(images))


def test_a_tower_is_half_of_the_outputs_and_names_are_the_papers():
    grouped = weights.named(AlexNet(5, towers=1, width=TINY, seed=1))
    assert list(grouped) == [
        f"{layer}/{kind}"
        for layer in ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")
        for kind in ("kernel", "bias")
    ]
    towers = weights.to_towers(grouped)
    np.testing.assert_array_equal(towers["conv2_tower1/kernel"], grouped["conv2/kernel"][..., 8:])
    np.testing.assert_array_equal(towers["fc7_tower0/bias"], grouped["fc7/bias"][:128])
    assert towers["fc8/kernel"] is grouped["fc8/kernel"]
    assert weights.to_towers(towers).keys() == towers.keys()  # what is in towers stays


@pytest.mark.parametrize("source, target", [(1, 2), (2, 1)], ids=["to towers", "from towers"])
def test_a_network_without_groups_does_not_fit(source, target):
    one = {"towers": 1, "groups": 1}
    first, second = (AlexNet(3, width=TINY, seed=n, **(one if n == 1 else {})) for n in (source, target))
    before = second.get_weights()
    with pytest.raises(ValueError, match=r"conv2.*/kernel should be \(5, 5, .*Received: \(5, 5, "):
        weights.copy(first, second)
    for a, b in zip(before, second.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    "function, wrong, words",
    [
        (weights.to_grouped, {"fc6_tower0/bias": np.zeros(4)}, "fc6_tower0/bias has no other half: fc6_tower1/bias"),
        (
            weights.to_grouped,
            {"fc6_tower0/bias": np.zeros(4), "fc6_tower1/bias": np.zeros(3)},
            r"fc6_tower0/bias is \(4,\) and fc6_tower1/bias is \(3,\)",
        ),
        (weights.to_towers, {"fc6/bias": np.zeros(5)}, r"fc6/bias is \(5,\): its last dimension does not divide"),
    ],
)
def test_halves_that_do_not_match_are_named(function, wrong, words):
    with pytest.raises(ValueError, match=words):
        function(wrong)


@pytest.fixture(scope="module")
def two_towers():
    return AlexNet(5, "release2012", 2, classifier_activation=None, width=TINY, seed=1)


def test_an_npz_of_the_names_is_read_again(two_towers, tmp_path):
    np.savez(tmp_path / "weights.npz", **weights.named(two_towers))
    again = AlexNet(5, "release2012", 1, weights=tmp_path / "weights.npz", width=TINY, seed=2)
    expected = weights.to_grouped(weights.named(two_towers))
    for name, value in weights.named(again).items():
        np.testing.assert_array_equal(value, expected[name])


@pytest.mark.parametrize("kind", ["run", "export"])
def test_a_run_and_its_export_hold_the_same_weights(run_of_three_epochs, kind):
    folder = run_of_three_epochs if kind == "run" else run_of_three_epochs / "export" / "1"
    found = weights.read(str(folder))
    model = rundir.build(rundir.open_run(str(run_of_three_epochs)))
    assert found.keys() == weights.named(model).keys()
    for name, value in weights.named(model).items():
        np.testing.assert_array_equal(found[name], value)


def test_a_layer_can_keep_what_it_has(two_towers):
    target = AlexNet(3, "release2012", 2, width=TINY, seed=2)
    before = weights.named(target)
    with pytest.raises(ValueError, match=r"fc8/kernel should be \(256, 3\). Received: \(256, 5\)"):
        weights.assign(weights.named(two_towers), target)
    np.testing.assert_array_equal(weights.named(target)["conv1_tower0/kernel"], before["conv1_tower0/kernel"])
    weights.assign(weights.named(two_towers), target, without=("fc8",))
    after, source = weights.named(target), weights.named(two_towers)
    for name, value in after.items():
        np.testing.assert_array_equal(value, (before if name.startswith("fc8") else source)[name])


def test_what_holds_no_weights(tmp_path):
    for path, words in ((tmp_path / "nowhere", "there is no such file or folder"), (tmp_path, "holds no weights")):
        with pytest.raises(ValueError, match=words):
            weights.read(str(path))
    (tmp_path / "text.npz").write_text("no arrays")
    with pytest.raises(ValueError, match="is no .npz of weights"):
        weights.read(str(tmp_path / "text.npz"))
    with open(tmp_path / "cut.npz", "wb") as file:
        np.savez(file, a=np.zeros(1000))
    whole = (tmp_path / "cut.npz").read_bytes()
    (tmp_path / "bad.npz").write_bytes(whole.replace(b"NUMPY", b"NUMBY"))
    with pytest.raises(ValueError):
        weights.read(str(tmp_path / "bad.npz"))
    tf.train.Checkpoint(other=tf.Variable(1.0)).write(str(tmp_path / "other"))
    with pytest.raises(ValueError, match="without a layer named conv1"):
        weights.read(str(tmp_path / "other"))


def test_nothing_is_unpickled(tmp_path):
    np.savez(tmp_path / "objects.npz", a=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"):
        weights.read(str(tmp_path / "objects.npz"))
