"""Writing files: atomically, one process at a time, with a progress bar.

A lock is the open file's, kept by the operating system: it is gone when the last process that holds it ends, however it
ends. It holds between machines that share a file system with locks (NFS, Lustre with `flock`).
"""

import contextlib
import datetime
import errno
import fcntl
import os
import secrets
import shutil
import socket

from tqdm import tqdm

from keras_alexnet.errors import RunError, printable

_TEMPORARY = ".writing-"


@contextlib.contextmanager
def atomic_write(path, mode="w", **options):
    """A block with an open temporary file that replaces `path` at its end; after an exception it is removed.

    The mode is "w" or "wb"; the options are further arguments of `open`.
    """
    temporary = _temporary_name(os.path.dirname(path))
    try:
        with open(temporary, mode.replace("w", "x"), encoding=None if "b" in mode else "utf-8", **options) as file:
            yield file
            # The content is on the disk before the name is: after a power cut a name never stands for an empty file.
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


def atomic_directory(parent, name, write):
    """Writes a temporary folder and renames it; after an exception it is removed.

    Args:
        parent: str, the folder that it is made in.
        name: function of nothing -> str, the final path; called again when another process has just taken it.
        write: function of the temporary folder's path, str.

    Returns the final path, str.
    """
    temporary = _temporary_name(parent)
    os.mkdir(temporary)
    with _descriptor(temporary) as lock:
        try:
            # `remove_temp_files` of another process leaves a locked folder alone.
            with contextlib.suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX)
            write(temporary)
            for folder, _, files in os.walk(temporary):
                for file in files:
                    sync(os.path.join(folder, file))
            while True:
                path = name()
                try:
                    os.rename(temporary, path)
                    return path
                except OSError as error:
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                        raise
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def remove_temp_files(folder):
    """Removes what killed processes left of `atomic_write` and `atomic_directory`; no other may write files there."""
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if name.startswith(_TEMPORARY) and os.path.isfile(path):
            os.unlink(path)
        elif name.startswith(_TEMPORARY):
            # Where another process is writing it, the lock fails.
            with contextlib.suppress(OSError), _descriptor(path) as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)


def sync(path):
    """Writes a file, or the names in a folder, to the disk: they survive a power cut from here on."""
    with _descriptor(path) as descriptor:
        os.fsync(descriptor)


@contextlib.contextmanager
def _descriptor(path):
    descriptor = os.open(path, os.O_RDONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def acquire(path):
    """Locks the file `path`, which is created where it is missing, without waiting.

    Returns the open file, whose `close` releases the lock; None where another process holds it. Raises RunError where
    the file system has no locks.
    """
    file = open(path, "a+", encoding="utf-8")  # noqa: SIM115 (closing it would release the lock)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    except OSError as error:
        file.close()
        raise RunError(f"{path}: cannot be locked ({error.strerror}); name a folder of another file system") from None
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    # The owner's name is for people only: on a full disk the lock holds without it.
    with contextlib.suppress(OSError):
        file.truncate(0)
        file.write(f"{socket.gethostname()}, process {os.getpid()}, since {now}")
        file.flush()
    return file


def owner(path):
    """Who locked a file last, str: host, process and time; "somebody" where that is not written."""
    with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
        return printable(file.read(300)) or "somebody"
    return "somebody"


def progress_bar(label, unit="images"):
    """A function of (done, total) that draws a bar with the speed and the time left, on a terminal only."""
    shown = tqdm(desc=label, unit=f" {unit}", unit_scale=unit == "bytes", disable=None, leave=False)

    def show(done, total):
        shown.total = total
        shown.update(done - shown.n)
        if done >= total:
            shown.close()

    return show


def _temporary_name(folder):
    return os.path.join(folder or ".", f"{_TEMPORARY}{os.getpid()}-{secrets.token_hex(4)}")
