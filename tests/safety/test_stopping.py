import signal

import pytest

from pyro_mfcvae.safety.stopping import StoppedError, stop_after_step, stop_on_signals


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_raises_and_tells_its_number(name: str) -> None:
    number = getattr(signal, name)
    before = signal.getsignal(number)
    with pytest.raises(StoppedError, match=name) as caught, stop_on_signals():
        signal.raise_signal(number)
    assert caught.value.signum == number
    assert isinstance(caught.value, KeyboardInterrupt)
    assert signal.getsignal(number) is before


def test_a_loop_is_asked_first_and_the_second_signal_raises() -> None:
    with stop_after_step() as request:
        assert not request
        signal.raise_signal(signal.SIGTERM)
        assert request and request.signum == signal.SIGTERM
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 0
        request.accept()
        assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
        with pytest.raises(StoppedError, match="SIGINT"):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(StoppedError, match="SIGTERM"):
            request.raise_stop()


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with stop_on_signals():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
