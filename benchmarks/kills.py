"""Kills of runs, at random times and at chosen file operations, and whether what is repeated ends with the same bits.

`reliability.py` runs this as its part `kills`. A killed process is a fork of this one, which has imported everything: a
run then takes a second or two. The workers of a sweep are forks as well, where `mfcvae sweep` starts new processes. The
audit hook of the fork counts what changes files (opening for writing, renaming, removing, making folders) and `fsync`,
in all processes of a run together; a chosen kill falls just before the n-th of these.
"""

import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from forks import Counter, adopt_orphans, import_all, processes, reap, send, start, wait_for
from run_differences import differences, leftovers

SETTINGS = [
    "networks.kind=mlp",
    "networks.encoder_dims=[8, 8]",
    "networks.decoder_dims=[8, 8]",
    "networks.hidden_dim=8",
]
SETTINGS += ["facets.num_clusters=[4, 3]", "facets.latent_dim=[2, 2]", "training.epochs=2", "training.batch_size=20"]
SETTINGS += ["mixture_fit.warmup_steps=2", "mixture_fit.refit_steps=[]", "schedule.fade_in_steps=4"]


@dataclass(frozen=True)
class Scenario:
    """A way to train.

    Attributes:
        name: of the scenario.
        command: the arguments of ``mfcvae`` that begin it; ``--out`` is added.
        runs: the run folders below ``--out``.
        ranks: how many processes train as one.
        by_hand: whether it goes on with ``--resume``; a sweep goes on with the command that began it.
    """

    name: str
    command: Sequence[str]
    runs: Sequence[str] = (".",)
    ranks: int = 1
    by_hand: bool = True

    def begin(self, out: str) -> list[str]:
        """The command that begins a run in a folder."""
        settings = self.command.index("--set")
        return [*self.command[:settings], "--out", out, *self.command[settings:]]

    def go_on(self, out: str) -> list[str]:
        """The command that a user gives after a kill: ``--resume`` where there is a run, else the first one again."""
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
    """What became of some kills.

    Attributes:
        kills: how many fell while a process ran.
        too_late: runs that had ended before.
        same: runs that end with the bits of one that nothing stopped.
        failures: a line for every other one.
    """

    kills: int = 0
    too_late: int = 0
    same: int = 0
    temporary: int = 0
    orphans: int = 0
    failures: list[str] = field(default_factory=list)

    def record(self) -> dict[str, Any]:
        """The same for JSON."""
        return {
            "kills": self.kills,
            "same bits": self.same,
            "temporary files left": self.temporary,
            "processes left": self.orphans,
            "the run had ended before": self.too_late,
        }


