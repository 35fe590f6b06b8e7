import errno
import fcntl
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from keras_alexnet import files
from keras_alexnet.errors import RunError

ROOT = Path(__file__).parents[1]
# Takes a lock, says whether it got it, and waits for a line.
TAKER = """import sys
from keras_alexnet import files
lock = files.acquire(sys.argv[1])
print(bool(lock), flush=True)
input()
"""


def taker(path):
    process = subprocess.Popen(
        [sys.executable, "-c", TAKER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    return process, process.stdout.readline() == "True\n"


def test_of_many_processes_one_gets_it_and_its_end_frees_it(tmp_path):
    path = tmp_path / "lock"
    found = [taker(path) for _ in range(4)]
    assert [took for _, took in found] == [True, False, False, False]
    assert files.acquire(str(path)) is None
    assert files.owner(str(path)).startswith(f"{socket.gethostname()}, process {found[0][0].pid}, since 20")
    found[0][0].kill()  # no time to clean up
    for process, _ in found:
        process.communicate("\n")
    with files.acquire(str(path)):
        assert f"process {os.getpid()}, " in files.owner(str(path))
        assert files.acquire(str(path)) is None  # not even this process a second time


def test_it_lasts_as_long_as_a_process_that_it_was_passed_to(tmp_path):
    path = str(tmp_path / "lock")
    lock = files.acquire(path)
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, pass_fds=(lock.fileno(),))
    lock.close()
    assert files.acquire(path) is None
    child.communicate(b"\n")
    files.acquire(path).close()


def test_a_file_system_without_locks_is_named(tmp_path, monkeypatch):
    def refuse(file, how):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(RunError, match=r"lock: cannot be locked \(No locks available\); name a folder of another"):
        files.acquire(str(tmp_path / "lock"))


def test_nobody_and_garbage_have_no_name(tmp_path):
    assert files.owner(str(tmp_path / "none")) == "somebody"
    (tmp_path / "lock").write_bytes(b"\x1b[31m\xff" * 999)
    assert (
        files.owner(str(tmp_path / "lock")).startswith("\\x1b[31m") and len(files.owner(str(tmp_path / "lock"))) < 1000
    )
