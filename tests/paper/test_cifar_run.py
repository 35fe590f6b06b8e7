import dataclasses

import numpy as np
import pytest
from keras_alexnet.paper.cifar_data import Images

from keras_alexnet.errors import RunError, UsageError
from keras_alexnet.paper import cifar_network, cifar_run
from tests.reference.update import momentum_sgd

TRIAL = cifar_run.Trial("19pct", batch_size=8, seed=3)


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    counts = {"train": 45, "test": 11}
    return Images(
        "random images",
        ("a", "b", "c"),
        {split: rng.integers(0, 256, (count, 32, 32, 3), np.uint8) for split, count in counts.items()},
        {split: rng.integers(0, 3, count).astype(np.int32) for split, count in counts.items()},
    )


@pytest.mark.parametrize("border", [0, 4])
def test_an_interrupted_trial_is_an_uninterrupted_one_to_the_bit(images, tmp_path, border):
    trial = dataclasses.replace(TRIAL, crop_border=border, rate_drops=(1,), learning_rate=0.01)
    whole = cifar_run.Run(str(tmp_path / "whole"), trial, images)
    whole.train(3)
    cifar_run.Run(str(tmp_path / "parts"), trial, images).train(1)
    parts = cifar_run.Run(str(tmp_path / "parts"), trial, images)
    assert parts.progress.epochs == 1 and len(parts.curve) == 5
    parts.train(3)
    assert parts.curve == whole.curve and len(whole.curve) == 15
    for one, other in zip(whole.model.get_weights(), parts.model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert parts.test() == whole.test()


def test_the_curve_is_of_fifths_of_an_epoch_and_an_epoch_sees_every_image_once(images, tmp_path):
    seen = []
    run = cifar_run.Run(str(tmp_path), TRIAL, images)
    step = run.trainer.train_step
    run.trainer.train_step = lambda views, labels: (seen.append((views.numpy(), labels.numpy())), step(views, labels))
    run.train(1)
    assert [len(labels) for _, labels in seen] == [8, 8, 8, 8, 8, 5]
    # 6 steps: fifths end after 1, 2, 4, 5 and 6 (1.2, 2.4, 3.6, 4.8 and 6 rounded).
    assert [row["epoch"] for row in run.curve] == pytest.approx([1 / 6, 2 / 6, 4 / 6, 5 / 6, 1])
    given = np.concatenate([views for views, _ in seen])
    centered = images.images["train"] - images.images["train"].mean(0)
    places = [int(np.abs(centered - view).max((1, 2, 3)).argmin()) for view in given]
    assert sorted(places) == list(range(45)) and places != list(range(45))
    np.testing.assert_allclose(given, centered[places], atol=1e-3)
    np.testing.assert_array_equal(np.concatenate([labels for _, labels in seen]), images.labels["train"][places])


def test_the_first_step_is_the_published_rule_with_the_layer_files_decays(images, tmp_path):
    """The loss of two steps follows from gradients by NumPy only through fc10; its first update is held here."""
    trial = dataclasses.replace(TRIAL, learning_rate=0.05)
    run = cifar_run.Run(str(tmp_path), trial, images)
    fc10 = run.model.get_layer("fc10")
    flat = cifar_network.keras.Model(run.model.input, run.model.get_layer("flatten").output)
    before = {layer: run.model.get_layer(layer).kernel.numpy().astype(np.float64) for layer in ("conv2", "fc10")}
    views, labels = run._views(images.images["train"][:8], None), images.labels["train"][:8]
    a = flat(views).numpy().astype(np.float64)
    z = a @ before["fc10"]
    p = np.exp(z - z.max(1, keepdims=True))
    p = p / p.sum(1, keepdims=True) - np.eye(3)[labels]
    run.trainer.train_step(cifar_network.tf.constant(views), cifar_network.tf.constant(labels))
    kernel, _ = momentum_sgd(before["fc10"], 0.0, a.T @ p / 8, 0.05, 0.9, 3.0)
    bias, _ = momentum_sgd(np.zeros(3), 0.0, p.mean(0), 0.1, 0.9, 0.0)
    np.testing.assert_allclose(fc10.kernel, kernel, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(fc10.bias, bias, rtol=1e-4, atol=1e-6)
    decayed = before["conv2"] * (1 - 0.05 * 0.004)
    # With kernels of 0.0001 in conv1 hardly any gradient reaches conv2: what moves it is its decay, 0.004.
    moved = run.model.get_layer("conv2").kernel.numpy() - before["conv2"]
    slope = (moved * before["conv2"]).sum() / (before["conv2"] ** 2).sum()
    assert slope == pytest.approx((decayed - before["conv2"]).sum() / before["conv2"].sum(), rel=0.3)


def test_without_decay_nothing_shrinks(images, tmp_path):
    run = cifar_run.Run(str(tmp_path), dataclasses.replace(TRIAL, weight_decay=False), images)
    assert run.sgd._decays == [] or not any(run.sgd._decays)
    decayed = cifar_run.Run(str(tmp_path / "other"), TRIAL, images)
    decayed.sgd.build(decayed.model.trainable_variables)
    paths = [variable.path for variable in decayed.model.trainable_variables]
    found = dict(zip(paths, decayed.sgd._decays, strict=True))
    assert found == {
        path: 0.0 if path.endswith("bias") else 3.0 if path.startswith("fc10") else 0.004 for path in paths
    }


def test_crops_lose_the_mean_of_their_own_place(images, tmp_path):
    trial = dataclasses.replace(TRIAL, crop_border=4)
    run = cifar_run.Run(str(tmp_path), trial, images)
    assert run.model.input_shape == (None, 24, 24, 3)
    centered = images.images["train"][:20].astype(np.float32) - images.images["train"].mean(0).astype(np.float32)
    offsets, turned = set(), []
    for round_ in range(12):
        views = run._views(images.images["train"][:20], np.random.default_rng(round_))
        for view, image in zip(views, centered, strict=True):
            places = [
                (row, column, mirrored)
                for row in range(9)
                for column in range(9)
                for mirrored in (False, True)
                if np.allclose(
                    view, image[row : row + 24, column : column + 24][:, :: -1 if mirrored else 1], atol=1e-3
                )
            ]
            assert len(places) == 1
            offsets.add(places[0][:2])
            turned.append(places[0][2])
    assert {row for row, _ in offsets} == {column for _, column in offsets} == set(range(9))
    assert 90 < sum(turned) < 150  # of 240; 120 is expected, with a deviation of 8


def test_the_test_is_of_the_centers(images, tmp_path):
    run = cifar_run.Run(str(tmp_path), dataclasses.replace(TRIAL, crop_border=4, learning_rate=0.01), images)
    run.train(1)
    views = (images.images["test"] - images.images["train"].mean(0))[:, 4:28, 4:28].astype(np.float32)
    logits = run.model(views).numpy().astype(np.float64)
    labels = images.labels["test"]
    loss = np.log(np.exp(logits).sum(1)) - logits[np.arange(11), labels]
    tested = run.test()
    assert tested["loss"] == pytest.approx(loss.mean(), rel=1e-4)
    assert tested["top1_error"] == pytest.approx(100 * (logits.argmax(1) != labels).mean(), rel=1e-5)


def test_it_ends_when_it_is_enough(images, tmp_path):
    run = cifar_run.Run(str(tmp_path), TRIAL, images)
    run.train(5, enough=lambda curve: len(curve) >= 7)
    assert len(run.curve) == 10 and run.progress.epochs == 2  # whole epochs, so that another end can go on from here
    run.train(5, enough=lambda curve: len(curve) >= 7)
    assert len(run.curve) == 10


def test_rates_drop_after_their_epochs(images, tmp_path):
    trial = dataclasses.replace(TRIAL, learning_rate=0.01, rate_drops=(1, 2))
    run, rates = cifar_run.Run(str(tmp_path), trial, images), []
    run.train(4, show=lambda done, total: rates.append(float(run.sgd.learning_rate.numpy())))
    assert rates == pytest.approx([0.01, 0.001, 0.0001, 0.0001])


def test_a_trial_that_diverges_stops_and_stays_stopped(images, tmp_path):
    trial = dataclasses.replace(TRIAL, learning_rate=1e30)
    run = cifar_run.Run(str(tmp_path), trial, images)
    run.train(3)
    assert run.diverged and len(run.curve) < 5
    again = cifar_run.Run(str(tmp_path), trial, images)
    assert again.diverged and again.curve == run.curve
    again.train(3)
    assert again.curve == run.curve


def test_a_folder_keeps_its_trial(images, tmp_path):
    cifar_run.Run(str(tmp_path), TRIAL, images)
    with pytest.raises(UsageError, match=r"holds another trial: learning_rate 0.5 \(there: 0.001\)"):
        cifar_run.Run(str(tmp_path), dataclasses.replace(TRIAL, learning_rate=0.5), images)
    with pytest.raises(UsageError, match="holds another trial: other images; name"):
        cifar_run.Run(str(tmp_path), TRIAL, dataclasses.replace(images, description="other images"))
    with pytest.raises(UsageError, match="--batch_size=10: 45 training images are fewer than 5 batches"):
        cifar_run.Run(str(tmp_path / "new"), dataclasses.replace(TRIAL, batch_size=10), images)
    assert not (tmp_path / "new").exists()
    (tmp_path / "trial.json").write_text("{")
    with pytest.raises(RunError, match="trial.json: cannot be read"):
        cifar_run.Run(str(tmp_path), TRIAL, images)


def test_a_damaged_checkpoint_is_named(images, tmp_path):
    cifar_run.Run(str(tmp_path), TRIAL, images).train(1)
    for path in (tmp_path / "checkpoints").glob("*.data*"):
        path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RunError, match="no checkpoint can be read"):
        cifar_run.Run(str(tmp_path), TRIAL, images)
