import importlib
import sys
from concurrent.futures import ThreadPoolExecutor
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
    monkeypatch.setattr(load_tool("harness"), "ProcessPoolExecutor", lambda *_: ThreadPoolExecutor(1))
