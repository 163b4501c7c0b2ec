"""Whole runs on a GPU: the parts `commands`, `auto`, `accuracy` and `paper` of benchmarks/gpu.py."""

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import torch
from gpu_steps import Budget, Row

from pyro_mfcvae.config.build import adapt_epochs
from pyro_mfcvae.config.schema import Config
from pyro_mfcvae.config.text import load_preset, override
from pyro_mfcvae.data.catalogue import DATASETS
from pyro_mfcvae.data.datasets import Dataset, load_dataset
from pyro_mfcvae.data.images import Split
from pyro_mfcvae.errors import InputError
from pyro_mfcvae.runs.evaluation import evaluate
from pyro_mfcvae.runs.fit import fit
from pyro_mfcvae.runs.folder import RunFolder
from pyro_mfcvae.runs.together import fit_together
from pyro_mfcvae.train.step_log import EpochRecord
from pyro_mfcvae.train.training import Training

# Number of items that a rehearsal trains on.
_FEW = 600

# --- commands ---------------------------------------------------------------------------------------------------------

SHORT = "--schedule.scale 0.1"
COMPUTED = "--training.compile false"

# Short runs of every command that computes: trainings, and then what needs a run.
TRAININGS = (
    f"fit stickfigures {SHORT} {COMPUTED} --out computed",
    f"fit stickfigures {SHORT} --out captured",
    f"fit stickfigures {SHORT} --training.precision bf16 --out bf16",
    f"fit stickfigures {SHORT} --training.precision tf32 --out tf32",
    f"fit stickfigures {SHORT} --training.compile true --out compiled",
    f"fit auto --data stickfigures {SHORT} --training.n-init 2 --out trials",
    "fit auto --data nrletters --facets.number 3 --schedule.scale 0.02 --out vectors",
    "fit shapes --schedule.scale 0.02 --networks.channels-last true --training.precision bf16 --out maps",
    f"sweep stickfigures {SHORT} --seeds 2 --out sweep",
    f"sweep stickfigures {SHORT} --seeds 2 --together --out together",
)
FOLLOWING = (
    "fit --resume --out captured",
    "evaluate captured",
    "assign captured",
    "check captured --items 100",
    "report bf16",
    "sample maps",
    "groups captured",
    "compare computed compiled",
)
_WORKERS = 6

# The same from Python, on arrays.
PROGRAM = """
import sys
import numpy as np
import pyro_mfcvae
import torch
from pyro_mfcvae import MultiFacetClustering
from pyro_mfcvae.checks.criticism import criticise
from pyro_mfcvae.draws.arviz_data import to_inference_data

device = sys.argv[1]
images = np.random.default_rng(0).integers(256, size=(200, 16, 16, 3), dtype=np.uint8)
run = pyro_mfcvae.fit(images, settings={"schedule.scale": 0.02}, out="python", device=device, verbose=False)
run.continue_(epochs=2)
assert len(run.assignments) == 200
pair = pyro_mfcvae.load("python").to(device)
x = torch.from_numpy(images[:50]).permute(0, 3, 1, 2).float().to(device) / 255
assert pair.assign(x)[0].device.type == torch.device(device).type
criticise(to_inference_data(pair, x))
vectors = np.random.default_rng(0).normal(size=(300, 5))
estimator = MultiFacetClustering(num_facets=2, num_steps=60, random_state=0, device=device).fit(vectors)
assert estimator.predict(vectors).shape == (300, 2) and estimator.sample(4).shape == (4, 5)
"""


