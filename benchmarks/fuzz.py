"""Mutated and crafted inputs of all formats: what each does to the process that reads it.

`reliability.py` runs this as its part `fuzz`. Every input is read in a fork of this process, which has read a valid
input of each format before, so that nothing is left to be imported. The fork's audit hook notes files that are opened
outside of the input's folder and of the installation, and everything that starts code or leaves the process.
"""

import gc
import os
import resource
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from fuzz_samples import Crafted, Sample

MAX_SECONDS = 10.0
MAX_BYTES = 1 << 30

_READ, _REFUSED, _TRACEBACK, _BREACH = range(4)
_FORBIDDEN = ("subprocess.", "socket.", "os.system", "os.exec", "os.posix_spawn", "os.fork", "pickle.find_class")
_CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "shutil.")


@dataclass(frozen=True)
class Result:
    """What reading one input did.

    Attributes:
        outcome: ``read``, ``refused``, or what went wrong.
        seconds: it took.
        num_bytes: by which the memory's peak was above that before.
        message: the one line, or the traceback.
    """

    outcome: str
    seconds: float
    num_bytes: int
    message: str

    @property
    def is_fine(self) -> bool:
        """Whether the input was read or refused, in time and in bounds."""
        return self.outcome in ("read", "refused")


def mutate(content: bytes, generator: np.random.Generator) -> bytes:
    """One to four changes: bits, bytes, numbers, cuts, repeats, exchanged parts, the rest cut off."""
    data = bytearray(content)
    for _ in range(int(generator.integers(1, 5))):
        place, length = int(generator.integers(len(data) + 1)), int(generator.integers(1, 33))
        kind = int(generator.integers(8))
        # Formats keep what matters at their ends.
        if generator.random() < 0.5:
            place = min(int(generator.integers(96)), len(data))
        elif generator.random() < 0.3:
            place = max(len(data) - int(generator.integers(1, 97)), 0)
        if kind == 0 and place < len(data):
            data[place] ^= 1 << int(generator.integers(8))
        elif kind == 1:
            data[place : place + length] = generator.bytes(length)
        elif kind == 2:
            width = int(generator.choice([1, 2, 4, 8]))
            number = int(generator.choice(_NUMBERS)) % (1 << (8 * width))
            data[place : place + width] = number.to_bytes(width, str(generator.choice(["little", "big"])))
        elif kind == 3:
            del data[place : place + length]
        elif kind == 4:
            data[place:place] = data[place : place + length] * int(generator.integers(1, 20))
        elif kind == 5:
            other = int(generator.integers(len(data) + 1))
            data[place : place + length] = data[other : other + length]
        elif kind == 6:
            data = _change_digits(data, generator)
        elif generator.random() < 0.125:
            del data[place:]
    return bytes(data)


_NUMBERS = np.array(
    [0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 1 << 40, (1 << 63) - 1]
)


def _change_digits(data: bytearray, generator: np.random.Generator) -> bytearray:
    """Another number in place of one that is written in digits, as in headers."""
    digits = [i for i, byte in enumerate(data) if 48 <= byte <= 57]
    if digits:
        place = int(generator.choice(digits))
        numbers = [b"-1", b"0", b"9" * 6, b"9" * 12, b"9" * 25, b"1e400", b"nan", b"", b"[", b"'"]
        data[place : place + 1] = numbers[int(generator.integers(len(numbers)))]
    return data


def try_reading(read: Callable[[Path], object], folder: Path) -> Result:
    """Read an input in a fork.

    Args:
        read: reads the input in a folder.
        folder: with the input's files.
    """
    ours, theirs = os.pipe()
    before = resident_bytes()
    begin = time.monotonic()
    pid = os.fork()
    if pid == 0:
        os.close(ours)
        _work(read, folder, theirs)
    os.close(theirs)
    message = b""
    deadline = begin + MAX_SECONDS
    timed_out = False
    os.set_blocking(ours, False)
    while not (ended := os.wait4(pid, os.WNOHANG))[0]:
        message += _read_some(ours)
        if time.monotonic() > deadline and not timed_out and _cpu_seconds(pid) > MAX_SECONDS:
            timed_out = True
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.002)
    message += _read_some(ours)
    os.close(ours)
    used = max(ended[2].ru_maxrss * 1024 - before, 0)
    code = os.waitstatus_to_exitcode(ended[1])
    outcome = {_READ: "read", _REFUSED: "refused", _TRACEBACK: "traceback", _BREACH: "breach"}.get(
        code, f"crash {code}"
    )
    if timed_out:
        outcome = "hang"
    elif used > MAX_BYTES:
        outcome = "memory"
    seconds = ended[2].ru_utime + ended[2].ru_stime
    return Result(outcome, seconds, used, message.decode(errors="replace")[-3000:])


