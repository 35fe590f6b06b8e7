import errno
import fcntl
import os
import socket
import subprocess
import sys

import pytest

from keras_alexnet import files
from keras_alexnet.errors import RunError
from tests.runs import ROOT

# Takes a lock, says whether it got it, and waits for a line.
TAKER = """import sys; from keras_alexnet import files
lock = files.acquire(sys.argv[1])
print(bool(lock), flush=True)
input()"""


def test_a_file_is_whole_or_as_it_was(tmp_path):
    with files.atomic_write(str(tmp_path / "a")) as file:
        file.write("whole")
        assert not (tmp_path / "a").exists()
        files.remove_temp_files(str(tmp_path))  # another process leaves it alone
    (tmp_path / "b").touch()
    assert os.stat(tmp_path / "a").st_mode == os.stat(tmp_path / "b").st_mode
    with pytest.raises(RuntimeError), files.atomic_write(str(tmp_path / "a"), "wb") as file:
        file.write(b"half")
        raise RuntimeError
    with pytest.raises(OSError, match="No space left on device: '.*a'"), files.atomic_write(str(tmp_path / "a")):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert sorted(os.listdir(tmp_path)) == ["a", "b"] and (tmp_path / "a").read_text() == "whole"


def test_a_version_takes_its_place_whole_or_the_next_one(tmp_path, monkeypatch):
    rename = os.rename

    def write(folder):
        (tmp_path / folder / "own").touch()
        assert not (tmp_path / "1").exists()
        files.remove_temp_files(str(tmp_path))  # another process leaves it alone

    def rename_late(temporary, path):
        monkeypatch.undo()
        (tmp_path / "1").mkdir()
        (tmp_path / "1" / "other").touch()
        rename(temporary, path)

    monkeypatch.setattr(os, "rename", rename_late)
    assert files.write_version(str(tmp_path), write) == str(tmp_path / "2")
    with pytest.raises(AssertionError):
        files.write_version(str(tmp_path), write)
    # Left by killed processes.
    (tmp_path / ".writing-1").touch()
    (tmp_path / ".writing-2").mkdir()
    files.remove_temp_files(str(tmp_path))
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["1", "2", "other", "own"]
    assert os.stat(tmp_path / "1").st_mode == os.stat(tmp_path / "2").st_mode


def test_one_process_gets_a_lock_and_its_end_releases_it(tmp_path, monkeypatch):
    path = str(tmp_path / "lock")
    assert files.owner(path) == "somebody"
    command, streams = [sys.executable, "-c", TAKER, path], {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **streams, text=True, cwd=ROOT) as holder:
        assert holder.stdout.readline() == "True\n"
        assert files.acquire(path) is None
        assert files.owner(path).startswith(f"{socket.gethostname()}, process {holder.pid}, since 20")
        holder.kill()  # no time to clean up
    lock = files.acquire(path)
    assert f"process {os.getpid()}, " in files.owner(path)
    assert files.acquire(path) is None  # not even this process a second time
    lock.close()

    def refuse(file, how):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(RunError, match=r"lock: cannot be locked \(No locks available\); name a folder on another"):
        files.acquire(path)
