"""Signals that ask a run to stop: a scheduler's SIGTERM, its warning before it, a closed terminal, Ctrl-C."""

import contextlib
import signal
import threading

from keras_alexnet.errors import RequeueError

# Slurm sends SIGTERM and, after KillWait, SIGKILL; `--signal=USR1@120` announces it two minutes before.
STOPPING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP)


class StopRequest:
    """Whether the process was asked to stop."""

    def __init__(self):
        self.signal = None  # the number of the first one
        # A signal raises RequeueError (Ctrl-C: KeyboardInterrupt) where it arrives, since there is nothing to save yet.
        self.at_once = True

    def __bool__(self):
        return self.signal is not None

    def listen(self):
        """Sets the handlers; again after TensorFlow's multi-worker strategy is made, which replaces that of SIGTERM."""
        if threading.current_thread() is not threading.main_thread():
            return  # only the main thread may set handlers
        for number in STOPPING:
            # A signal that is ignored, such as SIGINT in a shell's background or SIGHUP under nohup, stays ignored.
            if signal.getsignal(number) != signal.SIG_IGN:
                signal.signal(number, self._note)

    def _note(self, number, frame):
        if number == signal.SIGINT and (self.at_once or self.signal == signal.SIGINT):
            raise KeyboardInterrupt
        if self.at_once:
            name = signal.Signals(number).name
            raise RequeueError(f"stopped by {name} before the first step; the same command starts again")
        self.signal = self.signal or number


@contextlib.contextmanager
def catch_signals():
    """A block in which signals are noted in the StopRequest that it yields; a second Ctrl-C interrupts as usual."""
    request, before = StopRequest(), {number: signal.getsignal(number) for number in STOPPING}
    request.listen()
    try:
        yield request
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)
