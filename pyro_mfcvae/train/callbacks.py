"""Callbacks of a training: their protocol, progress bars, and loggers."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from lightning_fabric.loggers.logger import Logger as FabricLogger
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.safety.event_file import EventFile
from pyro_mfcvae.train.step_log import EpochRecord
from pyro_mfcvae.train.training import Training

# Without a terminal, the whole training prints about this number of lines instead of a bar.
_NUM_LINES = 10

# Seconds between two updates of a bar in a notebook.
_REDRAW_SECONDS = 0.25


class Callback(Protocol):
    """The functions that a training calls."""

    def on_start(self, training: Training) -> None:
        """Called before the first step of this process. A resumed training already has finished epochs."""

    def on_steps(self, num_steps: int, elbo: float) -> None:
        """Called after every few steps (on a CPU after every step), with the number of steps since the last call
        and their mean ELBO.
        """

    def on_epoch(self, record: EpochRecord) -> None:
        """Called after every epoch."""


class ProgressBar:
    """A progress bar with the ELBO, the clusters in use and the time left; a context manager."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("{task.description}"),
            MofNCompleteColumn(),
            BarColumn(bar_width=None),
            TextColumn("ELBO {task.fields[elbo]}  clusters {task.fields[clusters]}"),
            TimeElapsedColumn(),
            TextColumn("<"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("epoch", total=1, elbo="—", clusters="—")
        self._shown = "epoch"

    def __enter__(self) -> "ProgressBar":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self._progress.disable:  # rich 13.7 prints an empty line otherwise
            self._progress.stop()

    def on_start(self, training: Training) -> None:
        self._training, self._num_epochs = training, training.num_epochs
        self._steps_per_epoch = training.steps_per_epoch
        training.on_linear_start = self._on_linear_start
        self._show("epoch", training.epoch, training.num_epochs)

    def _on_linear_start(self, what: str, done: int, total: int) -> None:
        if what != self._shown and self._progress.disable:
            self._console.print(what, highlight=False)
        self._show(what, done, total)

    def _show(self, what: str, done: int, total: int) -> None:
        if what == self._shown:
            self._progress.update(self._task, completed=done, total=total)
            return
        self._shown = what  # a new bar, so that the time left is that of this part
        self._progress.reset(self._task, description=what, completed=done, total=total)

    def on_steps(self, num_steps: int, elbo: float) -> None:
        if self._shown != "epoch":
            self._show("epoch", 0, self._num_epochs)
        self._progress.update(self._task, advance=num_steps / self._steps_per_epoch, elbo=f"{elbo:.1f}")

    def on_epoch(self, record: EpochRecord) -> None:
        clusters = " ".join(map(str, record.active_clusters))
        if self._training.num_epochs < self._num_epochs:
            self._num_epochs = self._training.num_epochs
            said = f"the ELBO hardly rises any more: the training ends after epoch {self._num_epochs}"
            self._console.print(said, highlight=False)
        done, total = record.epoch, self._num_epochs
        self._progress.update(self._task, completed=done, total=total, elbo=f"{record.elbo:.1f}", clusters=clusters)
        if self._progress.disable and record.epoch % max(self._num_epochs // _NUM_LINES, 1) == 0:
            self._console.print(
                f"epoch {record.epoch}/{self._num_epochs}  ELBO {record.elbo:.1f}  clusters in use {clusters}",
                highlight=False,
            )


class NotebookBar:
    """A progress bar below a notebook's cell, updated in place; a context manager. It needs no widgets.

    Args:
        display: ``IPython.display.display``, which shows the result of ``_repr_html_``.
    """

    def __init__(self, display: Callable[..., Any]) -> None:
        self._display = display
        self._handle: Any = None
        self._elbo, self._clusters = "—", "—"
        self._before = ""  # the name of a task that runs before the first epoch
        self._drawn = -_REDRAW_SECONDS

    def __enter__(self) -> "NotebookBar":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._handle is not None:
            self._draw()

    def on_start(self, training: Training) -> None:
        training.on_linear_start = self._on_linear_start
        self._training, self._steps_per_epoch = training, training.steps_per_epoch
        self._first = self._done = float(training.epoch)
        self._start = time.monotonic()
        self._draw()

    def _on_linear_start(self, what: str, done: int, total: int) -> None:
        self._before, self._share = f"{what} {done}/{total}", done / total
        if time.monotonic() - self._drawn >= _REDRAW_SECONDS:
            self._draw()

    def on_steps(self, num_steps: int, elbo: float) -> None:
        if self._before:
            self._before, self._start = "", time.monotonic()
        self._done += num_steps / self._steps_per_epoch
        self._elbo = f"{elbo:.1f}"
        if time.monotonic() - self._drawn >= _REDRAW_SECONDS:
            self._draw()

    def on_epoch(self, record: EpochRecord) -> None:
        self._done, self._elbo = float(record.epoch), f"{record.elbo:.1f}"
        self._clusters = " ".join(map(str, record.active_clusters))
        if time.monotonic() - self._drawn >= _REDRAW_SECONDS:
            self._draw()

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        if self._handle is None:
            self._handle = self._display(self, display_id=True)
        else:
            self._handle.update(self)

    def _repr_html_(self) -> str:
        if self._before:
            return f"{_bar(self._share)} {self._before} · {_clock(self._drawn - self._start)}"
        seconds, gone = self._drawn - self._start, self._done - self._first
        num_epochs = self._training.num_epochs
        left = (
            f" &lt; {_clock(seconds * (num_epochs - self._done) / gone)}" if 0 < gone < num_epochs - self._first else ""
        )
        return (
            f"{_bar(self._done / num_epochs)} "
            f"epoch {int(self._done)}/{num_epochs} · ELBO {self._elbo} · clusters in use {self._clusters} · "
            f"{_clock(seconds)}{left}"
        )


def open_progress_bar() -> AbstractContextManager[Callback]:
    """The progress bar for a notebook, if the program runs in one, otherwise the one for a terminal."""
    console = Console()
    if not console.is_jupyter:
        return ProgressBar(console)
    from IPython.display import display

    return NotebookBar(display)


def _bar(share: float) -> str:
    return f'<progress value="{share:.4f}" max="1" style="width: 20em"></progress>'


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds)))


