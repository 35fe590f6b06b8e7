import importlib
import json
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def load_tool(name):
    """A program of tools/ as a module."""
    folder = str(ROOT / "tools")
    if folder not in sys.path:
        sys.path.insert(0, folder)  # as Python does for a program, which imports its neighbors
    return importlib.import_module(name)


@pytest.fixture
def in_process(monkeypatch):
    """Rows of benchmarks run in this process, which has imported TensorFlow already."""

    def worker(row, function, settings):
        module, name = function.split(".")
        settings = types.SimpleNamespace(**json.loads(json.dumps(settings)), peak_mb=lambda: 1.0)
        facts, turn = getattr(load_tool(module), name)(row, settings)
        yield
        yield facts
        while True:
            yield json.loads(json.dumps(turn()))

    monkeypatch.setattr(load_tool("harness"), "worker", worker)
