"""How a verb ends: 0 done, 1 failed while running, 2 wrong usage; each failure in one line that names the remedy."""

import contextlib
import io
import os
import sys
import tempfile


class UsageError(ValueError):
    """What was asked for cannot be done: a flag, a path or a device is wrong (exit code 2)."""


class RunError(RuntimeError):
    """Something went wrong while running that the user can act on (exit code 1)."""


class RequeueError(RunError):
    """Ended because it was asked to, with what is needed to go on (exit code 75)."""


# EX_TEMPFAIL of sysexits.h, "try again later": LSF's REQUEUE_EXIT_VALUES, Slurm's RequeueExit and a Kubernetes Job's
# podFailurePolicy are told it, see docs/clusters.md.
REQUEUE = 75


def run_verb(name, main, argv):
    """Runs `main(argv)` as the verb `python -m keras_alexnet.NAME` and returns its exit code.

    Args:
        name: str, the verb, as it is written in front of an error.
        main: function of a list of str (without the program's name); returns nothing.
        argv: list of str.

    Returns:
        int: 0 done, 1 failed while running, 2 wrong usage, 75 ended by a signal to be gone on with, 130 interrupted
            from the keyboard.
    """
    # The package is of TensorFlow's graph, whichever backend Keras is set to elsewhere.
    os.environ["KERAS_BACKEND"] = "tensorflow"
    for stream in (sys.stdout, sys.stderr):
        # The name of a file may be no text of the terminal's; it is shown with escapes.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        main(argv)
    except UsageError as error:
        print(f"{name}: {_one_line(error)}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # Whoever read the output wants no more of it (`| head`); what is left in the buffer goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except RequeueError as error:
        print(f"{name}: {_one_line(error)}", file=sys.stderr)
        return REQUEUE
    except (RunError, OSError) as error:
        # A full disk, a folder without permission: the operating system's own words name the file.
        print(f"{name}: {_one_line(error)}", file=sys.stderr)
        return 1
    except Exception as error:
        # TensorFlow writes checkpoints and logs itself, and has errors of its own for a full disk or a missing folder.
        tensorflow = sys.modules.get("tensorflow")
        if tensorflow is None or not isinstance(error, tensorflow.errors.OpError):
            raise
        print(f"{name}: {_one_line(error.message)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130
    return 0


@contextlib.contextmanager
def quiet_start():
    """Keeps what TensorFlow prints while it starts off the screen, unless TF_CPP_MIN_LOG_LEVEL asks for its log.

    Version 2.21 reports its build and the absence of a GPU before any setting can stop it, so the standard error is
    turned away for as long; should the start fail, what was said is shown.
    """
    if "TF_CPP_MIN_LOG_LEVEL" in os.environ:
        yield
        return
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    with tempfile.TemporaryFile() as said:
        try:
            with _stderr_into(said):
                yield
        except UsageError:
            raise
        except BaseException:
            said.seek(0)
            os.write(2, said.read())
            raise


@contextlib.contextmanager
def without_library_words():
    """Keeps off the screen what libraries print of bad pictures (libjpeg does): the error that comes of it says it."""
    with open(os.devnull, "wb") as nowhere, _stderr_into(nowhere):
        yield


@contextlib.contextmanager
def _stderr_into(file):
    """Turns the standard error of the process, libraries' too, into an open file."""
    sys.stderr.flush()
    kept = os.dup(2)
    os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@contextlib.contextmanager
def reading(path):
    """A block that reads something of several files: whatever goes wrong in it becomes a RunError that names it."""
    try:
        yield
    except (UsageError, RunError):
        raise
    except Exception as error:
        # A checkpoint or a model that was cut, mixed up or written by others fails in TensorFlow, Keras or Python, with
        # errors of all kinds (a shortened file of weights is an IndexError).
        raise RunError(f"{path}: cannot be read ({' '.join(str(error).split())[:200]})") from None


def printable(text):
    """A text of somewhere else for a terminal: control characters are escaped."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def start_tensorflow():
    """Imports TensorFlow and finds its devices, quietly."""
    with quiet_start():
        import tensorflow as tf

        tf.config.list_logical_devices()


def brief(error):
    """What a TensorFlow error says, in one line without the places in its graph."""
    return brief_words(str(error.message)) or type(error).__name__


def brief_words(message):
    """As `brief`, of the words of an error that a server has sent."""
    # Of a function's error the last paragraph; before it stands where in the program its operation was made, of which
    # a loaded model knows nothing and says so in two lines.
    lines = message.strip().split("\n\n")[-1].strip().splitlines()
    lines = [line for line in lines if not line.startswith(("Detected at node", "<stack traces"))]
    text = lines[0] if lines else ""
    text = text.split("}} ")[-1].split(" [Op:")[0]
    return text.removeprefix("assertion failed: [").removesuffix("]") if "assertion failed" in text else text


def _one_line(error):
    return " ".join(str(error).split()) or type(error).__name__
