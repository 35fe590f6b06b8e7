import numpy as np
import pytest

from keras_alexnet import AlexNet
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
