import os
import subprocess
import sys

import pytest

from keras_alexnet.cli import run_command
from keras_alexnet.errors import RunError, UsageError


@pytest.mark.parametrize(
    "error, code, words",
    [
        (UsageError("--flag=x:\n wrong"), 2, "command: --flag=x: wrong\n"),
        (RunError("went wrong"), 1, "command: went wrong\n"),
        (PermissionError(13, "Permission denied", "run"), 1, "command: [Errno 13] Permission denied: 'run'\n"),
        (KeyboardInterrupt(), 130, "command: interrupted\n"),
    ],
)
def test_each_end_has_its_code_and_its_line(error, code, words, capsys):
    def fail(argv):
        raise error

    assert run_command("command", fail, []) == code
    assert capsys.readouterr().err == words


def test_what_tensorflow_cannot_write_is_one_line_too(capsys, tmp_path):
    import tensorflow as tf

    def fail(argv):
        tf.io.read_file(str(tmp_path / "no"))

    assert run_command("command", fail, []) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_a_bug_keeps_its_stack_trace():
    def fail(argv):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_command("command", fail, [])


def test_the_start_of_tensorflow_is_quiet_and_its_failure_is_not():
    code = "from keras_alexnet.cli import start_tensorflow; start_tensorflow()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=_without_log_level())
    assert (done.returncode, done.stderr) == (0, "")
    code = (
        "import os; from keras_alexnet.cli import quiet_start\n"
        "with quiet_start():\n os.write(2, b'the reason')\n raise ImportError"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=_without_log_level())
    assert done.stderr.startswith("the reason")


def _without_log_level():
    return {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"}
