"""Do the readers detect flipped bits in the files of a run, and files that were replaced by those of other runs?

`reliability.py` runs this as its part `flips`. A change is detected if reading the run raises an error or logs a
warning. Everything in a run that commands read is read, in a separate process (see fuzz_worker.py). Figures and
TensorBoard's events are left out, because no command reads them.
"""

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from fuzz_samples import as_bytes
from fuzz_worker import Result, Worker
from kills import SETTINGS

_LAST, _PREVIOUS = "checkpoint/training.safetensors", "checkpoint/previous.safetensors"
FILES = (
    "config.toml",
    "model.safetensors",
    _LAST,
    _PREVIOUS,
    "metrics.jsonl",
    "summary.json",
    "groups.json",
    "assignments.parquet",
)
Files = Mapping[str, bytes]


@dataclass
class Tally:
    """The outcomes of the changes.

    Attributes:
        refused: number of changes that raised an error.
        warned: number of changes that logged a warning.
        without_effect: number of changes after which the same content was read, for example another notation of a
            number.
        missed: a line for each remaining change.
    """

    refused: int = 0
    warned: int = 0
    without_effect: int = 0
    missed: list[str] = field(default_factory=list)

    @property
    def effective(self) -> int:
        """Number of changes that must be detected."""
        return self.refused + self.warned + len(self.missed)

    def add(self, name: str, result: Result, whole: str) -> None:
        """Count one more change; ``whole`` is the result of reading the unchanged files."""
        if result.outcome == "refused":
            self.refused += 1
        elif result.outcome == "read" and result.warnings:
            self.warned += 1
        elif result.outcome == "read" and result.message == whole:
            self.without_effect += 1
        else:
            self.missed.append(f"{name}: {result.outcome}: {result.message[-300:]}")

    def record(self) -> dict[str, int]:
        """All numbers, as values that JSON supports."""
        return {
            "changes": self.effective,
            "refused": self.refused,
            "warned of": self.warned,
            "missed": len(self.missed),
            "without effect": self.without_effect,
        }


def read_everything(folder: Path) -> str:
    """A digest of everything that commands read in the folder ``run``."""
    from pyro_mfcvae.api.run import Run
    from pyro_mfcvae.data.datasets import load_dataset
    from pyro_mfcvae.runs.fit import start
    from pyro_mfcvae.runs.folder import RunFolder
    from pyro_mfcvae.train.devices import open_fabric

    run = Run(folder / "run")
    data = load_dataset(folder / run.config.data.source)
    training = start(run.config, RunFolder(folder / "run"), data, open_fabric("cpu"))
    found = hashlib.sha256()
    for value in (run.config, run.summary, run.scores.to_csv(), run.assignments.to_csv(), run.grouping):
        found.update(repr(value).encode())
    found.update(repr(run.folder.read_metrics()).encode())
    for module in (run.pair, training.pair):
        for name, tensor in module.state_dict().items():
            found.update(name.encode() + tensor.contiguous().numpy().tobytes())
    return found.hexdigest()


class Spoiler:
    """Reads a small run after changes of its files.

    Args:
        folder: an empty one.
        files: the files of the run.
        data: the file that it was trained on.
    """

    def __init__(self, folder: Path, files: Files, data: bytes) -> None:
        self._folder, self._files, self._worker = folder, files, Worker()
        (folder / "run/checkpoint").mkdir(parents=True)
        (folder / "data.npz").write_bytes(data)
        self._write(files)
        self.whole = read_everything(folder)  # done here, so that forks do not import anything
        self.tally = Tally()

    def change(self, name: str, changed: Files) -> None:
        """Replace some of the run's files, read everything, count the outcome, and restore the files.

        If the last state is damaged, the previous state would be read, so it is truncated here.
        """
        damage = {_LAST: self._files[_LAST][:-1]} if _PREVIOUS in changed else {}
        self._write({**damage, **changed})
        result = self._worker.read(read_everything, self._folder)
        if damage and result.warnings:  # one warning is about the last state, which this change does not affect
            result = Result(result.outcome, result.seconds, 0, result.message, result.warnings[1:])
        self.tally.add(name, result, self.whole)
        self._write({**{name: self._files[name] for name in damage}, **{name: self._files[name] for name in changed}})

    def close(self) -> None:
        """End the process."""
        self._worker.close()

    def _write(self, files: Files) -> None:
        for name, content in files.items():
            (self._folder / "run" / name).write_bytes(content)


def train(folder: Path, settings: list[str], data: bytes) -> Files:
    """The files of a small run in an empty folder."""
    from pyro_mfcvae.config.text import load_preset, override
    from pyro_mfcvae.data.datasets import load_dataset
    from pyro_mfcvae.runs.fit import fit
    from pyro_mfcvae.runs.folder import RunFolder

    folder.mkdir(parents=True)
    (folder / "data.npz").write_bytes(data)
    small = [*SETTINGS, "training.batch_size=6", "data.source=data.npz"]
    config = override(load_preset("shapes"), [*small, *settings])
    fit(config, RunFolder(folder / "run"), data=load_dataset(folder / "data.npz"), device="cpu")
    return {name: (folder / "run" / name).read_bytes() for name in FILES}


def small_data(seed: int) -> bytes:
    """A file of 12 images of noise."""
    images = np.random.default_rng(seed).integers(256, size=(12, 8, 8), dtype=np.uint8)
    save: Callable[[io.BytesIO], object] = lambda file: np.savez(file, images=images, y=np.arange(12) % 3)  # noqa: E731
    return as_bytes(save)


def flipped(content: bytes, bit: int) -> bytes:
    """The same content with one bit inverted."""
    data = bytearray(content)
    data[bit // 8] ^= 1 << bit % 8
    return bytes(data)


def measure_flips(folder: Path, *, num: int) -> dict[str, Any]:
    """Flip bits that change what is read, the same number in each file."""
    data = small_data(0)
    files = train(folder / "trained", [], data)
    spoiler, generator = Spoiler(folder / "spoiled", files, data), np.random.default_rng(0)
    for number, name in enumerate(FILES, start=1):
        while spoiler.tally.effective < num * number // len(FILES):
            bit = int(generator.integers(8 * len(files[name])))
            spoiler.change(f"{name}, bit {bit}", {name: flipped(files[name], bit)})
    spoiler.close()
    return _told(spoiler.tally) | {"files": len(FILES)}


def measure_swaps(folder: Path) -> dict[str, Any]:
    """Replace each file, and each set of files, by those of a run with another seed, learning rate or data."""
    data = small_data(0)
    files = train(folder / "trained", [], data)
    others = {
        "another seed": train(folder / "seed", ["seed=1"], data),
        "another learning rate": train(folder / "rate", ["training.learning_rate=0.02"], data),
        "other data": train(folder / "data", [], small_data(1)),
    }
    spoiler = Spoiler(folder / "spoiled", files, data)
    for name, other in others.items():
        for chosen in sets_of_files():
            spoiler.change(f"{name}: {', '.join(chosen)}", {file: other[file] for file in chosen})
    spoiler.close()
    return _told(spoiler.tally) | {"other runs": len(others)}


def sets_of_files() -> Iterator[tuple[str, ...]]:
    """All sets of files, except the whole run, and except the previous state together with others."""
    names = [name for name in FILES if name != _PREVIOUS]
    yield (_PREVIOUS,)
    for size in range(1, len(names)):
        yield from combinations(names, size)


def _told(tally: Tally) -> dict[str, Any]:
    """The record of a tally; changes that were missed are printed."""
    print(*tally.missed, sep="\n", flush=True)
    return tally.record()
