"""Forks of this process that run one command each, with functions to watch and end them (see kills.py)."""

import ctypes
import io
import mmap
import os
import signal
import socket
import struct
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

# Number of seconds in which a process must end after it was asked to, or after its parent was killed.
_PATIENCE_SECONDS = 300.0
# Seconds between two checks of the processes; more frequent checks would slow them down on a machine with few cores.
LOOK_SECONDS = 0.04
_MODULES = ("pyarrow.pandas_compat", "pyarrow.parquet", "scipy.optimize", "sklearn.mixture", "torch.utils.tensorboard")
_MODULES += ("tensorboard.compat.proto.event_pb2", "pyro_mfcvae.checks.figures", "pyro_mfcvae.cli.fit")
_MODULES += ("pyro_mfcvae.config.auto", "pyro_mfcvae.report.page", "pyro_mfcvae.runs.sweep")
_CHANGES = frozenset({"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"})


class Operations:
    """The number of file operations that the processes of a run have made, and the operation before which an action is
    taken.
    """

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 16)  # shared with the forks

    def reset(self, chosen: int = 0) -> None:
        """Count from 0; the chosen operation is the n-th, or none if n is 0."""
        self._memory[:16] = struct.pack("qq", 0, chosen)

    @property
    def count(self) -> int:
        """The operations so far."""
        return int(struct.unpack("qq", self._memory[:16])[0])

    def watch(self, folder: Path, *, at: Callable[[], None]) -> None:
        """From now on, count the changes of this process below a folder, and call ``at`` just before the chosen
        change.
        """
        prefix, fsync = str(folder.resolve()), os.fsync

        def note() -> None:
            count, chosen = struct.unpack("qq", self._memory[:16])
            self._memory[:8] = struct.pack("q", count + 1)
            if count + 1 == chosen:
                at()

        def hook(event: str, args: tuple[Any, ...]) -> None:
            changes = event in _CHANGES or (event == "open" and isinstance(args[2], int) and args[2] & 0o103)
            if changes and isinstance(args[0], str | bytes | os.PathLike):
                place = os.path.abspath(os.fsdecode(args[0]))  # noqa: PTH100  # resolve() would follow links
                if place.startswith(prefix):
                    note()

        def counted_fsync(handle: int) -> None:
            note()
            fsync(handle)

        sys.addaudithook(hook)
        os.fsync = counted_fsync


def import_all() -> None:
    """Import the modules of a run and draw a figure, so that forks do not have to import modules and read fonts."""
    for name in _MODULES:
        import_module(name)
    import torch

    from pyro_mfcvae.plots import image_grid

    torch.set_num_threads(1)
    image_grid(np.zeros((1, 1, 1, 2, 2)), title="0 % A").savefig(io.BytesIO())


def _enter(args: Sequence[str], env: dict[str, str], prepare: Callable[[], None], log: Path) -> NoReturn:
    """The main function of a fork, which runs one command."""
    code = 1
    try:
        handle = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
        os.environ.update(env)
        from pyro_mfcvae.cli.app import main
        from pyro_mfcvae.runs import workers

        workers.get_context = lambda _: get_context("fork")  # type: ignore[assignment]
        prepare()
        main(args)
        code = 0
    except SystemExit as leave:
        code = leave.code if isinstance(leave.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def start(args: Sequence[str], *, ranks: int, log: Path, prepare: Callable[[], None]) -> int:
    """Fork one process per rank, in a new process group; return the number of the group."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pids: list[int] = []
    for rank in range(ranks):
        env = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "none"}
        env |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
        pid = os.fork()
        if pid == 0:
            os.setpgid(0, pids[0] if pids else 0)
            _enter(args, env if ranks > 1 else {}, prepare, log)
        os.setpgid(pid, pids[0] if pids else pid)
        pids.append(pid)
    return pids[0]


def wait_for(group: int) -> tuple[int, bool]:
    """Wait until all processes of a group have ended; returns the exit code of the first failure, and whether some had
    to be killed.

    As with torchrun, if one of several ranks fails, the others are asked to end.
    """
    deadline = time.monotonic() + _PATIENCE_SECONDS
    failure, asked = 0, False
    while members := processes(group):
        for pid in members:
            try:
                ended, status = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:  # a grandchild, whose parent waits for it
                continue
            if ended and not failure:
                failure = os.waitstatus_to_exitcode(status)
                if failure and not asked and len(members) > 1:
                    asked = True
                    time.sleep(0.5)
                    send(group, signal.SIGTERM)
        if time.monotonic() > deadline:
            send(group, signal.SIGKILL)
            while processes(group):
                reap(group)
            return failure or -signal.SIGKILL, True
        time.sleep(LOOK_SECONDS)
    return failure, False


def reap(group: int) -> None:
    """Record the members of a group that have ended."""
    for pid in processes(group):
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def processes(group: int) -> list[int]:
    """The processes of a group, including those that have ended but have not been waited for."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):
                if int((entry / "stat").read_text().rpartition(")")[2].split()[2]) == group:
                    found.append(int(entry.name))
    return found


def adopt_orphans() -> None:
    """Become the parent of processes whose parent was killed, so that they are waited for (Linux)."""
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)


def send(group: int, signum: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, signum)
