"""Kill runs at random times and at chosen file operations: does the repeated command give the same bits?

`reliability.py` runs this as its part `kills`. A killed process is a fork of this one, which has imported everything,
so a run takes a few seconds. The workers of a sweep are forks as well, whereas `mfcvae sweep` starts new processes. The
audit hook of the fork counts operations that change files (opening for writing, renaming, removing, making folders) and
`fsync`, in all processes of a run together; a chosen kill happens just before the n-th of these. For n kills the run is
divided into n equal parts, and in each part a time or a file operation is drawn at random.
"""

import os
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from forks import LOOK_SECONDS, Operations, adopt_orphans, import_all, processes, reap, send, start, wait_for
from run_differences import differences, leftovers

SETTINGS = [
    "networks.kind=mlp",
    "networks.encoder_dims=[8, 8]",
    "networks.decoder_dims=[8, 8]",
    "networks.hidden_dim=8",
]
SETTINGS += ["facets.num_clusters=[4, 3]", "facets.latent_dim=[2, 2]", "training.epochs=2", "training.batch_size=20"]
SETTINGS += ["training.independence=0.5"]  # because its moments are in the checkpoints
SETTINGS += ["mixture_fit.warmup_steps=2", "mixture_fit.refit_steps=[]", "schedule.fade_in_steps=4"]


@dataclass(frozen=True)
class Scenario:
    """A way to train.

    Attributes:
        name: name of the scenario.
        command: the arguments of ``mfcvae`` that start it; ``--out`` is added.
        runs: the run folders below ``--out``.
        ranks: number of processes that train as one.
        by_hand: whether the run is resumed with ``--resume``; a sweep is resumed with the command that started it.
    """

    name: str
    command: Sequence[str]
    runs: Sequence[str] = (".",)
    ranks: int = 1
    by_hand: bool = True

    def begin(self, out: str) -> list[str]:
        """The command that starts a run in a folder."""
        settings = self.command.index("--set")
        return [*self.command[:settings], "--out", out, *self.command[settings:]]

    def go_on(self, out: str) -> list[str]:
        """The command after a kill: with ``--resume`` if there is a run, otherwise the first command again."""
        if self.by_hand and (Path(out) / "config.toml").is_file():
            more = ["--devices", str(self.ranks)] if self.ranks > 1 else []
            return ["fit", "--resume", "--out", out, "--device", "cpu", *more]
        return self.begin(out)


_DATA = ["--data", "data.npz", "--device", "cpu"]
SCENARIOS = (
    Scenario("fit", ["fit", "shapes", *_DATA, "--set", *SETTINGS]),
    Scenario("resume", ["fit", "shapes", *_DATA, "--set", *SETTINGS]),
    Scenario(
        "sweep",
        ["sweep", "shapes", *_DATA, "--seeds", "2", "--workers", "2", "--set", *SETTINGS],
        runs=("seed-0", "seed-1"),
        by_hand=False,
    ),
    Scenario(
        "sweep --together",
        ["sweep", "shapes", *_DATA, "--seeds", "2", "--together", "--set", *SETTINGS],
        runs=("seed-0", "seed-1"),
        by_hand=False,
    ),
    Scenario("two ranks", ["fit", "shapes", *_DATA, "--devices", "2", "--set", *SETTINGS], ranks=2),
)


@dataclass
class Outcome:
    """The outcomes of several kills.

    Attributes:
        kills: number of kills of each kind while a process ran.
        stages: the progress of the runs at that time, see `stage_of`.
        too_late: number of runs that had ended before the kill.
        same: number of runs with the same bits as a run without a kill.
        temporary: number of temporary files that were left.
        orphans: number of processes that were left and had to be killed.
        seconds: longest time until all processes had ended after a random kill.
        failures: a line for every run with different results.
    """

    kills: Counter[str] = field(default_factory=Counter)
    stages: Counter[str] = field(default_factory=Counter)
    too_late: int = 0
    same: int = 0
    temporary: int = 0
    orphans: int = 0
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """All numbers, as values that JSON supports."""
        return {
            "kills": self.kills.total(),
            "random": self.kills["random"],
            "chosen": self.kills["chosen"],
            "same bits": self.same,
            "temporary files left": self.temporary,
            "processes left": self.orphans,
            "most seconds until all processes had ended": round(self.seconds, 1),
            "the run had ended before": self.too_late,
            "killed": {stage: self.stages[stage] for stage in STAGES},
        }


