"""A disk that becomes full during a command. The command must end with one line and exit code 2, and must give the same
bits if it is repeated when there is room.

`reliability.py` runs this as its part ``disk``. The disk is made full in two ways. The limit on the size of files
(RLIMIT_FSIZE) falls to 0 just before the n-th file operation of the command, for every n. For root, also a small tmpfs
has a given number of free blocks. A command is a fork of this process, see `forks.py`.
"""

import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from forks import Operations, import_all, start, wait_for
from kills import SCENARIOS
from run_differences import differences, leftovers

_BLOCK = 4096
# Commands that read a run and write into its folder, {}.
_COMMANDS = (
    ("assign", "{}", "data.npz", "--out", "{}/table.csv"),
    ("assign", "{}", "--format", "parquet"),
    ("assign", "{}", "--format", "jsonl"),
    ("report", "{}"),
    ("evaluate", "{}"),
    ("sample", "{}"),
    ("check", "{}", "--items", "100", "--draws", "30"),
)


@dataclass
class Tally:
    """The outcomes of the commands on a full disk."""

    full: int = 0
    unharmed: int = 0
    failures: list[str] = field(default_factory=list)

    def record(self) -> dict[str, int]:
        """All numbers, as values that JSON supports."""
        return {"full disks": self.full, "nothing to write": self.unharmed, "failures": len(self.failures)}


class Disk:
    """Runs commands in a folder, with and without room."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.operations = folder, Operations()
        self._pipe = folder / "log"
        os.mkfifo(self._pipe)  # the limit on the size of files does not apply to it
        self._end = os.open(self._pipe, os.O_RDWR | os.O_NONBLOCK)

    def run(self, args: Sequence[str], watched: Path, *, full_at: int = 0) -> tuple[int, str]:
        """Run a command in which no file can grow from the n-th file operation on; returns the exit code and the
        output.
        """

        def prepare() -> None:
            os.chdir(self.folder)
            self.operations.watch(watched, at=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)))

        self.operations.reset(full_at)
        code, _ = wait_for(start(args, ranks=1, log=self._pipe, prepare=prepare))
        try:
            return code, os.read(self._end, 1 << 16).decode(errors="replace")
        except BlockingIOError:
            return code, ""

    def fit_whole(self) -> None:
        """Fit the run that a disk with room gives."""
        whole = self.folder / "whole"
        code, output = self.run(SCENARIOS[0].begin(str(whole)), whole)
        if code:
            raise RuntimeError(output)

    def judge(self, tally: Tally, name: str, code: int, output: str) -> bool:
        """Check whether a command has failed in the right way; if not, record the problem."""
        messages = [line for line in output.splitlines() if line.startswith("mfcvae: ")]
        if code == 0:
            tally.unharmed += 1
            return False
        tally.full += 1
        if code != 2 or len(messages) != 1 or "Traceback" in output or "Error" in output:
            tally.failures.append(f"{name}: exit code {code}: {output[-600:]}")
        return True


def _repeat(disk: Disk, tally: Tally, name: str, place: Path) -> None:
    """Repeat the command when there is room, and check whether the run is the same as on a disk with room."""
    fit = SCENARIOS[0]
    args = fit.go_on(str(place))
    code, output = disk.run(args, place)
    wrong = differences(place, disk.folder / "whole") + leftovers(place)
    if code or wrong:
        tally.failures.append(f"{name}, repeated: exit code {code}, {wrong}: {output[-600:]}")


def _fill_at_operations(disk: Disk, tally: Tally, *, first: int) -> None:
    """Run `mfcvae fit` with no room from every second of its file operations on, beginning with the given operation."""
    fit = SCENARIOS[0]
    disk.fit_whole()
    for number in range(first, disk.operations.count + 1, 2):
        place = disk.folder / f"run-{number}"
        code, output = disk.run(fit.begin(str(place)), place, full_at=number)
        if disk.judge(tally, f"file operation {number}", code, output):
            _repeat(disk, tally, f"file operation {number}", place)
        shutil.rmtree(place, ignore_errors=True)


def _fill_tmpfs(disk: Disk, tally: Tally) -> None:
    """Run `mfcvae fit` on a file system with a number of free blocks that goes from none to enough."""
    fit, mount = SCENARIOS[0], disk.folder / "tmpfs"
    disk.fit_whole()
    mount.mkdir()
    blocks = 1
    while True:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={blocks * _BLOCK}", "tmpfs", mount], check=True)
        try:
            place = mount / "run"
            code, output = disk.run(fit.begin(str(place)), place)
            if not disk.judge(tally, f"{blocks} blocks", code, output):
                return
            subprocess.run(["mount", "-o", "remount,size=64m", mount], check=True)
            _repeat(disk, tally, f"{blocks} blocks", place)
        finally:
            subprocess.run(["umount", mount], check=True)
        blocks += 1


def _fill_commands(disk: Disk, tally: Tally) -> None:
    """Run the other commands with no room from each of their file operations on; the second try must succeed."""
    disk.fit_whole()
    for number, command in enumerate(_COMMANDS):
        place = disk.folder / f"looked-at-{number}"
        shutil.copytree(disk.folder / "whole", place)
        args = [part.format(place) for part in command]
        code, output = disk.run(args, place)
        if code:
            tally.failures.append(f"{args}: with room, exit code {code}: {output[-600:]}")
        for at in range(1, disk.operations.count + 1):
            shutil.rmtree(place)
            shutil.copytree(disk.folder / "whole", place)
            code, output = disk.run(args, place, full_at=at)
            if disk.judge(tally, f"{command[0]}, file operation {at}", code, output) and leftovers(place):
                tally.failures.append(f"{command[0]}, file operation {at}: left {leftovers(place)}")


WAYS_TO_FILL: dict[str, Callable[[Disk, Tally], None]] = {
    "fit, odd file operations": partial(_fill_at_operations, first=1),
    "fit, even file operations": partial(_fill_at_operations, first=2),
    "other commands": _fill_commands,
    "fit on a small tmpfs": _fill_tmpfs,  # for root
}


def measure_full_disks(way: str, folder: Path) -> dict[str, Any]:
    """Make the disk full at every write of commands.

    Args:
        way: a key of `WAYS_TO_FILL`.
        folder: an empty folder.
    """
    import_all()
    images = np.random.default_rng(0).integers(256, size=(60, 6, 6), dtype=np.uint8)
    np.savez(folder / "data.npz", images=images, y=np.arange(60) % 2)
    disk, tally = Disk(folder), Tally()
    WAYS_TO_FILL[way](disk, tally)
    print(*tally.failures, sep="\n", flush=True)
    return tally.record()
