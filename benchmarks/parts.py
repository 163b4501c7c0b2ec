"""The cost of a training step with one part exchanged at a time, relative to the default.

    python benchmarks/parts.py

The model is an MLP ladder of widths 256, 256 on `shapes`, with K = 25, 25, D = 5, 5, full covariances and batches of
128. A step is the loss, its gradients and Adam. The variants take turns, and their medians are compared. The script
prints the costs in docs/parts.md.
"""

import json
import statistics
import time
from collections.abc import Callable

import pyro
import torch
import tyro
from provenance import provenance
from pyro.infer import ELBO, TraceEnum_ELBO
from reproduction import RESULTS

from pyro_mfcvae.atomic_io import write_text
from pyro_mfcvae.config.build import build_pair
from pyro_mfcvae.config.schema import Config, DataConfig
from pyro_mfcvae.config.text import override
from pyro_mfcvae.data.shapes import draw_shapes
from pyro_mfcvae.infer.importance import ImportanceWeightedELBO
from pyro_mfcvae.infer.objective import FacetELBO

FULL = ["prior.covariance=full"]
GAUSSIAN = ["likelihood=gaussian", "likelihood.scale=0.5"]
BASE = [
    "networks.encoder_dims=[256, 256]",
    "networks.decoder_dims=[256, 256]",
    "networks.hidden_dim=256",
]

# Name, settings, and another loss. Variants without these settings have full covariances and a Gaussian likelihood.
VARIANTS: dict[str, tuple[list[str], ELBO | None]] = {
    "the default": ([], None),
    "prior.covariance=diagonal": (["prior.covariance=diagonal"], None),
    "prior.covariance=spherical": (["prior.covariance=spherical"], None),
    "prior.covariance=tied": (["prior.covariance=tied"], None),
    "prior=student_t": (["prior=student_t", "assignment=sample"], None),
    "prior=bayesian": (["prior=bayesian", *FULL], None),
    "prior=bayesian, stick-breaking": (
        ["prior=bayesian", *FULL, 'prior.random=["probs"]', "prior.stick_breaking=true"],
        None,
    ),
    "prior=vamp": (["prior=vamp"], None),
    "facets.num_clusters=[1, 25]": (["facets.num_clusters=[1, 25]"], None),
    "likelihood=bernoulli": (["likelihood=bernoulli"], None),
    "likelihood=continuous_bernoulli": (["likelihood=continuous_bernoulli"], None),
    "likelihood=discretized_logistic": (["likelihood=discretized_logistic"], None),
    "PoissonLikelihood": (["likelihood=pyro_mfcvae.models.PoissonLikelihood"], None),
    "NegativeBinomialLikelihood": (["likelihood=pyro_mfcvae.models.NegativeBinomialLikelihood"], None),
    "likelihood.missing=true": (["likelihood.missing=true"], None),
    "assignment=monte_carlo (16)": (["assignment=monte_carlo"], None),
    "assignment=sample": (["assignment=sample"], None),
    "assignment=vade (16)": (["assignment=vade"], None),
    "assignment=amortized": (["assignment=amortized"], None),
    "networks.posterior=full": (["networks.posterior=full"], None),
    "networks.posterior=low_rank": (["networks.posterior=low_rank"], None),
    "networks.posterior=spline": (["networks.posterior=spline", "assignment=sample"], None),
    "networks.posterior=autoregressive": (["networks.posterior=autoregressive", "assignment=sample"], None),
    "networks.separate=true": (["networks.separate=true"], None),
    "FacetELBO(num_particles=8)": ([], FacetELBO(num_particles=8)),
    "ImportanceWeightedELBO(num_particles=8)": ([], ImportanceWeightedELBO(num_particles=8)),
    "TraceEnum_ELBO": ([], TraceEnum_ELBO(max_plate_nesting=1)),
}


def make_step(settings: list[str], loss: ELBO | None, x: torch.Tensor) -> Callable[[], None]:
    pyro.set_rng_seed(0)
    prior = [] if any(setting.startswith("prior") for setting in settings) else FULL
    likelihood = [] if any(setting.startswith("likelihood=") for setting in settings) else GAUSSIAN
    config = override(Config(data=DataConfig(source="shapes")), [*BASE, *prior, *likelihood, *settings])
    pair = build_pair(config, tuple(x.shape[1:]))
    elbo = loss if loss is not None else FacetELBO(closed_form=pair.guide.has_closed_form)
    optimizer = torch.optim.Adam(pair.parameters(), 1e-3, fused=True)

    def step() -> None:
        optimizer.zero_grad()
        with pyro.get_param_store().scope(), pyro.validation_enabled(False):
            elbo.differentiable_loss(pair.model, pair.guide, x).backward()
        optimizer.step()

    return step


def main(repeats: int = 40) -> None:
    """Time every variant.

    Args:
        repeats: Rounds; each takes one step of every variant.
    """
    # Every likelihood supports the values 0 and 1, and no cost depends on the values.
    x = (draw_shapes(128, seed=0)[0].float() / 255).round()
    steps = {name: make_step(settings, loss, x) for name, (settings, loss) in VARIANTS.items()}
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(repeats + 3):
        for name, step in steps.items():
            start = time.perf_counter()
            step()
            if repeat >= 3:  # the first rounds are for warm-up
                seconds[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    relative = {name: round(median / medians["the default"], 2) for name, median in medians.items()}
    for name, ratio in relative.items():
        print(f"{name:42s} {ratio:5.2f}")
    record = {
        **provenance(),
        "threads": torch.get_num_threads(),
        "default_ms": round(1000 * medians["the default"], 2),
        "relative": relative,
    }
    write_text(RESULTS / "parts.json", json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    tyro.cli(main)
