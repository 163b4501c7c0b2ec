"""Stopping a run on a signal: after the current step, with its state saved, or at once outside of a step."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# Seconds to wait for a step; a longer one (such as a compilation) is abandoned.
_PATIENCE_SECONDS = 5.0
# After these further seconds a process is ended that runs no Python code, for example because it waits for a rank.
_MORE_SECONDS = 2.0
# Seconds after the first signal within which another one is the same request: a terminal sends its signal to all
# processes of a command, and a parent process then asks its workers to end as well.
_SAME_REQUEST_SECONDS = 1.0
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
    """Whether a signal has asked to stop; a loop checks it after every step.

    Attributes:
        signum: number of the first signal; None before it.
        arrival: its time, of `time.monotonic`.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self.arrival = float("-inf")

    def __bool__(self) -> bool:
        return self.signum is not None

    def accept(self) -> None:
        """Stop the time limit: the loop has seen the request and may save without hurry."""
        _note_answer()
        _set_alarm(0.0)

    def raise_stop(self) -> None:
        """Raise `StoppedError` with this process's signal, or with SIGTERM if another rank got one."""
        _note_answer()
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
    """Inside, the first signal only sets the request.

    A later second signal raises `StoppedError`, and so do five seconds without a check of it. Signals within a second
    of the first belong to the same request.
    """
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
        _request.signum, _request.arrival = signum, time.monotonic()
        _set_alarm(_PATIENCE_SECONDS)
    elif _request is None or time.monotonic() > _request.arrival + _SAME_REQUEST_SECONDS:
        _raise_or_hold(signum)


def _raise_or_hold(signum: int) -> None:
    if _held is not None:
        _held.append(signum)
        return
    _note_answer()
    raise StoppedError(signum)


_held: list[int] | None = None


@contextmanager
def held_signals() -> Iterator[None]:
    """Inside, signals that would raise wait until the end: for acts of milliseconds that belong together."""
    global _held
    _held = []
    try:
        yield
    finally:
        held, _held = _held, None
        if held:
            _raise_or_hold(held[0])


def _give_up(signum: int, frame: FrameType | None) -> None:
    if _request is not None:
        _raise_or_hold(_request.signum or signal.SIGTERM)


def _set_alarm(seconds: float) -> None:
    if hasattr(signal, "setitimer") and threading.current_thread() is threading.main_thread():
        if seconds:
            signal.signal(signal.SIGALRM, _give_up)
        signal.setitimer(signal.ITIMER_REAL, seconds)


_answered_at = float("-inf")
_watching = False


def _note_answer() -> None:
    """A signal has had its effect: an error is raised, or the loop saves."""
    global _answered_at
    _answered_at = time.monotonic()


@contextmanager
def end_if_stuck() -> Iterator[None]:
    """Inside, a signal ends this process even if it has no effect, because the main thread runs no Python code.

    Python calls the handlers of signals only between two steps of its own. A process that waits in a library, for a
    rank that was killed, say, would go on waiting. This is for processes of our own: it ends the interpreter.
    """
    global _watching
    if os.name == "nt" or threading.current_thread() is not threading.main_thread():
        yield
        return
    outer, _watching = _watching, True
    read, write = os.pipe()
    os.set_blocking(write, False)
    before = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    threading.Thread(target=_watch_signals, args=(read,), daemon=True).start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        _watching = outer
        os.close(write)  # ends the thread


def _watch_signals(pipe: int) -> None:
    """Read the signals that the interpreter writes into a pipe, and end the process if one has no effect."""
    while number := os.read(pipe, 1):
        signum = number[0]
        if signum in _SIGNALS and signal.getsignal(signum) is _handle and not _is_answered(time.monotonic()):
            name = signal.Signals(signum).name
            text = f"mfcvae: stopped by {name} within a step that did not end; a fit goes on from its last checkpoint\n"
            if os.environ.get("LOCAL_RANK", "0") == "0":
                os.write(2, text.encode())
            os._exit(128 + signum)
    os.close(pipe)


def _is_answered(arrival: float) -> bool:
    """Wait until a signal that arrived just now has effect; False if it has none."""
    while _answered_at < arrival - 1.0:  # the handler may have been called just before this thread
        if time.monotonic() > arrival + _PATIENCE_SECONDS + _MORE_SECONDS:
            return False
        time.sleep(0.05)
    return True


def _forget_watcher() -> None:
    """Detach a forked process from the pipe, whose reader is a thread of its parent process."""
    global _watching
    if _watching:
        _watching = False
        signal.set_wakeup_fd(-1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_watcher)
