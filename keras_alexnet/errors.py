"""How a verb ends: 0 done, 1 failed while running, 2 wrong usage; each failure in one line that names the remedy."""

import os
import sys


class UsageError(ValueError):
    """What was asked for cannot be done: a flag, a path or a device is wrong (exit code 2)."""


class RunError(RuntimeError):
    """Something went wrong while running that the user can act on (exit code 1)."""


def run_verb(name, main, argv):
    """Runs `main(argv)` as the verb `python -m keras_alexnet.NAME` and returns its exit code.

    Args:
        name: str, the verb, as it is written in front of an error.
        main: function of a list of str (without the program's name); returns nothing.
        argv: list of str.

    Returns:
        int: 0 done, 1 failed while running, 2 wrong usage, 130 interrupted from the keyboard.
    """
    # TensorFlow's C++ side otherwise reports the absence of a GPU as an error on every CPU. Whoever wants its
    # log sets the variable (0 shows all of it).
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        main(argv)
    except UsageError as error:
        print(f"{name}: {_one_line(error)}", file=sys.stderr)
        return 2
    except RunError as error:
        print(f"{name}: {_one_line(error)}", file=sys.stderr)
        return 1
    except OSError as error:
        # A full disk, a folder without permission: the operating system's words name the file.
        print(f"{name}: {_one_line(error)}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{name}: interrupted", file=sys.stderr)
        return 130
    return 0


def _one_line(error):
    return " ".join(str(error).split()) or type(error).__name__
