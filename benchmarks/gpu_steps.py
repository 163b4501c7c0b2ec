"""The time of a training step on a GPU, in several variants: the part `steps` of benchmarks/gpu.py."""

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing import get_context
from multiprocessing.queues import Queue
from multiprocessing.synchronize import Barrier, Lock
from threading import BrokenBarrierError
from typing import Any

import pyro
import torch
from step_time import Options, Step, build, image_shape, low_precision, measure, networks_alone, ways

from pyro_mfcvae.infer.compilation import CompiledObjective
from pyro_mfcvae.train.captured import NUM_WARM_UP_STEPS, capture
from pyro_mfcvae.train.objective import Objective
from pyro_mfcvae.train.optimizer import make_adam

Row = dict[str, Any]


@dataclass(frozen=True)
class Budget:
    """Limits of a part.

    Attributes:
        rehearse: whether the part is run in miniature.
        end: time at which it will be stopped, of `time.monotonic`.
        device: "cuda", or "cpu" for a rehearsal.
    """

    rehearse: bool
    end: float
    device: str

    def left(self) -> float:
        """Seconds until the part is stopped."""
        return self.end - time.monotonic()


def captured(loss: Callable[[], torch.Tensor], parameters: list[torch.nn.Parameter]) -> Step:
    """Loss, gradient and Adam of a step as one CUDA graph, replayed."""
    device = torch.device("cuda")
    optimizer = make_adam(parameters, learning_rate=1e-4, device=device, captured=True)

    def step() -> torch.Tensor:
        value = loss()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        return value.detach()

    replayed = partial(capture(device), step)
    for _ in range(NUM_WARM_UP_STEPS + 1):
        replayed()
    return replayed


def captured_ways(network: Any, batch: int, clusters: int, options: Options) -> dict[str, Step]:
    """Capture the networks alone, our eager step and our compiled step, each as one CUDA graph."""
    x = torch.rand(batch, *image_shape(network, options.side), device=options.device)
    autocast = low_precision(options)
    bare, ours, compiled = (build(network, options.side, 2, clusters, options.device) for _ in range(3))
    tf32 = options.precision == "tf32"
    written = Objective(ours, num_items=100, tf32=tf32)
    program = CompiledObjective(Objective(compiled, num_items=100, tf32=tf32), graphs=False)
    outside = nullcontext() if tf32 else autocast  # the objective enables TF32 itself

    def of_networks() -> torch.Tensor:
        with autocast:
            return networks_alone(bare, x)

    def of(objective: torch.nn.Module) -> torch.Tensor:
        with outside:
            loss: torch.Tensor = objective(x)[0]
            return loss

    return {
        "networks, captured": captured(of_networks, list(bare.parameters())),
        "ours, captured": captured(lambda: of(written), list(ours.parameters())),
        "ours, compiled and captured": captured(lambda: of(program), list(compiled.parameters())),
    }


@dataclass(frozen=True)
class Case:
    """One case for which all variants are measured.

    Attributes:
        networks: as in step_time.py.
        batch: items per step.
        clusters: K of both facets.
        precision: precision of the networks.
        compiles_all: whether each variant is also compiled; our captured step is always compiled.
    """

    networks: str
    batch: int
    clusters: int
    precision: str
    compiles_all: bool = False


CASES = (
    Case("mlp", 512, 25, "float32", compiles_all=True),
    Case("conv", 150, 25, "float32", compiles_all=True),
    Case("mlp", 512, 25, "tf32"),
    Case("mlp", 512, 25, "bf16"),
    Case("conv", 150, 25, "tf32"),
    Case("conv", 150, 25, "bf16"),
    Case("mlp", 150, 200, "float32"),
    Case("mlp", 512, 1000, "float32"),
)
REHEARSED = (Case("tiny", 8, 3, "float32"), Case("tiny", 8, 3, "tf32"))


def steps(budget: Budget) -> Iterator[Row]:
    """Measure the networks alone, our step (eager, compiled and captured), SVI and the published style, by precision,
    batch and K.

    Every case has its own process. All processes prepare at the same time, since compilation takes long, and then
    measure one after the other.
    """
    context = get_context("spawn")
    cases = REHEARSED if budget.rehearse else CASES
    found: Queue[list[Row]] = context.Queue()
    ready, turn = context.Barrier(len(cases)), context.Lock()
    processes = [context.Process(target=measure_case, args=(case, budget, ready, turn, found)) for case in cases]
    for process in processes:
        process.start()
    for _ in processes:
        yield from found.get()
    for process in processes:
        process.join()


def measure_case(case: Case, budget: Budget, ready: Barrier, turn: Lock, found: "Queue[list[Row]]") -> None:
    """Measure one case; the result is its rows, or one row with the reason why there are none."""
    torch.set_num_threads(1)
    pyro.enable_validation(False)
    torch.backends.cudnn.allow_tf32 = case.precision == "tf32"  # torch's default is True
    options = Options(
        device=budget.device,  # type: ignore[arg-type]
        precision=case.precision,  # type: ignore[arg-type]
        seconds=0.1 if budget.rehearse else 2.0,
        compile=case.compiles_all and budget.device == "cuda",
    )
    named = {key: value for key, value in asdict(case).items() if key != "compiles_all"}
    try:
        taken = ways(case.networks, case.batch, 2, case.clusters, options)  # type: ignore[arg-type]
        if budget.device == "cuda":
            taken |= captured_ways(case.networks, case.batch, case.clusters, options)
        for step in taken.values():
            step()
        with suppress(BrokenBarrierError):  # a case that fails or takes too long does not stop the others
            ready.wait(budget.left() / 2)
        with turn:
            times = {name: round(medians["wall"], 4) for name, medians in measure(taken, options).items()}
    except Exception as error:  # any exception, since a failure is also a result
        ready.abort()
        found.put([{**named, "failed": f"{type(error).__name__}: {error}"}])
        return
    rows = []
    for name, ms in times.items():
        ratios = {"of_networks": ms / times["networks"], "of_published": ms / times["published"]}
        if "networks, captured" in times:
            ratios["of_networks_captured"] = ms / times["networks, captured"]
        rows.append({**named, "way": name, "ms": ms, **{key: round(ratio, 3) for key, ratio in ratios.items()}})
    found.put(rows)
