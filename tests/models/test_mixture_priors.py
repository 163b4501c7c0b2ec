import math
from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceEnum_ELBO
from torch import Tensor

from pyro_mfcvae import Facet, FacetELBO, InputError
from pyro_mfcvae.guides import (
    AnalyticAssignment,
    MLPLadderEncoder,
    MonteCarloAssignment,
    MultiFacetGuide,
    SampleAssignment,
    VaDEAssignment,
)
from pyro_mfcvae.models import (
    BernoulliLikelihood,
    MixturePrior,
    MLPLadderDecoder,
    MultiFacetModel,
    StudentTMixturePrior,
)
from pyro_mfcvae.models.fits import Covariance

FACET = Facet(num_clusters=4, latent_dim=3)
SMALL = Facet(num_clusters=3, latent_dim=2)
PROBS = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=torch.float64)
every_covariance = pytest.mark.parametrize("covariance", ("diagonal", "spherical", "full", "tied"))


def positive_definite() -> Tensor:
    spread = torch.randn(4, 3, 3)
    return spread @ spread.mT + 0.2 * torch.eye(3)


def shaped(covariance: Covariance, full: Tensor) -> Tensor:
    """The part of a full covariance that a prior can represent."""
    variance = full.diagonal(dim1=-2, dim2=-1)
    match covariance:
        case "full":
            return full
        case "diagonal":
            return torch.diag_embed(variance)
        case "spherical":
            return variance.mean(-1)[:, None, None] * torch.eye(3)
        case "tied":
            return full.mean(0).expand(4, 3, 3)


def covariance_of(prior: MixturePrior) -> Tensor:
    if prior.has_scale_tril:
        return (prior.scale_tril @ prior.scale_tril.mT).expand(4, 3, 3)
    return torch.diag_embed(prior.scale.square().expand(4, 3))


@every_covariance
@pytest.mark.parametrize("learn_weights", (True, False))
def test_starting_values(covariance: Covariance, learn_weights: bool) -> None:
    prior = MixturePrior(Facet(num_clusters=60, latent_dim=20), covariance=covariance, learn_weights=learn_weights)
    bound = math.sqrt(6 / (60 + 20))
    assert prior.loc.abs().max() <= bound
    # Uniform(±b) has standard deviation b / sqrt(3); 1200 draws give it to 2 %: within 10 % is 5 standard errors.
    assert prior.loc.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)
    torch.testing.assert_close(prior().log_weights().exp(), torch.full((60,), 1 / 60))
    unit = dist.MultivariateNormal(prior.loc, torch.eye(20))
    z = torch.randn(5, 20)
    torch.testing.assert_close(prior().log_prob(z), unit.log_prob(z.unsqueeze(-2)))


@every_covariance
def test_parameters_are_the_documented_ones(covariance: Covariance) -> None:
    shapes = {name: tuple(p.shape) for name, p in MixturePrior(FACET, covariance=covariance).named_parameters()}
    spread = {"diagonal": ("scale", (4, 3)), "spherical": ("scale", (4, 1)), "full": ("scale_tril", (4, 3, 3))}
    spread |= {"tied": ("scale_tril", (1, 3, 3))}
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
    torch.testing.assert_close(prior().log_weights().exp().detach(), PROBS)
    assert {name: id(p) for name, p in prior.named_parameters()} == before

    prior.set_mixture(loc, full)
    torch.testing.assert_close(prior().log_weights().exp().detach(), torch.full((4,), 0.25))


def test_set_mixture_refuses_weights_for_fixed_weights_and_changes_nothing() -> None:
    prior = MixturePrior(FACET, learn_weights=False)
    before = {name: value.clone() for name, value in prior.state_dict().items()}
    with pytest.raises(InputError, match=r"weights are fixed at 1/K, got weights: leave them out"):
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
    torch.testing.assert_close(prior().log_prob(z), expected)
    torch.testing.assert_close(prior().log_prob(z.expand(5, 6, 3)), expected.expand(5, 6, 4))
    torch.testing.assert_close(prior().component(c).log_prob(z), expected[range(6), c])
    torch.testing.assert_close(prior().component(c).mean, loc[c])
    assert (prior().components().batch_shape, prior().components().event_shape) == ((4,), (3,))
    assert prior().component(torch.zeros(2, 6, dtype=torch.long)).batch_shape == (2, 6)


@every_covariance
def test_expected_log_prob(covariance: Covariance) -> None:
    """Minus half of the trace of Sigma_c⁻¹ diag(scale²) for each cluster, for any batch shape."""
    prior = MixturePrior(FACET, covariance=covariance)
    full = positive_definite()
    prior.set_mixture(torch.randn(4, 3), full)
    precision = torch.linalg.inv(shaped(covariance, full)).diagonal(dim1=-2, dim2=-1)
    for batch in ((6,), (2, 6)):
        loc, scale = torch.randn(*batch, 3), torch.rand(*batch, 3)
        drop = prior().log_prob(loc) - prior().expected_log_prob_under(dist.Normal(loc, scale).to_event(1))
        torch.testing.assert_close(drop, (scale.square().unsqueeze(-2) * precision).sum(-1) / 2)


def test_an_unknown_covariance_is_refused() -> None:
    with pytest.raises(InputError, match="expected covariance 'diagonal', 'full', 'spherical' or 'tied', got 'round'"):
        MixturePrior(FACET, covariance="round")  # type: ignore[arg-type]