class Killer:
    """Kills the runs of one scenario.

    Args:
        scenario: the way to train.
        folder: an empty working folder.
    """

    def __init__(self, scenario: Scenario, folder: Path) -> None:
        self.scenario, self.folder = scenario, folder
        self.counter, self.outcome = Counter(), Outcome()
        self._number = 0
        self.counter.reset()
        begin = time.monotonic()
        failure, _ = wait_for(self._start(scenario.begin("whole"), "whole"))
        if failure:
            raise RuntimeError((folder / "log-whole").read_text())
        self.seconds, self.num_changes = time.monotonic() - begin, self.counter.count

    def kill_at_random(self, generator: np.random.Generator) -> None:
        """SIGKILL to one process of a run, or to all, after a random time."""
        out, args = self._prepare()
        group = self._start(args, out)
        deadline = time.monotonic() + generator.uniform(0, self.seconds)
        while time.monotonic() < deadline:
            time.sleep(0.005)
            reap(group)
        members = processes(group)
        hit = bool(members)
        if hit and generator.random() < 0.5:
            send(group, signal.SIGKILL)
        elif hit:
            with suppress(ProcessLookupError):
                os.kill(int(generator.choice(members)), signal.SIGKILL)
        self._finish(out, group, hit, "at a random time")

    def kill_at_change(self, number: int, *, whole_group: bool) -> None:
        """SIGKILL just before a run's n-th file operation, to the process that makes it, or to all."""
        out, args = self._prepare()
        self.counter.reset(number)
        group = self._start(args, out, whole_group=whole_group)
        _, orphans = wait_for(group)
        hit = self.counter.count >= number
        self._finish(out, group, hit, f"before file operation {number} of {self.num_changes}", orphans=orphans)

    def _prepare(self) -> tuple[str, list[str]]:
        """The folder of the next run, and the command that is to be killed."""
        self._number += 1
        out = f"run-{self._number}"
        args = self.scenario.begin(out)
        if self.scenario.name == "resume":  # one kill comes before
            self.counter.reset(self.num_changes // 2)
            wait_for(self._start(args, out))
            args = self.scenario.go_on(str(self.folder / out))
            args[args.index("--out") + 1] = out
        self.counter.reset()
        return out, args

    def _start(self, args: Sequence[str], out: str, *, whole_group: bool = True) -> int:
        def prepare() -> None:
            os.chdir(self.folder)
            self.counter.watch(self.folder / out, at=lambda: _kill(whole_group=whole_group))

        log = self.folder / f"log-{out}"
        return start(args, ranks=self.scenario.ranks, log=log, prepare=prepare)

    def _finish(self, out: str, group: int, hit: bool, when: str, *, orphans: bool = False) -> None:
        """Let the rest of the run end, repeat the command, and compare."""
        outcome, place = self.outcome, self.folder / out
        outcome.orphans += wait_for(group)[1] or orphans
        outcome.kills += hit
        outcome.too_late += not hit
        self.counter.reset()
        args = self.scenario.go_on(str(place))
        args[args.index("--out") + 1] = out
        failure, left = wait_for(self._start(args, out))
        different = [
            f"{run}/{d}" for run in self.scenario.runs for d in differences(place / run, self.folder / "whole" / run)
        ]
        temporary = leftovers(place)
        outcome.orphans += left
        outcome.temporary += len(temporary)
        outcome.same += hit and not failure and not different
        if failure or different or temporary:
            last = (self.folder / f"log-{out}").read_text()[-1500:]
            outcome.failures.append(f"{when}: exit code {failure}, other {different}, left {temporary}: {last}")
        elif place.exists():
            shutil.rmtree(place)


def _kill(*, whole_group: bool) -> None:
    """SIGKILL to this process, or to all of its group."""
    if whole_group:
        os.killpg(0, signal.SIGKILL)
    else:
        os.kill(os.getpid(), signal.SIGKILL)


def measure_kills(folder: Path, *, random: int, chosen: int, only: Sequence[str] = ()) -> dict[str, Any]:
    """Random and chosen kills of every scenario; so many of each kind in all."""
    adopt_orphans()
    import_all()
    generator = np.random.default_rng(0)
    images = generator.integers(256, size=(60, 6, 6), dtype=np.uint8)
    scenarios = [scenario for scenario in SCENARIOS if not only or scenario.name in only]
    report: dict[str, Any] = {}
    for scenario in scenarios:
        place = folder / scenario.name.replace(" ", "")
        place.mkdir()
        np.savez(place / "data.npz", images=images, y=np.arange(60) % 2)
        killer = Killer(scenario, place)
        while killer.outcome.kills < -(-random // len(scenarios)):
            killer.kill_at_random(generator)
        share = -(-chosen // len(scenarios)) + killer.outcome.kills
        numbers = iter(1 + generator.permutation(killer.num_changes))  # in turn: some lie after a shorter run's end
        while killer.outcome.kills < share and (number := next(numbers, None)) is not None:
            killer.kill_at_change(int(number), whole_group=killer.outcome.kills % 2 == 0)
        report[scenario.name] = killer.outcome.record() | {"seconds of a run": round(killer.seconds, 1)}
        print(json.dumps({scenario.name: report[scenario.name]}), flush=True)
        for failure in killer.outcome.failures:
            print(failure, file=sys.stderr, flush=True)
    return report
