"""Fit a configuration: train a model and write its run folder."""

import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from lightning_fabric import Fabric

from pyro_mfcvae.config.build import build_schedule
from pyro_mfcvae.config.schema import Config
from pyro_mfcvae.data.datasets import Dataset, load_dataset
from pyro_mfcvae.errors import InputError
from pyro_mfcvae.plots import plot_facets, save_figure
from pyro_mfcvae.runs.assignments import assign_all
from pyro_mfcvae.runs.checkpoints import save_pair
from pyro_mfcvae.runs.evaluation import Evaluation, evaluate, find_groups
from pyro_mfcvae.runs.folder import RunFolder
from pyro_mfcvae.runs.trials import choose_seed, prepare
from pyro_mfcvae.safety.stopping import StopRequest, stop_after_step
from pyro_mfcvae.train.callbacks import Callback
from pyro_mfcvae.train.curves import plot_curves
from pyro_mfcvae.train.devices import any_rank, naming_lost_ranks, on_rank_zero_then_broadcast, open_fabric
from pyro_mfcvae.train.divergence import DivergedError, check_outcome, check_parameters
from pyro_mfcvae.train.known import KnownItems, choose_known_items
from pyro_mfcvae.train.optimizer import Course
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
    """Train a configuration in a run folder, starting from the folder's checkpoint if there is one, and write the
    results.

    A checkpoint is written at the end of every epoch, and after the current step when a signal (SIGINT, SIGTERM,
    SIGHUP) asks the process to end. On a CPU, a run that was stopped and resumed gives the same bits as one that was
    not stopped. The folder is locked first. Nothing else is written before configuration and data are checked.

    Args:
        config: the configuration.
        run: the folder.
        data: the data; loaded as the configuration says if None.
        device: see `open_fabric`; not used if a fabric is given.
        fabric: the result of `open_fabric`. With several devices only the first device writes files and calls
            callbacks.
        callbacks: called after steps and epochs.

    Raises:
        InputError: the folder is in use or has another configuration, the training diverged, or a rank was lost.
        StoppedError: a signal stopped the training.
    """
    with ExitStack() as stack:
        if fabric is None or fabric.is_global_zero:
            stack.enter_context(run.lock())
        if data is None:
            data = load_dataset(config.data.source, seed=config.seed, size=config.data.size, fit=config.data.fit)
        fabric = fabric if fabric is not None else open_fabric(device, precision=config.training.precision)
        stack.enter_context(naming_lost_ranks(fabric))
        callbacks = callbacks if fabric.is_global_zero else ()
        training = start(config, run, data, fabric)
        if fabric.is_global_zero:
            warn_unfinished_fades(training)
            write_start(config, run, training)
        try:
            seconds = _train(run, training, callbacks)
        except DivergedError as error:
            if not _may_retry(config, training):
                raise
            training = start(config, run, data, fabric)
            _log.warning("%s. Once more from epoch %d, with half the learning rate", error, training.epoch)
            training.learning_rate_factor = 0.5
            write_start(config, run, training)
            seconds = _train(run, training, callbacks)
        return finish(config, run, data, training, seconds)


def start(config: Config, run: RunFolder, data: Dataset, fabric: Fabric) -> Training:
    """Make the training and set it to the folder's checkpoint; nothing is written."""
    if run.config_path.is_file() and run.read_config() != config:
        raise InputError(
            f"expected a run of this configuration in {run.path}, got a run of another configuration: choose another "
            f"folder, or bring "
            "back the config.toml that it was started with"
        )
    if not run.checkpoint.exists and run.has_unresumable_work:
        raise InputError(
            f"expected the checkpoint {run.checkpoint_path} of a run with finished epochs, got none: bring it back, "
            "or start a run in another folder"
        )
    seeds = [(config.seed + i) % 2**32 for i in range(config.training.n_init)]
    seed = run.checkpoint.seed if len(seeds) > 1 and run.checkpoint.exists else None
    if seed is None:
        seed = choose_seed(config, data.train.images, seeds, fabric=fabric)
    known_items = _choose_known_items(config, data)
    training = prepare(config, data.train.images, seed=seed, fabric=fabric, known_items=known_items)
    if run.checkpoint.exists:
        metadata = run.checkpoint.load(training)
        run.check_metrics(training.epoch, digest=metadata["metrics"])
    return training


def warn_unfinished_fades(training: Training) -> None:
    """Warn about facets that will not be fully faded in at the end of the training."""
    for j in range(training.schedule.num_facets):
        if (share := training.schedule.alpha(j, training.schedule.num_steps - 1)) < 1:
            _log.warning(
                "facet %d will be faded in only to %.2g: schedule.fade_in_steps outlasts its stage; shorten the fade, "
                "or lengthen the stage (training.epochs)",
                j,
                share,
            )


def write_start(config: Config, run: RunFolder, training: Training) -> float:
    """Write the first files of a folder before the next epoch; returns the training time before a stop, in seconds."""
    run.write_config(config)
    run.truncate_metrics(training.epoch)
    return _seconds_before(run)


