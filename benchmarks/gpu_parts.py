"""The parts of benchmarks/gpu.py. Each yields its figures one by one, and `run` writes every figure at once."""

import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import torch
from gpu_steps import Budget, Row, steps

from pyro_mfcvae.config.build import adapt_epochs, build_pair, build_schedule
from pyro_mfcvae.config.schema import Config
from pyro_mfcvae.config.text import load_preset, override
from pyro_mfcvae.data.catalogue import DATASETS
from pyro_mfcvae.data.datasets import Dataset, load_dataset
from pyro_mfcvae.data.images import Split
from pyro_mfcvae.errors import InputError
from pyro_mfcvae.infer.schedule import steps_per_epoch
from pyro_mfcvae.runs.evaluation import evaluate
from pyro_mfcvae.runs.fit import fit
from pyro_mfcvae.runs.folder import RunFolder
from pyro_mfcvae.runs.together import fit_together
from pyro_mfcvae.train.devices import open_fabric
from pyro_mfcvae.train.step_log import EpochRecord
from pyro_mfcvae.train.training import Training

# Number of items that a rehearsal trains on.
_FEW = 600


def run(part: str, path: Path, *, seconds: float, rehearse: bool, device: str) -> None:
    """Run a part. The file ``path`` always has the figures so far."""
    torch.set_num_threads(1 if rehearse else torch.get_num_threads())
    rows: list[Row] = []
    for row in PARTS[part](Budget(rehearse, time.monotonic() + seconds, device)):
        rows.append(row)
        path.write_text(json.dumps(rows))


# --- tests ------------------------------------------------------------------------------------------------------------


