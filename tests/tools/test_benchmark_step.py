import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tools.conftest import load_tool

ROOT = Path(__file__).parents[2]
TINY = ["--width=0.0625", "--batch_size=2", "--rounds=1", "--steps=1"]


@pytest.fixture(scope="module")
def tool():
    return load_tool("benchmark_step")


def run(*flags):
    command = [sys.executable, "tools/benchmark_step.py", *flags]
    # as a user's, in which nothing has told TensorFlow what to print
    environment = {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)


def test_rows_take_turns_and_are_compared(tmp_path):
    done = run(*TINY, "--rows=keras,pinned", f"--json={tmp_path / 'step.json'}")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "step.json").read_text())
    keras, pinned = report["rows"]["keras"], report["rows"]["pinned"]
    assert pinned["of_keras"] == pytest.approx(pinned["images_per_second"] / keras["images_per_second"])
    assert keras["of_pinned"] == pytest.approx(1 / pinned["of_keras"])
    assert pinned["of_limit"] == pytest.approx(
        pinned["images_per_second"] * report["gflop_per_image"] / pinned["product_gflops"]
    )
    assert pinned["peak_mb"] > sum(pinned["paper_mb"].values())
    assert "AlexNet(devices=one), float32" in done.stdout and "on paper" in done.stdout


def test_work_and_memory_of_the_network_of_the_paper(tool):
    """Counted by hand: multiplications of each layer, and the numbers that each hands on."""
    from keras_alexnet import AlexNet

    model = AlexNet(1000, devices=())
    multiplications = [
        55 * 55 * 96 * 11 * 11 * 3,
        27 * 27 * 256 * 5 * 5 * 48,
        13 * 13 * 384 * 3 * 3 * 256,
        13 * 13 * 384 * 3 * 3 * 192,
        13 * 13 * 256 * 3 * 3 * 192,
        9216 * 4096,
        4096 * 4096,
        4096 * 1000,
    ]
    assert tool.flop_per_image(model) == 6 * sum(multiplications) - 2 * multiplications[0] == 4_135_610_496
    kept = [
        224 * 224 * 3,
        2 * 55 * 55 * 96 + 27 * 27 * 96,  # convolution, normalization, pooling
        2 * 27 * 27 * 256 + 13 * 13 * 256,
        2 * 13 * 13 * 256,  # joined, once for each tower
        2 * 13 * 13 * 384 + 13 * 13 * 256 + 6 * 6 * 256,
        2 * 6 * 6 * 256 + 2 * 4096,
        2 * 4096 + 2 * 4096 + 4096,
        1000,
    ]
    paper = tool.on_paper(model, 128, 4)
    assert paper["activations"] == pytest.approx(128 * 4 * sum(kept) / 1e6)
    assert paper["weights"] == paper["momentum"] == paper["gradients"] == 4 * 60_965_224 / 1e6


def test_medians_are_of_the_rounds(tool):
    turns = {
        "keras": [{"images_per_second": s, "product_gflops": 100.0} for s in (10.0, 20.0, 40.0)],
        "pinned": [
            {"images_per_second": s, "product_gflops": g} for s, g in ((20.0, 100.0), (20.0, 50.0), (60.0, 100.0))
        ],
    }
    said = {row: {"parameters": 7, "peak_mb": 1.0} for row in turns}
    network = {"parameters": 7, "gflop_per_image": 4.0, "paper_mb": {4: {}, 2: {}}}
    found = tool.summary(said, turns, network)
    assert found["pinned"]["images_per_second"] == 20.0
    assert found["pinned"]["of_keras"] == 1.5  # of 2.0, 1.0 and 1.5
    assert found["pinned"]["of_limit"] == 1.6  # of 0.8, 1.6 and 2.4
    with pytest.raises(RuntimeError, match="keras has 8 parameters instead of 7"):
        tool.summary({"keras": {"parameters": 8, "peak_mb": 1.0}}, turns, network)


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--rows=pinned,cuda"], "--rows=pinned,cuda: 'cuda' is none of keras, unpinned"),
        (["--rows=pinned,pinned"], "--rows=pinned,pinned: 'pinned' is none of"),
        (["--json=no/such/folder.json"], "--json=no/such/folder.json: there is no folder for it"),
        (["--width=inf"], "width must give each of two towers"),
        (["--rounds=0"], "--rounds=0: give at least 1"),
        (["--width=0.01"], "width must give each of two towers"),
    ],
)
def test_wrong_flags_are_named(flags, words):
    done = run(*flags)
    assert done.returncode == 2
    assert words in done.stderr and len(done.stderr.splitlines()) == 1
