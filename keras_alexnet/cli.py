"""How a command starts and ends: 0 done, 1 failed while running, 2 wrong usage; each failure in one line."""

import contextlib
import io
import os
import sys
import tempfile

from keras_alexnet.errors import ArgumentError, RequeueError, RunError, UsageError

# EX_TEMPFAIL of sysexits.h, "try again later": LSF's REQUEUE_EXIT_VALUES, Slurm's RequeueExit and a Kubernetes Job's
# podFailurePolicy are set to it, see docs/clusters.md.
REQUEUE = 75


def run_command(command, main, argv):
    """Runs `main(argv)` as the command `python -m keras_alexnet.COMMAND`, whose name is written before errors.

    Returns the exit code: 0 done, 1 failed while running, 2 wrong usage, 75 stopped by a signal and resumable, 130
    interrupted from the keyboard.
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
    """Hides what TensorFlow prints while it is imported, unless TF_CPP_MIN_LOG_LEVEL is set to show its log.

    Version 2.21 reports its build and the absence of a GPU before any setting can stop it, so the standard error is
    redirected meanwhile; it is shown if the import fails.
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
    """Redirects the standard error of the process, that of C libraries too, into an open file."""
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
