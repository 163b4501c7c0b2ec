"""Trials before a run: the time of its steps, the load of the machine, and the best of several seeds."""

import logging
import math
import os
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Literal

import pyro
import torch
from lightning_fabric import Fabric
from torch import Tensor

from pyro_mfcvae.config.build import build_pair, build_schedule
from pyro_mfcvae.config.schema import Config
from pyro_mfcvae.config.training_sections import MixtureFitConfig, ScheduleConfig
from pyro_mfcvae.data.datasets import Dataset
from pyro_mfcvae.data.images import Split
from pyro_mfcvae.errors import InputError
from pyro_mfcvae.infer.initialization import measure_units
from pyro_mfcvae.infer.schedule import steps_per_epoch
from pyro_mfcvae.runs.evaluation import evaluate
from pyro_mfcvae.train.divergence import DivergedError
from pyro_mfcvae.train.known import KnownItems
from pyro_mfcvae.train.training import Training

_log = logging.getLogger(__name__)

# Numbers of reports of a training's steps that are not timed, and that are. On a CPU each step is reported.
_NUM_WARMUP, _NUM_TIMED = 2, 4

# A trial takes this share of the steps of a training; one of ten items is held out to score it.
_TRIAL_SHARE = 0.3
_ITEMS_PER_HELD_OUT = 10


def describe_load() -> str | None:
    """A hint if other programs use all cores, so that the threads of a training wait for each other."""
    num_threads, num_cores = torch.get_num_threads(), os.cpu_count() or 1
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if num_threads == 1 or load < num_cores:
        return None
    return (
        f"this machine is busy (load {load:.1f} on {num_cores} cores), and {num_threads} threads wait for each other: "
        "with the environment variable OMP_NUM_THREADS=1 a step is often several times faster"
    )


class _TimedError(Exception):
    """Raised to leave a training after the steps that are timed."""


def estimate_seconds(config: Config, data: Dataset, fabric: Fabric) -> float:
    """Estimate the seconds of all steps of a training on its device: the time of the fastest of a few steps, times the
    number of steps. On several devices, the estimate of the first one.

    The steps of the trials of seeds are included; fits of mixtures and the writing of records are not. Steps are not
    compiled, which would take up to a minute, so a training whose steps are compiled is faster. Torch's random state is
    not changed.
    """
    images, settings, device = data.train.images, config.training, fabric.device
    per_epoch = steps_per_epoch(len(images), settings.batch_size)
    num_reports = _NUM_WARMUP + _NUM_TIMED
    plain = device.type == "cpu" or settings.compile is False or config.supervision.label is not None
    # All facets train from the start. Every epoch reports its steps at least once, and the only fit would follow them.
    epochs = (*[0] * (len(config.facets.num_clusters) - 1), num_reports)
    compiled: Literal["auto", False] = False if plain else "auto"
    timed = replace(
        config,
        training=replace(
            settings, epochs=epochs, learning_rate=1e-12, final_learning_rate=None, tolerance=0.0, compile=compiled
        ),
        schedule=ScheduleConfig(),
        mixture_fit=MixtureFitConfig(warmup_steps=num_reports * per_epoch - 1, items=config.mixture_fit.items),
    )
    seconds: list[float] = []
    start = 0.0

    def note_time(num: int, _: float) -> None:
        nonlocal start
        start, before = time.perf_counter(), start
        seconds.append((start - before) / num)
        if len(seconds) == num_reports:
            raise _TimedError

    with torch.random.fork_rng([device] if device.type == "cuda" else []), pyro.validation_enabled(False):
        training = prepare(timed, images, seed=config.seed, fabric=fabric)
        with suppress(_TimedError):
            while True:
                start = time.perf_counter()
                training.run_epoch(note_time)
    num_trials = settings.n_init if settings.n_init > 1 else 0
    factor = build_schedule(config, per_epoch).num_steps * (1 + _TRIAL_SHARE * num_trials)
    return fabric.broadcast(min(seconds[_NUM_WARMUP:]) * factor)


def prepare(
    config: Config, images: Tensor, *, seed: int, fabric: Fabric, known_items: KnownItems | None = None
) -> Training:
    """Make a training without starting it. ``seed`` seeds Pyro and the initial weights of the networks.

    Args:
        config: of the run.
        images: the training items, (N, *event_shape).
        seed: seed of the starting values, of the order of the items, and of the fits.
        fabric: the devices.
        known_items: see `Training`.
    """
    pyro.set_rng_seed(seed)
    pair = build_pair(config, tuple(images.shape[1:]))
    measure_units(pair.model, images)
    return Training(
        pair,
        images,
        schedule=build_schedule(config, steps_per_epoch(len(images), config.training.batch_size)),
        settings=config.training,
        mixture_fit=config.mixture_fit,
        seed=seed,
        fabric=fabric,
        known_items=known_items,
    )


def choose_seed(config: Config, images: Tensor, seeds: Sequence[int], *, fabric: Fabric) -> int:
    """The seed with the highest result of `try_seeds`; a single seed is returned without a trial."""
    if len(seeds) == 1:
        return seeds[0]
    elbos = try_seeds(config, images, seeds, fabric=fabric)
    return max(zip(elbos, seeds, strict=True), key=lambda pair: pair[0])[1]


def try_seeds(config: Config, images: Tensor, seeds: Sequence[int], *, fabric: Fabric) -> list[float]:
    """The mean ELBO of held-out items, in nats, after a short training with each seed.

    A trial takes 0.3 of the steps of the schedule, on nine tenths of the items, and is scored on the others. A trial
    that diverges has an ELBO of -inf. Pyro's and torch's random states are changed.

    Args:
        config: of the run.
        images: the training items, (N, *event_shape).
        seeds: seeds of the trials; the first one also decides which items are held out.
        fabric: the device, only one.

    Raises:
        InputError: there are several devices, or fewer than ten items.
    """
    if fabric.world_size > 1:
        raise InputError(
            f"expected training.n_init = 1 with {fabric.world_size} devices, got {len(seeds)}: choose the seed on one "
            "device first (mfcvae sweep), or leave training.n_init out"
        )
    if len(images) < _ITEMS_PER_HELD_OUT:
        raise InputError(
            f"expected {_ITEMS_PER_HELD_OUT} items or more to hold some out for training.n_init, got {len(images)}: "
            "leave training.n_init out"
        )
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seeds[0]))
    held_out, rest = order.split([num := len(images) // _ITEMS_PER_HELD_OUT, len(images) - num])
    short = replace(
        config,
        training=replace(config.training, tolerance=0.0),
        schedule=replace(config.schedule, scale=config.schedule.scale * _TRIAL_SHARE),
    )
    elbos: list[float] = []
    for seed in seeds:
        training = prepare(short, images[rest.sort().values], seed=seed, fabric=fabric)
        try:
            while not training.is_finished:
                training.run_epoch()
            elbos.append(evaluate(training.pair.eval(), Split(images[held_out])).elbo)
        except DivergedError:
            elbos.append(-math.inf)
        _log.info("trial %d of %d: seed %d, ELBO %.2f on held-out items", len(elbos), len(seeds), seed, elbos[-1])
    return elbos
