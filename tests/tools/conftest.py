import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def load_tool(name):
    """A program of tools/ as a module."""
    folder = str(ROOT / "tools")
    if folder not in sys.path:
        sys.path.insert(0, folder)  # as Python does for a program, which imports its neighbors
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
