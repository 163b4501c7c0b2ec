"""The parts of benchmarks/gpu.py. Each yields its figures one by one, and `run` writes every figure at once."""

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from gpu_runs import accuracy, auto, commands, paper
from gpu_steps import Budget, Row, steps

from pyro_mfcvae.config.build import build_pair, build_schedule
from pyro_mfcvae.config.text import load_preset, override
from pyro_mfcvae.data.images import Split
from pyro_mfcvae.infer.schedule import steps_per_epoch
from pyro_mfcvae.runs.evaluation import evaluate
from pyro_mfcvae.train.devices import open_fabric
from pyro_mfcvae.train.training import Training


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
            "training.epochs=1000",  # so few that steps are captured, but not compiled
            "mixture_fit.warmup_steps=0",
            "mixture_fit.refit_steps=[]",
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
    "commands": commands,
    "auto": auto,
    "steps": steps,
    "accuracy": accuracy,
    "together": together,
    "paper": paper,
    "images": images,
    "items": items,
}
