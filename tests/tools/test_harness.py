"""Rows in processes of their own that take turns, and what becomes of their figures."""

import importlib.util

import pytest

from keras_alexnet import flags
from keras_alexnet.errors import ArgumentError, RunError, UsageError
from tests.tools.conftest import load_tool

harness = load_tool("harness")

ROWS = """
import os

from keras_alexnet.errors import ArgumentError

def start(row, settings):
    if row == "wrong":
        raise ArgumentError("width", 0, "is wrong")
    if row == "broken":
        os._exit(7)
    def turn():
        with open(settings.json, "a") as file:
            file.write(row)
        return {"images_per_second": settings.rounds, "peak_mb": settings.peak_mb() >= 0}
    return {"row": row}, turn
"""


@pytest.fixture
def rows(tmp_path, monkeypatch):
    (tmp_path / "rows.py").write_text(ROWS)
    monkeypatch.syspath_prepend(tmp_path)
    return harness.Settings(rounds=2, json=str(tmp_path / "turns"))


def test_rows_take_turns(rows, tmp_path):
    facts, turns = harness.interleave(dict.fromkeys("abc", "rows.start"), rows, 2, before="c")
    assert (tmp_path / "turns").read_text() == "cacbcacb"
    assert facts == {row: {"row": row} for row in "abc"}
    assert turns == {row: [{"images_per_second": 2, "peak_mb": True}] * 2 for row in "ab"}


def test_a_row_that_fails_ends_the_benchmark(rows, capfd):
    with pytest.raises(ArgumentError, match="width is wrong"):
        harness.interleave({"a": "rows.start", "wrong": "rows.start"}, rows, 1)
    with pytest.raises(RunError, match="the process of broken has ended"):
        harness.interleave({"broken": "rows.start"}, rows, 1)
    assert not capfd.readouterr().err


def test_figures_are_medians_of_the_rounds():
    turns = {
        row: [{"images_per_second": speed, "peak_mb": place} for place, speed in enumerate(speeds)]
        for row, speeds in {"a": (10.0, 20.0, 40.0), "b": (20.0, 20.0, 60.0)}.items()
    }
    found = harness.summary(turns, {"b": {"of_a": "a", "of_c": "c"}})
    assert found["b"] == {"images_per_second": 20.0, "peak_mb": 2, "of_a": 1.5, "turns": turns["b"]}
    columns = {"img/s": ("images_per_second", ".1f"), "of a": ("of_a", ".2f")}
    table = harness.table("row", columns, [(row, figures, "text") for row, figures in found.items()])
    assert table == ["row  img/s  of a", "a     20.0        text", "b     20.0  1.50  text"]


def test_rows_that_cannot_run_are_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    rows = ["a", "torch"]
    assert harness.choose_rows((), rows, rows)[0] == ["a"]
    with pytest.raises(RunError, match="--rows=a,torch: torch: not run: PyTorch is not installed"):
        harness.choose_rows(("a", "torch"), rows, rows)
    for asked in (("a", "b"), ("a", "a")):
        with pytest.raises(ArgumentError, match="is none of a, torch, or there twice"):
            harness.choose_rows(asked, rows, rows)


def test_wrong_flags_are_found_before_anything_is_measured(tmp_path, monkeypatch):
    Settings = load_tool("benchmark_step").Settings  # noqa: N806 (a class)
    for wrong in ("--width=0.01", f"--json={tmp_path}", f"--json={tmp_path}/a/b.json"):
        with pytest.raises(UsageError, match="--width=0.01: must give|in a folder that can be written to"):
            flags.parse(Settings, [wrong], "Usage.")
    monkeypatch.setattr(harness.os, "access", lambda *_: False)
    with pytest.raises(UsageError, match="in a folder that can be written to"):
        flags.parse(Settings, [f"--json={tmp_path}/b.json"], "Usage.")
