"""One process at a time: a file whose lock, kept by the operating system, stands for a folder or for a piece of work.

The lock is the open file's, in the process that took it and in those that it is passed on to, and is gone when the last
of them is, however they ended: there is nothing to clean up. What stands in the file says who had it last. It holds
between machines too where they share a file system that has locks (NFS, Lustre with `flock`).
"""

import contextlib
import datetime
import fcntl
import os
import socket

from keras_alexnet.errors import RunError, printable


def take(path):
    """Takes what a file stands for, without waiting.

    Args:
        path: str, the file; made where it is not there, in a folder that is.

    Returns:
        the open file, whose `close` gives it back; None where somebody has it.

    Raises:
        RunError: the file system has no locks.
        OSError: the file cannot be made.
    """
    file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 (it is the lock)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    except OSError as error:
        file.close()
        raise RunError(f"{path}: cannot be locked ({error.strerror}); name a folder of another file system") from None
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    # For people only: on a full disk the lock holds without a name.
    with contextlib.suppress(OSError):
        file.truncate(0)
        file.write(f"{socket.gethostname()}, process {os.getpid()}, since {now}")
        file.flush()
    return file


def holder(path):
    """Who took it last, str: host, process and time; "somebody" where that is not written."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return printable(file.read(300)) or "somebody"
    except OSError:
        return "somebody"
