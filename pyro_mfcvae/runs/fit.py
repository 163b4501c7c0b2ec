"""The main job: from a configuration to a finished run folder."""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyro
from lightning_fabric import Fabric

from pyro_mfcvae.config.build import build_pair, build_schedule
from pyro_mfcvae.config.schema import Config
from pyro_mfcvae.curves import plot_curves
from pyro_mfcvae.data.datasets import Dataset, load_dataset
from pyro_mfcvae.errors import InputError
from pyro_mfcvae.infer.schedule import steps_per_epoch
from pyro_mfcvae.plots import plot_facets, save_figure
from pyro_mfcvae.runs.assignments import assign_all
from pyro_mfcvae.runs.checkpoints import load_training, save_pair, save_training
from pyro_mfcvae.runs.evaluation import Evaluation, evaluate, find_groups
from pyro_mfcvae.runs.folder import RunFolder
from pyro_mfcvae.runs.grouping import Grouping
from pyro_mfcvae.train.callbacks import Callback
from pyro_mfcvae.train.devices import on_rank_zero_then_broadcast, open_fabric
from pyro_mfcvae.train.known import KnownItems, choose_known_items
from pyro_mfcvae.train.stacked import RandomState, StackedTraining
from pyro_mfcvae.train.step_log import EpochRecord
from pyro_mfcvae.train.training import Training

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Fit:
    """A finished run."""

    run: RunFolder
    data: Dataset
    evaluation: Evaluation
    summary: dict[str, Any]


def fit(
    config: Config,
    run: RunFolder,
    *,
    data: Dataset | None = None,
    device: str = "auto",
    fabric: Fabric | None = None,
    callbacks: tuple[Callback, ...] = (),
) -> Fit:
    """Train a configuration in a run folder, from where the folder's checkpoint stands, and fill the folder.

    A checkpoint is written at every epoch's end. A run that was stopped and is fitted again ends, on a CPU, with the
    same bits as one that was not. Nothing is written before configuration and data are known to fit.

    Args:
        config: what to train.
        run: the folder.
        data: loaded by the configuration where None.
        device: as for `open_fabric`, where no fabric is given.
        fabric: what `open_fabric` gives. Of several devices only the first one writes, and tells callbacks.
        callbacks: are told of every step and epoch.
    """
    data = data if data is not None else load_dataset(config.data.source, seed=config.seed)
    fabric = fabric if fabric is not None else open_fabric(device, precision=config.training.precision)
    training = _start(config, run, data, fabric)
    if fabric.is_global_zero:
        _warn_unfinished_fades(training)
        _write_start(config, run, training)
    seconds = _train(run, training, callbacks if fabric.is_global_zero else ())
    return _finish(config, run, data, training, seconds)


def fit_together(
    configs: Sequence[Config],
    runs: Sequence[RunFolder],
    *,
    data: Sequence[Dataset],
    device: str = "auto",
) -> Iterator[Fit | InputError]:
    """`fit` for configurations that differ in their seed alone, in one process that takes all their steps at once.

    Every run differs from the one that `fit` makes in rounding alone. Each has its checkpoint at every epoch's end:
    those that were stopped go on, together or alone; those that are behind come first. The seconds of a run are its
    share. In place of a run that fails comes its error, and the others are finished.

    Args:
        configs: what to train.
        runs: their folders.
        data: of each.
        device: as for `open_fabric`; one.

    Raises:
        InputError: they cannot be trained together, see `StackedTraining`.
    """
    if not configs:
        return
    if configs[0].supervision.label is not None:
        raise InputError(
            "models with known clusters cannot be trained together: leave that out, and every seed trains in a process "
            "of its own"
        )
    fabric = open_fabric(device, precision=configs[0].training.precision)
    states = [RandomState(fabric.device) for _ in configs]
    trainings = []
    for config, run, items, state in zip(configs, runs, data, states, strict=True):
        with state.in_turn():
            trainings.append(_start(config, run, items, fabric))
    _warn_unfinished_fades(trainings[0])
    seconds: list[float] = []
    failures: dict[int, InputError] = {}
    stack, members = None, []
    while left := [s for s, training in enumerate(trainings) if s not in failures and not training.is_finished]:
        epoch = min(trainings[s].epoch for s in left)
        behind = [s for s in left if trainings[s].epoch == epoch]
        if stack is None or behind != members:
            stack, members = StackedTraining([trainings[s] for s in behind], [states[s] for s in behind]), behind
        seconds = seconds or [_write_start(*run) for run in zip(configs, runs, trainings, strict=True)]
        start = time.perf_counter()
        records = stack.run_epoch()
        share = (time.perf_counter() - start) / len(behind)
        for s, record in zip(behind, records, strict=True):
            if isinstance(record, InputError):
                failures[s] = record
                continue
            seconds[s] += share
            with states[s].in_turn():
                _write_epoch(runs[s], trainings[s], record, seconds[s])
    seconds = seconds or [_write_start(*run) for run in zip(configs, runs, trainings, strict=True)]
    for s, (config, run, items) in enumerate(zip(configs, runs, data, strict=True)):
        if s in failures:
            yield failures[s]
            continue
        with states[s].in_turn():
            yield _finish(config, run, items, trainings[s], seconds[s])


