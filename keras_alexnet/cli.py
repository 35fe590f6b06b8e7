"""How a command starts, prints tables, is stopped by signals, and ends: each failure in one line."""

import contextlib
import dataclasses
import io
import os
import signal
import sys
import tempfile

from keras_alexnet.errors import ArgumentError, RequeueError, RunError, UsageError

REQUEUE = 75  # EX_TEMPFAIL of sysexits.h, "try again later": schedulers are set to it, see docs/clusters.md
# Schedulers send SIGTERM, before it SIGUSR1 where asked to (Slurm: --signal=USR1@120); a closed terminal sends SIGHUP.
STOPPING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)


def run_command(command, main, argv):
    """Runs `main(argv)` as the command `python -m keras_alexnet.COMMAND`, whose name is written before errors.

    Returns the exit code: 0 done, 1 failed, 2 wrong usage, 75 stopped by a signal and resumable, 130 by Ctrl-C.
    """
    # The package uses TensorFlow's graphs, whichever backend Keras is configured with.
    os.environ["KERAS_BACKEND"] = "tensorflow"
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the shell: >&-
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (open as long as the process)
        # A file's name may not be text in the terminal's encoding; it is shown with escapes.
        if isinstance(getattr(sys, name), io.TextIOWrapper):
            getattr(sys, name).reconfigure(errors="backslashreplace")
    try:
        main(argv)
    except UsageError as error:
        return _fail(command, error, 2)
    except ArgumentError as error:
        return _fail(command, f"--{error.name}={error.value}: {error.problem}", 2)
    except BrokenPipeError:
        # The reader of the output has closed it (`| head`): the rest of the buffer is discarded.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (RunError, OSError) as error:
        # A full disk, a folder without permission: the operating system's message names the file.
        return _fail(command, error, REQUEUE if isinstance(error, RequeueError) else 1)
    except Exception as error:
        # TensorFlow writes logs and exports itself, and has its own errors for a full disk or a missing folder.
        tensorflow = sys.modules.get("tensorflow")
        if tensorflow is None or not isinstance(error, tensorflow.errors.OpError):
            raise
        return _fail(command, error.message, 1)
    except KeyboardInterrupt:
        return _fail(command, "interrupted", 130)
    return 0


@contextlib.contextmanager
def quiet_start():
    """Hides what TensorFlow prints while it is imported, unless TF_CPP_MIN_LOG_LEVEL is set or the import fails.

    Version 2.21 reports its build and the absence of a GPU before any setting can stop it.
    """
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3") != "3":
        yield
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    with tempfile.TemporaryFile() as output:
        try:
            with _stderr_to(output):
                yield
        except (UsageError, ArgumentError, RequeueError, KeyboardInterrupt):
            raise  # not a failure of the import: its one line is enough
        except BaseException:
            output.seek(0)
            os.write(2, output.read())
            raise


def start_tensorflow():
    """Imports TensorFlow and finds its devices, quietly."""
    with quiet_start():
        # A command imports TensorFlow after it has parsed its flags: `--help` and a wrong flag are answered at once.
        import tensorflow as tf

        tf.config.list_logical_devices()


@contextlib.contextmanager
def hidden_library_messages():
    """Hides what C libraries print about broken images (libjpeg does); the error that follows says it."""
    with open(os.devnull, "wb") as nowhere, _stderr_to(nowhere):
        yield


@contextlib.contextmanager
def _stderr_to(file):
    """Redirects what the process and its C libraries write to the standard error into an open file."""
    sys.stderr.flush()
    try:
        kept = os.dup(2)
    except OSError:  # closed by the shell: there is nothing to redirect
        yield
        return
    os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _fail(command, message, code):
    text = " ".join(str(message).split()) or type(message).__name__
    print(f"{command}: {text}", file=sys.stderr)
    return code


class StopRequest:
    """Whether a signal has asked the process to stop: a scheduler's, a closed terminal's, or Ctrl-C."""

    def __init__(self):
        self.signal = None  # the number of the first one
        # A signal raises RequeueError (Ctrl-C: KeyboardInterrupt) where it arrives, since there is nothing to save yet.
        self.at_once = True

    def __bool__(self):
        return self.signal is not None

    def listen(self):
        """Sets the handlers; again after TensorFlow's multi-worker strategy is made, which replaces that of SIGTERM."""
        with contextlib.suppress(ValueError):  # only the main thread may set handlers
            for number in STOPPING:
                # What is ignored, such as SIGINT in a shell's background or SIGHUP under nohup, stays ignored.
                if signal.getsignal(number) != signal.SIG_IGN:
                    signal.signal(number, self._note)

    def _note(self, number, frame):
        again = self.signal == number
        # Noted first: the exception may be lost in a library that passes over those of its own imports or destructors.
        self.signal = self.signal or number
        if number == signal.SIGINT and (self.at_once or again):
            raise KeyboardInterrupt
        if self.at_once:
            name = signal.Signals(number).name
            raise RequeueError(f"stopped by {name} before the first step; the same command starts again")


@contextlib.contextmanager
def catch_signals():
    """A block in which signals are noted in the StopRequest that it yields; a second Ctrl-C interrupts as usual."""
    request, before = StopRequest(), {number: signal.getsignal(number) for number in STOPPING}
    request.listen()
    try:
        yield request
    finally:
        with contextlib.suppress(ValueError):  # as above
            for number, handler in before.items():
                signal.signal(number, handler)


@dataclasses.dataclass(frozen=True)
class Table:
    """A table of the terminal or of a report."""

    title: str  # "" for none
    columns: tuple[str, ...]  # the headings
    rows: tuple[tuple[str, ...], ...]
    note: str = ""  # printed below it in parentheses

    def as_text(self):
        """The table for a terminal, str; columns of numbers are right-aligned."""
        columns = []
        for heading, *cells in zip(self.columns, *self.rows, strict=True):
            width = max(map(len, [heading, *cells]))
            is_numeric = all(cell[:1] in "+-0123456789" for cell in cells)
            columns.append([cell.rjust(width) if is_numeric else cell.ljust(width) for cell in (heading, *cells)])
        lines = [self.title, ""] if self.title else []
        lines += ["  ".join(row).rstrip() for row in zip(*columns, strict=True)]
        return "\n".join([*lines, f"({self.note})"] if self.note else lines)
