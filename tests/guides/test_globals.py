"""Guides over the global sites: their typical values, and moving them to fitted mixtures."""

from collections.abc import Callable, Mapping
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from identity_encoder import Identity, make_model
from pyro.distributions import transforms as T
from pyro.infer import SVI, autoguide
from pyro.optim import Adam
from torch import Tensor

from pyro_mfcvae import MFCVAE, Facet, FacetELBO, InputError
from pyro_mfcvae.guides import ConjugateGuide, MultiFacetGuide
from pyro_mfcvae.guides.globals import move_to, typical_values
from pyro_mfcvae.infer.mixture_fit import initialize_mixtures
from pyro_mfcvae.models import BayesianMixturePrior, MultiFacetModel

FACET = Facet(num_clusters=3, latent_dim=2)
MOVABLE = {
    name: getattr(autoguide, name)
    for name in (
        "AutoDelta",
        "AutoNormal",
        "AutoMultivariateNormal",
        "AutoDiagonalNormal",
        "AutoLowRankMultivariateNormal",
        "AutoLaplaceApproximation",
        "AutoStructured",
        "AutoGaussian",
    )
} | {"ours": lambda sites: ConjugateGuide(sites.__self__)}
FLOWS = {
    "AutoIAFNormal": autoguide.AutoIAFNormal,
    "AutoNormalizingFlow": partial(autoguide.AutoNormalizingFlow, init_transform_fn=T.affine_autoregressive),
}


def pair(make: Callable[..., object], **settings: object) -> tuple[MultiFacetModel, MultiFacetGuide]:
    model = make_model(BayesianMixturePrior(FACET, **settings))  # type: ignore[arg-type]
    guide = make(model.sample_globals)
    return model, MultiFacetGuide(model, encoder=Identity(FACET), globals_guide=guide)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", [*MOVABLE, *FLOWS])
def test_every_automatic_guide_trains_and_answers(name: str) -> None:
    model, guide = pair((MOVABLE | FLOWS)[name], covariance="full")
    x = torch.randn(8, 2)
    SVI(model, guide, Adam({"lr": 0.01}), FacetELBO()).step(x)
    both = MFCVAE(model, guide)
    torch.testing.assert_close(both.assign(x)[0].sum(-1), torch.ones(8))
    assert both.log_evidence(x).isfinite().all() and both.sample(3).isfinite().all()
    state = torch.get_rng_state()
    first, second = (typical_values(guide.globals_guide, model) for _ in range(2))
    assert torch.equal(state, torch.get_rng_state())
    assert first.keys() == set(model.global_sites)
    assert all(torch.equal(first[name], second[name]) for name in first)
    torch.testing.assert_close(first["probs_0"].sum(), torch.tensor(1.0))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", MOVABLE)
def test_fitted_mixtures_move_every_guide_that_has_a_location(name: str) -> None:
    model, guide = pair(MOVABLE[name], covariance="full")
    centres = torch.tensor([[-6.0, 0.0], [0.0, 6.0], [6.0, 0.0]])
    x = centres.repeat_interleave(torch.tensor([60, 30, 10]), 0) + 0.3 * torch.randn(100, 2)
    parameters = dict(guide.named_parameters())
    initialize_mixtures(model, guide, x)
    assert all(
        parameter is parameters[name] for name, parameter in guide.named_parameters()
    )  # optimisers see these parameters
    typical = guide.typical_priors()[0]
    torch.testing.assert_close(typical.components().mean, centres, rtol=0.0, atol=0.3)
    torch.testing.assert_close(typical.log_weights().exp(), torch.tensor([0.6, 0.3, 0.1]), rtol=0.0, atol=0.02)
    torch.testing.assert_close(typical.components().variance, torch.full((3, 2), 0.09), rtol=0.0, atol=0.09)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FLOWS)
def test_a_flow_cannot_be_moved_and_the_error_names_other_guides(name: str) -> None:
    model, guide = pair(FLOWS[name])
    with pytest.raises(InputError, match=f"can be moved to fitted mixtures, got a {name[:4]}.*: take a ConjugateGuide"):
        initialize_mixtures(model, guide, torch.randn(20, 2))


def test_a_custom_guide_needs_neither_median_nor_start_at() -> None:
    """The typical value is the median of draws. For exp(N(0.7, 0.2)) it is exp(0.7), within 5 standard errors."""
    values = {}

    class Own(torch.nn.Module):
        def forward(self) -> Mapping[str, Tensor]:
            loc = pyro.sample("loc_0", dist.Normal(torch.ones(3, 2), 0.1).to_event(2))
            return {
                "loc_0": loc,
                "scale_0": pyro.sample("scale_0", dist.LogNormal(0.7 * torch.ones(3, 2), 0.2).to_event(2)),
            }

        def start_at(self, given: Mapping[str, Tensor]) -> None:
            values.update(given)

    model, guide = pair(lambda _: Own(), random=("loc", "scale"))
    typical = typical_values(guide.globals_guide, model)
    error = 1.25 * 0.2 / 101**0.5  # standard error of the median of 101 normal draws
    torch.testing.assert_close(typical["scale_0"].log(), torch.full((3, 2), 0.7), rtol=0.0, atol=5 * error)
    move_to(guide.globals_guide, model.starting_point(), model)
    assert values.keys() == {"loc_0", "scale_0"}
