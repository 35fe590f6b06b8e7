"""Errors that a user can act on, and how messages of others are shortened to one line."""

import contextlib
import importlib


class UsageError(ValueError):
    """What was asked for cannot be done: a flag, a path or a device is wrong (exit code 2)."""


class ArgumentError(ValueError):
    """An argument has a wrong value (exit code 2); the problem says what is allowed, such as "must be 1 or 2"."""

    def __init__(self, name, value, problem):
        super().__init__(name, value, problem)
        self.name, self.value, self.problem = name, value, problem

    def __str__(self):
        return f"{self.name} {self.problem}. Received: {self.name}={self.value!r}"


class RunError(RuntimeError):
    """Something went wrong while running that the user can act on (exit code 1)."""


class RequeueError(RunError):
    """Stopped by a signal; a checkpoint was kept and the same command resumes (exit code 75)."""


def optional(module, extra, problem=None):
    """Imports a module that an extra installs. Raises UsageError with the command for that where it is missing."""
    try:
        return importlib.import_module(module)
    except ImportError:
        problem = problem or f"{module.split('.')[0].replace('_', '-')} is not installed;"
        raise UsageError(f"{problem} pip install 'keras-alexnet[{extra}]'") from None


@contextlib.contextmanager
def reading(path, problem="cannot be read", kind=RunError):
    """A block that reads files of a run or a model: whatever fails in it becomes a `kind`, `PATH: PROBLEM (why)`."""
    try:
        yield
    except (UsageError, RequeueError, MemoryError):
        raise
    except RunError as error:
        raise (error if kind is RunError else kind(str(error))) from None
    except Exception as error:
        # What is truncated or written by another program fails with errors of all kinds (weights: an IndexError).
        words = printable(" ".join(str(error).split())) or type(error).__name__
        raise kind(f"{path}: {problem} ({words[:200]})") from None


def printable(text):
    """A text from elsewhere for a terminal: control characters are escaped."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def is_utf8(text):
    """Whether the name of a file can be written as UTF-8, bool: surrogates stand for bytes that are not."""
    return text.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in text)


def brief(error):
    """What a TensorFlow error says, in one line without the location in its graph."""
    return brief_message(str(error.message)) or type(error).__name__


def brief_message(message):
    """As `brief`, of the message of an error that a server has sent."""
    # The last paragraph of a function's error; those before tell where in the program its operation was made.
    lines = message.strip().split("\n\n")[-1].strip().splitlines()
    text = next((line for line in lines if not line.startswith(("Detected at node", "<stack traces"))), "")
    text = text.split("}} ")[-1].split(" [Op:")[0]
    return text.removeprefix("assertion failed: [").removesuffix("]") if "assertion failed" in text else text
