"""A process that reads one input after the other, and records the effects of each (see fuzz.py).

The process is a fork of this one. This process should read a valid input of each format first, so that no module is
imported later. The fork runs until an input ends it, or until it uses more memory than at its start. Its audit hook
records files that are opened outside of the input's folder and of the installation, and actions that start code or
reach other processes.
"""

import ctypes
import gc
import logging
import os
import resource
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NoReturn

MAX_SECONDS = 10.0
MAX_BYTES = 1 << 30
# Largest number of bytes; an input that needs more ends the process, because other programs need memory too.
_MOST_BYTES = 4 << 30
# If a process keeps more bytes than this, the next input gets a new process, so that all inputs start with about the
# same memory.
_KEPT_BYTES = 64 << 20
_POLL_SECONDS = 0.05

_FORBIDDEN = ("subprocess.", "socket.", "os.system", "os.exec", "os.posix_spawn", "os.fork", "pickle.find_class")
_CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "shutil.")


@dataclass(frozen=True)
class Result:
    """The effects of reading one input.

    Attributes:
        outcome: ``read``, ``refused``, or the kind of failure.
        seconds: processor time, or waiting time if the process hung.
        num_bytes: increase of the memory's peak.
        message: the one line, the traceback, or the text that the reader returned.
        warnings: messages that were logged.
    """

    outcome: str
    seconds: float
    num_bytes: int
    message: str
    warnings: tuple[str, ...] = ()

    @property
    def is_fine(self) -> bool:
        """Whether the input was read or refused, within the limits of time and memory."""
        return self.outcome in ("read", "refused")


class Worker:
    """Reads inputs in a separate process, which is started again if an input has ended it."""

    def __init__(self) -> None:
        self._pid = 0
        self.num_started = 0

    def read(self, reader: Callable[[Path], object], folder: Path) -> Result:
        """Let a reader read the input in a folder. The reader must be picklable."""
        if not self._pid:
            self._start()
        seconds_before, begin = _processor_seconds(self._pid), time.monotonic()
        self._pipe.send((reader, folder))
        while not self._pipe.poll(_POLL_SECONDS):
            used = _processor_seconds(self._pid) - seconds_before
            waited = time.monotonic() - begin
            if used > MAX_SECONDS or (waited > MAX_SECONDS and _is_waiting(self._pid)):
                self.close()
                return Result("hang", max(used, waited), 0, "")
            if (num_bytes := _memory(self._pid, "VmRSS")) > _MOST_BYTES:
                self.close()
                return Result("memory", used, num_bytes, "")
        try:
            result, kept = self._pipe.recv()
        except EOFError:
            code = self._wait()
            return Result(f"crash {code}", time.monotonic() - begin, 0, "")
        if kept > _KEPT_BYTES:
            self.close()
        return result

    def close(self) -> None:
        """End the process."""
        if self._pid:
            os.kill(self._pid, signal.SIGKILL)
            self._wait()

    def _start(self) -> None:
        self._pipe, theirs = Pipe()
        self._pid = os.fork()
        if self._pid == 0:
            self._pipe.close()
            _work(theirs)
        theirs.close()
        self.num_started += 1

    def _wait(self) -> int:
        self._pipe.close()
        _, status = os.waitpid(self._pid, 0)
        self._pid = 0
        return os.waitstatus_to_exitcode(status)


def _processor_seconds(pid: int) -> float:
    fields = _stat(pid)
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _is_waiting(pid: int) -> bool:
    """Whether a process sleeps, so that it uses no processor time."""
    return _stat(pid)[0] in ("S", "D")


def _stat(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _memory(pid: int | str, name: str) -> int:
    """Bytes of a line of ``/proc/PID/status``; 0 for a process that has ended."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:")), 0)


class _Watch:
    """The audit hook, which records actions that are not allowed while a file is read."""

    def __init__(self) -> None:
        import pyro_mfcvae

        package = Path(pyro_mfcvae.__file__).resolve().parents[1]
        self._installed = (
            sys.prefix,
            sys.base_prefix,
            str(package),
            *(str(Path(place).resolve()) for place in sys.path if place),
            "/proc/",
            "/sys/",
            "/dev/null",
        )
        self.folder: Path | None = None  # nothing is recorded while no input is read
        self.breaches: list[str] = []
        sys.addaudithook(self._note)

    def _note(self, event: str, args: tuple[Any, ...]) -> None:
        if self.folder is None:
            return
        if event == "open" and isinstance(args[0], str | bytes | os.PathLike):
            path = os.path.abspath(os.fsdecode(args[0]))  # noqa: PTH100  # resolve() would follow links
            writes = isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if writes or not path.startswith((str(self.folder), *self._installed)):
                self.breaches.append(f"opened {path}{' to write' if writes else ''}")
        elif event.startswith(_FORBIDDEN + _CHANGES):
            self.breaches.append(f"{event}{args!r}"[:200])


class _Log(logging.Handler):
    """Keeps the messages that this package logs."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def _work(pipe: Connection) -> NoReturn:
    """The main loop of the process."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # C libraries write there
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("ignore")
    watch, log = _Watch(), _Log()
    logger = logging.getLogger("pyro_mfcvae")
    logger.addHandler(log)
    logger.propagate = False
    gc.freeze()  # imported modules stay in memory, so they are left out of garbage collections
    first = _memory("self", "VmRSS")
    while True:
        try:
            reader, folder = pipe.recv()
        except EOFError:
            os._exit(0)
        log.messages.clear()
        result = _read(reader, folder.resolve(), watch, log)
        gc.collect()
        _give_back()
        pipe.send((result, _memory("self", "VmRSS") - first))


def _read(reader: Callable[[Path], object], folder: Path, watch: _Watch, log: _Log) -> Result:
    """Read one input."""
    from pyro_mfcvae.errors import InputError

    outcome, message = "read", ""
    watch.breaches.clear()
    Path("/proc/self/clear_refs").write_text("5")  # restarts the measurement of the peak
    before, begin = _memory("self", "VmRSS"), time.process_time()
    watch.folder = folder
    try:
        found = reader(folder)
        message = found if isinstance(found, str) else ""
    except InputError as error:
        outcome, message = "refused", str(error)
        if "\n" in message or not message.isprintable():
            outcome, message = "traceback", f"more than one line of plain text: {message!r}"
    except OSError as error:  # the command line prints this as one line
        watch.folder = None
        outcome, message = ("refused", str(error)) if error.filename else ("traceback", traceback.format_exc())
    except BaseException:
        watch.folder = None  # the traceback reads source files
        outcome, message = "traceback", traceback.format_exc()
    watch.folder = None
    seconds, num_bytes = time.process_time() - begin, max(_memory("self", "VmHWM") - before, 0)
    if watch.breaches:
        outcome, message = "breach", "; ".join(watch.breaches)
    elif seconds > MAX_SECONDS:
        outcome = "hang"
    elif num_bytes > MAX_BYTES:
        outcome = "memory"
    return Result(outcome, seconds, num_bytes, message[-3000:], tuple(log.messages))


def _give_back() -> None:
    """Return free memory to the system, so that the peak of the next input is measured correctly."""
    if "pyarrow" in sys.modules:
        sys.modules["pyarrow"].default_memory_pool().release_unused()
    ctypes.CDLL(None).malloc_trim(0)