class Logger(Protocol):
    """The methods of a logger that this package calls."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Record the numbers of a step."""

    def save(self) -> None:
        """Write the recorded numbers."""


class LoggerCallback:
    """Gives every epoch's record to a logger with Lightning Fabric's interface, which those of W&B and MLflow have too.

    Args:
        open_logger: function from the number of steps taken so far (0 unless the training is resumed) to the logger.
            The logger must ignore what an earlier logger wrote after that step.
    """

    def __init__(self, open_logger: Callable[[int], Logger]) -> None:
        self._open_logger = open_logger

    def on_start(self, training: Training) -> None:
        self._logger = self._open_logger(training.step)

    def on_steps(self, num_steps: int, elbo: float) -> None:
        pass

    def on_epoch(self, record: EpochRecord) -> None:
        scalars = {"elbo": record.elbo, "reconstruction": record.reconstruction, "learning_rate": record.learning_rate}
        for name, values in (("kl", record.kl), ("clusters", record.active_clusters), ("alpha", record.alpha)):
            scalars |= {f"{name}/facet {j}": float(value) for j, value in enumerate(values)}
        self._logger.log_metrics(scalars, record.step)
        self._logger.save()


@contextmanager
def use_loggers(loggers: Sequence[FabricLogger], settings: Mapping[str, Any]) -> Iterator[list[LoggerCallback]]:
    """Give loggers the settings, and yield a callback for each; at the end, tell them whether the training succeeded.

    Otherwise a run of MLflow or W&B would stay open. Loggers that do not accept settings, such as
    ``CSVLogger``, do not get them.

    Args:
        loggers: loggers with the interface of Lightning Fabric.
        settings: settings of the training, nested by section.
    """
    for logger in loggers:
        with suppress(NotImplementedError):
            logger.log_hyperparams(dict(settings))
    status = "failed"
    try:
        yield [LoggerCallback(lambda step, logger=logger: logger) for logger in loggers]  # type: ignore[misc]
        status = "success"
    finally:
        for logger in loggers:
            logger.finalize(status)


def log_to_tensorboard(folder: Path) -> LoggerCallback:
    """Write events for TensorBoard. Needs the extra ``log``.

    Raises:
        InputError: the extra is not installed.
    """
    if find_spec("tensorboard") is None:
        raise InputError("expected tensorboard to be installed, got none: run pip install 'pyro-mfcvae[log]'")
    return LoggerCallback(lambda step: EventFile(folder, step))
