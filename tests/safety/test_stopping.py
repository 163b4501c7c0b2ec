import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from child_processes import processes_of, wait_until
from command_line import TINY, make_images, save_data

from pyro_mfcvae.safety.stopping import StoppedError, end_if_stuck, held_signals, stop_after_step, stop_on_signals
from pyro_mfcvae.safety.tensor_files import read_tensors


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_raises_an_error_with_its_number(name: str) -> None:
    number = getattr(signal, name)
    before = signal.getsignal(number)
    with pytest.raises(StoppedError, match=name) as caught, stop_on_signals():
        signal.raise_signal(number)
    assert caught.value.signum == number
    assert isinstance(caught.value, KeyboardInterrupt)
    assert signal.getsignal(number) is before


def test_the_first_signal_sets_a_request_and_a_later_one_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyro_mfcvae.safety.stopping._SAME_REQUEST_SECONDS", 0.0)
    with stop_after_step() as request:
        assert not request
        signal.raise_signal(signal.SIGTERM)
        assert request and request.signum == signal.SIGTERM
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 0
        request.accept()
        assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
        with pytest.raises(StoppedError, match="SIGINT"):
            signal.raise_signal(signal.SIGINT)
        with pytest.raises(StoppedError, match="SIGTERM"):
            request.raise_stop()


def test_a_signal_within_a_second_of_the_first_is_the_same_request() -> None:
    """A terminal interrupts all processes of a sweep, and the sweep then asks its workers to end. The workers still
    save.
    """
    with stop_after_step() as request:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        assert request.signum == signal.SIGINT


def test_a_held_signal_raises_after_the_action() -> None:
    done = False
    with pytest.raises(StoppedError, match="SIGTERM"), stop_on_signals(), held_signals():
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        done = True
    assert done


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # like nohup
    try:
        with stop_on_signals():
            signal.raise_signal(signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


STUCK = """
import hashlib, signal
from pyro_mfcvae.safety import stopping
stopping._PATIENCE_SECONDS, stopping._MORE_SECONDS = 0.2, 0.2
with stopping.{0}, stopping.end_if_stuck():
    print("ready", flush=True)
    {1}
"""


COMPILED, SLEEP = "hashlib.pbkdf2_hmac('sha256', b'a', b'b', 10**9)", "import time; time.sleep(60)"


@pytest.mark.parametrize(
    ("context", "act", "code", "message"),
    [
        ("stop_after_step()", COMPILED, 143, "within a step that did not end"),
        ("stop_on_signals()", SLEEP, 1, "StoppedError: SIGTERM"),
        pytest.param("stop_on_signals()", COMPILED, 143, "within a step that did not end", marks=pytest.mark.slow),
        pytest.param("stop_after_step()", SLEEP, 1, "StoppedError: SIGTERM", marks=pytest.mark.slow),
    ],
)
def test_a_signal_ends_a_process_that_runs_no_python_code(context: str, act: str, code: int, message: str) -> None:
    """A process in compiled code runs for minutes and must be killed; a sleep is interrupted by Python itself."""
    program = STUCK.format(context, act)
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        time.sleep(0.5)  # until the action has started
        process.terminate()
        _, errors = process.communicate(timeout=30)
    assert process.returncode == code, errors
    assert message in errors


def test_a_loop_that_saves_has_no_time_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyro_mfcvae.safety.stopping._PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr("pyro_mfcvae.safety.stopping._MORE_SECONDS", 0.1)
    with stop_after_step() as request, end_if_stuck():
        signal.raise_signal(signal.SIGTERM)
        request.accept()
        time.sleep(0.5)


def test_signals_with_other_handlers_are_not_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyro_mfcvae.safety.stopping._PATIENCE_SECONDS", 0.1)
    monkeypatch.setattr("pyro_mfcvae.safety.stopping._MORE_SECONDS", 0.1)
    taken: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: taken.append(number))
    try:
        with end_if_stuck():
            signal.raise_signal(signal.SIGTERM)
            time.sleep(0.5)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert taken == [signal.SIGTERM]


def test_a_fork_does_not_report_its_signals_to_its_parent() -> None:
    with end_if_stuck():
        pid = os.fork()
        if pid == 0:
            os._exit(int(signal.set_wakeup_fd(-1) != -1))
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        ours = signal.set_wakeup_fd(-1)
        signal.set_wakeup_fd(ours)
        assert ours != -1


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="this system does not list its processes in /proc")
@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
@pytest.mark.parametrize("command", ["fit", "sweep"])
def test_after_a_signal_all_processes_end_and_the_steps_are_saved(
    tmp_path: Path, command: str, name: str, code: int
) -> None:
    data = save_data(tmp_path / "data.npz", make_images())
    several = ["--seeds", "3", "--workers", "2"] if command == "sweep" else []
    args = [
        command,
        "--data",
        data,
        "--out",
        "run",
        *several,
        "--set",
        *TINY,
        "training.epochs=5000",
        "schedule.linear_start_steps=0",
    ]
    runs = [tmp_path / "run" / seed for seed in ("seed-0", "seed-1")] if several else [tmp_path / "run"]
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "pyro_mfcvae", *args],
            cwd=tmp_path,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    try:
        checkpoints = [run / "checkpoint/training.safetensors" for run in runs]
        assert wait_until(lambda: all(path.is_file() for path in checkpoints), 120), (tmp_path / "log").read_text()
        if name == "SIGINT":  # a terminal sends the signal to all processes
            os.killpg(process.pid, signal.SIGINT)
        else:
            process.send_signal(getattr(signal, name))
        assert process.wait(15) == code, (tmp_path / "log").read_text()
        assert wait_until(lambda: not processes_of(process.pid), 10)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    messages = [line for line in (tmp_path / "log").read_text().splitlines() if line.startswith("mfcvae: ")]
    assert messages == [f"mfcvae: stopped by {name}; resume a fit with --resume --out DIR, a sweep with --out DIR"]
    assert "Traceback" not in (tmp_path / "log").read_text()
    for run in runs:
        _, metadata = read_tensors(run / "checkpoint/training.safetensors", "epoch")
        assert int(metadata["epoch"]) >= 1
        assert not list(run.rglob(".*"))
    assert not (tmp_path / "run/seed-2").exists()
