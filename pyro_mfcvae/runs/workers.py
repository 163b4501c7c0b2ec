"""Run jobs in worker processes, which end when this process ends."""

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.safety.stopping import StoppedError, end_if_stuck, stop_on_signals

# Number of seconds in which a worker can save its last step before it is killed.
_PATIENCE_SECONDS = 10.0


@dataclass(frozen=True)
class _Worker:
    process: SpawnProcess
    pipe: Connection


def run_jobs(
    act: Callable[..., Any],
    jobs: Mapping[int, tuple[Any, ...]],
    *,
    name: str,
    workers: int,
    on_done: Callable[[int, Any], None],
) -> dict[int, InputError]:
    """Call a function once per job, each time in a separate process, with a limited number of processes at a time.

    If this process is asked to end, or a worker is killed, all workers are asked to end, and save their last step
    before they end. If this process is killed, the workers end too. In both cases no further job starts.

    Args:
        act: a function of a module.
        jobs: maps the number of a job, such as a seed, to the arguments of the function.
        name: what the numbers are, such as ``seed``, for messages.
        workers: number of processes at a time.
        on_done: called with the number and the result of every job that succeeded.

    Returns:
        The reason of each job that failed; all other jobs are finished first.

    Raises:
        InputError: a process was killed; the message names its job.
    """
    waiting, running = list(jobs), dict[int, _Worker]()
    failures: dict[int, InputError] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                running[waiting[0]] = _start(act, jobs[waiting[0]])
                waiting.pop(0)
            ready = wait([worker.pipe for worker in running.values()])
            for number in [number for number, worker in running.items() if worker.pipe in ready]:
                result = _result(running.pop(number), f"{name} {number}")
                if isinstance(result, InputError):
                    failures[number] = result
                else:
                    on_done(number, result)
    finally:
        _end(list(running.values()))
    return failures


def _start(act: Callable[..., Any], args: tuple[Any, ...]) -> _Worker:
    context = get_context("spawn")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(theirs, act, args))
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _result(worker: _Worker, name: str) -> Any:
    try:
        kind, result = worker.pipe.recv()
    except (EOFError, OSError):
        worker.process.join()
        code = worker.process.exitcode or 0
        if code < 0:
            hint = "; the system may have run out of memory" if -code == signal.SIGKILL else ""
            how = f"{signal.Signals(-code).name}{hint}"
            raise InputError(
                f"expected all processes to continue, but that of {name} was ended by {how}: repeat the command to "
                f"resume"
            ) from None
        return InputError(f"its process ended with exit code {code}: read what it printed")
    worker.process.join()
    return InputError(result) if kind == "failed" else result


def _end(running: list[_Worker]) -> None:
    for worker in running:
        worker.process.terminate()
    deadline = time.monotonic() + _PATIENCE_SECONDS
    for worker in running:
        worker.process.join(max(deadline - time.monotonic(), 0.1))
        if worker.process.is_alive():
            worker.process.kill()
            worker.process.join()


def _work(pipe: Connection, act: Callable[..., Any], args: tuple[Any, ...]) -> None:
    """The main function of a worker. It exits without waiting for the threads of libraries."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    code = 0
    with stop_on_signals(), end_if_stuck():
        try:
            pipe.send(_try(act, args))
        except StoppedError as stop:
            code = 128 + stop.signum
        except Exception:
            traceback.print_exc()
            code = 1
    pipe.close()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _try(act: Callable[..., Any], args: tuple[Any, ...]) -> tuple[str, Any]:
    """Whether the job succeeded, with its result or the reason for the failure."""
    try:
        return "done", act(*args)
    except InputError as error:
        return "failed", str(error)
    except OSError as error:
        return "failed", f"cannot use {error.filename}: {error.strerror}"


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_PATIENCE_SECONDS)
        os._exit(128 + signal.SIGTERM)
