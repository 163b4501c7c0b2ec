"""Kills of runs, at random times and at chosen file operations, and whether what is repeated ends with the same bits.

`reliability.py` runs this as its part `kills`. A killed process is a fork of this one, which has imported everything: a
run then takes a second or two. The workers of a sweep are forks as well, where `mfcvae sweep` starts new processes. The
audit hook of the fork counts what changes files (opening for writing, renaming, removing, making folders) and `fsync`,
in all processes of a run together; a chosen kill falls just before the n-th of these.
"""

import ctypes
import json
import mmap
import os
import shutil
import signal
import socket
import struct
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from pyro_mfcvae.atomic_io import is_temporary

SETTINGS = [
    "networks.kind=mlp",
    "networks.encoder_dims=[8, 8]",
    "networks.decoder_dims=[8, 8]",
    "networks.hidden_dim=8",
]
SETTINGS += ["facets.num_clusters=[4, 3]", "facets.latent_dim=[2, 2]", "training.epochs=2", "training.batch_size=20"]
SETTINGS += ["mixture_fit.warmup_steps=2", "mixture_fit.refit_steps=[]", "schedule.fade_in_steps=4"]

# A process that was asked to end, or whose parent was killed, has so long.
_PATIENCE_SECONDS = 300.0
_CHANGES = frozenset({"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate"})


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


class Counter:
    """How many file operations a run's processes have made, and before which one they are killed."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 16)  # shared with the forks

    def reset(self, kill_at: int = 0) -> None:
        """Count from 0; 0 for no kill."""
        self._memory[:16] = struct.pack("qq", 0, kill_at)

    @property
    def count(self) -> int:
        """The operations so far."""
        return int(struct.unpack("qq", self._memory[:16])[0])

    def watch(self, folder: Path, *, whole_group: bool) -> None:
        """Count this process's changes below a folder, from now on."""
        prefix, fsync = str(folder.resolve()), os.fsync

        def note() -> None:
            count, kill_at = struct.unpack("qq", self._memory[:16])
            self._memory[:8] = struct.pack("q", count + 1)
            if count + 1 == kill_at:
                os.killpg(0, signal.SIGKILL) if whole_group else os.kill(os.getpid(), signal.SIGKILL)

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


def import_all() -> None:
    """Import what a run imports, so that forks need not."""
    import matplotlib.figure  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import scipy.optimize  # noqa: F401
    import sklearn.mixture  # noqa: F401
    import torch

    import pyro_mfcvae.checks.figures
    import pyro_mfcvae.cli.fit
    import pyro_mfcvae.report.page
    import pyro_mfcvae.runs.sweep  # noqa: F401

    torch.set_num_threads(1)


def _enter(args: Sequence[str], env: dict[str, str], prepare: Callable[[], None], log: Path) -> NoReturn:
    """Everything that a fork does: one command."""
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
    """Fork one process per rank, all in one group of their own; returns its number."""
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
    """Wait until all processes of a group have ended; the first failure's exit code, and whether some had to be killed.

    As torchrun does, the others are asked to end when one of those that train as one has failed.
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
                    _send(group, signal.SIGTERM)
        if time.monotonic() > deadline:
            _send(group, signal.SIGKILL)
            while processes(group):
                reap(group)
            return failure or -signal.SIGKILL, True
        time.sleep(0.01)
    return failure, False


def reap(group: int) -> None:
    """Take note of the members of a group that have ended."""
    for pid in processes(group):
        with suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def processes(group: int) -> list[int]:
    """The processes of a group, those included that have ended and that nobody has waited for."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with suppress(OSError):
                if int((entry / "stat").read_text().rpartition(")")[2].split()[2]) == group:
                    found.append(int(entry.name))
    return found


def adopt_orphans() -> None:
    """Become the parent of processes whose parent was killed, so that somebody waits for them (Linux)."""
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)


def _send(group: int, signum: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, signum)


def differences(here: Path, there: Path) -> list[str]:
    """What one run's files have that another's do not; clocks aside."""
    found = []
    for name in ("config.toml", "model.safetensors", "groups.json"):
        found += [name] * (_bytes(here / name) != _bytes(there / name))
    found += ["checkpoint"] * (_tensors(here) != _tensors(there))
    found += ["assignments.parquet"] * (_rows(here) != _rows(there))
    found += ["metrics.jsonl"] * (_records(here / "metrics.jsonl") != _records(there / "metrics.jsonl"))
    found += ["summary.json"] * (_records(here / "summary.json") != _records(there / "summary.json"))
    found += [f"figures/{name}.png" for name in ("clusters", "curves") if not (here / f"figures/{name}.png").is_file()]
    return found


def _bytes(path: Path) -> bytes:
    return path.read_bytes() if path.is_file() else b""


def _tensors(run: Path) -> dict[str, bytes]:
    """Those of the checkpoint. Its metadata have a digest of ``metrics.jsonl``, in which there are clocks."""
    from safetensors.numpy import load_file

    path = run / "checkpoint/training.safetensors"
    return {name: array.tobytes() for name, array in load_file(path).items()} if path.is_file() else {}


def _rows(run: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    path = run / "assignments.parquet"
    return pq.read_table(path, use_threads=False).to_pylist() if path.is_file() else []


def _records(path: Path) -> list[dict[str, Any]]:
    """The records of a file of JSON, without what a clock or a folder's name has put into them."""
    if not path.is_file():
        return []
    text = path.read_text()
    records = [json.loads(text)] if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]
    return [{key: value for key, value in record.items() if key not in _CLOCKS} for record in records]


_CLOCKS = frozenset({"seconds", "sha256", "metrics_digest"})


def leftovers(folder: Path) -> list[str]:
    """Temporary files and locks that are still there."""
    names = [
        path.name for path in folder.rglob("*") if is_temporary(path) or path.name in (".lock", "next.safetensors")
    ]
    return sorted(names)


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
            _send(group, signal.SIGKILL)
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
            self.counter.watch(self.folder / out, whole_group=whole_group)

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
