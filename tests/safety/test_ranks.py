"""Processes that train together end together."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from pyro_mfcvae.safety import ranks

WAIT = "import time; time.sleep(60)"


def run(program: str, **env: str) -> "subprocess.Popen[str]":
    """A separate process that takes part in a training."""
    program = f"from pyro_mfcvae.safety import ranks\nranks._POLL_SECONDS = 0.05\n{program}"
    return subprocess.Popen(
        [sys.executable, "-c", program], env={**os.environ, **env}, stderr=subprocess.PIPE, text=True
    )


def test_a_rank_ends_with_its_launcher_even_if_that_ended_before() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    began = time.monotonic()
    with run(f"ranks.end_with_launcher()\n{WAIT}", MFCVAE_LAUNCHER=str(ended.pid)) as rank:
        assert rank.wait(30) == 1
    assert time.monotonic() - began < 30


def test_a_rank_runs_on_with_its_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MFCVAE_LAUNCHER", raising=False)
    program = "ranks.end_with_launcher()\nimport time; time.sleep(0.3)"
    for env in ({"MFCVAE_LAUNCHER": str(os.getpid())}, {"TORCHELASTIC_RUN_ID": "none"}, {}):
        with run(program, **env) as rank:
            assert rank.wait(30) == 0


@pytest.mark.slow
def test_a_rank_of_torchrun_ends_with_its_agent() -> None:
    """The agent is ended by SIGKILL, which no process can catch."""
    rank_program = f"from pyro_mfcvae.safety import ranks; ranks.end_with_launcher(); {WAIT}"
    agent = f"""
import subprocess, sys
rank = subprocess.Popen([sys.executable, "-c", {rank_program!r}])
print(rank.pid, flush=True)
rank.wait()
"""
    env = {**os.environ, "TORCHELASTIC_RUN_ID": "none"}
    with subprocess.Popen([sys.executable, "-c", agent], env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        rank = int(process.stdout.readline())
        time.sleep(1.0)  # the process imports modules
        process.kill()
        deadline = time.monotonic() + 10
        with suppress(ProcessLookupError):
            while time.monotonic() < deadline:
                os.kill(rank, 0)
                time.sleep(0.05)
            os.kill(rank, signal.SIGKILL)
            pytest.fail("the rank outlived its agent")


@pytest.mark.parametrize(
    ("rank", "how"),
    [
        ("import os; os.kill(os.getpid(), 9)", "rank 1 was killed by signal 9"),
        ("import sys; sys.exit(3)", "rank 1 failed with exit code 3"),
    ],
)
def test_a_rank_that_waits_ends_when_another_fails(rank: str, how: str) -> None:
    program = f"""
import subprocess, sys, time
ranks._PATIENCE_SECONDS = 0.2
others = [subprocess.Popen([sys.executable, "-c", program]) for program in ({rank!r}, {WAIT!r})]
ranks.end_with_ranks(others)
print(others[1].pid, file=sys.stderr, flush=True)
time.sleep(60)
"""
    with run(program) as first:
        _, errors = first.communicate(timeout=30)
        other, message = errors.splitlines()
        assert (first.returncode, message) == (
            2,
            f"mfcvae: expected all ranks to train, but {how}: resume with --resume",
        )
    with pytest.raises(ProcessLookupError):
        os.kill(int(other), 0)


def test_a_lost_connection_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MFCVAE_LAUNCHER", raising=False)
    monkeypatch.setattr(ranks, "_PATIENCE_SECONDS", 0.2)
    killed, runs = (subprocess.Popen([sys.executable, "-c", WAIT]) for _ in range(2))
    killed.kill()
    killed.wait()
    try:
        assert ranks.explain_lost_rank([runs, killed]) == (
            "expected all ranks to train, but rank 2 was killed by signal 9: resume with --resume"
        )
        for others in ([runs], []):
            assert ranks.explain_lost_rank(others) == (
                "expected all ranks to train, but the connection to another rank was lost: resume with --resume"
            )
    finally:
        runs.kill()
        runs.wait()
        ranks._reported.clear()


def test_only_the_launching_rank_reports_a_failure() -> None:
    with run("ranks.explain_lost_rank([])", MFCVAE_LAUNCHER=str(os.getpid())) as rank:
        assert rank.wait(30) == 1
        assert rank.stderr is not None and rank.stderr.read() == ""