def tests(budget: Budget) -> Iterator[Row]:
    """Run only the files with tests marked gpu, since others need more packages.

    Without a GPU the tests are only collected.
    """
    root = Path(__file__).parents[1]
    files = [str(path) for path in (root / "tests").rglob("test_*.py") if "@pytest.mark.gpu" in path.read_text()]
    # With -P, Python imports the package on the path and not the checkout, in which models/ and guides/ are elsewhere.
    command = [sys.executable, "-P", "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", *files]
    found = subprocess.run(
        command + ["--collect-only"] * (budget.device == "cpu"),
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    failures = [line for line in found.stdout.splitlines() if line.startswith(("E  ", "FAILED", "ERROR"))]
    yield {"code": found.returncode, "result": " ".join(found.stdout.strip().splitlines()[-1:]), "failures": failures}


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
    """Train each preset with its step captured, captured and compiled, and eager."""
    presets = [("mnist", "digit"), ("shapes", "shape")]
    programs = [(True, False), (True, True), (False, False)]
    for (captures, compiles), (preset, label) in itertools.product(programs[: 1 if budget.rehearse else 3], presets):
        wanted = 0.95
        config = shortened(load_preset(preset), budget)
        program = {"capture": captures and budget.device == "cuda", "compile": compiles}
        config = override(config, [f"training.{name}={str(value).lower()}" for name, value in program.items()])
        data = available(config.data.source, budget)
        clock = Clock(data, label, wanted)
        with tempfile.TemporaryDirectory() as folder:
            result = fit(config, RunFolder(Path(folder)), data=data, device=budget.device, callbacks=(clock,))
        yield {
            "preset": preset,
            "label": label,
            **program,
            "accuracy": round(clock.accuracy, 4),
            "seconds": result.summary["seconds"],
            f"seconds_to_{wanted}": clock.reached,
        }


# --- seeds together ---------------------------------------------------------------------------------------------------


def together(budget: Budget) -> Iterator[Row]:
    from together import SHAPES, num_steps, prepare, steps_alone, steps_of

    from pyro_mfcvae.train.stacked import StackedTraining

    def clock() -> float:
        if budget.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    for preset in ("stickfigures",) if budget.rehearse else tuple(SHAPES):
        alone, _ = prepare(preset, 0, budget.device)
        num = 2 if budget.rehearse else 10
        stack = StackedTraining(*zip(*(prepare(preset, seed, budget.device) for seed in range(num)), strict=True))
        one = steps_of(steps_alone(alone), clock, num_steps(budget.device))
        many = steps_of(stack.run_epoch, clock, num_steps(budget.device))
        times = {"one": [], "many": []}  # type: dict[str, list[float]]
        for turn in range(2 if budget.rehearse else 12):
            for name, taken in (("one", one), ("many", many)):
                seconds = taken()
                if turn:  # the first epoch also fits mixtures
                    times[name].append(1e3 * seconds)
        single, stacked = (sorted(values)[len(values) // 2] for values in times.values())
        ratio = round(stacked / single, 3)
        yield {"preset": preset, "seeds": num, "ms": round(stacked, 3), "ms_of_one": round(single, 3), "ratio": ratio}


def paper(budget: Budget) -> Iterator[Row]:
    """Train ten seeds, or five if less than four minutes are left."""
    config = override(
        load_preset("mnist-paper"),
        [f"training.capture={str(budget.device == 'cuda').lower()}", "training.compile=false"],
    )
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


# --- larger images ----------------------------------------------------------------------------------------------------


def images(budget: Budget) -> Iterator[Row]:
    """Train on images of several sizes in several variants, fewer for larger images: eager in float32 and bf16, other
    layouts of the maps, recomputation, and streamed data.
    """
    sides, num, batch = ((32,), 64, 16) if budget.rehearse else ((64, 128, 224), 1024, 128)
    plain: dict[str, object] = {"precision": "float32", "channels_last": False, "recompute": False, "streamed": False}
    changes: list[dict[str, object]] = [
        {},
        {"precision": "bf16"},
        {"precision": "bf16", "channels_last": True},
        {"precision": "bf16", "recompute": True},
        {"precision": "bf16", "channels_last": True, "recompute": True},
        {"channels_last": True},
        {"streamed": True},
    ]
    chosen = [{}, {"precision": "bf16", "channels_last": True, "recompute": True}] if budget.rehearse else changes
    for side, change in itertools.product(sides, chosen):
        way = plain | change
        try:
            found = images_per_second(budget, side, num, batch, way)
        except torch.cuda.OutOfMemoryError:
            found = {"out_of_memory": True}
        yield {"side": side, "batch": batch, **way, **found}


def images_per_second(budget: Budget, side: int, num: int, batch: int, way: dict[str, object]) -> Row:
    """Train the ladder of `shapes` for one epoch, after a first epoch for warm-up."""
    config = override(
        load_preset("shapes"),
        [
            f"training.precision={way['precision']}",
            f"networks.channels_last={str(way['channels_last']).lower()}",
            f"networks.recompute={str(way['recompute']).lower()}",
            f"training.batch_size={batch}",
            "training.epochs=10000",
            "mixture_fit.warmup_steps=0",
            "mixture_fit.refit_steps=[]",
            "training.compile=false",
        ],
    )
    pixels = torch.randint(256, (num, 3, side, side), dtype=torch.uint8)
    training = Training(
        build_pair(config, (3, side, side)),
        pixels,
        schedule=build_schedule(config, steps_per_epoch(num, batch)),
        settings=config.training,
        mixture_fit=config.mixture_fit,
        fabric=open_fabric(budget.device, precision=config.training.precision),
    )
    if way["streamed"]:
        training.batches._on_device, training.batches._images = False, pixels
    training.run_epoch()
    if budget.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    training.run_epoch()
    seconds = time.perf_counter() - start
    memory = torch.cuda.max_memory_allocated() / 2**30 if budget.device == "cuda" else None
    return {"images_per_second": round(num / seconds), "GiB": memory and round(memory, 2)}


# --- check and assign -------------------------------------------------------------------------------------------------


def items(budget: Budget) -> Iterator[Row]:
    from pyro_mfcvae.checks.criticism import criticise
    from pyro_mfcvae.draws.arviz_data import to_inference_data

    num = 300 if budget.rehearse else 60_000
    pair = build_pair(load_preset("mnist"), (1, 28, 28)).to(budget.device).eval()
    pixels = torch.randint(256, (num, 1, 28, 28), dtype=torch.uint8)
    start = time.perf_counter()
    evaluate(pair, Split(pixels))
    yield {"what": "assign", "items": num, "seconds": round(time.perf_counter() - start, 2)}
    start = time.perf_counter()
    criticise(to_inference_data(pair, pixels[: num // 6].float().to(budget.device) / 255))
    yield {"what": "check", "items": num // 6, "seconds": round(time.perf_counter() - start, 2)}


PARTS: dict[str, Callable[[Budget], Iterator[Row]]] = {
    "tests": tests,
    "steps": steps,
    "accuracy": accuracy,
    "together": together,
    "paper": paper,
    "images": images,
    "items": items,
}
