"""What a training step costs on a GPU, way by way: the part `steps` of benchmarks/gpu.py."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from step_time import Options, Step, build, image_shape, low_precision, measure, networks_alone, ways

from pyro_mfcvae.train.objective import Objective

Row = dict[str, Any]


@dataclass(frozen=True)
class Budget:
    """How a part is to be run.

    Attributes:
        rehearse: in miniature, on the CPU.
        end: when it will be stopped, on the clock of `time.monotonic`.
    """

    rehearse: bool
    end: float

    @property
    def device(self) -> str:
        return "cpu" if self.rehearse else "cuda"

    def left(self) -> float:
        """Seconds until the part is stopped."""
        return self.end - time.monotonic()


def captured(loss: Callable[[], torch.Tensor], parameters: list[torch.nn.Parameter]) -> Step:
    """Loss, gradient and Adam of a step as one CUDA graph, replayed."""
    optimizer = torch.optim.Adam(parameters, 1e-4, capturable=True, fused=True)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        loss().backward()
        optimizer.step()

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    optimizer.zero_grad(set_to_none=True)
    with torch.cuda.graph(graph):
        loss().backward()
        optimizer.step()
    return graph.replay


def captured_ways(network: Any, batch: int, clusters: int, options: Options) -> dict[str, Step]:
    """The networks alone and ours, each as one CUDA graph."""
    x = torch.rand(batch, *image_shape(network, options.side), device=options.device)
    autocast = low_precision(options)
    bare, ours = (build(network, options.side, 2, clusters, options.device) for _ in range(2))
    objective = Objective(ours, num_items=100)

    def of_networks() -> torch.Tensor:
        with autocast:
            return networks_alone(bare, x)

    def of_ours() -> torch.Tensor:
        with autocast:
            loss: torch.Tensor = objective(x)[0]
            return loss

    return {
        "networks, captured": captured(of_networks, list(bare.parameters())),
        "ours, captured": captured(of_ours, list(ours.parameters())),
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
            seconds=0.1 if budget.rehearse else 4.0,
            compile=not budget.rehearse,
        )
        taken = ways(network, batch, 2, clusters, options)  # type: ignore[arg-type]
        if not budget.rehearse:
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
