"""Files that are whole or not there: written beside their place and then renamed into it."""

import contextlib
import os
import tempfile


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
    handle, aside = tempfile.mkstemp(dir=os.path.dirname(path) or ".", prefix=".writing-")
    try:
        with open(handle, mode, encoding=None if "b" in mode else "utf-8", **settings) as file:
            yield file
            # On the disk before the name is: a power cut must not leave the name and nothing behind it.
            file.flush()
            os.fsync(file.fileno())
        # mkstemp gives its files to their owner only; this one is to be what `open` would have made.
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(aside, 0o666 & ~umask)
        os.replace(aside, path)
    except BaseException:
        os.unlink(aside)
        raise
