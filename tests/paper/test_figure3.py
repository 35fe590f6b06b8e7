import json
import shutil

import numpy as np
import pytest
from keras_alexnet.training.filters import grid

from keras_alexnet import AlexNet
from keras_alexnet.cli import run_command
from keras_alexnet.paper import figure3


def test_color_share_of_known_filters():
    pattern = np.random.default_rng(0).normal(size=(11, 11))
    colors = [(1, 1, 1), (1, -1, 0), (1, 0, 0), (-2, 1, 1), (3, 3, 0)]
    kernel = np.stack([pattern[..., None] * np.array(color) for color in colors], axis=-1)
    # 1 - (r + g + b)^2 / (3 (r^2 + g^2 + b^2))
    np.testing.assert_allclose(figure3.color_shares(kernel), [0, 1, 2 / 3, 1, 1 / 3], atol=1e-12)


def test_color_share_is_one_minus_the_energy_along_gray():
    kernel = np.random.default_rng(1).normal(size=(11, 11, 3, 2000))
    expected = []
    for filter_ in np.moveaxis(kernel, -1, 0):
        along = filter_.reshape(-1, 3) @ (np.ones(3) / np.sqrt(3))
        expected.append(1 - (along**2).sum() / (filter_**2).sum())
    shares = figure3.color_shares(kernel)
    np.testing.assert_allclose(shares, expected, rtol=1e-12)
    assert shares.mean() == pytest.approx(figure3.RANDOM, abs=0.003)  # 0.0304 / sqrt(2000) four times


def test_a_filter_of_zeros_has_no_share_and_does_not_count():
    kernel = np.zeros((11, 11, 3, 2))
    kernel[..., 0, 1] = 1.0
    shares = figure3.color_shares(kernel)
    assert np.isnan(shares[0]) and shares[1] == pytest.approx(2 / 3)
    assert figure3.permutation_test(np.array([np.nan, 0.0]), np.array([1.0, np.nan, 3.0]), 10)[0] == 2.0


def test_permutations_of_a_case_that_can_be_counted():
    # Of the 20 ways to replica_shard out three zeros and three ones to two threes, two are as far apart.
    difference, p = figure3.permutation_test(np.zeros(3), np.ones(3))
    assert difference == 1.0 and p == pytest.approx(0.1, abs=0.01)
    # Groups of unlike sizes: 0 against 1, 2, 3 is -2; only 3 alone is as far from the rest: 2 of 4.
    difference, p = figure3.permutation_test(np.array([0.0]), np.array([1.0, 2.0, 3.0]))
    assert difference == 2.0 and p == pytest.approx(0.5, abs=0.02)
    assert figure3.permutation_test(np.array([0.0, 1.0]), np.array([1.0, 0.0])) == (0.0, 1.0)


def test_p_has_a_least_value_and_a_seed():
    rng = np.random.default_rng(3)
    near, far = rng.normal(size=48), rng.normal(size=48) + 5
    assert figure3.permutation_test(near, far)[1] == 1 / 10_001
    other = near + 0.3
    assert figure3.permutation_test(near, other) == figure3.permutation_test(near, other)
    assert figure3.permutation_test(near, other, seed=1)[1] != figure3.permutation_test(near, other)[1]


def test_one_by_one_every_filter_has_its_own_mean_and_spread():
    rng = np.random.default_rng(4)
    towers = [rng.normal(0.3, 0.01 * (1 + place), (11, 11, 3, 16)).astype(np.float32) for place in (0, 9)]
    picture = grid(towers, 1, "each")
    expected = [
        np.stack([(each - each.mean()) / each.std() for each in np.moveaxis(kernel, -1, 0)]) for kernel in towers
    ]
    peak = np.abs(expected).max()
    for tower in (0, 1):
        for place in range(16):
            part = picture[tower * 16 :][:11, place * 12 : place * 12 + 11]
            np.testing.assert_allclose(part, (expected[tower][place] / peak * 0.5 + 0.5) * 255, atol=0.51)
    jointly = grid(towers, 1)
    assert jointly[:11, :11].std() < 0.3 * picture[:11, :11].std()  # the first tower is dim beside the second


def test_equal_weights_are_gray_one_by_one():
    flat = np.ones((11, 11, 3, 16), np.float32)
    assert np.all(grid([flat, flat], 1, "each")[:11, :11] == 128)


def run_figure3(folder, out, *argv):
    return run_command("figure3", figure3.main, [f"--model_dir={folder}", f"--results_dir={out}", "--quick", *argv])