def write_epoch(run: RunFolder, training: Training, record: EpochRecord, seconds: float) -> None:
    """Write an epoch's record and its checkpoint.

    Raises:
        DivergedError: a parameter is not finite; the last checkpoint is kept.
    """
    check_parameters(training.pair, training.step)
    # The metrics are written before the checkpoint, because metrics after the checkpoint are dropped on resume.
    run.append_metrics(record, seconds=seconds)
    write_step(run, training)


def write_step(run: RunFolder, training: Training) -> None:
    """Write a checkpoint after a whole step."""
    run.checkpoint.save(training, metrics=run.metrics_digest(training.epoch))


def finish(config: Config, run: RunFolder, data: Dataset, training: Training, seconds: float) -> Fit:
    """Write the model, and score it on the test items.

    Raises:
        InputError: the outcome is not a valid result, see `check_outcome`.
    """
    fabric, pair = training.fabric, training.pair
    check_parameters(pair, training.step)
    digest = run.config_digest()
    on_rank_zero_then_broadcast(
        fabric, lambda: save_pair(pair, run.model_path, config=digest, data=training.data_fingerprint), pair
    )
    grouping = find_groups(pair, data.train)
    if fabric.is_global_zero:
        grouping = run.kept_grouping() or grouping
        run.write_grouping(grouping)
    evaluation = evaluate(pair, data.test, grouping=grouping)
    check_outcome(pair, data.test, evaluation.elbo)
    summary = {
        "data": config.data.source,
        "data_fingerprint": data.fingerprint(),
        "seed": config.seed,
        "training_seed": training.seed,
        "facets": evaluation.facet_records(),
        **evaluation.redundancy_record(),
        "elbo": evaluation.elbo,
        "epochs": training.epoch,
        "seconds": round(seconds, 1),
        "device": str(fabric.device),
        "num_devices": fabric.world_size,
    }
    if fabric.is_global_zero:
        assign_all(run, pair, grouping, data)
        _draw(config, run, data, evaluation)
        run.write_summary(
            summary
        )  # This file is written last, because a sweep regards a run with this file as finished.
    return Fit(run, data, evaluation, summary)


def _seconds_before(run: RunFolder) -> float:
    earlier = run.read_metrics()
    return earlier[-1]["seconds"] if earlier else 0.0


def _may_retry(config: Config, training: Training) -> bool:
    """Whether to retry: once, and only on one device, because several devices would have to agree."""
    asked = config.training.on_divergence == "retry"
    return asked and training.learning_rate_factor == 1 and training.fabric.world_size == 1


def _train(run: RunFolder, training: Training, callbacks: tuple[Callback, ...]) -> float:
    """Train to the end; returns the training time in seconds, including the time before a stop."""
    before = _seconds_before(run)
    clock = time.perf_counter()
    with stop_after_step() as request:

        def on_steps(num_steps: int, elbo: float) -> None:
            for callback in callbacks:
                callback.on_steps(num_steps, elbo)
            if (
                training.steps_taken < training.steps_per_epoch
            ):  # at the end of an epoch, the epoch's record is written first
                _stop_where_asked(run, training, request)

        for callback in callbacks:
            callback.on_start(training)
        while not training.is_finished:
            record = training.run_epoch(on_steps)
            if training.fabric.is_global_zero:
                write_epoch(run, training, record, before + time.perf_counter() - clock)
            for callback in callbacks:
                callback.on_epoch(record)
            _stop_where_asked(run, training, request)
    return before + time.perf_counter() - clock


def _stop_where_asked(run: RunFolder, training: Training, request: StopRequest) -> None:
    """Save the state after this step and raise an error if a signal has asked one of the devices to end."""
    if not any_rank(training.fabric, bool(request)):
        return
    request.accept()
    if training.steps_taken:
        training.share_sums()
        check_parameters(training.pair, training.step)
        if training.fabric.is_global_zero:
            write_step(run, training)
    request.raise_stop()


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
    """The times of the fits of mixtures, in epochs: 2.5 is the middle of the third epoch.

    Args:
        config: configuration of the run.
        records: its ``metrics.jsonl``.
    """
    if not records:
        return []
    per_epoch = records[-1]["step"] // records[-1]["epoch"]
    schedule = build_schedule(config, per_epoch)
    elbos = [record["elbo"] for record in records]
    course = Course(schedule, config.training, steps_per_epoch=per_epoch, elbos=elbos)
    return [step / per_epoch for step in schedule.fit_steps() if step <= records[-1]["step"] and course.due_fits(step)]


def _draw(config: Config, run: RunFolder, data: Dataset, evaluation: Evaluation) -> None:
    records = run.read_metrics()
    if records:  # a damaged metrics.jsonl does not stop a run
        save_figure(plot_curves(records, fits=fit_epochs(config, records)), run.curves_figure)
    if data.test.images.ndim != 4:
        return
    images = data.test.images[:, :3].numpy()  # the figures show the RGB of RGBA images
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
