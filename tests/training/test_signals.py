import os
import signal
import threading

import pytest

from keras_alexnet.training import signals


@pytest.mark.parametrize("number", signals.ASKING)
def test_a_signal_leaves_a_note_and_what_was_before_comes_back(number):
    handlers = {each: signal.getsignal(each) for each in signals.ASKING}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with signals.catch_signals() as asked:
        assert not asked
        os.kill(os.getpid(), number)
        assert asked and asked.signal == number
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    signal.signal(signal.SIGINT, handlers[signal.SIGINT])
    assert {each: signal.getsignal(each) for each in signals.ASKING} == handlers


def test_a_second_ctrl_c_interrupts_at_once():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), signals.catch_signals():
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_what_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    try:
        with signals.catch_signals() as asked:
            os.kill(os.getpid(), signal.SIGUSR1)
        assert not asked
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_in_another_thread_nothing_is_set():
    seen = []

    def look():
        with signals.catch_signals() as asked:
            seen.append((bool(asked), signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [(False, signal.getsignal(signal.SIGTERM))]
