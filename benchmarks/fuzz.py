"""Read mutated and crafted inputs of all formats, and record the effect of each on the process that reads it (see
fuzz_worker.py).

`reliability.py` runs this as its part `fuzz`.
"""

import shutil
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from fuzz_crafted import crafted
from fuzz_samples import Crafted, Sample, data_samples, run_samples
from fuzz_worker import Result, Worker


def mutate(content: bytes, generator: np.random.Generator) -> bytes:
    """Change a content one to four times: bits, bytes, numbers, cuts, repeats, exchanged parts, a truncated end."""
    data = bytearray(content)
    for _ in range(int(generator.integers(1, 5))):
        place, length = int(generator.integers(len(data) + 1)), int(generator.integers(1, 33))
        kind = int(generator.integers(8))
        # In most formats the important parts are at both ends.
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
    """Replace a number that is written in digits, as in headers, by another number."""
    digits = [i for i, byte in enumerate(data) if 48 <= byte <= 57]
    if digits:
        place = int(generator.choice(digits))
        numbers = [b"-1", b"0", b"9" * 6, b"9" * 12, b"9" * 25, b"1e400", b"nan", b"", b"[", b"'"]
        data[place : place + 1] = numbers[int(generator.integers(len(numbers)))]
    return data


@dataclass
class Tally:
    """The outcomes of all inputs."""

    outcomes: Counter[str]
    failures: list[tuple[str, Result]]
    seconds: float = 0.0
    num_bytes: int = 0

    @classmethod
    def empty(cls) -> "Tally":
        """Make a tally without inputs."""
        return cls(Counter(), [])

    def add(self, name: str, result: Result) -> None:
        """Count one more result."""
        self.outcomes[result.outcome] += 1
        self.seconds = max(self.seconds, result.seconds)
        self.num_bytes = max(self.num_bytes, result.num_bytes)
        if not result.is_fine:
            self.failures.append((name, result))

    def record(self) -> dict[str, Any]:
        """All numbers, as values that JSON supports."""
        return {
            "inputs": self.outcomes.total(),
            **dict(sorted(self.outcomes.items())),
            "failures": len(self.failures),
            "most seconds": round(self.seconds, 2),
            "most MiB above baseline": round(self.num_bytes / 2**20, 1),
        }


def fuzz(samples: dict[str, Sample], num: int, folder: Path, *, seed: int = 0) -> Tally:
    """Read a number of mutated inputs, the same number for each sample.

    Args:
        samples: the inputs to mutate, see `fuzz_samples.Sample`.
        num: number of all mutated inputs.
        folder: an empty folder; inputs that fail stay there.
        seed: seed of the mutations.
    """
    tally, worker = Tally.empty(), Worker()
    read_once(samples.values(), folder / "valid")
    generator = np.random.default_rng(seed)
    for name, sample in samples.items():
        place = folder / "mutated"
        sample.write(place)
        for index in range(-(-num // len(samples))):
            (place / sample.target).write_bytes(mutate(sample.files[sample.target], generator))
            result = worker.read(sample.read, place)
            if not result.is_fine:
                shutil.copytree(place, folder / f"failure-{name.replace('/', '-')}-{index}", symlinks=True)
            tally.add(f"{name} {index}", result)
        shutil.rmtree(place)
    worker.close()
    return tally


def read_once(samples: Iterable[Sample], place: Path) -> None:
    """Read valid inputs in this process, so that its forks do not import anything."""
    for sample in samples:
        sample.write(place)
        sample.read(place)
        shutil.rmtree(place)


def try_crafted(inputs: Iterable[Crafted], folder: Path) -> Tally:
    """Read crafted inputs, each in an empty folder.

    Args:
        inputs: see `fuzz_crafted.crafted`.
        folder: an empty folder.
    """
    tally, worker = Tally.empty(), Worker()
    for number, one in enumerate(inputs):
        place = folder / f"crafted-{number}"
        place.mkdir()
        one.build(place)
        result = worker.read(one.read, place)
        tally.add(one.name, result)
        if list(folder.rglob("hacked*")) or Path("hacked").exists():
            tally.add(one.name, Result("code was run", 0.0, 0, ""))
        if result.is_fine:
            shutil.rmtree(place)
    worker.close()
    return tally


def measure_mutated(folder: Path, *, num: int) -> dict[str, Any]:
    """Read mutated inputs, the same number for each format and for each file of a run."""
    samples = data_samples() | run_samples(folder)
    return _told(fuzz(samples, num, folder)) | {"formats and files": len(samples)}


def measure_crafted(folder: Path) -> dict[str, Any]:
    """Read all crafted inputs."""
    read_once((data_samples() | run_samples(folder)).values(), folder / "valid")
    return _told(try_crafted(crafted(), folder))


def _told(tally: Tally) -> dict[str, Any]:
    """The record of a tally; failures are printed."""
    for name, result in tally.failures:
        print(f"{name}: {result.outcome}: {result.message[-300:]}", flush=True)
    return tally.record()
