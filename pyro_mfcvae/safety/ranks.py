"""Processes that train together: if one of them ends early, the others end too, instead of waiting forever."""

import atexit
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

# Environment variable with the id of the launching process, for the ranks that it starts.
_LAUNCHER = "MFCVAE_LAUNCHER"
# Number of seconds in which a rank can end by itself.
_PATIENCE_SECONDS = 3.0
_POLL_SECONDS = 0.5
_reported = threading.Event()


def announce_launcher() -> None:
    """Set the environment variable from which the ranks that this process starts know that they must end with it."""
    os.environ[_LAUNCHER] = str(os.getpid())


def end_with_launcher() -> None:
    """End this process when its launcher ends or is killed, even if this happened before the call.

    The launcher is the process that called `announce_launcher`, or torchrun's agent. Slurm ends its processes itself.
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
    """The message for a rank whose connection to another rank was lost. It does not return in a rank that another rank
    has started.

    Args:
        processes: the other ranks of this machine, if this process has started them, beginning with rank 1.
    """
    if _LAUNCHER in os.environ and int(os.environ[_LAUNCHER]) != os.getpid():
        os._exit(1)  # the launching rank reports the failure
    _reported.set()
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while processes and time.monotonic() < deadline:
        if message := _failure_of(processes):
            return message
        time.sleep(_POLL_SECONDS / 10)
    return "expected all ranks to train, but the connection to another rank was lost: resume with --resume"


def _failure_of(processes: Sequence["subprocess.Popen[bytes]"]) -> str | None:
    """The message about the first rank that has failed; None if all ranks run or have succeeded."""
    for rank, process in enumerate(processes, 1):
        if code := process.poll():
            how = f"was killed by signal {-code}" if code < 0 else f"failed with exit code {code}"
            return f"expected all ranks to train, but rank {rank} {how}: resume with --resume"
    return None


def _watch(processes: Sequence["subprocess.Popen[bytes]"]) -> None:
    """End this process when another rank has failed, because this process might wait for that rank forever."""
    while (message := _failure_of(processes)) is None:
        time.sleep(_POLL_SECONDS)
    if not _reported.wait(_PATIENCE_SECONDS):  # time in which this rank can notice and report the failure itself
        sys.stderr.write(f"mfcvae: {message}\n")
        sys.stderr.flush()
    _end(processes)
    os._exit(2)


def _end(processes: Sequence["subprocess.Popen[bytes]"]) -> None:
    """End the other ranks, which have nothing to write. A rank that does not end by itself is killed."""
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
