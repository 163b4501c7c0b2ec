"""Small pairs for the tests of compiled objectives."""

from typing import Any

import pyro
import pytest
import torch
from small_configs import LADDER, ONE_FACET

from pyro_mfcvae.config.build import build_pair
from pyro_mfcvae.config.schema import Config, DataConfig
from pyro_mfcvae.config.text import override
from pyro_mfcvae.mfcvae import MFCVAE

SMALL = override(
    Config(data=DataConfig(source="none")),
    [
        "facets.num_clusters=[3, 4]",
        "facets.latent_dim=[2, 3]",
        "networks.head_init_scale=1.0",
        "training.epochs=1",
        "training.batch_size=16",
        "training.compile=true",
    ],
)


SHAPE = (1, 8, 8)
GAUSSIAN = ["likelihood.kind=gaussian", "likelihood.learn_scale=true"]


def configure(*settings: str) -> Config:
    networks = ["networks.channels=[3, 4]"] if "networks.kind=conv" in settings else LADDER
    likelihood = [] if "likelihood.kind=bernoulli" in settings else GAUSSIAN
    return override(SMALL, [*networks, *likelihood, *settings])


def small_pair(*settings: str) -> MFCVAE:
    pyro.set_rng_seed(0)
    return build_pair(configure(*settings), SHAPE).train()


def assert_same(here: Any, there: Any) -> None:
    torch.testing.assert_close(here, there, rtol=0.0, atol=1e-10)


def complaints(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The log messages about compiling, without torch's own."""
    records = caplog.get_records("call")
    return [record.getMessage() for record in records if record.name == "pyro_mfcvae.infer.compilation"]


CONV = ["networks.kind=conv", "networks.num_residual_blocks=1", "networks.gated=true", "prior.covariance=tied"]
CASES = {
    "mlp": ["prior.covariance=full"],
    "conv": CONV,
    "conv, one facet": [*CONV, *ONE_FACET[:2]],
    "free nats": ["prior.covariance=spherical"],
    "independent facets": ["prior.covariance=spherical"],
    "bernoulli": ["likelihood.kind=bernoulli", "prior.learn_weights=false"],
    "one cluster": ["facets.num_clusters=[1, 4]"],
    **{rule: [f"assignment.kind={rule}"] for rule in ("sample", "monte_carlo", "vade", "amortized")},
    "student": ["prior.kind=student_t", "assignment.kind=monte_carlo"],
}
