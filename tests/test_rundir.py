import dataclasses
import shutil
import subprocess

import numpy as np
import pytest

from keras_alexnet import rundir
from keras_alexnet.errors import RunError, UsageError


@pytest.fixture
def copy(tiny_run, tmp_path):
    return shutil.copytree(tiny_run, tmp_path / "run", ignore=shutil.ignore_patterns("export", "logs"))


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("flags.cfg", b"--model_dir=x\n--no_such_flag=1\n", r"flags.cfg: is not the flags of a run \('no_such_flag'"),
        ("flags.cfg", b"--model_dir=x\n--width=0.37\n", "is not the flags of a run .width must give two towers"),
        ("class_names.txt", b"", "must hold one name a line, and no name twice"),
        ("class_names.txt", b"a\nb\na\n", "must hold one name a line, and no name twice"),
        ("class_names.txt", b"a\nb\nc\nd\n", "epoch-3: cannot be read"),
        ("statistics.npz", None, "statistics.npz .training again writes it.: cannot be read"),
    ],
)
def test_files_that_do_not_go_together(file, content, words, copy):
    (copy / file).unlink()
    if content is not None:
        (copy / file).write_bytes(content)
    with pytest.raises(RunError, match=words):
        rundir.build(rundir.open_run(str(copy)))


def test_checkpoints_of_a_run(copy, capsys):
    def opened(which="newest"):
        return rundir.open_run(str(copy), which).checkpoint.rpartition("/")[2]

    errors = [row["val_top1_error"] for row in rundir.open_run(str(copy)).history]
    best = 1 + errors.index(min(errors))
    assert best < 3  # or they could not be told apart
    assert opened() == "epoch-3" and opened("best") == f"epoch-{best}"
    index = copy / "checkpoints" / "epoch-3.index"
    whole = index.read_bytes()
    index.write_bytes(whole[: len(whole) // 2])
    assert opened() == "epoch-2" and opened("best") == f"epoch-{best}"
    assert "epoch-3: cannot be read" in capsys.readouterr().err
    for path in (copy / "checkpoints").glob("epoch-[12]*"):
        path.unlink()
    for which in ("newest", "best"):
        with pytest.raises(RunError, match="epoch-3: cannot be read"):
            opened(which)
    index.write_bytes(whole)
    with pytest.raises(RunError, match="the checkpoint of the best epoch is missing; use --checkpoint=newest"):
        opened("best")
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(RunError, match="has no checkpoint yet; let it finish an epoch first"):
        opened()


def test_a_run_is_created_in_an_empty_folder_only(tiny_run, tmp_path):
    run = rundir.open_run(str(tiny_run))
    config = dataclasses.replace(run.config, run=dataclasses.replace(run.config.run, model_dir=str(tmp_path / "new")))
    names = ("a\x0bb", "c\u2028d", "e\rf")  # lines end at line feeds only
    rundir.create(config, run.weights, names, run.statistics)
    again = rundir.open_run(str(tmp_path / "new"))
    assert again.class_names == names and not again.history
    for name, value in run.weights.items():
        np.testing.assert_array_equal(again.weights[name], value)
    with pytest.raises(UsageError, match="is not empty; name a new folder"):
        rundir.create(config, {}, (), None)


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_the_commit_and_a_mark_of_changes(tmp_path, monkeypatch):
    def git(*arguments):
        command = ["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    module, other = tmp_path / "keras_alexnet" / "rundir.py", tmp_path / "README.md"
    module.parent.mkdir()
    monkeypatch.setattr(rundir, "__file__", str(module))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert rundir.commit.__wrapped__() == "unknown"
    for file in (module, other):
        file.write_text("a")
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message=first")
    for file, mark in ((other, ""), (module, "+")):
        file.write_text("b")
        assert rundir.commit.__wrapped__() == git("rev-parse", "HEAD")[:7] + mark
