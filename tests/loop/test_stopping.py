import os
import signal
import threading

import pytest

from jaxtune.loop.resume import RunStopped, StopRequested, StopSignals


def test_a_signal_is_noted_and_raised_between_steps():
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals() as signals:
        signals.check()
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(StopRequested) as caught:
            signals.check()
        assert caught.value.signal == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before


def test_the_second_interrupt_is_not_patient():
    before = signal.getsignal(signal.SIGINT)
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(StopRequested):
            signals.check()
    assert signal.getsignal(signal.SIGINT) == before


def test_a_second_notice_of_preemption_stays_patient():
    with StopSignals():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)


def test_another_thread_listens_to_nothing_and_breaks_nothing():
    seen = []

    def work():
        with StopSignals() as signals:
            signals.check()
            seen.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def test_a_stopped_run_ends_the_process_with_status_0():
    with pytest.raises(SystemExit) as caught:
        raise RunStopped(0)
    assert caught.value.code == 0
