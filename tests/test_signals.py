import ctypes
import os
import signal

import pytest

from keras_alexnet import cli
from keras_alexnet.errors import RequeueError

pytestmark = pytest.mark.usefixtures("default_handlers")


def replace_handler(number):
    """What TensorFlow's multi-worker strategy does: Python does not know of it."""
    ctypes.CDLL(None).signal(number, signal.SIG_IGN)


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


def test_a_second_ctrl_c_interrupts_and_what_is_ignored_stays_ignored():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # nohup
    with pytest.raises(KeyboardInterrupt), cli.catch_signals() as stop:
        stop.at_once = False
        os.kill(os.getpid(), signal.SIGHUP)
        assert not stop
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
