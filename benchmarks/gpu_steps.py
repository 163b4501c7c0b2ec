"""What a training step costs on a GPU, way by way: the part `steps` of benchmarks/gpu.py."""

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
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
    """How a part is to be run.

    Attributes:
        rehearse: in miniature.
        end: when it will be stopped, on the clock of `time.monotonic`.
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

    replayed = capture(step, device)
    for _ in range(NUM_WARM_UP_STEPS + 1):
        replayed()
    return replayed


def captured_ways(network: Any, batch: int, clusters: int, options: Options) -> dict[str, Step]:
    """The networks alone, ours as written and ours compiled, each as one CUDA graph."""
    x = torch.rand(batch, *image_shape(network, options.side), device=options.device)
    autocast = low_precision(options)
    bare, ours, compiled = (build(network, options.side, 2, clusters, options.device) for _ in range(3))
    tf32 = options.precision == "tf32"
    written = Objective(ours, num_items=100, tf32=tf32)
    program = CompiledObjective(Objective(compiled, num_items=100, tf32=tf32), graphs=False)
    outside = nullcontext() if tf32 else autocast  # the objective enters TF32 itself

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


def steps(budget: Budget) -> Iterator[Row]:
    """Networks alone, ours eager, compiled and captured, SVI, the published style; by precision, batch and K."""
    if budget.rehearse:
        cases = [("tiny", 8, 3, "float32"), ("tiny", 8, 3, "tf32")]
    else:
        cases = [
            ("mlp", 512, 25, "float32"),
            ("mlp", 512, 25, "bf16"),
            ("conv", 150, 25, "float32"),
            ("conv", 150, 25, "bf16"),
            ("mlp", 512, 25, "tf32"),
            ("mlp", 512, 1000, "float32"),
            ("mlp", 150, 200, "float32"),
            ("conv", 150, 200, "tf32"),
        ]
    pyro.enable_validation(False)
    for network, batch, clusters, precision in cases:
        pyro.clear_param_store()
        torch.compiler.reset()
        torch.backends.cudnn.allow_tf32 = precision == "tf32"  # torch's default is True
        options = Options(
            device=budget.device,  # type: ignore[arg-type]
            precision=precision,  # type: ignore[arg-type]
            seconds=0.1 if budget.rehearse else 1.5,
            compile=budget.device == "cuda",
        )
        taken = ways(network, batch, 2, clusters, options)  # type: ignore[arg-type]
        if budget.device == "cuda":
            taken |= captured_ways(network, batch, clusters, options)
        times = {name: round(found["wall"], 4) for name, found in measure(taken, options).items()}
        case = {"networks": network, "batch": batch, "clusters": clusters, "precision": precision}
        for name, ms in times.items():
            yield {
                **case,
                "way": name,
                "ms": ms,
                "of_networks": round(ms / times["networks"], 3),
                "of_published": round(ms / times["published"], 3),
            }
