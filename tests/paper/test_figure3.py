import json
import shutil

import numpy as np
import pytest
from PIL import Image

from keras_alexnet import AlexNet
from keras_alexnet.model import weights
from keras_alexnet.paper import experiment, figure3


def test_color_share_of_known_filters():
    pattern = np.random.default_rng(0).normal(size=(11, 11))
    colors = [(1, 1, 1), (1, -1, 0), (1, 0, 0), (-2, 1, 1), (3, 3, 0)]
    kernel = np.stack([pattern[..., None] * np.array(color) for color in colors], axis=-1)
    # 1 - (r + g + b)^2 / (3 (r^2 + g^2 + b^2))
    np.testing.assert_allclose(figure3.color_shares(kernel), [0, 1, 2 / 3, 1, 1 / 3], atol=1e-12)
    random = np.random.default_rng(1).normal(size=(11, 11, 3, 2000))
    assert figure3.color_shares(random).mean() == pytest.approx(figure3.RANDOM, abs=0.003)  # 4 * 0.0304 / sqrt(2000)
    kernel[..., 1] = 0  # has no share
    np.testing.assert_allclose(figure3.color_shares(kernel), [0, 2 / 3, 1, 1 / 3], atol=1e-12)


def test_the_permutation_test_of_cases_that_can_be_counted():
    # Of the 20 ways to divide three zeros and three ones into two threes, two are as far apart.
    assert figure3.permutation_test([np.zeros(3), np.ones(3)]) == (1.0, pytest.approx(0.1))
    assert figure3.permutation_test([np.array([0.0, 1.0]), np.array([1.0, 0.0])]) == (0.0, 1.0)
    assert figure3.permutation_test([np.array([0.0]), np.array([1.0])]) == (0.0, 1.0)
    rng = np.random.default_rng(3)
    near, far = rng.normal(size=48), rng.normal(size=48) + 5
    assert figure3.permutation_test([near, far], 1000)[1] == pytest.approx(2 / 1001)
    assert figure3.permutation_test([near, near + 0.3], 100) == figure3.permutation_test([near, near + 0.3], 100)


def test_runs_from_start_to_end(run_of_three_epochs, tmp_path):
    folders = run_of_three_epochs, "imagenette", shutil.copytree(run_of_three_epochs, tmp_path / "run")
    flags = [f"--model_dir={folder}" for folder in folders]
    flags += [f"--results_dir={tmp_path}", "--quick", "--normalize=each"]
    assert experiment.main("figure3", flags) == 0
    content = json.loads((tmp_path / "quick" / "figure3.json").read_text())
    (values, packaged, again), stored = content["values"]["runs"], weights.read(str(run_of_three_epochs))
    start = AlexNet(3, "release2012", devices=(), width=1 / 16, seed=2012)
    for tower in (0, 1):
        now = stored[f"conv1_tower{tower}/kernel"].astype(np.float64)
        was = start.get_layer(f"conv1_tower{tower}").kernel.numpy().astype(np.float64)
        shares = 1 - (now.sum(2) ** 2).sum((0, 1)) / 3 / (now**2).sum((0, 1, 2))
        np.testing.assert_allclose(values["shares"][tower], shares, rtol=1e-6)
        moved = [np.linalg.norm(now[..., i] - was[..., i]) / np.linalg.norm(was[..., i]) for i in range(3)]
        assert values["moved"][tower] == pytest.approx(np.median(moved), rel=1e-5) and min(moved) > 0
    assert content["quick"] and "two-sided, 100 permutations" in content["protocol"]
    assert content["pictures"][0]["shows"].startswith("The filters of conv1 of the first run, scaled one by one")
    with Image.open(tmp_path / "quick" / "figure3.png") as image:
        assert image.size == (3 * 12 * 5, (2 * 12 + 4) * 5)
    assert (tmp_path / "quick" / "figure3_color.svg").read_text().startswith("<?xml")
    assert figure3.judge(values)[0] is None  # three epochs hardly move a filter
    assert len(packaged["shares"][0]) == 12 and max(packaged["cosine"]) < 0.3
    # Runs that would have the same name are told apart by their folders.
    name = "release2012, width 0.0625, 3 epochs, seed 2012"
    assert (values["name"], again["name"]) == tuple(f"{name}, {folder}" for folder in folders[::2])
    assert packaged["name"].endswith("seed 2012")
    assert "in 0 of 1 runs" in figure3.verdict(content["values"]).numbers


@pytest.mark.parametrize(
    ("shares", "p", "outcome", "words"),
    [
        (([0.1] * 3, [0.9] * 3), 0.001, "holds", "one tower is mostly gray"),
        (([0.7] * 3, [0.8] * 3), 0.001, "does not hold", "both towers see more color than random filters"),
        (([0.2] * 3, [0.5] * 3), 0.001, "does not hold", "the towers differ, but not as gray and colored"),
        (([0.1] * 3, [0.9] * 3), 0.2, "does not hold", "the towers differ no more than by chance"),
    ],
)
def test_verdicts(shares, p, outcome, words):
    run = {
        "shares": shares, "difference": 0.1, "p": p, "moved": [2.0, 2.0], "cosine": [0.4, 0.3],
        "start_difference": 0.0, "start_p": 0.7, "towers": True, "name": "a run",
    }  # fmt: skip
    found = figure3.verdict({"runs": [run]})
    assert found.outcome == outcome and words in found.numbers
    gray = {**run, "shares": ([0.1] * 3, [0.9] * 3), "p": 0.001}
    assert figure3.verdict({"runs": [gray, run]}).outcome == outcome
    unknown = [{**run, "towers": False}, {**run, "cosine": [0.99, 0.98]}]
    assert figure3.verdict({"runs": unknown}).outcome == "cannot be told"
    assert figure3.verdict({"runs": [gray, *unknown]}).outcome == "holds"
    assert ["one tower" in figure3.judge(each)[1] for each in unknown] == [True, False]
    _, tested, moved = figure3.tables({"runs": [{**run, "moved": None, "cosine": None, "start_p": None}]})
    assert len(tested.rows) == 1 and moved.rows[0][1:] == ("-", "-")
