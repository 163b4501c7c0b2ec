"""Every prior with every assignment rule and every likelihood, on the demo's images."""

import pytest
import torch

from pyro_mfcvae import FacetELBO, InputError
from pyro_mfcvae.config.build import build_pair
from pyro_mfcvae.config.builders import POSTERIORS
from pyro_mfcvae.config.parts import ASSIGNMENTS, PRIORS
from pyro_mfcvae.config.schema import Config, DataConfig
from pyro_mfcvae.config.text import override
from pyro_mfcvae.data.shapes import draw_shapes

SMALL = ["facets.num_clusters=[4, 3]", "facets.latent_dim=[3, 2]", "networks.encoder_dims=[16, 16]"]
SMALL += ["networks.decoder_dims=[16, 16]", "networks.hidden_dim=16", "networks.head_init_scale=1.0"]
DRAWS = {"monte_carlo": ["assignment.num_samples=2"], "vade": ["assignment.num_samples=2"]}
LIKELIHOODS = {
    "gaussian": ["likelihood.scale=0.5"],
    "discretized_logistic": ["likelihood.scale=0.5"],
    "bernoulli": [],
    "continuous_bernoulli": [],
}
NEEDS = {
    "analytic": ("student_t", "spline", "autoregressive"),
    "amortized": ("spline", "autoregressive"),
}


@pytest.fixture(scope="module")
def x() -> torch.Tensor:
    return draw_shapes(32, seed=0)[0].double() / 255


def train(settings: list[str], x: torch.Tensor) -> None:
    """Five steps: the loss falls, and every gradient is finite."""
    torch.manual_seed(0)
    pair = build_pair(override(Config(data=DataConfig(source="shapes")), [*SMALL, *settings]), tuple(x.shape[1:]))
    optimizer = torch.optim.Adam(pair.parameters(), 1e-2)
    elbo = FacetELBO(closed_form=pair.guide.has_closed_form)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = elbo.differentiable_loss(pair.model, pair.guide, x)
        loss.backward()
        assert all(p.grad.isfinite().all() for p in pair.parameters() if p.grad is not None)
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-2:]) < sum(losses[:2])


@pytest.mark.parametrize(
    "likelihood", [name if name == "gaussian" else pytest.param(name, marks=pytest.mark.slow) for name in LIKELIHOODS]
)
@pytest.mark.parametrize("rule", ASSIGNMENTS)
@pytest.mark.parametrize("prior", PRIORS)
def test_priors_rules_and_likelihoods(prior: str, rule: str, likelihood: str, x: torch.Tensor) -> None:
    settings = [f"prior={prior}", f"assignment={rule}", f"likelihood={likelihood}"]
    settings += DRAWS.get(rule, []) + LIKELIHOODS[likelihood]
    if prior in NEEDS.get(rule, ()):
        with pytest.raises(
            InputError, match=r"in closed form for AnalyticAssignment, .* take MonteCarloAssignment or SampleAssign"
        ):
            train(settings, x)
    else:
        train(settings, x)


@pytest.mark.parametrize("rule", ASSIGNMENTS)
@pytest.mark.parametrize("posterior", POSTERIORS)
def test_posteriors_and_rules(posterior: str, rule: str, x: torch.Tensor) -> None:
    settings = [f"networks.posterior={posterior}", f"assignment={rule}", *DRAWS.get(rule, [])]
    if posterior in NEEDS.get(rule, ()):
        with pytest.raises(InputError, match=r"take (MonteCarlo|Sample)Assignment or (Sample|MonteCarlo)Assignment"):
            train(settings, x)
    else:
        train(settings, x)
