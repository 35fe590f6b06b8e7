"""A run's folder: how it is opened, and what it says of where it comes from."""

import dataclasses
import re
import shutil
import subprocess

import numpy as np
import pytest
import tensorflow as tf

from keras_alexnet import rundir
from keras_alexnet.data import statistics
from keras_alexnet.errors import ArgumentError, RunError, UsageError


@pytest.fixture
def copy(tiny_run, tmp_path):
    return shutil.copytree(tiny_run, tmp_path / "run", ignore=shutil.ignore_patterns("export", "logs"))


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("flags.cfg", b"--model_dir=x\n--no_such_flag=1\n", r"flags.cfg: is not the flags of a run \('no_such_flag'"),
        ("flags.cfg", b"--model_dir=\xff\n", "flags.cfg: is not the flags of a run"),
        ("class_names.txt", b"", "must hold one name a line, and no name twice"),
        ("class_names.txt", b"a\n\nb\n", "must hold one name a line, and no name twice"),
        ("class_names.txt", b"a\nb\na\n", "must hold one name a line, and no name twice"),
        ("class_names.txt", b"\xff\n", "class_names.txt: cannot be read"),
        ("class_names.txt", None, "class_names.txt: cannot be read"),
        ("class_names.txt", b"a\nb\nc\nd\n", "epoch-3: cannot be read"),
        ("flags.cfg", b"--model_dir=x\n--width=0.37\n", "epoch-3: cannot be read"),
        ("statistics.npz", None, "statistics.npz: is missing; train again to write it"),
        ("statistics.npz", b"", "statistics.npz: "),
    ],
)
def test_files_that_do_not_go_together(file, content, words, copy):
    (copy / file).unlink()
    if content is not None:
        (copy / file).write_bytes(content)
    with pytest.raises(RunError, match=words):
        rundir.build(rundir.open_run(str(copy)))


def test_a_mean_image_that_is_not_finite(copy):
    path = str(copy / "statistics.npz")
    known = statistics.load(path)
    statistics.save(dataclasses.replace(known, mean_image=known.mean_image * np.float32("nan")), path)
    with pytest.raises(RunError, match="not finite"):
        rundir.open_run(str(copy))


def test_checkpoints_of_a_run(copy, capsys):
    def opened(which="newest"):
        return rundir.open_run(str(copy), which).checkpoint.rpartition("/")[2]

    errors = [row["val_top1_error"] for row in rundir.open_run(str(copy)).history]
    assert opened() == "epoch-3" and opened("best") == f"epoch-{1 + errors.index(min(errors))}"
    index = copy / "checkpoints" / "epoch-3.index"
    whole = index.read_bytes()
    for size in (0, 20, len(whole) // 2):
        index.write_bytes(whole[:size])
        assert opened() == "epoch-2"
        assert "epoch-3: cannot be read" in capsys.readouterr().err
    for path in (copy / "checkpoints").glob("epoch-[12]*"):
        path.unlink()
    with pytest.raises(RunError, match="epoch-3: cannot be read"):
        opened()
    index.write_bytes(whole)
    with pytest.raises(RunError, match="the checkpoint of the best epoch is missing; take the newest"):
        opened("best")
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(RunError, match="has no checkpoint yet; let it finish an epoch first"):
        opened()
    with pytest.raises(UsageError, match="is not a run"):
        rundir.open_run(str(copy / "checkpoints"))
    with pytest.raises(ArgumentError, match="must not contain"):
        rundir.open_run(str(copy / "*"))


def test_class_names_are_lines_that_end_at_line_feeds_only(tmp_path):
    names = ("a\x0bb", "c\u2028d", "e\rf", " g ")
    rundir.write_class_names(str(tmp_path), names)
    assert rundir.read_class_names(str(tmp_path)) == names


def test_a_run_is_created_in_an_empty_folder_only(tiny_run, tmp_path):
    run = rundir.open_run(str(tiny_run))
    config = dataclasses.replace(run.config, run=dataclasses.replace(run.config.run, model_dir=str(tmp_path / "new")))
    rundir.create(config, rundir.build(run), run.class_names, run.statistics)
    again = rundir.open_run(str(tmp_path / "new"))
    assert again.class_names == run.class_names and not again.history
    for name, value in run.weights.items():
        np.testing.assert_array_equal(again.weights[name], value)
    with pytest.raises(UsageError, match="is not empty; name a new folder"):
        rundir.create(config, None, (), None)


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_commit(tmp_path, monkeypatch):
    """The commit's first seven digits; a + after any change of a file that it has, within the package only."""

    def git(*arguments):
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        run = subprocess.run(["git", "-C", tmp_path, *who, *arguments], check=True, capture_output=True, text=True)
        return run.stdout.strip()

    package = tmp_path / "keras_alexnet"
    package.mkdir()
    monkeypatch.setattr(rundir, "__file__", str(package / "rundir.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert rundir.commit.__wrapped__() == "unknown"
    for file in (package / "rundir.py", package / "train.py", tmp_path / "README.md"):
        file.write_text("a")
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message=first")
    head = git("rev-parse", "HEAD")
    (tmp_path / "README.md").write_text("b")
    assert rundir.commit.__wrapped__() == head[:7]
    (package / "train.py").write_text("b")
    assert rundir.commit.__wrapped__() == head[:7] + "+"


def test_device_and_packages(monkeypatch):
    found = rundir.device()
    assert found.endswith(f", TensorFlow {tf.__version__}")
    assert re.match(r"\d+ CPU cores? \(", found) or tf.config.list_physical_devices("GPU")
    monkeypatch.setattr(rundir, "PACKAGES", ("tensorflow", "no-such-package"))
    assert rundir.packages() == {"tensorflow": tf.__version__, "no-such-package": "not installed"}
