"""The cost of a step of S models that train together, compared with S steps of models that train alone.

python benchmarks/together.py --presets stickfigures shapes --seeds 1 5 10
python benchmarks/together.py --presets stickfigures shapes --seeds 1 5 10 --device cuda

All variants take turns, with an epoch of four steps each (40 on a GPU, where steps are captured). Medians over the
turns are reported: of processor time on a CPU, because other work may disturb the single thread, and of wall time on a
GPU. A step is everything that a training does between two batches.
"""

import json
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Literal

import pyro
import torch
import tyro
from provenance import machine, provenance
from reproduction import RESULTS
from torch import Tensor

from pyro_mfcvae.atomic_io import write_text
from pyro_mfcvae.config.build import build_pair, build_schedule
from pyro_mfcvae.config.text import load_preset, override
from pyro_mfcvae.infer.schedule import steps_per_epoch
from pyro_mfcvae.train.devices import RandomState, open_fabric
from pyro_mfcvae.train.stacked import StackedTraining
from pyro_mfcvae.train.training import Training

SHAPES = {"stickfigures": (1, 20, 20), "shapes": (3, 32, 32), "mnist": (1, 28, 28)}
# Otherwise a fit would be measured instead of a step.
SETTINGS = [
    "mixture_fit.warmup_steps=0",
    "mixture_fit.refit_steps=[]",
    "schedule.linear_start_steps=0",
    "training.epochs=1000",  # so few that steps are not compiled
]


def num_steps(device: str) -> int:
    """Number of steps of an epoch. On a GPU there are so many that the host must wait for the device at the end of
    the epoch.
    """
    return 4 if device == "cpu" else 40


def prepare(preset: str, seed: int, device: str) -> tuple[Training, RandomState]:
    """A training whose steps are captured on a GPU."""
    config = override(load_preset(preset), SETTINGS)
    num = num_steps(device) * config.training.batch_size
    images = torch.rand(num, *SHAPES[preset], generator=torch.Generator().manual_seed(0))
    pyro.set_rng_seed(seed)
    training = Training(
        build_pair(config, SHAPES[preset]),
        images,
        schedule=build_schedule(config, steps_per_epoch(num, config.training.batch_size)),
        settings=config.training,
        mixture_fit=config.mixture_fit,
        seed=seed,
        fabric=open_fabric(device),
    )
    return training, RandomState(training.fabric.device)


def steps_of(
    run_epoch: Callable[[Callable[[], None]], object], clock: Callable[[], float], num: int
) -> Callable[[], float]:
    """Seconds per step of an epoch of ``num`` steps, without the time before the first and after the last step."""

    def measure() -> float:
        steps = iter(range(num))
        times: list[float] = []

        def note() -> None:
            if next(steps) in (0, num - 1):
                times.append(clock())

        run_epoch(note)
        return (times[1] - times[0]) / (num - 1)

    return measure


def steps_alone(training: Training) -> Callable[[Callable[[], None]], object]:
    """The epoch of a training, with a callback after every step; on a GPU the training itself calls back only every
    50 steps.
    """
    note_step = training.note_step

    def run_epoch(on_step: Callable[[], None]) -> None:
        def note(terms: Tensor) -> None:
            note_step(terms)
            on_step()

        training.note_step = note  # type: ignore[method-assign]
        training.run_epoch()

    return run_epoch


def main(
    presets: Sequence[Literal["stickfigures", "shapes", "mnist"]] = ("stickfigures", "shapes"),
    seeds: Sequence[int] = (1, 5, 10),
    device: Literal["cpu", "cuda"] = "cpu",
    rounds: int = 15,
) -> None:
    """Measure every combination; results of the same combination on the same machine are replaced.

    Args:
        presets: Presets that give the networks and batches.
        seeds: Numbers of seeds trained together.
        device: Device that computes.
        rounds: Number of rounds of an epoch each.
    """
    torch.set_num_threads(1)
    path = RESULTS / "together.json"
    rows = json.loads(path.read_text()) if path.is_file() else []

    def clock() -> float:
        if device == "cuda":
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time()

    for preset in presets:
        alone, _ = prepare(preset, 0, device)
        ways = {"alone": steps_of(steps_alone(alone), clock, num_steps(device))}
        for num in seeds:
            stack = StackedTraining(*zip(*(prepare(preset, seed, device) for seed in range(num)), strict=True))
            ways[str(num)] = steps_of(stack.run_epoch, clock, num_steps(device))
        times: dict[str, list[float]] = {name: [] for name in ways}
        for round_ in range(rounds + 1):
            for name, measure in ways.items():
                taken = measure()
                if round_:  # the first epoch also fits mixtures
                    times[name].append(1e3 * taken)
        medians = {name: statistics.median(values) for name, values in times.items()}
        case = {"preset": preset, "device": device, "machine": machine()}
        rows = [row for row in rows if any(row[key] != value for key, value in case.items())]
        rows.append({**provenance(), **case, "milliseconds": medians})
        write_text(path, json.dumps(rows, indent=1) + "\n")
        single = medians["alone"]
        print(f"{preset}, {device}: a step alone {single:.2f} ms")
        for name, ms in list(medians.items())[1:]:
            ratio = ms / int(name) / single
            print(
                f"  {name:>3} together {ms:9.2f} ms   {ms / int(name):8.2f} a seed   {ratio:5.2f} × alone", flush=True
            )


if __name__ == "__main__":
    tyro.cli(main)
