"""How commands start, print tables, react to signals, and report each failure in one line."""

import contextlib
import dataclasses
import io
import logging
import os
import signal
import sys
import tempfile

from keras_alexnet.errors import ArgumentError, RequeueError, RunError, UsageError, printable

REQUEUE = 75  # EX_TEMPFAIL of sysexits.h: schedulers can be configured to requeue on it, see docs/clusters.md
# Schedulers send SIGTERM, preceded by SIGUSR1 if requested (Slurm: --signal=USR1@120); a closed terminal sends SIGHUP.
STOPPING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)


def run_command(command, main, argv=None):
    """Runs `main(argv)`, by default with the arguments of this process; error lines start with the name `command`.

    Returns the exit code: 0 done, 1 failed, 2 wrong usage, 75 stopped by a signal and resumable, 130 interrupted by
    Ctrl-C.
    """
    # The package needs TensorFlow, whichever backend Keras is configured with.
    os.environ["KERAS_BACKEND"] = "tensorflow"
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by the shell: >&-
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 (open as long as the process)
        # Lines are shown at once in a pipe too, and with escapes what the terminal's encoding cannot represent.
        if isinstance(getattr(sys, name), io.TextIOWrapper):
            getattr(sys, name).reconfigure(errors="backslashreplace", line_buffering=True)
    try:
        main(sys.argv[1:] if argv is None else argv)
    except UsageError as error:
        return _fail(command, error, 2)
    except ArgumentError as error:
        return _fail(command, f"--{error.name}={error.value}: {error.problem}", 2)
    except BrokenPipeError:
        # The reader has closed the pipe (`| head`): discard the rest of the output.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (RunError, OSError) as error:
        return _fail(command, error, REQUEUE if isinstance(error, RequeueError) else 1)
    except Exception as error:
        # TensorFlow writes files itself (logs, exported models) and raises its own errors for a full disk or missing
        # folder.
        tensorflow = sys.modules.get("tensorflow")
        if tensorflow is None or not isinstance(error, tensorflow.errors.OpError):
            raise
        return _fail(command, error.message, 1)
    except KeyboardInterrupt:
        return _fail(command, "interrupted", 130)
    return 0


@contextlib.contextmanager
def quiet_start():
    """Hides what TensorFlow prints in the block, unless TF_CPP_MIN_LOG_LEVEL is set below 3 or the block fails."""
    # Off by default on CPUs without AVX-512, where it makes a training step about twice as fast all the same.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "3") != "3":
        yield
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    with tempfile.TemporaryFile() as output:
        try:
            with _stderr_to(output):
                yield
        except (UsageError, ArgumentError, RequeueError, KeyboardInterrupt):
            raise  # `run_command` reports these in one line
        except BaseException:
            output.seek(0)
            os.write(2, output.read())
            raise


def start_tensorflow():
    """Imports TensorFlow and initializes its devices, quietly; called after the flags are parsed, since it is slow."""
    with quiet_start():
        import tensorflow as tf

        tf.config.list_logical_devices()
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it warns of grouped convolutions of several sizes


@contextlib.contextmanager
def hidden_library_messages():
    """Hides what C libraries such as libjpeg print about broken images; the error raised afterwards says the same."""
    with open(os.devnull, "wb") as null, _stderr_to(null):
        yield


@contextlib.contextmanager
def _stderr_to(file):
    """Redirects standard error, that of C libraries included, to an open file."""
    sys.stderr.flush()
    try:
        original = os.dup(2)
    except OSError:  # the shell has closed standard error: there is nothing to redirect
        yield
        return
    os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(original, 2)
        os.close(original)


def _fail(command, message, code):
    text = " ".join(str(message).split()) or type(message).__name__
    print(f"{command}: {text}", file=sys.stderr)
    return code


class StopRequest:
    """A stop request by signal (scheduler, closed terminal or Ctrl-C); true once one has arrived."""

    def __init__(self):
        self.signal = None  # the number of the first signal
        # Until training starts there is nothing to save: the handler raises RequeueError (Ctrl-C: KeyboardInterrupt).
        self.raise_immediately = True

    def __bool__(self):
        return self.signal is not None

    def listen(self):
        """Sets the handlers. Call again after creating a multi-worker strategy, which replaces the SIGTERM handler."""
        with contextlib.suppress(ValueError):  # only the main thread may set handlers
            for number in STOPPING:
                # Ignored signals stay ignored, such as SIGHUP under nohup or SIGINT of a background job.
                if signal.getsignal(number) != signal.SIG_IGN:
                    signal.signal(number, self._handle)

    def _handle(self, number, frame):
        is_repeated = self.signal == number
        # Recorded first: a library that swallows exceptions in its imports or destructors may swallow this one too.
        self.signal = self.signal or number
        if number == signal.SIGINT and (self.raise_immediately or is_repeated):
            raise KeyboardInterrupt
        if self.raise_immediately:
            name = signal.Signals(number).name
            raise RequeueError(f"stopped by {name} before the first step; run the same command again")


@contextlib.contextmanager
def catch_signals():
    """Yields a StopRequest that records signals during the block; a second Ctrl-C raises KeyboardInterrupt."""
    request, handlers = StopRequest(), {number: signal.getsignal(number) for number in STOPPING}
    request.listen()
    try:
        yield request
    finally:
        with contextlib.suppress(ValueError):  # only the main thread may set handlers
            for number, handler in handlers.items():
                signal.signal(number, handler)


@dataclasses.dataclass(frozen=True)
class Table:
    """A table for the terminal or for a report."""

    title: str  # "" for none
    columns: tuple[str, ...]  # headings
    rows: tuple[tuple[str, ...], ...]
    note: str = ""  # printed in parentheses below the rows

    def as_text(self):
        """The table for a terminal, str; columns of numbers are right-aligned."""
        columns = []
        for heading, *cells in zip(self.columns, *self.rows, strict=True):
            cells = list(map(printable, cells))
            width = max(map(len, [heading, *cells]))
            is_numeric = all(cell[:1] in "+-0123456789" for cell in cells)
            columns.append([cell.rjust(width) if is_numeric else cell.ljust(width) for cell in (heading, *cells)])
        lines = [self.title, ""] if self.title else []
        lines += ["  ".join(row).rstrip() for row in zip(*columns, strict=True)]
        return "\n".join([*lines, f"({self.note})"] if self.note else lines)