def resident_bytes() -> int:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def _cpu_seconds(pid: int) -> float:
    """Processor time of a process, since a busy machine has other work; one that waits for something hangs."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    waits = fields[0] == "S"
    return MAX_SECONDS + 1 if waits else (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _read_some(handle: int) -> bytes:
    try:
        return os.read(handle, 65536)
    except BlockingIOError:
        return b""


def _work(read: Callable[[Path], object], folder: Path, pipe: int) -> NoReturn:
    """Everything that the fork does."""
    from pyro_mfcvae.errors import InputError

    code, message = _READ, ""
    breaches: list[str] = []
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # warnings of our log
    watching = _watch(folder, breaches)
    try:
        warnings.simplefilter("ignore")
        read(folder)
    except InputError as error:
        watching.clear()
        code, message = _REFUSED, str(error)
        if "\n" in message or not message.isprintable():
            code, message = _TRACEBACK, f"more than one line of plain text: {message!r}"
    except OSError as error:  # the command line makes one line of it
        code, message = (_REFUSED, str(error)) if error.filename else (_TRACEBACK, traceback.format_exc())
    except BaseException:
        watching.clear()  # the traceback reads source files
        code, message = _TRACEBACK, traceback.format_exc()
    if breaches:
        code, message = _BREACH, "; ".join(breaches)
    os.write(pipe, message.encode(errors="replace")[-3000:])
    os._exit(code)


def _watch(folder: Path, breaches: list[str]) -> list[bool]:
    """Note what reading a file must not do, until the list that is returned is emptied."""
    watching = [True]
    import pyro_mfcvae

    package = Path(pyro_mfcvae.__file__).resolve().parents[1]
    installed = {
        sys.prefix,
        sys.base_prefix,
        str(package),
        *(str(Path(place).resolve()) for place in sys.path if place),
    }
    allowed = (*installed, str(folder.resolve()), "/proc/", "/sys/", "/dev/null")

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if not watching:
            return
        if event == "open" and isinstance(args[0], str | bytes | os.PathLike):
            path = str(Path(os.fsdecode(args[0])).absolute())
            writes = isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if writes or not path.startswith(allowed):
                breaches.append(f"opened {path}{' to write' if writes else ''}")
        elif event.startswith(_FORBIDDEN + _CHANGES):
            breaches.append(f"{event}{args!r}"[:200])

    sys.addaudithook(hook)
    return watching


@dataclass
class Tally:
    """What became of all inputs."""

    outcomes: Counter[str]
    failures: list[tuple[str, Result]]
    seconds: float = 0.0
    num_bytes: int = 0

    @classmethod
    def empty(cls) -> "Tally":
        """A tally without inputs."""
        return cls(Counter(), [])

    def add(self, name: str, result: Result) -> None:
        """Count one more."""
        self.outcomes[result.outcome] += 1
        self.seconds = max(self.seconds, result.seconds)
        self.num_bytes = max(self.num_bytes, result.num_bytes)
        if not result.is_fine:
            self.failures.append((name, result))

    def record(self) -> dict[str, Any]:
        """The same for JSON."""
        return {
            "inputs": self.outcomes.total(),
            **dict(sorted(self.outcomes.items())),
            "failures": len(self.failures),
            "most seconds": round(self.seconds, 2),
            "most MiB above baseline": round(self.num_bytes / 2**20, 1),
        }


def fuzz(samples: dict[str, Sample], num: int, folder: Path, *, seed: int = 0) -> Tally:
    """Read so many mutated inputs, the same number of each sample.

    Args:
        samples: see `fuzz_samples.Sample`.
        num: how many in all.
        folder: an empty one.
        seed: of the mutations.
    """
    tally = Tally.empty()
    for sample in samples.values():
        place = folder / "valid"
        sample.write(place)
        sample.read(place)  # now everything is imported
        shutil.rmtree(place)
    generator = np.random.default_rng(seed)
    for index in range(num):
        name, sample = list(samples.items())[index % len(samples)]
        place = folder / "mutated"
        sample.write(place)
        (place / sample.target).write_bytes(mutate(sample.files[sample.target], generator))
        result = try_reading(sample.read, place)
        if not result.is_fine:
            shutil.copytree(place, folder / f"failure-{index}", symlinks=True)
        tally.add(f"{name} {index}", result)
        shutil.rmtree(place)
    return tally


def try_crafted(inputs: Iterable[Crafted], folder: Path) -> Tally:
    """Read crafted inputs, each in an empty folder.

    Args:
        inputs: see `fuzz_crafted.crafted`.
        folder: an empty one.
    """
    tally = Tally.empty()
    for number, one in enumerate(inputs):
        place = folder / f"crafted-{number}"
        place.mkdir()
        one.build(place)
        gc.collect()
        result = try_reading(one.read, place)
        tally.add(one.name, result)
        if list(folder.rglob("hacked*")) or Path("hacked").exists():
            tally.add(one.name, Result("code was run", 0.0, 0, ""))
        if result.is_fine:
            shutil.rmtree(place)
    return tally
