"""How commands start, are stopped and end."""

import ctypes
import os
import signal
import subprocess
import sys

import pytest
import tensorflow as tf

from keras_alexnet import cli
from keras_alexnet.cli import quiet_start, run_command
from keras_alexnet.errors import ArgumentError, RequeueError, RunError, UsageError
from tests.runs import ROOT


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (UsageError("--flag=x:\n wrong"), 2, "--flag=x: wrong"),
        (ArgumentError("width", -1, "must be above 0"), 2, "--width=-1: must be above 0"),
        (RunError("went wrong"), 1, "went wrong"),
        (RequeueError("stopped"), 75, "stopped"),
        (PermissionError(13, "Permission denied", "run"), 1, "[Errno 13] Permission denied: 'run'"),
        (tf.errors.NotFoundError(None, None, "no such\nfile"), 1, "no such file"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_each_end_has_its_code_and_its_line(error, code, words, capsys):
    def fail(argv):
        raise error

    assert run_command("command", fail, []) == code
    assert capsys.readouterr().err == f"command: {words}\n"
    with pytest.raises(ZeroDivisionError):  # a bug keeps its stack trace
        run_command("command", lambda argv: 1 / 0, [])


def test_help_and_wrong_flags_do_not_import_tensorflow():
    """Without docstrings too, and with closed streams."""
    code = """import sys; from keras_alexnet import cli, evaluate, export, predict, train
for command in (evaluate, export, predict, train):
    if cli.run_command('c', command.main, ['--no_such_flag']) != 2: sys.exit(3)
    try: command.main(['--help'])
    except SystemExit as end: print(end.code)
if {'tensorflow', 'keras'} & set(sys.modules): sys.exit(4)"""
    done = subprocess.run([sys.executable, "-OO", "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and done.stderr.count("\n") == 4, done.stderr
    assert "--learning_rate" in done.stdout and done.stdout.splitlines().count("0") == 4
    command = f"exec {sys.executable} -m keras_alexnet.train --help >&- 2>&-"
    assert subprocess.run(["sh", "-c", command], cwd=ROOT).returncode == 0


def test_the_start_of_tensorflow_is_quiet_and_its_failure_is_not(monkeypatch, capfd):
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL")
    code = "from keras_alexnet.cli import start_tensorflow; start_tensorflow()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    with pytest.raises(ImportError), quiet_start():
        os.write(2, b"the reason")
        raise ImportError
    with pytest.raises(UsageError), quiet_start():
        os.write(2, b"TensorFlow's log")
        raise UsageError("wrong")
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "0")
    with quiet_start():
        os.write(2, b", shown on request")
    assert capfd.readouterr().err == "the reason, shown on request"


def replace_handler(number):
    """What TensorFlow's multi-worker strategy does: Python does not know of it."""
    ctypes.CDLL(None).signal(number, signal.SIG_IGN)


@pytest.mark.usefixtures("default_handlers")
@pytest.mark.parametrize("number", cli.STOPPING)
def test_a_signal_is_noted_or_ends_what_has_nothing_to_save(number):
    before = signal.getsignal(number)
    with cli.catch_signals() as stop:
        stop.at_once = False
        replace_handler(number)
        stop.listen()
        assert not stop
        os.kill(os.getpid(), number)
        assert stop and stop.signal == number
        os.kill(os.getpid(), signal.SIGUSR1)
        assert stop.signal == number  # the first one counts
    assert signal.getsignal(number) is before
    with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else RequeueError), cli.catch_signals():
        os.kill(os.getpid(), number)


@pytest.mark.usefixtures("default_handlers")
def test_a_second_ctrl_c_interrupts_and_what_is_ignored_stays_ignored():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    with pytest.raises(KeyboardInterrupt), cli.catch_signals() as stop:
        stop.at_once = False
        os.kill(os.getpid(), signal.SIGHUP)
        assert not stop
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