def commands(budget: Budget) -> Iterator[Row]:
    """Run every command that computes, and a program in Python, in short and six at a time; each row has the exit code,
    the seconds and, of a training, the ELBO.

    Commands without ``--device`` compute on the CPU.
    """
    environment = {**os.environ, "COLUMNS": "120"}
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(_WORKERS) as pool:
        folder = Path(name)

        def run(words: list[str]) -> Row:
            start = time.perf_counter()
            done = subprocess.run(
                [sys.executable, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
            )
            command = "Python" if words[0] == "-c" else " ".join(words[2:])
            row: Row = {"command": command, "code": done.returncode, "seconds": round(time.perf_counter() - start, 1)}
            summary = folder / words[-1] / "summary.json"
            if summary.is_file():
                row["elbo"] = round(json.loads(summary.read_text())["elbo"], 2)
            return row | ({"output": (done.stdout + done.stderr)[-3000:]} if done.returncode else {})

        trainings = [["-m", "pyro_mfcvae", *line.split()] for line in TRAININGS]
        for words in trainings:
            words[3:3] = ["--device", budget.device]
        yield from pool.map(run, [["-c", PROGRAM, budget.device], *trainings])
        yield from pool.map(run, [["-m", "pyro_mfcvae", *line.split()] for line in FOLLOWING])


# --- auto -------------------------------------------------------------------------------------------------------------


def auto(budget: Budget) -> Iterator[Row]:
    """Train with ``auto``, without other options, one data set after the other."""
    from auto import measure

    for name in ("stickfigures",) if budget.rehearse else ("mnist", "shapes", "fashion_mnist", "nrletters"):
        start = time.perf_counter()
        settings = ["schedule.scale=0.02"] * budget.rehearse
        row, _ = measure(name, name, 0, settings=settings, device=budget.device, compares=False)
        yield {
            "data": name,
            "seconds": round(time.perf_counter() - start, 1),
            "seconds_of_training": row["seconds"],
            "groups": row["groups"],
            "ari": {label: round(scores["ari"], 3) for label, scores in row["labels"].items()},
        }


# --- presets to their accuracy ----------------------------------------------------------------------------------------


class Clock:
    """A callback that records seconds of training and accuracy at the end of every epoch."""

    def __init__(self, data: Dataset, label: str, wanted: float) -> None:
        self.data, self.label, self.wanted = data, label, wanted
        self.seconds, self.accuracy = 0.0, 0.0
        self.reached: float | None = None

    def on_start(self, training: Training) -> None:
        self.pair, self.since = training.pair, time.perf_counter()

    def on_steps(self, num_steps: int, elbo: float) -> None:
        pass

    def on_epoch(self, record: EpochRecord) -> None:
        self.seconds += time.perf_counter() - self.since
        with torch.random.fork_rng(devices=[]):
            scores = evaluate(self.pair, self.data.test).scores
        self.accuracy = float(scores.accuracy[self.label].max())
        if self.reached is None and self.accuracy >= self.wanted:
            self.reached = round(self.seconds, 1)
        self.since = time.perf_counter()


def shortened(config: Config, budget: Budget) -> Config:
    """The settings for a rehearsal of a few dozen steps."""
    if not budget.rehearse:
        return config
    adapted = adapt_epochs(config, made_for=DATASETS[config.data.source].num_items or 0, num_items=_FEW)
    return override(adapted, ["schedule.scale=0.002"])


def available(name: str, budget: Budget) -> Dataset:
    """Load a data set; in a rehearsal without its files, random pixels of MNIST's shape."""
    try:
        data = load_dataset(name)
    except InputError:
        if not budget.rehearse:
            raise
        images = torch.randint(256, (2000, 1, 28, 28), dtype=torch.uint8)
        split = Split(images, {"digit": torch.arange(2000) % 10})
        data = Dataset(name, split, split, load_dataset("shapes").info)
    if not budget.rehearse:
        return data

    def few(split: Split) -> Split:
        return Split(split.images[:_FEW], {label: values[:_FEW] for label, values in split.labels.items()})

    return replace(data, train=few(data.train), test=few(data.test))


def accuracy(budget: Budget) -> Iterator[Row]:
    """Train each preset with its step captured (auto), captured and compiled, and as written."""
    presets = [("mnist", "digit"), ("shapes", "shape")]
    values = ["auto"] if budget.rehearse else ["auto", "true", "false"]
    for value, (preset, label) in itertools.product(values, presets):
        wanted = 0.95
        config = override(shortened(load_preset(preset), budget), [f"training.compile={value}"])
        data = available(config.data.source, budget)
        clock = Clock(data, label, wanted)
        with tempfile.TemporaryDirectory() as folder:
            result = fit(config, RunFolder(Path(folder)), data=data, device=budget.device, callbacks=(clock,))
        yield {
            "preset": preset,
            "label": label,
            "compile": value,
            "accuracy": round(clock.accuracy, 4),
            "seconds": result.summary["seconds"],
            f"seconds_to_{wanted}": clock.reached,
        }


# --- the published configuration --------------------------------------------------------------------------------------


def paper(budget: Budget) -> Iterator[Row]:
    """Train ten seeds, or five if less than four minutes are left."""
    config = load_preset("mnist-paper")
    data = available(config.data.source, budget)
    if budget.rehearse:
        config = override(config, ["schedule.scale=0.003"])
    seeds = range(2 if budget.rehearse else 10 if budget.left() > 240 else 5)
    with tempfile.TemporaryDirectory() as folder:
        results = fit_together(
            [replace(config, seed=seed) for seed in seeds],
            [RunFolder(Path(folder) / f"seed-{seed}") for seed in seeds],
            data=[data] * len(seeds),
            device=budget.device,
        )
        for seed, result in zip(seeds, results, strict=True):
            if isinstance(result, InputError):
                yield {"seed": seed, "failed": str(result)}
                continue
            yield {
                "seed": seed,
                "accuracy": round(float(result.evaluation.scores.accuracy["digit"].max()), 4),
                "seconds": result.summary["seconds"],
            }
