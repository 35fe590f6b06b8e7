import sys

from PIL import Image

from keras_alexnet.cli import run_command
from keras_alexnet.data import shapes
from tests.tools.conftest import load_tool


def test_plot_run(run_of_three_epochs, tmp_path, capsys, monkeypatch):
    tool, path = load_tool("plot_run"), tmp_path / "new" / "run.png"
    assert run_command("plot_run", tool.main, [str(run_of_three_epochs), str(path)]) == 0
    assert Image.open(path).size == (1540, 418) and capsys.readouterr().out == f"wrote {path}\n"
    assert run_command("plot_run", tool.main, [str(tmp_path), str(path)]) == 2
    assert "is not a run (its flags.cfg is missing)" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run_command("plot_run", tool.main, [str(run_of_three_epochs), str(path)]) == 2
    missing = "plot_run: matplotlib is not installed; pip install 'keras-alexnet[figures]'\n"
    assert capsys.readouterr().err == missing


def test_draw_shapes(tmp_path, capsys):
    load_tool("draw_shapes").main(["--seed=7", "--per_class=2", str(tmp_path / "out")])
    assert len(list((tmp_path / "out").iterdir())) == 2 * len(shapes.CLASS_NAMES)
    assert "20 images are in" in capsys.readouterr().out
