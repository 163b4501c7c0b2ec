"""Measure whether memory grows: resident memory during a training of half an hour, and during 2,000 calls of
`mfcvae assign`.

`reliability.py` runs this as its part `memory`. Each measurement has its own process. The slope is that of a straight
line through the samples, by least squares, without the first quarter, in which libraries fill their caches.
"""

import gc
import io
import multiprocessing
import resource
import time
from collections.abc import Callable
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

import numpy as np

_SETTINGS = ["networks.kind=mlp", "networks.encoder_dims=[128, 64]", "networks.decoder_dims=[64, 128]"]
_SETTINGS += ["networks.hidden_dim=64", "facets.num_clusters=[8, 6]", "facets.latent_dim=[4, 4]"]
_SETTINGS += ["training.epochs=[20, 100000]", "training.batch_size=100", "mixture_fit.warmup_steps=10"]
_SETTINGS += [
    "mixture_fit.refit_steps=[]",
    "mixture_fit.joint_refit_steps=[]",
    "schedule.fade_in_steps=15",
    "training.compile=false",
]
_SECONDS_BETWEEN_SAMPLES = 2.0


def resident_mib() -> float:
    """Resident memory of this process now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def describe(samples: list[tuple[float, float]], unit: str) -> dict[str, Any]:
    """The slope of the samples after their first quarter.

    Args:
        samples: pairs of progress (in ``unit``) and resident MiB.
        unit: unit of the progress; the slope is per unit.
    """
    place, memory = np.array(samples)[len(samples) // 4 :].T
    slope = float(np.polyfit(place, memory, 1)[0])
    return {
        f"MiB per {unit}": round(slope, 4),
        "MiB after a quarter": round(float(memory[:10].mean()), 1),
        "MiB at the end": round(float(memory[-10:].mean()), 1),
        "samples": len(memory),
    }


def measure_training(folder: Path, minutes: float) -> dict[str, Any]:
    """Train for a number of minutes, with a checkpoint per epoch; returns the growth of memory per hour."""
    import torch

    from pyro_mfcvae.config.schema import Config, DataConfig
    from pyro_mfcvae.config.text import override
    from pyro_mfcvae.runs.fit import fit
    from pyro_mfcvae.runs.folder import RunFolder

    torch.set_num_threads(1)
    samples: list[tuple[float, float]] = []
    begin = time.perf_counter()

    class Sampler:
        steps = epochs = 0

        def on_start(self, training: object) -> None:
            pass

        def on_steps(self, num_steps: int, elbo: float) -> None:
            self.steps += num_steps
            hours = (time.perf_counter() - begin) / 3600
            if not samples or hours - samples[-1][0] > _SECONDS_BETWEEN_SAMPLES / 3600:
                samples.append((hours, resident_mib()))
            if hours * 60 > minutes:
                raise KeyboardInterrupt

        def on_epoch(self, record: object) -> None:
            self.epochs += 1

    sampler = Sampler()
    config = override(Config(data=DataConfig(source=str(folder / "data.npz"))), _SETTINGS)
    with suppress(KeyboardInterrupt):
        fit(config, RunFolder(folder / "run"), device="cpu", callbacks=(sampler,))
    found = describe(samples, "hour")
    return {"minutes": minutes, "steps": sampler.steps, "epochs and checkpoints": sampler.epochs, **found}


def measure_assigning(folder: Path, calls: int) -> dict[str, Any]:
    """Call the command a number of times on new data; returns the growth of memory per 1,000 calls."""
    import torch

    from pyro_mfcvae.cli.app import main

    torch.set_num_threads(1)
    samples: list[tuple[float, float]] = []
    short = [*_SETTINGS, "training.epochs=[1, 1]"]
    with redirect_stdout(io.StringIO()):
        main(
            [
                "fit",
                "--data",
                str(folder / "data.npz"),
                "--out",
                str(folder / "short"),
                "--device",
                "cpu",
                "--set",
                *short,
            ]
        )
    for call in range(calls):
        with redirect_stdout(io.StringIO()):
            main(["assign", str(folder / "short"), str(folder / "new.npz"), "--out", str(folder / "out.csv")])
        if call % 10 == 0:
            gc.collect()
            samples.append((call / 1000, resident_mib()))
    return {"calls": calls, **describe(samples, "1,000 calls")}


def measure_memory(measure: Callable[[Path, Any], dict[str, Any]], amount: float, folder: Path) -> dict[str, Any]:
    """Run one of the two measurements in a new process, so that it does not start with memory of the other.

    Args:
        measure: `measure_training` or `measure_assigning`.
        amount: number of minutes or calls.
        folder: an empty one.
    """
    generator = np.random.default_rng(0)
    for file, num in (("data.npz", 2_000), ("new.npz", 50)):
        images = generator.integers(256, size=(num, 28, 28), dtype=np.uint8)
        np.savez(folder / file, images=images, y=np.arange(num) % 5)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(measure, (folder, amount))
