import io
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning_fabric.loggers import CSVLogger
from rich.console import Console

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.train.callbacks import (
    Callback,
    LoggerCallback,
    NotebookBar,
    ProgressBar,
    log_to_tensorboard,
    open_progress_bar,
    use_loggers,
)
from pyro_mfcvae.train.step_log import EpochRecord
from pyro_mfcvae.train.training import Training


def record(epoch: int, *, elbo: float = -12.345) -> EpochRecord:
    return EpochRecord(
        epoch=epoch,
        step=3 * epoch,
        elbo=elbo,
        reconstruction=-10.5,
        kl=[0.25, 1.5],
        active_clusters=[7, 4],
        alpha=[0.5, 1.0],
        beta=[0.5, 1.0],
        learning_rate=0.125,
    )


def training(num_epochs: int, *, epoch: int = 0) -> Training:
    """The parts of a training that callbacks read."""
    stub = SimpleNamespace(num_epochs=num_epochs, steps_per_epoch=3, epoch=epoch, step=3 * epoch, on_linear_start=None)
    return stub  # type: ignore[return-value]


def watch(callback: Callback, num_epochs: int, *, epoch: int = 0, starts_linearly: bool = False) -> None:
    """A whole training of three steps an epoch, from an epoch on."""
    stub = training(num_epochs, epoch=epoch)
    callback.on_start(stub)
    if starts_linearly:
        assert stub.on_linear_start is not None
        for what in ("search for subspaces", "linear start"):
            for done in (1, 2):
                stub.on_linear_start(what, done, 4)
    for done in range(epoch + 1, num_epochs + 1):
        for _ in range(3):
            callback.on_steps(1, -12.0)
        callback.on_epoch(record(done))


def lines(num_epochs: int, *, epoch: int = 0, starts_linearly: bool = False) -> list[str]:
    """What is printed where there is no terminal."""
    console = Console(file=io.StringIO(), force_terminal=False, width=100)
    with ProgressBar(console) as callback:
        watch(callback, num_epochs, epoch=epoch, starts_linearly=starts_linearly)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


def test_without_a_terminal_there_is_a_line_per_epoch_of_a_short_training() -> None:
    assert lines(3) == [f"epoch {epoch}/3  ELBO -12.3  clusters in use 7 4" for epoch in (1, 2, 3)]


def test_the_early_end_of_a_training_is_announced_and_counted() -> None:
    console = Console(file=io.StringIO(), force_terminal=False, width=100)
    with ProgressBar(console) as callback:
        callback.on_start(stub := training(9))
        callback.on_epoch(record(1))
        stub.num_epochs = 3  # type: ignore[misc]
        callback.on_epoch(record(2))
        callback.on_epoch(record(3))
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().splitlines() == [
        "epoch 1/9  ELBO -12.3  clusters in use 7 4",
        "the ELBO hardly rises any more: the training ends after epoch 3",
        "epoch 2/3  ELBO -12.3  clusters in use 7 4",
        "epoch 3/3  ELBO -12.3  clusters in use 7 4",
    ]


@pytest.mark.parametrize(("num_epochs", "num_lines"), [(10, 10), (40, 10), (100, 10), (1003, 10)])
def test_without_a_terminal_a_long_training_prints_about_ten_lines(num_epochs: int, num_lines: int) -> None:
    assert len(lines(num_epochs)) == num_lines


def test_the_bar_of_a_resumed_training_continues_its_count() -> None:
    assert [line.split()[1] for line in lines(5, epoch=3)] == ["4/5", "5/5"]


def test_in_a_terminal_there_is_a_bar_instead() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    with ProgressBar(console) as callback:
        watch(callback, 3)
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    last = shown[shown.rindex("epoch") :]
    assert last.startswith("epoch 3/3")
    assert "ELBO -12.3  clusters 7 4" in last
    assert "clusters in use" not in shown


def test_without_a_terminal_each_part_of_a_linear_start_is_one_line() -> None:
    assert lines(1, starts_linearly=True) == ["search for subspaces", "linear start", *lines(1)]


def test_the_bar_shows_a_linear_start_before_the_epochs() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    with ProgressBar(console) as callback:
        callback.on_start(stub := training(2))
        assert stub.on_linear_start is not None
        stub.on_linear_start("linear start", 3, 8)
        callback._progress.refresh()
        callback.on_steps(1, -12.0)
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "linear start 3/8" in " ".join(shown.split())
    assert shown[shown.rindex("epoch") :].startswith("epoch 0/2")
    assert callback._progress.tasks[0].completed == pytest.approx(1 / 3)


def test_the_bar_is_removed_if_the_training_fails() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    with pytest.raises(RuntimeError, match="stop"), ProgressBar(console) as callback:
        callback.on_start(training(2))
        raise RuntimeError("stop")
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue().endswith("\x1b[?25h")  # the cursor is shown again


class Display:
    """Behaves like IPython's ``display`` and keeps every state that was shown."""

    def __init__(self) -> None:
        self.shown: list[list[str]] = []

    def __call__(self, bar: NotebookBar, *, display_id: bool) -> "Display":
        assert display_id
        self.shown.append([])
        self.update(bar)
        return self

    def update(self, bar: NotebookBar) -> None:
        self.shown[-1].append(bar._repr_html_())