STAGES = ("before the first file", "before the first checkpoint", "in training", "in the finish stage")


def stage_of(runs: Sequence[Path], num_epochs: int) -> str:
    """The progress of the least advanced run of a command, judged by its files.

    Args:
        runs: the run folders.
        num_epochs: number of lines of ``metrics.jsonl`` after training.
    """
    stages = []
    for run in runs:
        metrics = run / "metrics.jsonl"
        if not (run / "config.toml").is_file():
            stages.append(0)
        elif not (run / "checkpoint/training.safetensors").is_file():
            stages.append(1)
        else:
            stages.append(3 if metrics.is_file() and metrics.read_bytes().count(b"\n") >= num_epochs else 2)
    return STAGES[min(stages)]


class Killer:
    """Kills the runs of one scenario.

    Args:
        scenario: the way to train.
        folder: a working folder with ``data.npz``.
    """

    def __init__(self, scenario: Scenario, folder: Path) -> None:
        self.scenario, self.folder = scenario, folder
        self.operations, self.outcome = Operations(), Outcome()
        self._number = 0
        self._time(scenario.begin("whole"), "whole")
        metrics = folder / "whole" / scenario.runs[0] / "metrics.jsonl"
        self.num_epochs = len(metrics.read_text().splitlines())
        if scenario.name == "resume":
            self.operations.reset(self.num_changes // 2)
            wait_for(self._start(scenario.begin("half"), "half"))
            out, args = self._prepare()
            self._time(args, out)

    def kill_at_random(self, share: float, generator: np.random.Generator) -> None:
        """Send SIGKILL to one or all processes of a run after a share of the run's usual time."""
        out, args = self._prepare()
        group = self._start(args, out)
        deadline = time.monotonic() + share * self.seconds
        while time.monotonic() < deadline:
            time.sleep(min(LOOK_SECONDS, max(0.0, deadline - time.monotonic())))
            reap(group)
        members = processes(group)
        hit = bool(members)
        if hit and generator.random() < 0.5:
            send(group, signal.SIGKILL)
        elif hit:
            with suppress(ProcessLookupError):
                os.kill(int(generator.choice(members)), signal.SIGKILL)
        killed = time.monotonic()
        _, orphans = wait_for(group)
        self.outcome.seconds = max(self.outcome.seconds, time.monotonic() - killed)
        self._finish(out, "random" if hit else "", f"after {share:.0%} of the time", orphans=orphans)

    def kill_at_change(self, number: int, *, whole_group: bool) -> None:
        """Send SIGKILL just before a run's n-th file operation, to the process that makes it or to all."""
        out, args = self._prepare()
        self.operations.reset(number)
        _, orphans = wait_for(self._start(args, out, whole_group=whole_group))
        hit = self.operations.count >= number
        when = f"before file operation {number} of {self.num_changes}"
        self._finish(out, "chosen" if hit else "", when, orphans=orphans)

    def _time(self, args: Sequence[str], out: str) -> None:
        """Measure the time of a command without a kill, and the number of its file operations."""
        self.operations.reset()
        begin = time.monotonic()
        failure, _ = wait_for(self._start(args, out))
        if failure:
            raise RuntimeError((self.folder / f"log-{out}").read_text())
        self.seconds, self.num_changes = time.monotonic() - begin, self.operations.count

    def _prepare(self) -> tuple[str, list[str]]:
        """Make the folder of the next run; returns it and the command that will be killed."""
        self._number += 1
        out = f"run-{self._number}"
        args = self.scenario.begin(out)
        if (half := self.folder / "half").is_dir():  # the files that a kill left, from which the run is resumed
            shutil.copytree(half, self.folder / out)
            args = self._go_on(out)
        self.operations.reset()
        return out, args

    def _go_on(self, out: str) -> list[str]:
        """Run the command that a user gives after a kill."""
        args = self.scenario.go_on(str(self.folder / out))
        args[args.index("--out") + 1] = out
        return args

    def _start(self, args: Sequence[str], out: str, *, whole_group: bool = True) -> int:
        def prepare() -> None:
            os.chdir(self.folder)
            self.operations.watch(self.folder / out, at=lambda: _kill(whole_group=whole_group))

        log = self.folder / f"log-{out}"
        return start(args, ranks=self.scenario.ranks, log=log, prepare=prepare)

    def _finish(self, out: str, kind: str, when: str, *, orphans: bool) -> None:
        """Repeat the command, and compare the results; ``kind`` is empty if the run had ended before the kill."""
        outcome, place = self.outcome, self.folder / out
        runs = [place / run for run in self.scenario.runs]
        if kind:
            outcome.kills[kind] += 1
            outcome.stages[stage_of(runs, self.num_epochs)] += 1
        outcome.too_late += not kind
        self.operations.reset()
        failure, left = wait_for(self._start(self._go_on(out), out))
        outcome.orphans += orphans + left
        different = [
            f"{run}/{d}" for run in self.scenario.runs for d in differences(place / run, self.folder / "whole" / run)
        ]
        temporary = leftovers(place)
        outcome.temporary += len(temporary)
        outcome.same += bool(kind) and not failure and not different
        if failure or different or temporary:
            last = (self.folder / f"log-{out}").read_text()[-1500:]
            outcome.failures.append(f"{when}: exit code {failure}, other {different}, left {temporary}: {last}")
        else:
            shutil.rmtree(place)


def _kill(*, whole_group: bool) -> None:
    """Send SIGKILL to this process, or to all processes of its group."""
    if whole_group:
        os.killpg(0, signal.SIGKILL)
    else:
        os.kill(os.getpid(), signal.SIGKILL)


def spread(num: int, generator: np.random.Generator) -> Iterator[float]:
    """Endless numbers between 0 and 1: of every ``num``, there is one in each of ``num`` equal intervals.

    Empty if ``num`` is 0.
    """
    while num:
        yield from (generator.permutation(num) + generator.random(num)) / num


def measure_kills(scenario: Scenario, folder: Path, *, random: int = 0, chosen: int = 0) -> dict[str, Any]:
    """Kill runs of one way to train, at random times and at chosen operations.

    Args:
        scenario: the way to train.
        folder: an empty folder.
        random: number of kills at random times.
        chosen: number of kills just before a file operation; every second one kills the whole group.
    """
    adopt_orphans()
    import_all()
    generator = np.random.default_rng(SCENARIOS.index(scenario))
    images = generator.integers(256, size=(60, 6, 6), dtype=np.uint8)
    np.savez(folder / "data.npz", images=images, y=np.arange(60) % 2)
    killer = Killer(scenario, folder)
    kills = killer.outcome.kills
    for share in spread(random, generator):
        if kills["random"] == random or killer.outcome.too_late > random:
            break
        killer.kill_at_random(share, generator)
    for share in spread(chosen, generator):
        if kills["chosen"] == chosen or killer.outcome.too_late > random + chosen:
            break
        number = 1 + int(share * killer.num_changes)
        killer.kill_at_change(number, whole_group=kills["chosen"] % 2 == 0)
    print(*killer.outcome.failures, sep="\n", file=sys.stderr, flush=True)
    return killer.outcome.record() | {"seconds of a run": round(killer.seconds, 1)}
