"""Signals that ask a run to stop: a scheduler's SIGTERM, its warning before it, a closed terminal, Ctrl-C."""

import contextlib
import signal
import threading

from keras_alexnet.errors import RequeueError

# Slurm sends SIGTERM and, after KillWait, SIGKILL; `--signal=USR1@120` announces it two minutes before.
STOPPING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)


class StopRequest:
    """Whether the process was asked to stop.

    Attributes:
        signal: int, the number of the first signal, or None.
        at_once: bool, a signal raises RequeueError (Ctrl-C: KeyboardInterrupt) where it arrives, since there is nothing
            to save yet.
    """

    def __init__(self):
        self.signal, self.at_once = None, True

    def __bool__(self):
        return self.signal is not None


@contextlib.contextmanager
def catch_signals():
    """A block in which the signals are noted; a second Ctrl-C interrupts as usual.

    Yields:
        StopRequest.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request  # only the main thread may set handlers
        return

    def note(number, frame):
        if number == signal.SIGINT and (request.at_once or request.signal == signal.SIGINT):
            raise KeyboardInterrupt
        if request.at_once:
            name = signal.Signals(number).name
            raise RequeueError(f"stopped by {name} before the first step; the same command starts again")
        request.signal = request.signal or number

    # A signal that is ignored, such as SIGINT in a shell's background or SIGHUP under nohup, stays ignored.
    before = {number: signal.getsignal(number) for number in STOPPING}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:
            signal.signal(number, note)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