def test_student_t_has_the_density_of_its_formula() -> None:
    """log p = lgamma((v + D)/2) - lgamma(v/2) - D/2 log(v pi) - log|L| - (v + D)/2 log(1 + |L⁻¹ (z - loc)|² / v)."""
    prior = StudentTMixturePrior(FACET, df=3.5)
    loc, covariance = torch.randn(4, 3), positive_definite()
    prior.set_mixture(loc, covariance, probs=PROBS)
    torch.testing.assert_close(prior().components().variance.detach(), covariance.diagonal(dim1=-2, dim2=-1))
    full = covariance * 1.5 / 3.5
    z = torch.randn(6, 3)
    difference = z[:, None] - loc
    distance = torch.einsum("nkd,kde,nke->nk", difference, torch.linalg.inv(full), difference)
    constant = math.lgamma((3.5 + 3) / 2) - math.lgamma(3.5 / 2) - 1.5 * math.log(3.5 * math.pi)
    expected = constant - torch.logdet(full) / 2 - (3.5 + 3) / 2 * torch.log1p(distance / 3.5)
    torch.testing.assert_close(prior().log_prob(z).detach(), expected)


def test_student_t_approaches_the_gaussian() -> None:
    student, gaussian = StudentTMixturePrior(FACET, df=1e5), MixturePrior(FACET, covariance="full")
    loc, full, z = torch.randn(4, 3), positive_definite(), torch.randn(6, 3)
    for prior in (student, gaussian):
        prior.set_mixture(loc, full)
    torch.testing.assert_close(student().log_prob(z), gaussian().log_prob(z), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("df", (2.0, math.nan))
def test_degrees_of_freedom_are_checked(df: float) -> None:
    with pytest.raises(InputError, match=f"expected df > 2, .* got {df}: pass more"):
        StudentTMixturePrior(FACET, df=df)


def test_a_cluster_without_weight_leaves_losses_and_gradients_finite(make_x: Callable[[int], Tensor]) -> None:
    """With weights (0.6, 0.4, 0) the objective is that of a mixture of the first two clusters."""
    x, losses = make_x(5), []
    loc, covariance = torch.randn(3, 2), torch.eye(2).expand(3, 2, 2)
    for num_clusters in (3, 2):
        pyro.set_rng_seed(5)
        prior = MixturePrior(Facet(num_clusters=num_clusters, latent_dim=2))
        decoder = MLPLadderDecoder([prior.facet], (1, 2, 3), rung_dims=(5,))
        model = MultiFacetModel([prior], decoder, BernoulliLikelihood())
        guide = MultiFacetGuide(model, encoder=MLPLadderEncoder([prior.facet], (1, 2, 3), rung_dims=(5,)))
        for net in (model.decoder, guide.encoder):
            for i, parameter in enumerate(net.parameters()):
                torch.nn.init.constant_(parameter, 0.1 * (i + 1))
        prior.set_mixture(
            loc[:num_clusters], covariance[:num_clusters], probs=torch.tensor([0.6, 0.4, 0.0])[:num_clusters]
        )
        for rule in (AnalyticAssignment(), SampleAssignment(), VaDEAssignment(3), MonteCarloAssignment(3)):
            ruled = MultiFacetGuide(model, encoder=guide.encoder, assignment=rule)
            for elbo in (FacetELBO(closed_form=ruled.has_closed_form), TraceEnum_ELBO(max_plate_nesting=1)):
                model.zero_grad()
                pyro.set_rng_seed(6)
                losses.append(elbo.loss_and_grads(model, ruled, x))
                assert all(
                    p.grad is None or p.grad.isfinite().all() for p in (*model.parameters(), *guide.parameters())
                )
    assert losses[:8] == pytest.approx(losses[8:], abs=1e-10)


@pytest.mark.parametrize("convert", (Tensor.tolist, Tensor.numpy))
def test_a_mixture_is_set_from_numbers_of_any_kind(convert: Callable[[Tensor], Any]) -> None:
    loc, covariance = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]), 0.25 * torch.eye(2).repeat(3, 1, 1)
    for prior in (MixturePrior(SMALL), MixturePrior(SMALL, covariance="full"), StudentTMixturePrior(SMALL)):
        prior.set_mixture(convert(loc), convert(covariance), probs=convert(torch.tensor([0.0, 1.0, 3.0])))
        components = prior().components()
        torch.testing.assert_close(components.mean, loc)
        torch.testing.assert_close(components.variance, torch.full((3, 2), 0.25))
        torch.testing.assert_close(prior().log_weights().exp(), torch.tensor([0.0, 0.25, 0.75]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"loc": torch.zeros(2)}, r"expected loc of shape \(3, 2\), got \(2,\): pass one row per cluster"),
        ({"loc": torch.zeros(4, 2)}, r"expected loc of shape \(3, 2\), got \(4, 2\)"),
        ({"covariance": torch.ones(3, 2)}, r"expected covariance of shape \(3, 2, 2\), got \(3, 2\)"),
        ({"covariance": -torch.eye(2).repeat(3, 1, 1)}, r"expected variances > 0, got one of -1: pass covariances"),
        ({"loc": torch.full((3, 2), torch.nan)}, "expected finite values of loc, got other values"),
        ({"probs": torch.ones(1)}, r"expected probs of shape \(3,\), got \(1,\)"),
        (
            {"probs": torch.tensor([-1.0, 1.0, 1.0])},
            r"expected probs ≥ 0, one of them positive, got \[-1\.0, 1\.0, 1\.0\]",
        ),
    ],
)
def test_invalid_mixtures_are_refused(change: dict[str, Tensor], message: str) -> None:
    prior = MixturePrior(SMALL)
    before = prior().log_prob(torch.zeros(1, 2))
    values = {"loc": torch.zeros(3, 2), "covariance": torch.eye(2).repeat(3, 1, 1), "probs": torch.ones(3)} | change
    with pytest.raises(InputError, match=message):
        prior.set_mixture(values["loc"], values["covariance"], probs=values["probs"])
    assert torch.equal(prior().log_prob(torch.zeros(1, 2)), before)