def test_in_a_notebook_one_bar_is_redrawn_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr("pyro_mfcvae.train.callbacks.time.monotonic", lambda: next(clock))
    display = Display()
    with NotebookBar(display) as callback:
        watch(callback, 2)
    (states,) = display.shown
    assert 'value="0.0000"' in states[0] and "epoch 0/2 · ELBO — · clusters in use —" in states[0]
    assert 'value="0.1667"' in states[1] and "&lt;" in states[1]
    assert 'value="1.0000"' in states[-1] and "epoch 2/2 · ELBO -12.3 · clusters in use 7 4" in states[-1]
    assert "&lt;" not in states[-1]


def test_a_notebook_bar_shows_a_linear_start_and_times_the_epochs_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr("pyro_mfcvae.train.callbacks.time.monotonic", lambda: next(clock))
    display = Display()
    with NotebookBar(display) as callback:
        watch(callback, 1, starts_linearly=True)
    before = [state for state in display.shown[0] if "epoch" not in state]
    assert [state.partition("</progress> ")[2].partition(" ·")[0] for state in before] == [
        f"{what} {done}/4" for what in ("search for subspaces", "linear start") for done in (1, 2)
    ]
    assert 'value="0.2500"' in before[0]
    first = next(state for state in display.shown[0] if "epoch 0/1 · ELBO -12.0" in state)
    assert 'value="0.3333"' in first and first.endswith("0:00:20 &lt; 0:00:40")


def test_a_notebook_bar_is_redrawn_four_times_a_second_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyro_mfcvae.train.callbacks.time.monotonic", lambda: 0.0)
    display = Display()
    with NotebookBar(display) as callback:
        watch(callback, 20)
    assert len(display.shown[0]) == 2  # at the start and at the end


def test_outside_notebooks_the_bar_is_the_terminal_s() -> None:
    assert isinstance(open_progress_bar(), ProgressBar)


def read_events(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Tag → (step, value) of every scalar in a folder."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def test_tensorboard_events_contain_the_records(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard, of the extra 'log', is not installed")
    watch(log_to_tensorboard(tmp_path / "tensorboard"), 2)
    assert [path.name.startswith("events.out.tfevents") for path in (tmp_path / "tensorboard").iterdir()] == [True]
    scalars = read_events(tmp_path / "tensorboard")
    assert set(scalars) == {"elbo", "reconstruction", "learning_rate"} | {
        f"{name}/facet {j}" for name in ("kl", "clusters", "alpha") for j in (0, 1)
    }
    assert scalars["elbo"] == [(3, pytest.approx(-12.345)), (6, pytest.approx(-12.345))]
    assert scalars["learning_rate"] == [(3, 0.125), (6, 0.125)]
    assert scalars["kl/facet 1"] == [(3, 1.5), (6, 1.5)]
    assert scalars["clusters/facet 0"] == [(3, 7.0), (6, 7.0)]
    assert scalars["alpha/facet 0"] == [(3, 0.5), (6, 0.5)]


def test_tensorboard_shows_each_epoch_once_after_a_resume(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard, of the extra 'log', is not installed")
    watch(log_to_tensorboard(tmp_path), 2)
    time.sleep(1.1)  # TensorBoard reads files of one second in the order of their names, in which 10 precedes 9
    watch(log_to_tensorboard(tmp_path), 3, epoch=1)
    assert [step for step, _ in read_events(tmp_path)["elbo"]] == [3, 6, 9]


def test_a_missing_tensorboard_is_reported_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyro_mfcvae.train.callbacks.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"got none: run pip install 'pyro-mfcvae\[log\]'"):
        log_to_tensorboard(tmp_path)


def test_every_logger_of_fabric_gets_the_records(tmp_path: Path) -> None:
    steps = []

    def open_logger(step: int) -> CSVLogger:
        steps.append(step)
        return CSVLogger(tmp_path, name="mine", version="")

    watch(LoggerCallback(open_logger), 2)
    lines = (tmp_path / "mine" / "metrics.csv").read_text().splitlines()
    assert steps == [0]
    assert "elbo" in lines[0].split(",") and "kl/facet 1" in lines[0].split(",")
    assert [line.split(",")[lines[0].split(",").index("step")] for line in lines[1:]] == ["3", "6"]


class NotingLogger(CSVLogger):
    """Takes settings and notes how the training ended, as the loggers of W&B and MLflow do."""

    def log_hyperparams(self, params: Any = None, *args: Any, **kwargs: Any) -> None:
        self.settings = params

    def finalize(self, status: str) -> None:
        self.status = status


def test_loggers_are_given_the_settings_and_learn_how_the_training_ended(tmp_path: Path) -> None:
    noting, plain = NotingLogger(tmp_path, name="noting", version=""), CSVLogger(tmp_path, name="plain", version="")
    with use_loggers([noting, plain], {"training": {"epochs": 2}}) as callbacks:
        for callback in callbacks:
            watch(callback, 2)
    assert noting.settings == {"training": {"epochs": 2}}
    assert noting.status == "success"
    assert all((tmp_path / name / "metrics.csv").is_file() for name in ("noting", "plain"))
    with pytest.raises(KeyboardInterrupt), use_loggers([noting], {}):
        raise KeyboardInterrupt
    assert noting.status == "failed"
