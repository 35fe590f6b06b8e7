"""One training, in a process of its own that does not outlive this one, or in this one."""

import contextlib
import signal
import subprocess
import sys
import threading

from keras_alexnet.cli import run_command, start_tensorflow

TRAINER = (sys.executable, "-m", "keras_alexnet.train")
PATIENCE = 30.0  # seconds that a trainer has to end after Ctrl-C


def in_a_process(argv, log, lock):
    """Trains in a process of its own.

    Args:
        argv: sequence of str, the trainer's arguments.
        log: str, the file that what it says is added to.
        lock: open file, kept open by the trainer too: a run is taken as long as somebody trains it.

    Returns:
        int, the exit code.
    """
    with open(log, "ab") as said:
        # In a session of its own: Ctrl-C is this process's, and is passed on once.
        process = subprocess.Popen(
            [*TRAINER, *argv],
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=(lock.fileno(),),
        )
        try:
            return process.wait()
        finally:
            _stop(process)


def here(argv, log, lock):
    """As `in_a_process`, in this one: most of a short training's time would be the start of TensorFlow."""
    from keras_alexnet import train

    start_tensorflow()
    import tensorflow as tf

    # It warns that every run's step is compiled anew.
    tf.get_logger().setLevel("ERROR")
    with open(log, "a", encoding="utf-8") as said, contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = run_command("train", train.main, list(argv))
    if code == 130:
        raise KeyboardInterrupt
    return code


@contextlib.contextmanager
def ended_by_signals():
    """A block in which the signals that end a program do what Ctrl-C does: the trainer must not outlive its runner."""

    def interrupt(number, frame):
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # nohup ignores SIGHUP, and is to go on doing so.
    taken = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) == signal.SIG_DFL]
    before = {each: signal.signal(each, interrupt) for each in taken}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _stop(process):
    """Ends a trainer that still runs, as Ctrl-C would; what it has written stays."""
    if process.poll() is not None:
        return
    try:
        process.send_signal(signal.SIGINT)
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        pass
    finally:
        process.kill()
        process.wait()
