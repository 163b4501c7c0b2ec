import math
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceEnum_ELBO
from torch import Tensor, nn

from pyro_mfcvae import Facet, FacetELBO, InputError
from pyro_mfcvae.guides import MLPLadderEncoder, MonteCarloAssignment, MultiFacetGuide
from pyro_mfcvae.models import BernoulliLikelihood, FacetPrior, MixturePrior, MLPLadderDecoder, MultiFacetModel
from pyro_mfcvae.models.priors import Covariance

FACET = Facet(num_clusters=4, latent_dim=3)
PROBS = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
every_covariance = pytest.mark.parametrize("covariance", ("diagonal", "spherical", "full"))


def positive_definite() -> Tensor:
    spread = torch.randn(4, 3, 3)
    return spread @ spread.mT + 0.2 * torch.eye(3)


def shaped(covariance: Covariance, full: Tensor) -> Tensor:
    """What of a full covariance a prior keeps."""
    variance = full.diagonal(dim1=-2, dim2=-1)
    match covariance:
        case "full":
            return full
        case "diagonal":
            return torch.diag_embed(variance)
        case "spherical":
            return variance.mean(-1)[:, None, None] * torch.eye(3)


def covariance_of(prior: MixturePrior) -> Tensor:
    if prior.covariance == "full":
        return prior.scale_tril @ prior.scale_tril.mT
    return torch.diag_embed(prior.scale.square().expand(4, 3))


@every_covariance
@pytest.mark.parametrize("learn_weights", (True, False))
def test_starting_values(covariance: Covariance, learn_weights: bool) -> None:
    prior = MixturePrior(Facet(num_clusters=60, latent_dim=20), covariance=covariance, learn_weights=learn_weights)
    bound = math.sqrt(6 / (60 + 20))
    assert prior.loc.abs().max() <= bound
    # Uniform(±b) has standard deviation b / sqrt(3); 1200 draws give it to 2 %: within 10 % is 5 standard errors.
    assert prior.loc.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
    torch.testing.assert_close(prior.log_weights().exp(), torch.full((60,), 1 / 60))
    unit = dist.MultivariateNormal(prior.loc, torch.eye(20))
    z = torch.randn(5, 20)
    torch.testing.assert_close(prior.log_prob(z), unit.log_prob(z.unsqueeze(-2)))
    torch.testing.assert_close(prior.precision_diagonal(), torch.ones(60, 20))


@every_covariance
def test_parameters_are_the_documented_ones(covariance: Covariance) -> None:
    shapes = {name: tuple(p.shape) for name, p in MixturePrior(FACET, covariance=covariance).named_parameters()}
    spread = {"diagonal": ("scale", (4, 3)), "spherical": ("scale", (4, 1)), "full": ("scale_tril", (4, 3, 3))}
    name, shape = spread[covariance]
    assert shapes == {"loc": (4, 3), "logits": (4,), f"{name}_unconstrained": shape}
    fixed = MixturePrior(FACET, covariance=covariance, learn_weights=False)
    assert "logits" not in dict(fixed.named_parameters())
    assert torch.equal(dict(fixed.named_buffers())["logits"], torch.zeros(4))
    assert not fixed.learns_weights


@every_covariance
def test_set_mixture_round_trip(covariance: Covariance) -> None:
    prior = MixturePrior(FACET, covariance=covariance)
    before = {name: id(p) for name, p in prior.named_parameters()}
    loc, full = torch.randn(4, 3), positive_definite()
    prior.set_mixture(loc, full, probs=PROBS)
    torch.testing.assert_close(prior.loc.detach(), loc)
    torch.testing.assert_close(covariance_of(prior).detach(), shaped(covariance, full))
    torch.testing.assert_close(prior.log_weights().exp().detach(), PROBS)
    assert {name: id(p) for name, p in prior.named_parameters()} == before

    prior.set_mixture(loc, full)
    torch.testing.assert_close(prior.log_weights().exp().detach(), torch.full((4,), 0.25))


