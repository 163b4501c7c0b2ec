"""Estimates of a training's duration from a few steps, and a check whether the machine is busy."""

import os
import time

import pyro
import torch

from pyro_mfcvae.config.build import build_pair, build_schedule
from pyro_mfcvae.config.schema import Config
from pyro_mfcvae.data.datasets import Dataset
from pyro_mfcvae.data.images import as_float
from pyro_mfcvae.infer.objective import FacetELBO
from pyro_mfcvae.infer.schedule import steps_per_epoch

_NUM_WARMUP, _NUM_TIMED = 2, 4


def describe_load() -> str | None:
    """A hint if other programs use all cores, because then the threads of a training wait for each other."""
    num_threads, num_cores = torch.get_num_threads(), os.cpu_count() or 1
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if num_threads == 1 or load < num_cores:
        return None
    return (
        f"this machine is busy (load {load:.1f} on {num_cores} cores), and {num_threads} threads wait for each other: "
        "with the environment variable OMP_NUM_THREADS=1 a step is often several times faster"
    )


def estimate_seconds(config: Config, data: Dataset) -> float:
    """Seconds of all steps of a training on this machine's CPU: the fastest time of a few steps, times the number of
    all.

    Fits of mixtures and writing of records are not included. Torch's random state is not changed.
    """
    size = min(config.training.batch_size, len(data.train))
    x = as_float(data.train.images[:size]).nan_to_num()
    with torch.random.fork_rng(devices=[]), pyro.get_param_store().scope(), pyro.validation_enabled(False):
        pair = build_pair(config, data.event_shape)
        elbo = FacetELBO(closed_form=pair.guide.has_closed_form)
        optimizer = torch.optim.Adam(pair.parameters(), lr=0.0)
        seconds = []
        for _ in range(_NUM_WARMUP + _NUM_TIMED):
            start = time.perf_counter()
            loss = -elbo.terms(pair.model, pair.guide, x).mean().total
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            seconds.append(time.perf_counter() - start)
    schedule = build_schedule(config, steps_per_epoch(len(data.train), config.training.batch_size))
    return min(seconds[_NUM_WARMUP:]) * schedule.num_steps
