"""The cost of a training step, compared with the two networks alone and with other implementations of the same step.

python benchmarks/step_time.py --networks mlp --batches 512 150 --facets 2 4 --clusters 25 200 1000
python benchmarks/step_time.py --networks conv --batches 150 --device cuda --precision bf16

All variants take turns, step by step, so that other work on the machine affects all in the same way; medians are
reported. On a CPU the processor time of this process is reported as well as the wall time. On a shared machine and with
one thread, use the processor time.
"""

import itertools
import json
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Annotated, Literal

import pyro
import torch
import tyro
from provenance import machine, provenance
from pyro.infer import SVI, TraceEnum_ELBO
from reproduction import RESULTS
from torch import Tensor
from torch.distributions import Bernoulli, Categorical, Independent, MultivariateNormal, Normal

from pyro_mfcvae.atomic_io import write_text
from pyro_mfcvae.config.build import build_pair
from pyro_mfcvae.config.schema import Config, DataConfig
from pyro_mfcvae.config.text import override
from pyro_mfcvae.infer.compilation import CompiledObjective
from pyro_mfcvae.infer.objective import FacetELBO
from pyro_mfcvae.infer.tf32 import TF32Layers
from pyro_mfcvae.mfcvae import MFCVAE
from pyro_mfcvae.train.objective import Objective

Step = Callable[[], None]
Precision = AbstractContextManager[object]  # precision of the networks
Network = Literal["mlp", "conv", "tiny"]

# The paper's networks for MNIST and for RGB images, and very small networks.
NETWORKS: dict[Network, tuple[tuple[int, ...], list[str]]] = {
    "mlp": ((1, 28, 28), ["prior.covariance=diagonal"]),
    "conv": ((3, 32, 32), ["networks.kind=conv", "prior.covariance=full", "likelihood.kind=gaussian"]),
    "tiny": ((1, 8, 8), ["networks.hidden_dim=32"]),
}
LEARNING_RATE = 1e-4


def image_shape(network: Network, side: int | None) -> tuple[int, ...]:
    num_channels, height, width = NETWORKS[network][0]
    return num_channels, side or height, side or width


def build(network: Network, side: int | None, num_facets: int, num_clusters: int, device: str) -> MFCVAE:
    settings = NETWORKS[network][1]
    sizes = [f"facets.num_clusters={[num_clusters] * num_facets}", f"facets.latent_dim={[5] * num_facets}"]
    if network == "tiny":
        sizes += [f"networks.{name}_dims={[32] * num_facets}" for name in ("encoder", "decoder")]
    pyro.set_rng_seed(0)
    return (
        build_pair(override(Config(data=DataConfig(source="none")), [*settings, *sizes]), image_shape(network, side))
        .train()
        .to(device)
    )


def networks_alone(pair: MFCVAE, x: Tensor) -> Tensor:
    posteriors = pair.guide.encoder(x)
    output = pair.model.decoder([q.mean for q in posteriors], pair.model.alpha)
    return output.square().mean() + sum(q.stddev.square().mean() for q in posteriors)


def torch_step(loss: Callable[[], Tensor], pair: MFCVAE, autocast: Precision) -> Step:
    """Forward, backward and fused Adam."""
    optimizer = torch.optim.Adam(pair.parameters(), LEARNING_RATE, fused=True)

    def step() -> None:
        with autocast:
            value = loss()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        value.item()

    return step


def published_step(pair: MFCVAE, x: Tensor, labels: Tensor, autocast: Precision) -> Step:
    """A direct implementation of the paper's step (section 3 and appendix): torch's distributions for each facet,
    five terms at the drawn z, q(c|x) by Bayes' rule, and plain Adam. Labels and clusters are copied to the host for
    scoring.
    """
    optimizer = torch.optim.Adam(pair.parameters(), LEARNING_RATE, fused=False)

    def step() -> None:
        optimizer.zero_grad()
        zs, terms, clusters = [], [], []
        with autocast:
            posteriors = pair.guide.encoder(x)
        for q, prior in zip(posteriors, pair.model.priors, strict=True):
            posterior = Independent(Normal(q.mean, q.stddev), 1)
            z = posterior.rsample()
            weights = Categorical(logits=prior.logits)
            if prior.has_scale_tril:
                components = MultivariateNormal(prior.loc, scale_tril=prior.scale_tril)
            else:
                components = Independent(Normal(prior.loc, prior.scale), 1)
            log_p_z = components.log_prob(z[:, None])
            q_c = Categorical(logits=weights.logits + log_p_z)
            terms.append((q_c.probs * log_p_z).sum(-1).mean())  # log p(z | c)
            terms.append((q_c.probs * weights.logits).sum(-1).mean())  # log p(c)
            terms.append(-posterior.log_prob(z).mean())  # - log q(z | x)
            terms.append(q_c.entropy().mean())  # - log q(c | x)
            clusters.append(q_c.probs.argmax(-1))
            zs.append(z)
        with autocast:
            output = pair.model.decoder(zs, pair.model.alpha)
        if hasattr(pair.model.likelihood, "scale"):
            likelihood = Independent(Normal(output, pair.model.likelihood.scale), 3)
        else:
            likelihood = Independent(Bernoulli(logits=output, validate_args=False), 3)
        terms.append(likelihood.log_prob(x).mean())  # log p(x | z)
        loss = -sum(terms)
        loss.backward()
        optimizer.step()
        loss.item(), labels.cpu().numpy(), [c.cpu().numpy() for c in clusters]

    return step


def svi_step(pair: MFCVAE, x: Tensor, loss: object, autocast: Precision) -> Step:
    optimizer = pyro.optim.Adam({"lr": LEARNING_RATE, "fused": True})
    svi = SVI(pair.model, pair.guide, optimizer, loss=loss)

    def step() -> None:
        with autocast:
            svi.step(x)

    return step


