"""Being asked to end: a scheduler's SIGTERM, its warning before it, Ctrl-C."""

import contextlib
import signal
import threading

# Slurm sends SIGTERM and, after KillWait, SIGKILL; `--signal=USR1@120` announces it two minutes before.
ASKING = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


class StopRequest:
    """Whether the process has been asked to end. `signal`: the number of the first that asked, or None."""

    def __init__(self):
        self.signal = None

    def __bool__(self):
        return self.signal is not None


@contextlib.contextmanager
def catch_signals():
    """A block in which these signals only leave a note; a second Ctrl-C interrupts as ever.

    Yields:
        StopRequest.
    """
    asked = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield asked  # only the main thread may set handlers
        return

    def note(number, frame):
        if number == signal.SIGINT and asked.signal == signal.SIGINT:
            raise KeyboardInterrupt
        asked.signal = asked.signal or number

    # What is ignored, such as SIGINT in a shell's background, stays ignored.
    before = {number: signal.getsignal(number) for number in ASKING}
    for number, handler in before.items():
        if handler != signal.SIG_IGN:
            signal.signal(number, note)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
