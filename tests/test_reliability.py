"""The parts of benchmarks/reliability.py detect the faults that they search for."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from flips import FILES, flipped, sets_of_files
from flips import Tally as Changes
from fuzz import mutate
from fuzz_worker import Result, Worker
from kills import STAGES, spread, stage_of
from memory_slope import describe
from reliability import chosen_steps, measure

from pyro_mfcvae.errors import InputError


@pytest.fixture
def worker() -> Iterator[Worker]:
    worker = Worker()
    yield worker
    worker.close()


def read_text(folder: Path) -> str:
    return (folder / "a.txt").read_text()


def refuse(folder: Path) -> None:
    raise InputError("expected a, got b: give a")


def refuse_in_two_lines(folder: Path) -> None:
    raise InputError("a\nb")


def fail(folder: Path) -> None:
    raise KeyError("x")


def look_outside(folder: Path) -> str:
    return Path("/etc/passwd").read_text()


def write(folder: Path) -> None:
    (folder / "b.txt").write_text("b")


def end(folder: Path) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def wait(folder: Path) -> None:
    time.sleep(60)


def loop(folder: Path) -> None:
    while True:
        pass


def fill(folder: Path) -> int:
    return len(bytes(50_000_000).replace(b"\0", b"\1"))


@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_one_process_reads_until_an_input_ends_it(
    worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.txt").write_text("text")
    monkeypatch.setattr("fuzz_worker.MAX_BYTES", 30_000_000)
    expected: list[tuple[Callable[[Path], object], str, str, int]] = [
        (read_text, "read", "text", 1),
        (refuse, "refused", "expected a, got b: give a", 1),
        (refuse_in_two_lines, "traceback", r"more than one line of plain text: 'a\nb'", 1),
        (fail, "traceback", "KeyError: 'x'", 1),
        (look_outside, "breach", "opened /etc/passwd", 1),
        (write, "breach", "b.txt to write", 1),
        (fill, "memory", "", 1),
        (end, "crash -9", "", 1),
        (wait, "hang", "", 2),
        (loop, "hang", "", 3),
        (read_text, "read", "text", 4),
    ]
    for reader, outcome, message, num_started in expected:
        # On a busy machine even a fast reader needs some time; the limit is short only for readers that never end.
        monkeypatch.setattr("fuzz_worker.MAX_SECONDS", 0.3 if outcome == "hang" else 10.0)
        result = worker.read(reader, tmp_path)
        assert (result.outcome, worker.num_started) == (outcome, num_started), reader
        assert message in result.message
        assert result.is_fine == (outcome in ("read", "refused"))


def test_mutations_are_those_of_their_seed_and_change_something() -> None:
    content = bytes(range(256))
    first, again, other = (mutate(content, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert first == again != other
    assert content not in (first, other)


@pytest.mark.parametrize(
    ("files", "stage"),
    [
        ([], 0),
        (["config.toml"], 1),
        (["config.toml", "metrics.jsonl"], 1),
        (["config.toml", "checkpoint/training.safetensors"], 2),
        (["config.toml", "checkpoint/training.safetensors", "metrics.jsonl"], 3),
    ],
)
def test_the_stage_of_a_command_is_that_of_its_least_advanced_run(tmp_path: Path, files: list[str], stage: int) -> None:
    complete = ["config.toml", "checkpoint/training.safetensors", "metrics.jsonl"]
    for run, names in (("a", files), ("b", complete)):
        for name in names:
            (tmp_path / run / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / run / name).write_text("{}\n{}\n")
    assert stage_of([tmp_path / "a", tmp_path / "b"], 2) == STAGES[stage]
    assert stage_of([tmp_path / "b"], 3) == "in training"


def test_kills_are_spread_evenly() -> None:
    shares = list(islice(spread(5, np.random.default_rng(0)), 10))
    for part in (shares[:5], shares[5:]):
        assert sorted(int(5 * share) for share in part) == [0, 1, 2, 3, 4]
    assert list(spread(0, np.random.default_rng(0))) == []


def test_every_changed_file_is_refused_or_reported_or_has_no_effect_or_is_missed() -> None:
    tally = Changes()
    for outcome, message, warnings in (
        ("refused", "expected", ()),
        ("read", "other", ("was changed",)),
        ("read", "whole", ()),
        ("read", "other", ()),
        ("traceback", "KeyError", ("was changed",)),
    ):
        tally.add("a change", Result(outcome, 0.0, 0, message, warnings), "whole")
    assert tally.record() == {"changes": 4, "refused": 1, "warned of": 1, "missed": 2, "without effect": 1}
    assert flipped(b"\x00\x80", 15) == b"\x00\x00" and flipped(b"\x00\x80", 0) == b"\x01\x80"


def test_every_set_of_files_except_the_whole_run_is_exchanged() -> None:
    sets = list(sets_of_files())
    assert len(sets) == len(set(sets)) == 2 ** (len(FILES) - 1) - 2 + 1


def test_a_slope_is_that_of_the_samples_after_their_first_quarter() -> None:
    samples = [(float(i), 100.0 if i < 25 else 2.0 * i) for i in range(100)]
    assert describe(samples, "hour")["MiB per hour"] == 2.0


def test_steps_are_recorded_one_by_one_and_recorded_steps_are_left_out(tmp_path: Path) -> None:
    ran: list[str] = []

    def step(name: str) -> Callable[[Path], dict[str, object]]:
        def run(folder: Path) -> dict[str, object]:
            assert not list(folder.iterdir())
            ran.append(name)
            return {"number": len(ran)}

        return run

    steps = {"kills": {"fit": step("fit"), "sweep": step("sweep")}, "disk": {"fit": step("disk")}}
    result = tmp_path / "result.json"
    assert chosen_steps([], steps) == [("kills", "fit"), ("kills", "sweep"), ("disk", "fit")]
    measure(["kills/sweep"], result=result, steps=steps)
    measure([], result=result, missing=True, steps=steps)
    measure(["disk"], result=result, steps=steps)
    assert ran == ["sweep", "fit", "disk", "disk"]
    record = json.loads(result.read_text())
    assert {part: {name: row["number"] for name, row in rows.items()} for part, rows in record.items()} == {
        "kills": {"sweep": 1, "fit": 2},
        "disk": {"fit": 4},
    }
    assert set(record["disk"]["fit"]) == {"version", "commit", "date", "machine", "number"}
    with pytest.raises(SystemExit, match=r"expected parts or steps out of .*kills/sweep, got memory"):
        measure(["memory"], result=result, steps=steps)