def low_precision(options: "Options") -> Precision:
    if options.precision == "tf32":
        return TF32Layers()
    return torch.autocast(options.device, torch.bfloat16, enabled=options.precision == "bf16")


def ways(network: Network, batch: int, num_facets: int, num_clusters: int, options: "Options") -> dict[str, Step]:
    """All variants of the step, each with its own networks."""
    device = options.device
    x = torch.rand(batch, *image_shape(network, options.side), device=device)
    labels = torch.randint(10, (batch,), device=device)
    autocast = low_precision(options)

    def fresh() -> MFCVAE:
        return build(network, options.side, num_facets, num_clusters, device)

    a, b, c, d, e = fresh(), fresh(), fresh(), fresh(), fresh()
    eager = Objective(b, num_items=100)
    found = {
        "networks": torch_step(lambda: networks_alone(a, x), a, autocast),
        "ours": torch_step(lambda: eager(x)[0], b, autocast),
        "SVI FacetELBO": svi_step(c, x, FacetELBO(), autocast),
        "SVI TraceEnum_ELBO": svi_step(d, x, TraceEnum_ELBO(max_plate_nesting=1), autocast),
        "published": published_step(e, x, labels, autocast),
    }
    if options.precision == "bf16":
        found["published, float32"] = published_step(fresh(), x, labels, torch.autocast(device, enabled=False))
    if options.compile:
        pair = fresh()
        compiled = CompiledObjective(Objective(pair, num_items=100, tf32=options.precision == "tf32"))
        outside = nullcontext() if options.precision == "tf32" else autocast  # the program already uses TF32
        found["ours, compiled"] = torch_step(lambda: compiled(x)[0], pair, outside)
    if options.compile and options.precision != "tf32":
        found["SVI FacetELBO, compiled"] = svi_step(fresh(), x, FacetELBO(compile=True), autocast)
        if device == "cuda":  # the networks alone must also have the advantage of a CUDA graph
            bare = fresh()
            graph = torch.compile(lambda: networks_alone(bare, x), mode="reduce-overhead")
            found["networks, compiled"] = torch_step(graph, bare, autocast)
    return found


@dataclass(frozen=True)
class Options:
    """Options that are the same for all combinations of a run.

    Args:
        device: Where.
        precision: Precision of the networks.
        threads: On a CPU.
        side: Side of the images, in pixels; by default the paper's.
        seconds: Seconds of measurement per combination; at least five rounds.
        compile: Whether to measure the compiled step too, which takes a minute more per combination.
    """

    device: Literal["cpu", "cuda"] = "cpu"
    precision: Literal["float32", "tf32", "bf16"] = "float32"
    threads: int = 1
    side: int | None = None
    seconds: float = 30.0
    compile: bool = True


def measure(steps: dict[str, Step], options: Options) -> dict[str, dict[str, float]]:
    """Median milliseconds of every variant, in wall time and in processor time."""
    clocks = {"wall": time.perf_counter, "processor": time.process_time}
    taken: dict[str, list[list[float]]] = {name: [] for name in steps}
    for step in steps.values():
        for _ in range(2):
            step()
    rounds, start = 0, time.perf_counter()
    while rounds < 5 or time.perf_counter() - start < options.seconds:
        for name, step in steps.items():
            if options.device == "cuda":
                torch.cuda.synchronize()
            before = [clock() for clock in clocks.values()]
            step()
            if options.device == "cuda":
                torch.cuda.synchronize()
            taken[name].append([clock() - then for clock, then in zip(clocks.values(), before, strict=True)])
        rounds += 1
    medians = {
        name: [1e3 * statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in taken.items()
    }
    return {name: dict(zip(clocks, values, strict=True)) for name, values in medians.items()}


def main(
    networks: Sequence[Network] = ("mlp",),
    batches: Sequence[int] = (512,),
    facets: Sequence[int] = (2,),
    clusters: Sequence[int] = (25,),
    options: Annotated[Options, tyro.conf.arg(name="")] = Options(),
) -> None:
    """Measure every combination; results of the same combination on the same machine are replaced.

    Args:
        networks: The paper's for MNIST, the paper's for RGB images, or tiny ones.
        batches: Items per step.
        facets: J.
        clusters: K of every facet.
        options: Where and how.
    """
    torch.set_num_threads(options.threads)
    pyro.enable_validation(False)
    path = RESULTS / "step_time.json"
    rows = json.loads(path.read_text()) if path.is_file() else []
    device, precision = options.device, options.precision
    clock = "processor" if device == "cpu" and options.threads == 1 else "wall"
    for network, batch, num_facets, num_clusters in itertools.product(networks, batches, facets, clusters):
        pyro.clear_param_store()
        torch.compiler.reset()
        case = {"network": network, "batch": batch, "facets": num_facets, "clusters": num_clusters}
        case |= {"side": image_shape(network, options.side)[-1], "device": device, "precision": precision}
        case |= {"threads": options.threads, "machine": machine()}
        medians = measure(ways(network, batch, num_facets, num_clusters, options), options)
        rows = [row for row in rows if any(row[key] != value for key, value in case.items())]
        rows.append({**provenance(), **case, "milliseconds": medians})
        write_text(path, json.dumps(rows, indent=1) + "\n")
        base, published = medians["networks"][clock], medians["published"][clock]
        print(f"{network}, batch {batch}, J = {num_facets}, K = {num_clusters}, {device}, {precision} ({clock} time)")
        for name, times in medians.items():
            ms = times[clock]
            print(
                f"  {name:24} {ms:8.2f} ms   {ms / base:5.2f} × networks   {ms / published:5.2f} × published",
                flush=True,
            )


if __name__ == "__main__":
    tyro.cli(main)
