"""Many runs in one process that takes the steps of all runs at once."""

import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

from pyro_mfcvae.config.schema import Config
from pyro_mfcvae.data.datasets import Dataset
from pyro_mfcvae.errors import InputError
from pyro_mfcvae.runs.fit import Fit, finish, start, warn_unfinished_fades, write_epoch, write_start, write_step
from pyro_mfcvae.runs.folder import RunFolder
from pyro_mfcvae.safety.stopping import StopRequest, stop_after_step
from pyro_mfcvae.train.devices import RandomState, open_fabric
from pyro_mfcvae.train.divergence import check_parameters
from pyro_mfcvae.train.stacked import StackedTraining
from pyro_mfcvae.train.training import Training


def fit_together(
    configs: Sequence[Config],
    runs: Sequence[RunFolder],
    *,
    data: Sequence[Dataset],
    device: str = "auto",
) -> Iterator[Fit | InputError]:
    """Like `fit` for configurations that differ only by their seed, but in one process that takes the steps of all at
    once.

    Every run differs from that of `fit` only by rounding. A checkpoint of each run is written at the end of every
    epoch, and after the current step if a signal asks the process to end. Stopped runs can be resumed, together or
    alone; runs with fewer steps are continued first. The training time of a run is its share of the whole time. If a
    run fails, its error is returned, and the other runs are finished.

    Args:
        configs: the configurations.
        runs: the folders of the runs.
        data: the data of each run.
        device: see `open_fabric`; only one device.

    Raises:
        InputError: the runs cannot be trained together, see `StackedTraining`.
    """
    if not configs:
        return
    if configs[0].supervision.label is not None:
        raise InputError(
            "expected models without known clusters to train together, got some: leave --together (together=True) out, "
            "and every seed trains in a separate process"
        )
    fabric = open_fabric(device, precision=configs[0].training.precision)
    states = [RandomState(fabric.device) for _ in configs]
    with ExitStack() as stack:
        trainings: list[Training] = []
        for config, run, items, state in zip(configs, runs, data, states, strict=True):
            stack.enter_context(run.lock())
            with state.in_turn():
                trainings.append(start(config, run, items, fabric))
        warn_unfinished_fades(trainings[0])
        together = _Together(configs, runs, trainings, states)
        with stop_after_step() as request:
            failures = together.train(request)
        for s, (config, run, items) in enumerate(zip(configs, runs, data, strict=True)):
            if s in failures:
                yield failures[s]
                continue
            with states[s].in_turn():
                try:
                    done: Fit | InputError = finish(config, run, items, trainings[s], together.seconds[s])
                except InputError as error:
                    done = error
            yield done


class _Together:
    """The trainings of `fit_together`, their folders and their random states."""

    def __init__(
        self,
        configs: Sequence[Config],
        runs: Sequence[RunFolder],
        trainings: Sequence[Training],
        states: Sequence[RandomState],
    ) -> None:
        self._configs, self._runs, self._trainings, self._states = configs, runs, trainings, states
        self.seconds: list[float] = []
        self._failures: dict[int, InputError] = {}

    def train(self, request: StopRequest) -> dict[int, InputError]:
        """Train all runs to the end; returns the error of each run that failed."""
        stack, members = None, []
        while left := [s for s, t in enumerate(self._trainings) if s not in self._failures and not t.is_finished]:
            # Trainings that end early come first, because their learning rate differs from that of the others.
            places = {s: (self._trainings[s].num_epochs, self._trainings[s].step) for s in left}
            behind = [s for s in left if places[s] == min(places.values())]
            if stack is None or behind != members:
                stack, members = self._stack(behind), behind
            self._write_start()
            self._run_epoch(stack, members, request)
        self._write_start()
        return self._failures

    def _stack(self, members: list[int]) -> StackedTraining:
        return StackedTraining([self._trainings[s] for s in members], [self._states[s] for s in members])

    def _write_start(self) -> None:
        """Write the first files of the folders. This is done when it is clear that the runs can be trained together."""
        if not self.seconds:
            every = zip(self._configs, self._runs, self._trainings, strict=True)
            self.seconds = [write_start(config, run, training) for config, run, training in every]

    def _run_epoch(self, stack: StackedTraining, members: list[int], request: StopRequest) -> None:
        first = self._trainings[members[0]]
        after_step = False

        def on_step() -> None:
            nonlocal after_step
            if request and first.steps_taken < first.steps_per_epoch:
                after_step = True
                request.accept()
                request.raise_stop()

        clock = time.perf_counter()
        try:
            records = stack.run_epoch(on_step)
        except KeyboardInterrupt:
            if after_step:
                self._write_steps(stack, members)
            raise
        share = (time.perf_counter() - clock) / len(members)
        for s, record in zip(members, records, strict=True):
            if isinstance(record, InputError):
                self._failures[s] = record
                continue
            self.seconds[s] += share
            with self._states[s].in_turn():
                try:
                    write_epoch(self._runs[s], self._trainings[s], record, self.seconds[s])
                except InputError as error:
                    self._failures[s] = error
        if request:
            request.raise_stop()

    def _write_steps(self, stack: StackedTraining, members: list[int]) -> None:
        for place, s in enumerate(members):
            if place not in stack.failures:
                with self._states[s].in_turn():
                    self._trainings[s].read_steps()
                    check_parameters(self._trainings[s].pair, self._trainings[s].step)
                    write_step(self._runs[s], self._trainings[s])
