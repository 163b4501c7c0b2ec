"""Processes that train as one: when one of them ends early, the others end too, instead of waiting for it forever."""

import atexit
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

# The launching process writes its number here, for the ranks that it starts.
_LAUNCHER = "MFCVAE_LAUNCHER"
# Seconds that a rank has to end by itself.
_PATIENCE_SECONDS = 3.0
_POLL_SECONDS = 0.5
_reported = threading.Event()


def announce_launcher() -> None:
    """Let the ranks that this process starts know that they end with it."""
    os.environ[_LAUNCHER] = str(os.getpid())


def end_with_launcher() -> None:
    """End this process when the one that launched it has ended, even before this call, and even if it was killed.

    The launcher is that of `announce_launcher`, or torchrun's agent. Slurm ends its processes itself.
    """
    if _LAUNCHER in os.environ:
        launcher = int(os.environ[_LAUNCHER])
    elif "TORCHELASTIC_RUN_ID" in os.environ:
        launcher = os.getppid()
    else:
        return
    threading.Thread(target=_end_with, args=(launcher,), daemon=True).start()


def _end_with(launcher: int) -> None:
    while os.getppid() == launcher:
        time.sleep(_POLL_SECONDS)
    os._exit(1)


def end_with_ranks(processes: Sequence["subprocess.Popen[bytes]"]) -> None:
    """End this process and the other ranks when one of them fails, and the other ranks when this process ends.

    Args:
        processes: the other ranks of this machine, beginning with rank 1.
    """
    atexit.register(_end, processes)
    threading.Thread(target=_watch, args=(processes,), daemon=True).start()


def explain_lost_rank(processes: Sequence["subprocess.Popen[bytes]"]) -> str:
    """The message for a rank whose connection to another one was lost; does not return in a rank that another started.

    Args:
        processes: the other ranks of this machine if this one has started them, beginning with rank 1.
    """
    if _LAUNCHER in os.environ and int(os.environ[_LAUNCHER]) != os.getpid():
        os._exit(1)  # the launching rank reports what has happened
    _reported.set()
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while processes and time.monotonic() < deadline:
        if message := _failure_of(processes):
            return message
        time.sleep(_POLL_SECONDS / 10)
    return "expected all ranks to train, but the connection to another one was lost: go on with --resume"


def _failure_of(processes: Sequence["subprocess.Popen[bytes]"]) -> str | None:
    """Which of the ranks has failed, and how; None if all of them run or have succeeded."""
    for rank, process in enumerate(processes, 1):
        if code := process.poll():
            how = f"was killed by signal {-code}" if code < 0 else f"failed with exit code {code}"
            return f"expected all ranks to train, but rank {rank} {how}: go on with --resume"
    return None


def _watch(processes: Sequence["subprocess.Popen[bytes]"]) -> None:
    """End this process when another rank has failed, because it might wait for that rank forever."""
    while (message := _failure_of(processes)) is None:
        time.sleep(_POLL_SECONDS)
    if not _reported.wait(_PATIENCE_SECONDS):  # time for this rank to notice and report the failure itself
        sys.stderr.write(f"mfcvae: {message}\n")
        sys.stderr.flush()
    _end(processes)
    os._exit(2)


def _end(processes: Sequence["subprocess.Popen[bytes]"]) -> None:
    """End the other ranks, which have nothing to write; a rank that does not end by itself is killed."""
    for process in processes:
        if process.poll() is None:
            process.terminate()
    deadline = time.monotonic() + _PATIENCE_SECONDS
    for process in processes:
        try:
            process.wait(max(deadline - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
