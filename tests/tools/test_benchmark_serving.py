"""The benchmark of serving on the tiny exported model: its figures add up, and bad flags are one line."""

import json
import subprocess
import sys

import pytest

from keras_alexnet.cli import run_command
from tests.tools.conftest import ROOT, load_tool


@pytest.fixture(scope="module")
def tool():
    return load_tool("benchmark_serving")


def test_the_program_measures_all_and_says_so(folder, server, tmp_path):
    command = [sys.executable, "tools/benchmark_serving.py", f"--model={folder}", "--repeats=8", "--rounds=1"]
    command += [f"--server={server.rest}", f"--json={tmp_path / 'figures.json'}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads((tmp_path / "figures.json").read_text())
    assert [each["batch"] for each in report["answers"]] == [1, 32]
    for each in report["answers"]:
        for name in ("serving", "network", "decode", "plain_decode"):
            assert 0 < each[name]["p50"] <= each[name]["p99"]
        assert each["ratio"] == pytest.approx(each["beyond"] / each["decode"]["p50"])
    assert report["ten_views"]["images"] == 12 and report["ten_views"]["ratio"] > 1
    assert set(report["loading"]) == {"import", "load", "first_answer"}
    assert report["server"]["alone"]["images_per_second"] > 0
    for words in ("serving_default, files", "beyond the network", "ten views:", "fresh process:", "4 at a time: p50"):
        assert words in done.stdout


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        ([], 2, "--model is missing"),
        (["--model={model}", "--repeats=0"], 2, "--repeats=0: give at least 1"),
        (["--model={model}", "nowhere.jpg"], 2, "nowhere.jpg: there is no such file"),
    ],
)
def test_wrong_usage(tool, folder, argv, code, words, capsys):
    assert run_command("benchmark_serving", tool.main, [each.format(model=folder) for each in argv]) == code
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1


def test_a_picture_that_is_none(tool, folder, tmp_path, capsys):
    (tmp_path / "bad.jpg").write_bytes(b"no picture")
    argv = [f"--model={folder}", "--rounds=1", str(tmp_path / "bad.jpg")]
    assert run_command("benchmark_serving", tool.main, argv) == 1
    error = capsys.readouterr().err
    assert "not a JPEG or PNG file" in error and error.count("\n") == 1
