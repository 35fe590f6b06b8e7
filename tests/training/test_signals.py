import os
import signal
import threading

import pytest

from keras_alexnet.errors import RequeueError
from keras_alexnet.training import signals


@pytest.fixture(autouse=True)
def handlers():
    """A shell's background jobs, which these tests may be, ignore some of them."""
    before = {number: signal.getsignal(number) for number in signals.STOPPING}
    for number in signals.STOPPING:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", signals.STOPPING)
def test_a_signal_is_noted_or_ends_what_has_nothing_to_save(number):
    before = signal.getsignal(number)
    with signals.catch_signals() as stop:
        stop.at_once = False
        assert not stop
        os.kill(os.getpid(), number)
        assert stop and stop.signal == number
    assert signal.getsignal(number) is before
    with pytest.raises(KeyboardInterrupt if number == signal.SIGINT else RequeueError), signals.catch_signals():
        os.kill(os.getpid(), number)


def test_the_first_signal_counts_and_a_second_ctrl_c_interrupts():
    with signals.catch_signals() as stop:
        stop.at_once = False
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGUSR1)
        assert stop.signal == signal.SIGTERM
    with pytest.raises(KeyboardInterrupt), signals.catch_signals() as stop:
        stop.at_once = False
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


def test_what_is_ignored_stays_ignored():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    with signals.catch_signals() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
    assert not stop


def test_in_another_thread_nothing_is_set():
    found = []

    def look():
        with signals.catch_signals() as stop:
            found.append((bool(stop), signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [(False, signal.getsignal(signal.SIGTERM))]
