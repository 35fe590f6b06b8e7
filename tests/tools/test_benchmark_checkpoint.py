import re

import pytest

from keras_alexnet import AlexNet
from keras_alexnet.cli import run_command
from tests.tools.conftest import load_tool

tool = load_tool("benchmark_checkpoint")


def test_all_figures_are_measured(small_pictures, capsys):
    argv = ["--width=0.0625", "--batch_size=2", "--rounds=1", f"--data_dir={small_pictures}"]
    assert run_command("benchmark_checkpoint", tool.main, argv) == 0
    said = capsys.readouterr().out
    assert len(re.findall(r"\d+\.\d{3} s$", said, re.MULTILINE)) == 7 and re.search(
        r"of 15 minutes +-?\d+\.\d+ %", said
    )
    megabytes = float(re.search(r"([\d.]+) MB", said)[1])
    # Weights and velocities.
    assert megabytes == pytest.approx(8 * AlexNet(1000, devices=(), width=0.0625).count_params() / 1e6, abs=0.1)


@pytest.mark.parametrize("argv", [["--rounds=0"], ["--width=0.001"]])
def test_wrong_usage(argv, capsys):
    assert run_command("benchmark_checkpoint", tool.main, argv) == 2
    assert argv[0] in capsys.readouterr().err
