"""Stopping a run on a signal: after the current step, with its state saved, or at once outside of a step."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# Seconds to wait for a step; a longer one (such as a compilation) is abandoned.
_PATIENCE_SECONDS = 5.0
_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class StoppedError(KeyboardInterrupt):
    """A signal asked the process to end.

    Attributes:
        signum: the signal's number; a shell expects the exit code 128 + signum.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class StopRequest:
    """Whether a signal has asked to stop; a loop checks it after every step."""

    def __init__(self) -> None:
        self.signum: int | None = None

    def __bool__(self) -> bool:
        return self.signum is not None

    def accept(self) -> None:
        """Stop the time limit: the loop has seen the request and may save without hurry."""
        _set_alarm(0.0)

    def raise_stop(self) -> None:
        """Raise `StoppedError` with this process's signal, or with SIGTERM if another rank got one."""
        raise StoppedError(self.signum or signal.SIGTERM)


_request: StopRequest | None = None


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """Raise `StoppedError` on SIGINT, SIGTERM and SIGHUP; in the main thread only. An ignored signal stays ignored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    taken = [number for number, handler in before.items() if handler not in (signal.SIG_IGN, None)]
    for number in taken:
        signal.signal(number, _handle)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, before[number])


@contextmanager
def stop_after_step() -> Iterator[StopRequest]:
    """Inside, the first signal only makes the request true; a second one, or five seconds, raise `StoppedError`."""
    global _request
    outer, request = _request, StopRequest()
    with stop_on_signals():
        _request = request
        try:
            yield request
        finally:
            _request = outer
            _set_alarm(0.0)


def _handle(signum: int, frame: FrameType | None) -> None:
    if _request is not None and _request.signum is None:
        _request.signum = signum
        _set_alarm(_PATIENCE_SECONDS)
        return
    raise StoppedError(signum)


def _give_up(signum: int, frame: FrameType | None) -> None:
    if _request is not None:
        _request.raise_stop()


def _set_alarm(seconds: float) -> None:
    if hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread():
        if seconds:
            signal.signal(signal.SIGALRM, _give_up)
        signal.setitimer(signal.ITIMER_REAL, seconds)