def _start(config: Config, run: RunFolder, data: Dataset, fabric: Fabric) -> Training:
    """The training, from where the folder's checkpoint stands; nothing is written."""
    if not run.checkpoint_path.is_file() and run.has_unresumable_work:
        raise InputError(
            f"{run.path} has epochs behind it, but no checkpoint to go on from: bring {run.checkpoint_path} back, or "
            "start a run in another folder"
        )
    pyro.set_rng_seed(config.seed)
    training = Training(
        build_pair(config, data.event_shape),
        data.train.images,
        schedule=build_schedule(config, steps_per_epoch(len(data.train), config.training.batch_size)),
        settings=config.training,
        mixture_fit=config.mixture_fit,
        seed=config.seed,
        fabric=fabric,
        known_items=_choose_known_items(config, data),
    )
    if run.checkpoint_path.is_file():
        load_training(training, run.checkpoint_path)
    return training


def _warn_unfinished_fades(training: Training) -> None:
    """Warn of facets that are not faded in when the training ends."""
    for j in range(training.schedule.num_facets):
        if (share := training.schedule.alpha(j, training.schedule.num_steps - 1)) < 1:
            _log.warning(
                "facet %d will be faded in to %.2g only: schedule.fade_in_steps outlasts its stage; shorten the fade, "
                "or lengthen the stage (training.epochs)",
                j,
                share,
            )


def _write_start(config: Config, run: RunFolder, training: Training) -> float:
    """What a folder holds before any further epoch; returns the seconds spent before a stop."""
    run.write_config(config)
    run.truncate_metrics(training.epoch)
    return _seconds_before(run)


def _seconds_before(run: RunFolder) -> float:
    earlier = run.read_metrics()
    return earlier[-1]["seconds"] if earlier else 0.0


def _write_epoch(run: RunFolder, training: Training, record: EpochRecord, seconds: float) -> None:
    # First the metrics, then the checkpoint: metrics past the checkpoint are dropped on resume.
    run.append_metrics(record, seconds=seconds)
    save_training(training, run.checkpoint_path)


def _finish(config: Config, run: RunFolder, data: Dataset, training: Training, seconds: float) -> Fit:
    fabric, pair = training.fabric, training.pair
    on_rank_zero_then_broadcast(fabric, lambda: save_pair(pair, run.model_path), pair)
    grouping = find_groups(pair, data.train)
    if fabric.is_global_zero:
        grouping = Grouping.read(run.groups_path, model=run.model_fingerprint()) or grouping
        run.write_grouping(grouping)
    evaluation = evaluate(pair, data.test, grouping=grouping)
    summary = {
        "data": config.data.source,
        "data_fingerprint": data.fingerprint(),
        "seed": config.seed,
        "facets": evaluation.facet_records(),
        "redundancy": evaluation.scores.redundancy.tolist(),
        "elbo": evaluation.elbo,
        "epochs": training.epoch,
        "seconds": round(seconds, 1),
        "device": str(fabric.device),
        "num_devices": fabric.world_size,
    }
    if fabric.is_global_zero:
        run.write_summary(summary)
        assign_all(run, pair, grouping, data)
        _draw(config, run, data, evaluation)
    return Fit(run, data, evaluation, summary)


def _train(run: RunFolder, training: Training, callbacks: tuple[Callback, ...]) -> float:
    """Train to the end; returns the seconds spent, those before a stop included."""
    before = _seconds_before(run)
    start = time.perf_counter()

    def on_steps(num_steps: int, elbo: float) -> None:
        for callback in callbacks:
            callback.on_steps(num_steps, elbo)

    for callback in callbacks:
        callback.on_start(training)
    while not training.is_finished:
        record = training.run_epoch(on_steps)
        if training.fabric.is_global_zero:
            _write_epoch(run, training, record, before + time.perf_counter() - start)
        for callback in callbacks:
            callback.on_epoch(record)
    return before + time.perf_counter() - start


def _choose_known_items(config: Config, data: Dataset) -> KnownItems | None:
    settings = config.supervision
    if settings.label is None:
        return None
    return choose_known_items(
        data.train.images,
        data.train.labels,
        label=settings.label,
        facet=len(config.facets.num_clusters) - 1 if settings.facet is None else settings.facet,
        items_per_value=settings.items_per_value,
        batch_size=settings.batch_size,
        seed=config.seed,
    )


def fit_epochs(config: Config, records: Sequence[dict[str, Any]]) -> list[float]:
    """When the mixtures were fitted, in epochs: 2.5 is half-way through the third one.

    Args:
        config: of the run.
        records: its ``metrics.jsonl``.
    """
    per_epoch = records[-1]["step"] // records[-1]["epoch"]
    steps = build_schedule(config, per_epoch).fit_steps()
    return [step / per_epoch for step in steps if step <= records[-1]["step"]]


def _draw(config: Config, run: RunFolder, data: Dataset, evaluation: Evaluation) -> None:
    records = run.read_metrics()
    save_figure(plot_curves(records, fits=fit_epochs(config, records)), run.curves_figure)
    if data.test.images.ndim != 4:
        return
    images = data.test.images[:, :3].numpy()  # of RGBA, what can be shown on white: RGB
    num_facets = len(evaluation.grouping.facets)
    depth = {num_facets - 1: ", the deepest", 0: ", the shallowest"} if num_facets > 1 else {}
    clusters = plot_facets(
        images,
        evaluation.groups,
        evaluation.group_confidence,
        names=[f"Facet {j} of {num_facets}{depth.get(j, '')}: a row is a group" for j in range(num_facets)],
        num_clusters=evaluation.grouping.num_groups,
        row="group",
    )
    save_figure(clusters, run.clusters_figure)
