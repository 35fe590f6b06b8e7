"""Files and folders that are whole or not there: written beside their place and then renamed into it."""

import contextlib
import errno
import os
import shutil
import tempfile
import types

_ASIDE = ".writing-"


@contextlib.contextmanager
def written_aside(path, mode="w", **settings):
    """Opens a file that takes its place at the end of the block; after an exception it is as if it had never been.

    Args:
        path: str, where the file is to be; its folder exists.
        mode: "w" or "wb".
        settings: further arguments of `open`, such as newline.

    Yields:
        the open file.
    """
    handle, aside = tempfile.mkstemp(dir=os.path.dirname(path) or ".", prefix=_ASIDE)
    try:
        with open(handle, mode, encoding=None if "b" in mode else "utf-8", **settings) as file:
            yield file
            # On the disk before the name is: a power cut must not leave the name and nothing behind it.
            file.flush()
            os.fsync(file.fileno())
        # mkstemp gives its files to their owner only; this one is to be what `open` would have made.
        os.chmod(aside, 0o666 & ~_umask())
        os.replace(aside, path)
    except BaseException:
        os.unlink(aside)
        raise


@contextlib.contextmanager
def folder_written_aside(parent, name):
    """Makes a folder that takes its place at the end of the block; after an exception it is as if it had never been.

    Args:
        parent: str, the folder that it is to be in.
        name: function of nothing -> str, the place to take; asked again when another program has just taken it.

    Yields:
        (str, the folder to write into; an object whose `path` is the place taken, after the block).
    """
    aside = tempfile.mkdtemp(dir=parent, prefix=_ASIDE)
    taken = types.SimpleNamespace(path=None)
    try:
        yield aside, taken
        for folder, _, files in os.walk(aside):
            for file in files:
                with open(os.path.join(folder, file), "rb") as opened:
                    os.fsync(opened.fileno())
        os.chmod(aside, 0o777 & ~_umask())  # mkdtemp makes it private; what reads it may be another user
        while taken.path is None:
            place = name()
            try:
                os.rename(aside, place)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                    raise
            else:
                taken.path = place
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def remove_asides(folder):
    """Removes what a killed process was writing aside; for who alone writes there."""
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if name.startswith(_ASIDE) and os.path.isfile(path):
            os.unlink(path)


def sync_folder(path):
    """Puts the names in a folder on the disk: what was renamed into it survives a power cut from here on."""
    folder = os.open(path, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _umask():
    umask = os.umask(0)
    os.umask(umask)
    return umask
