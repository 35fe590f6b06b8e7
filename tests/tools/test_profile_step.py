import json

import pytest

from keras_alexnet.cli import run_command
from tests.tools.conftest import load_tool


def test_the_times_of_layers_and_phases_add_up(in_process, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(load_tool("rows_training"), "PRODUCT", 64)
    monkeypatch.setenv("TF_NUM_INTEROP_THREADS", "1")  # what the program sets in its own process is undone
    argv = [
        "--width=0.0625",
        "--batch_size=2",
        "--steps=2",
        "--variant=release2012",
        f"--json={tmp_path / 'found.json'}",
    ]
    assert run_command("profile_step", load_tool("profile_step").main, argv) == 0
    report = json.loads((tmp_path / "found.json").read_text())
    rows = report["rows"]
    layers = [f"conv{number}" for number in range(1, 6)] + ["fc6", "fc7", "fc8"]
    assert set(rows) == {*layers, "norm", "pool", "join", "dropout", "loss", "update"}
    # Every layer works in both directions; normalization's gradient, which is our own, counts as such.
    assert all(rows[row]["forward"] > 0 and rows[row]["backward"] > 0 for row in [*layers, "norm", "pool"])
    assert set(rows["update"]) == {"share", "update"} and rows["update"]["update"] > 0
    assert not any("update" in figures for row, figures in rows.items() if row != "update")
    assert sum(figures["share"] for figures in rows.values()) == pytest.approx(100)
    least = sum(rows[row]["of_limit"] * (rows[row]["forward"] + rows[row]["backward"]) for row in layers)
    assert report["of_limit"] == pytest.approx(least / report["step_ms"])
    assert "conv1" in capsys.readouterr().out