@pytest.mark.parametrize("normalize", ["jointly", "each"])
def test_a_run_from_start_to_end(run_of_three_epochs, tmp_path, normalize):
    from PIL import Image

    from keras_alexnet.model import weights

    assert run_figure3(run_of_three_epochs, tmp_path, f"--normalize={normalize}") == 0
    about = json.loads((tmp_path / "quick" / "figure3.json").read_text())
    values = about["values"]
    stored = weights.read(str(run_of_three_epochs))
    start = AlexNet(3, "release2012", devices=(), width=1 / 16, seed=2012)
    for tower in (0, 1):
        now = stored[f"conv1_tower{tower}/kernel"].astype(np.float64)
        was = start.get_layer(f"conv1_tower{tower}").kernel.numpy().astype(np.float64)
        shares = 1 - now.sum(2).__pow__(2).sum((0, 1)) / 3 / (now**2).sum((0, 1, 2))
        np.testing.assert_allclose(values["shares"][tower], shares, rtol=1e-6)
        moved = [np.linalg.norm(now[..., i] - was[..., i]) / np.linalg.norm(was[..., i]) for i in range(3)]
        assert values["moved"][tower] == pytest.approx(np.median(moved), rel=1e-5) and min(moved) > 0
    assert about["quick"] and values["permutations"] == 100 and values["epochs"] == 3
    with Image.open(tmp_path / "quick" / "figure3.png") as picture:
        assert picture.size == (3 * 12 * 4, (2 * 12 + 4) * 4)
    assert (tmp_path / "quick" / "figure3_color.svg").read_text().startswith("<?xml")
    assert "Cannot be told" in figure3.verdict(values)  # three epochs hardly move a filter


@pytest.mark.parametrize(
    ("shares", "p", "words"),
    [
        (([0.1] * 3, [0.9] * 3), 0.001, "Holds in this run: one tower is mostly gray"),
        (([0.7] * 3, [0.8] * 3), 0.001, "Does not hold in this run: both towers see more color than random filters"),
        (([0.2] * 3, [0.5] * 3), 0.001, "Does not hold in this run: the towers differ, but not as gray and colored"),
        (([0.1] * 3, [0.9] * 3), 0.2, "Does not hold in this run"),
    ],
)
def test_verdicts(shares, p, words):
    values = {
        "shares": shares, "difference": 0.1, "p": p, "permutations": 100, "moved": [2.0, 2.0], "cosine": [0.4, 0.3],
        "start_difference": 0.0, "start_p": 0.7, "towers": True, "epochs": 9, "model": "run",
    }  # fmt: skip
    assert figure3.verdict(values).startswith(words)
    assert "only their random numbers differ" in figure3.verdict(values)
    shown, tested, moved = figure3.tables(values)
    assert shown.rows[0][1:4] == ("largely color-agnostic", f"{shares[0][0]:.3f}", f"{shares[0][0]:.3f}")
    assert tested.rows == (("trained", "+0.100", f"{p:.4f}"), ("at the random start", "+0.000", "0.7000"))
    assert moved.rows[1] == ("tower 1", "2.00", "0.300")
    assert "one tower" in figure3.verdict({**values, "towers": False})
    assert "random start" in figure3.verdict({**values, "cosine": [0.99, 0.98]})
    unknown = {**values, "moved": None, "cosine": None, "start_difference": None, "start_p": None}
    assert figure3.tables(unknown)[2].rows[0] == ("tower 0", "-", "-")


def test_not_run():
    assert figure3.verdict(None) == "not run"
    for table in figure3.tables(None):
        assert all(len(row) == len(table.columns) for row in table.rows)
        assert "not run" in table.rows[0]


def test_bad_input(run_of_three_epochs, tmp_path, capsys):
    assert run_figure3(tmp_path, tmp_path / "out") == 2
    assert f"--model_dir={tmp_path}: holds no run" in capsys.readouterr().err
    assert run_command("figure3", figure3.main, []) == 2
    assert "--model_dir is missing" in capsys.readouterr().err
    copy = tmp_path / "run"
    shutil.copytree(run_of_three_epochs, copy)
    shutil.rmtree(copy / "checkpoints")
    assert run_figure3(copy, tmp_path / "out") == 1
    assert "no checkpoint yet" in capsys.readouterr().err


def test_filters_of_another_shape_are_named(run_of_three_epochs, tmp_path, capsys, monkeypatch):
    from keras_alexnet.model import weights

    read = weights.read
    monkeypatch.setattr(weights, "read", lambda path: {**read(path), "conv1_tower0/kernel": np.zeros((7, 7, 1, 3))})
    assert run_figure3(run_of_three_epochs, tmp_path) == 1
    assert "its conv1_tower0/kernel has filters of 7x7x1; Figure 3 is of 11x11x3" in capsys.readouterr().err
