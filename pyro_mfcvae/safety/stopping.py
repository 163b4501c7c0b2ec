"""Stop a run on a signal: after the current step, when its state is saved, or immediately outside of a step."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# Number of seconds to wait for the end of a step; a longer step (such as a compilation) is stopped.
_PATIENCE_SECONDS = 5.0
# After this number of further seconds a process that runs no Python code, for example because it waits for a rank, is
# ended.
_MORE_SECONDS = 2.0
# A further signal within this number of seconds after the first belongs to the same request: a terminal sends a signal
# to all processes of a command, and the parent process also asks its workers to end.
_SAME_REQUEST_SECONDS = 1.0
_SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


class StoppedError(KeyboardInterrupt):
    """Raised if a signal asked the process to end.

    Attributes:
        signum: number of the signal; a shell expects the exit code 128 + signum.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


class StopRequest:
    """Whether a signal has asked to stop; a loop checks it after every step.

    Attributes:
        signum: number of the first signal; None before it.
        arrival: time of the first signal, from `time.monotonic`.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self.arrival = float("-inf")

    def __bool__(self) -> bool:
        return self.signum is not None

    def accept(self) -> None:
        """Stop the time limit, because the loop has seen the request and may take its time to save."""
        _note_answer()
        _set_alarm(0.0)

    def raise_stop(self) -> None:
        """Raise `StoppedError` with the signal of this process, or with SIGTERM if another rank got the signal."""
        _note_answer()
        raise StoppedError(self.signum or signal.SIGTERM)


_request: StopRequest | None = None


@contextmanager
def stop_on_signals() -> Iterator[None]:
    """Context in which SIGINT, SIGTERM and SIGHUP raise `StoppedError`, in the main thread only. An ignored signal
    stays ignored.
    """
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
    """Context in which the first signal only sets the request.

    `StoppedError` is raised by a second signal, or if the request is not checked for five seconds. Signals within a
    second of the first belong to the same request.
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
    """Context that delays signals until its end, for actions of milliseconds that must not be interrupted."""
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
    """Record that a signal has had its effect: an error is raised, or the loop saves."""
    global _answered_at
    _answered_at = time.monotonic()


@contextmanager
def end_if_stuck() -> Iterator[None]:
    """Context in which a signal ends this process even if the main thread runs no Python code.

    Python calls signal handlers only between two instructions of Python code. So a process that waits inside a library,
    for example for a rank that was killed, would not stop waiting. Use this only in processes of this package, because
    it ends the interpreter.
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
    """Read the signals that the interpreter writes into a pipe, and end the process if a signal has no effect."""
    while number := os.read(pipe, 1):
        signum = number[0]
        if signum in _SIGNALS and signal.getsignal(signum) is _handle and not _is_answered(time.monotonic()):
            name = signal.Signals(signum).name
            text = f"mfcvae: stopped by {name} within a step that did not end; resume a fit from its last checkpoint\n"
            if os.environ.get("LOCAL_RANK", "0") == "0":
                os.write(2, text.encode())
            os._exit(128 + signum)
    os.close(pipe)


def _is_answered(arrival: float) -> bool:
    """Wait until a signal that has just arrived has an effect; False if it has none."""
    while _answered_at < arrival - 1.0:  # the handler may have been called just before this thread continued
        if time.monotonic() > arrival + _PATIENCE_SECONDS + _MORE_SECONDS:
            return False
        time.sleep(0.05)
    return True


def _forget_watcher() -> None:
    """Detach a forked process from the pipe, because the pipe is read by a thread of the parent process."""
    global _watching
    if _watching:
        _watching = False
        signal.set_wakeup_fd(-1)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_watcher)
