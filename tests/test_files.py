import errno
import fcntl
import os
import socket
import stat
import subprocess
import sys

import pytest

from keras_alexnet import files
from keras_alexnet.errors import RunError
from tests.runs import ROOT

# Takes a lock, says whether it got it, and waits for a line.
TAKER = """import sys
from keras_alexnet import files
lock = files.acquire(sys.argv[1])
print(bool(lock), flush=True)
input()
"""


def test_a_file_is_whole_and_readable_as_open_would_make_it(tmp_path):
    with files.atomic_write(str(tmp_path / "a.txt")) as file:
        file.write("whole")
        assert not (tmp_path / "a.txt").exists()
    (tmp_path / "b.txt").write_text("as open makes it")
    assert (tmp_path / "a.txt").read_text() == "whole"
    assert stat.S_IMODE(os.stat(tmp_path / "a.txt").st_mode) == stat.S_IMODE(os.stat(tmp_path / "b.txt").st_mode)


def test_after_an_exception_the_old_file_is_there_and_nothing_else(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"old")
    with pytest.raises(RuntimeError), files.atomic_write(str(tmp_path / "a.bin"), "wb") as file:
        file.write(b"half")
        raise RuntimeError
    with pytest.raises(RuntimeError), files.atomic_directory(str(tmp_path), lambda: str(tmp_path / "1")) as (folder, _):
        open(os.path.join(folder, "half"), "w").close()
        raise RuntimeError
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.bin", b"old")]


def test_a_folder_takes_its_place_whole_or_the_next_one(tmp_path):
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "other").touch()
    places = iter(["1", "2"])
    with files.atomic_directory(str(tmp_path), lambda: str(tmp_path / next(places))) as (folder, written):
        (tmp_path / folder / "own").touch()
        assert not (tmp_path / "2").exists() and written.path is None
        files.remove_temp_files(str(tmp_path))  # another process leaves it alone
    assert written.path == str(tmp_path / "2")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["1", "2", "other", "own"]
    assert os.stat(tmp_path / "1").st_mode == os.stat(tmp_path / "2").st_mode
    # Left by killed processes.
    (tmp_path / ".writing-1").touch()
    (tmp_path / ".writing-2").mkdir()
    files.remove_temp_files(str(tmp_path))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1", "2"]


def test_a_place_that_cannot_be_taken_leaves_nothing(tmp_path):
    target = tmp_path / "no" / "1"
    with pytest.raises(FileNotFoundError), files.atomic_directory(str(tmp_path), lambda: str(target)):
        pass
    assert not list(tmp_path.iterdir())


def test_one_process_gets_a_lock_and_its_end_releases_it(tmp_path):
    path = str(tmp_path / "lock")
    command = [sys.executable, "-c", TAKER, path]
    first, second = (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(2)
    )
    took = {process.stdout.readline(): process for process in (first, second)}
    assert files.acquire(path) is None
    holder = took["True\n"]
    assert files.owner(path).startswith(f"{socket.gethostname()}, process {holder.pid}, since 20")
    holder.kill()  # no time to clean up
    for process in (first, second):
        process.communicate("\n")
    lock = files.acquire(path)
    assert f"process {os.getpid()}, " in files.owner(path)
    assert files.acquire(path) is None  # not even this process a second time
    # It lasts as long as a process that it was passed to.
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=(lock.fileno(),))
    lock.close()
    assert files.acquire(path) is None
    child.communicate(b"")
    files.acquire(path).close()


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def refuse(file, how):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(RunError, match=r"lock: cannot be locked \(No locks available\); name a folder of another"):
        files.acquire(str(tmp_path / "lock"))


def test_an_owner_that_is_not_written_or_garbage(tmp_path):
    assert files.owner(str(tmp_path / "none")) == "somebody"
    (tmp_path / "lock").write_bytes(b"\x1b[31m\xff" * 999)
    owner = files.owner(str(tmp_path / "lock"))
    assert owner.startswith("\\x1b[31m") and len(owner) < 1000


def test_a_progress_bar_is_for_terminals(capsys):
    show = files.progress_bar("reading", "bytes")
    show(1, 2)
    show(2, 2)
    assert capsys.readouterr() == ("", "")
