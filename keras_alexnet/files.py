"""Atomic writing, locks between processes, and progress bars.

The operating system ties a lock to an open file and releases it when the last process that has the file open ends, even
by a crash. Locks work between machines that share a file system with locks (NFS, Lustre with `flock`).
"""

import contextlib
import datetime
import errno
import fcntl
import json
import os
import secrets
import shutil
import socket

from tqdm import tqdm

from keras_alexnet.errors import ArgumentError, RunError, printable

_TEMPORARY = ".writing-"


@contextlib.contextmanager
def atomic_write(path, mode="w", **options):
    """Yields an open temporary file that replaces `path` at the end of the block; an exception removes it."""
    temporary = _temporary_name(os.path.dirname(path))
    try:
        with open(temporary, mode.replace("w", "x"), encoding=None if "b" in mode else "utf-8", **options) as file:
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)  # keeps `remove_temp_files` of another process away
            yield file
            # The content must be on the disk before the name, or a power cut could leave an empty file of that name.
            file.flush()
            os.fsync(file.fileno())
            os.replace(temporary, path)  # before the lock is released
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        if isinstance(error, OSError) and error.errno and not error.filename:
            error.filename = path  # a full disk is not named by the system
        raise


def read_json(path):
    """The value in a JSON file. Raises OSError, and ValueError of anything else."""
    with open(path, encoding="utf-8") as file:
        return json.load(file)


def write_json(path, value, **options):
    """Writes a value as JSON, see `atomic_write`; the options are those of `json.dump`."""
    with atomic_write(path) as file:
        json.dump(value, file, **options)


def write_version(parent, write):
    """Writes the next version, the folder PARENT/1 and on, by a function of its temporary folder; returns its path.

    An exception removes the folder. TF Serving reads only folders whose names are numbers; the temporary one begins
    with a dot.
    """
    os.makedirs(parent, exist_ok=True)
    remove_temp_files(parent)
    temporary = _temporary_name(parent)
    os.mkdir(temporary)
    with _descriptor(temporary) as lock:
        try:
            # The lock keeps `remove_temp_files` of another process from removing the folder.
            with contextlib.suppress(OSError):
                fcntl.flock(lock, fcntl.LOCK_EX)
            write(temporary)
            for folder, _, files in os.walk(temporary):
                for file in files:
                    sync(os.path.join(folder, file))
            while True:  # until no other process has just written the same version
                versions = [int(name) for name in os.listdir(parent) if name.isdigit()]
                path = os.path.join(parent, str(max(versions, default=0) + 1))
                try:
                    os.rename(temporary, path)
                    return path
                except OSError as error:
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                        raise
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def make_folder(name, value, folder):
    """Creates a folder that the flag `name` asks for. Raises ArgumentError where it is not writable."""
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise ArgumentError(name, value, f"cannot be created ({error.strerror}); name another folder") from None
    if not os.access(folder, os.W_OK):
        raise ArgumentError(name, value, f"{folder} is not writable; name another folder")


def remove_temp_files(folder):
    """Removes temporary files and folders of killed processes."""
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if name.startswith(_TEMPORARY):
            # Fails if another process is writing it, or has just renamed it.
            with contextlib.suppress(OSError), _descriptor(path) as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True) if os.path.isdir(path) else os.unlink(path)


def sync(path):
    """Flushes a file, or the names in a folder, to the disk, so that they survive a power cut."""
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
    """Locks a file without waiting, and creates it if it is missing.

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
        raise RunError(f"{path}: cannot be locked ({error.strerror}); name a folder on another file system") from None
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    # The text is for people only: on a full disk the lock works without it.
    with contextlib.suppress(OSError):
        file.truncate(0)
        file.write(f"{socket.gethostname()}, process {os.getpid()}, since {now}")
        file.flush()
    return file


def owner(path):
    """The process that locked a file last, str: host, process number and time; "somebody" if that is unknown."""
    with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
        return printable(file.read(300)) or "somebody"
    return "somebody"


def progress_bar(label, unit="images", start=0):
    """A function of (done, total, note="") that draws a bar with speed and remaining time, on a terminal only.

    `start` of the total was done before; the note is shown at the end of the line.
    """
    bar = tqdm(desc=label, unit=f" {unit}", unit_scale=unit == "bytes", initial=start, disable=None, leave=False)

    def show(done, total, note=""):
        bar.total = total
        bar.set_postfix_str(note, refresh=False)
        bar.update(done - bar.n)
        if done >= total:
            bar.close()

    return show


def _temporary_name(folder):
    return os.path.join(folder or ".", f"{_TEMPORARY}{os.getpid()}-{secrets.token_hex(4)}")
