"""The time of each part of a training: the parts of a step, and those that occur once per epoch or stage.

python benchmarks/stages.py mnist shapes

The figures are medians of the processor time of one thread, which other programs affect little.
"""

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import tyro
from provenance import provenance
from reproduction import RESULTS
from step_time import networks_alone

from pyro_mfcvae.atomic_io import write_text
from pyro_mfcvae.config.build import build_pair, build_schedule
from pyro_mfcvae.config.text import load_preset
from pyro_mfcvae.data.datasets import load_dataset
from pyro_mfcvae.infer.mixture_fit import initialize_mixtures
from pyro_mfcvae.infer.schedule import steps_per_epoch
from pyro_mfcvae.runs.checkpoints import save_training
from pyro_mfcvae.runs.evaluation import evaluate
from pyro_mfcvae.train.objective import Objective
from pyro_mfcvae.train.step_log import count_active_clusters
from pyro_mfcvae.train.training import Training


def milliseconds(task: Callable[[], object], rounds: int) -> float:
    taken = []
    for _ in range(rounds):
        start = time.process_time()
        task()
        taken.append(1e3 * (time.process_time() - start))
    return statistics.median(taken)


def stages(preset: str, rounds: int, folder: Path) -> dict[str, float]:
    """Milliseconds of every stage."""
    config = load_preset(preset)
    data = load_dataset(config.data.source)
    schedule = build_schedule(config, steps_per_epoch(len(data.train), config.training.batch_size))
    pair = build_pair(config, data.event_shape).train()
    training = Training(
        pair, data.train.images, schedule=schedule, settings=config.training, mixture_fit=config.mixture_fit
    )
    batches, objective = training.batches, Objective(pair, num_items=len(training.images))
    x = batches.random(batches.batch_size)
    numbers = torch.randperm(len(data.train))[: batches.batch_size]
    monitored = batches.random(500)

    def forward_and_backward(loss: Callable[[], torch.Tensor]) -> Callable[[], None]:
        def task() -> None:
            training.optimizer.zero_grad()
            loss().backward()

        return task

    found = {
        "step: gather the batch": milliseconds(lambda: batches.load(numbers), rounds),
        "step: networks, forward and back": milliseconds(forward_and_backward(lambda: networks_alone(pair, x)), rounds),
        "step: objective, forward and back": milliseconds(forward_and_backward(lambda: objective(x)[0]), rounds),
        "step: Adam": milliseconds(training.optimizer.step, rounds),
        "epoch: count active clusters": milliseconds(lambda: count_active_clusters(pair.eval(), monitored), 3),
        "epoch: checkpoint": milliseconds(lambda: save_training(training, folder / "training.safetensors"), 3),
    }
    pair.train()
    for j in range(pair.num_facets):
        items = batches.random(config.mixture_fit.items)
        fit = lambda j=j, items=items: initialize_mixtures(pair.model, pair.guide, items, facets=(j,))  # noqa: E731
        found[f"stage: fit the mixture of facet {j}"] = milliseconds(fit, 1)
    found["once: fingerprint of the data"] = milliseconds(data.fingerprint, 1)
    found["once: evaluate the test items"] = milliseconds(lambda: evaluate(pair, data.test), 1)
    return found


def main(presets: tyro.conf.Positional[tuple[str, ...]] = ("mnist", "shapes"), rounds: int = 15) -> None:
    """Measure presets.

    Args:
        presets: Names of presets.
        rounds: Number of times that every part of a step is measured.
    """
    torch.set_num_threads(1)
    record: dict[str, object] = {**provenance(), "threads": 1}
    for preset in presets:
        with tempfile.TemporaryDirectory() as folder:
            record[preset] = found = stages(preset, rounds, Path(folder))
        print(preset)
        for name, taken in found.items():
            print(f"  {name:36} {taken:10.1f} ms", flush=True)
    write_text(RESULTS / "stages.json", json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    tyro.cli(main)