def test_set_mixture_refuses_weights_where_they_are_fixed_and_changes_nothing() -> None:
    prior = MixturePrior(FACET, learn_weights=False)
    before = {name: value.clone() for name, value in prior.state_dict().items()}
    with pytest.raises(InputError, match=r"weights are fixed at 1/K: pass probs=None, or learn_weights=True"):
        prior.set_mixture(torch.randn(4, 3), positive_definite(), probs=PROBS)
    assert all(torch.equal(value, before[name]) for name, value in prior.state_dict().items())


@every_covariance
def test_densities_are_those_of_the_mixture(covariance: Covariance) -> None:
    prior = MixturePrior(FACET, covariance=covariance)
    loc, full = torch.randn(4, 3), positive_definite()
    prior.set_mixture(loc, full, probs=PROBS)
    reference = torch.distributions.MultivariateNormal(loc, shaped(covariance, full))
    z, c = torch.randn(6, 3), torch.tensor([0, 3, 1, 2, 2, 0])
    expected = reference.log_prob(z.unsqueeze(-2))
    torch.testing.assert_close(prior.log_prob(z), expected)
    torch.testing.assert_close(prior.log_prob(z.expand(5, 6, 3)), expected.expand(5, 6, 4))
    torch.testing.assert_close(prior.component(c).log_prob(z), expected[range(6), c])
    torch.testing.assert_close(prior.component(c).mean, loc[c])
    assert (prior.components().batch_shape, prior.components().event_shape) == ((4,), (3,))
    assert prior.component(torch.zeros(2, 6, dtype=torch.long)).batch_shape == (2, 6)


@every_covariance
def test_expected_log_prob(covariance: Covariance) -> None:
    """At scale 0 it is the density; its slope in scale² is minus half the precision. By quadrature: test_exactness."""
    prior = MixturePrior(FACET, covariance=covariance)
    prior.set_mixture(torch.randn(4, 3), positive_definite())
    loc = torch.randn(6, 3)
    torch.testing.assert_close(prior.expected_log_prob(loc, torch.zeros(6, 3)), prior.log_prob(loc))
    precision = torch.linalg.inv(covariance_of(prior)).diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(prior.precision_diagonal(), precision)
    for d in range(3):
        scale = torch.zeros(6, 3)
        scale[:, d] = 2.0
        drop = prior.log_prob(loc) - prior.expected_log_prob(loc, scale)
        torch.testing.assert_close(drop, (precision[:, d] * 4 / 2).expand(6, 4))


def test_an_unknown_covariance_is_refused() -> None:
    with pytest.raises(InputError, match="covariance must be 'diagonal', 'full' or 'spherical', got 'tied'"):
        MixturePrior(FACET, covariance="tied")  # type: ignore[arg-type]


class StudentPrior(FacetPrior):
    """A prior as a user would write it, with no closed form."""

    def __init__(self, facet: Facet) -> None:
        super().__init__(facet)
        self.loc = nn.Parameter(torch.randn(facet.num_clusters, facet.latent_dim))

    def log_weights(self) -> Tensor:
        return torch.full((self.facet.num_clusters,), -math.log(self.facet.num_clusters))

    def components(self) -> dist.TorchDistribution:
        return dist.StudentT(4.0, self.loc, 1.0).to_event(1)

    def component(self, c: Tensor) -> dist.TorchDistribution:
        return dist.StudentT(4.0, self.loc[c], 1.0).to_event(1)


def test_a_prior_without_closed_form_says_so_and_works_by_sampling(make_x: Callable[[int], Tensor]) -> None:
    facets = (FACET,)
    model = MultiFacetModel(
        [StudentPrior(FACET)], MLPLadderDecoder(facets, (1, 2, 3), rung_dims=(5,)), BernoulliLikelihood()
    )
    encoder = MLPLadderEncoder(facets, (1, 2, 3), rung_dims=(5,))
    guide = MultiFacetGuide(model, encoder=encoder, assignment=MonteCarloAssignment(3))
    x = make_x(4)
    with pytest.raises(InputError, match=r"StudentPrior has no closed form.*MonteCarloAssignment.*TraceEnum_ELBO"):
        FacetELBO().loss(model, guide, x)
    losses = []
    for loss in (TraceEnum_ELBO(max_plate_nesting=1), FacetELBO(closed_form=False)):
        pyro.set_rng_seed(1)
        losses.append(loss.loss(model, guide, x))
    assert losses[0] == pytest.approx(losses[1], abs=1e-10)
