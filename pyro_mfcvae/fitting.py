"""The main job: from a configuration to a finished run folder."""

import time
from dataclasses import dataclass
from typing import Any, Protocol

import pyro
from lightning_fabric import Fabric

from pyro_mfcvae.build import build_pair, build_schedule
from pyro_mfcvae.checkpoints import load_training, save_pair, save_training
from pyro_mfcvae.config import Config
from pyro_mfcvae.datasets import Dataset, load_dataset
from pyro_mfcvae.devices import change_once, open_fabric
from pyro_mfcvae.evaluation import Evaluation, evaluate
from pyro_mfcvae.plots import plot_curves, plot_facets, save_figure
from pyro_mfcvae.runs import RunFolder
from pyro_mfcvae.supervision import Anchors, choose_anchors
from pyro_mfcvae.training import EpochRecord, Training, steps_per_epoch


class Monitor(Protocol):
    """Is told how a training goes on."""

    def on_start(self, training: Training) -> None:
        """Before the first step; a resumed training has epochs behind it already."""

    def on_step(self, elbo: float) -> None:
        """After every step, with the batch's mean ELBO."""

    def on_epoch(self, record: EpochRecord) -> None:
        """After every epoch."""


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
    monitors: tuple[Monitor, ...] = (),
) -> Fit:
    """Train a configuration in a run folder, from where the folder's checkpoint stands, and fill the folder.

    A checkpoint is written at every epoch's end. A run that was stopped and is fitted again ends, on a CPU, with the
    same bits as one that was not. Nothing is written before configuration and data are known to fit.

    Args:
        config: what to train.
        run: the folder.
        data: loaded by the configuration where None.
        device: as for `open_fabric`, where no fabric is given.
        fabric: what `open_fabric` gives. Of several devices only the first one writes, and tells monitors.
        monitors: are told of every step and epoch.
    """
    data = data if data is not None else load_dataset(config.data, seed=config.seed)
    fabric = fabric if fabric is not None else open_fabric(device, precision=config.training.precision)
    pyro.set_rng_seed(config.seed)
    pair = build_pair(config, data.event_shape)
    training = Training(
        pair,
        data.train.images,
        schedule=build_schedule(config, steps_per_epoch(len(data.train), config.training.batch_size)),
        settings=config.training,
        seed=config.seed,
        fabric=fabric,
        anchors=_choose_anchors(config, data),
    )
    if run.checkpoint_path.is_file():
        load_training(training, run.checkpoint_path)
    if fabric.is_global_zero:
        run.write_config(config)
        run.keep_metrics(training.epoch)
    seconds = _train(run, training, monitors if fabric.is_global_zero else ())
    change_once(fabric, lambda: save_pair(pair, run.model_path), pair)
    evaluation = evaluate(pair, data.test)
    summary = {
        "data": config.data,
        "data_fingerprint": data.fingerprint(),
        "seed": config.seed,
        "facets": evaluation.scores.facet_records(),
        "redundancy": evaluation.scores.redundancy.tolist(),
        "elbo": evaluation.elbo,
        "epochs": training.epoch,
        "seconds": round(seconds, 1),
        "device": str(fabric.device),
        "num_devices": fabric.world_size,
    }
    if fabric.is_global_zero:
        run.write_summary(summary)
        _draw(run, data, evaluation)
    return Fit(run, data, evaluation, summary)


def _train(run: RunFolder, training: Training, monitors: tuple[Monitor, ...]) -> float:
    """Train to the end; returns the seconds spent, those before a stop included."""
    earlier = run.read_metrics()
    before = earlier[-1]["seconds"] if earlier else 0.0
    start = time.perf_counter()

    def on_step(elbo: float) -> None:
        for monitor in monitors:
            monitor.on_step(elbo)

    for monitor in monitors:
        monitor.on_start(training)
    while training.epoch < training.num_epochs:
        record = training.run_epoch(on_step)
        if training.fabric.is_global_zero:
            # First the metrics, then the checkpoint: metrics past the checkpoint are dropped on resume.
            run.append_metrics(record, seconds=before + time.perf_counter() - start)
            save_training(training, run.checkpoint_path)
        for monitor in monitors:
            monitor.on_epoch(record)
    return before + time.perf_counter() - start


def _choose_anchors(config: Config, data: Dataset) -> Anchors | None:
    settings = config.supervision
    if settings.label is None:
        return None
    return choose_anchors(
        data.train.images,
        data.train.labels,
        label=settings.label,
        facet=len(config.facets.num_clusters) - 1 if settings.facet is None else settings.facet,
        items_per_value=settings.items_per_value,
        batch_size=settings.batch_size,
        seed=config.seed,
    )


def _draw(run: RunFolder, data: Dataset, evaluation: Evaluation) -> None:
    images = data.test.images[:, :3].numpy()  # of RGBA, what can be shown on white: RGB
    clusters = plot_facets(
        images,
        evaluation.assignments,
        evaluation.confidence,
        num_clusters=[record["num_clusters"] for record in evaluation.scores.facet_records()],
    )
    save_figure(clusters, run.clusters_figure)
    save_figure(plot_curves(run.read_metrics()), run.curves_figure)
