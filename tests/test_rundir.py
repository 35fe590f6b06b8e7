import re
import shutil
import subprocess

import pytest
import tensorflow as tf

from keras_alexnet import provenance


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_commit(tmp_path, monkeypatch):
    """The commit's first seven digits; a + after any change of a file that it has, within the package only."""

    def git(*arguments):
        who = ("-c", "user.name=a", "-c", "user.email=a@b")
        run = subprocess.run(["git", "-C", tmp_path, *who, *arguments], check=True, capture_output=True, text=True)
        return run.stdout.strip()

    package = tmp_path / "keras_alexnet"
    package.mkdir()
    monkeypatch.setattr(provenance, "__file__", str(package / "provenance.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.commit.__wrapped__() == "unknown"
    for file in (package / "provenance.py", package / "run.py", tmp_path / "README.md"):
        file.write_text("a")
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message=first")
    head = git("rev-parse", "HEAD")
    assert provenance.commit.__wrapped__() == head[:7]
    (tmp_path / "README.md").write_text("b")
    assert provenance.commit.__wrapped__() == head[:7]
    (package / "run.py").write_text("b")
    assert provenance.commit.__wrapped__() == head[:7] + "+"


def test_device():
    found = provenance.device()
    assert found.endswith(f", TensorFlow {tf.__version__}")
    assert re.match(r"\d+ CPU cores? \(", found) or tf.config.list_physical_devices("GPU")


def test_what_is_not_installed_is_said(monkeypatch):
    monkeypatch.setattr(provenance, "PACKAGES", ("tensorflow", "no-such-package"))
    assert provenance.packages() == {"tensorflow": tf.__version__, "no-such-package": "not installed"}
