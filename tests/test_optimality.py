"""The theorem: the analytic q(c|x) is the optimum; and the order of the rules that follows."""

import math
from collections.abc import Callable
from itertools import product

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceEnum_ELBO, config_enumerate
from reference_elbo import (
    COVARIANCES,
    MakePair,
    assert_equal,
    component_log_probs,
    covariances,
    evaluate,
    gradients,
    optimal_logits,
    standard_error,
)
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal

from pyro_mfcvae import Facet, FacetELBO
from pyro_mfcvae.facets import latent_site
from pyro_mfcvae.guides import (
    AmortizedAssignment,
    AnalyticAssignment,
    AssignmentRule,
    MonteCarloAssignment,
    MultiFacetGuide,
    SampleAssignment,
    VaDEAssignment,
)
from pyro_mfcvae.models import (
    MixturePrior,
    MultiFacetModel,
)
from pyro_mfcvae.models.fits import Covariance

# The theorem.


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("latent_dim", (1, 2))
def test_expected_log_prob_is_the_quadrature(covariance: Covariance, latent_dim: int) -> None:
    prior = MixturePrior(Facet(num_clusters=3, latent_dim=latent_dim), covariance=covariance)
    spread = torch.randn(3, latent_dim, latent_dim)
    prior.set_mixture(torch.randn(3, latent_dim), spread @ spread.mT + 0.3 * torch.eye(latent_dim))
    loc, scale = torch.randn(5, latent_dim), torch.rand(5, latent_dim) + 0.1
    nodes, masses = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(8))
    expected = torch.zeros(5, 3)
    for index in product(range(8), repeat=latent_dim):
        i = torch.tensor(index)
        mass = (masses[i] / math.sqrt(2 * math.pi)).prod()
        expected = expected + mass * component_log_probs(prior, loc + scale * nodes[i])
    torch.testing.assert_close(
        prior().expected_log_prob_under(dist.Normal(loc, scale).to_event(1)), expected, rtol=0.0, atol=1e-10
    )


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_no_q_on_a_grid_of_the_simplex_has_a_lower_loss_than_the_analytic_one(
    make_pair: MakePair, make_x: Callable[[int], Tensor], covariance: Covariance
) -> None:
    model, guide = make_pair(1, covariance=covariance)
    (posterior,) = guide.posteriors(make_x(6))
    logits = optimal_logits(model.priors[0], posterior.mean, posterior.stddev)
    analytic = guide.assignment_logits(0, model.priors[0](), posterior, posterior.mean).exp()
    num_steps = 100
    grid = torch.tensor([(i, k, num_steps - i - k) for i in range(num_steps + 1) for k in range(num_steps + 1 - i)])
    q = grid / num_steps

    def objective(q: Tensor, logits: Tensor) -> Tensor:
        return (q * logits).sum(-1) - torch.special.xlogy(q, q).sum(-1)

    on_grid = objective(q, logits[:, None])
    best = on_grid.max(-1)
    at_analytic = objective(analytic, logits)
    assert (best.values <= at_analytic).all()
    assert (at_analytic - best.values < 0.01).all()
    assert ((q[best.indices] - analytic).abs() <= 1 / num_steps).all()
    torch.testing.assert_close(at_analytic, logits.logsumexp(-1), rtol=0.0, atol=1e-12)


@pytest.mark.parametrize("num_samples", (100, 10_000))
def test_the_monte_carlo_rule_converges_to_the_analytic_one(
    make_pair: MakePair, make_x: Callable[[int], Tensor], num_samples: int
) -> None:
    """Log ratios of q(c|x) are unbiased. 6 items × 2 ratios, 4 standard errors: fails for 1 seed in 1,300."""
    model, guide = make_pair(1, covariance="full")
    prior = model.priors[0]
    (posterior,) = guide.posteriors(make_x(6))
    z = posterior.mean
    log_probs = prior().log_prob(posterior.sample((20_000,)))
    error = (log_probs - log_probs[..., :1]).std(0)[:, 1:] / math.sqrt(num_samples)

    def log_ratios(rule: AssignmentRule) -> Tensor:
        logits = rule(0, prior(), posterior, z)
        return (logits - logits[:, :1])[:, 1:]

    difference = log_ratios(MonteCarloAssignment(num_samples)) - log_ratios(AnalyticAssignment())
    assert (difference.abs() < 4 * error).all()
    assert (difference != 0).all()


# The order of the rules.


def per_draw_elbos(model: MultiFacetModel, guide: MultiFacetGuide, x: Tensor, rule: AssignmentRule) -> Tensor:
    """The ELBO at each of many draws of z, the same for every rule."""
    pyro.set_rng_seed(2)
    ruled = MultiFacetGuide(model, encoder=guide.encoder, assignment=rule)
    with torch.no_grad():
        return FacetELBO(closed_form=False).terms(model, ruled, x).total


@pytest.mark.parametrize(
    ("covariance", "seed"),
    [
        (covariance, 0) if covariance in ("diagonal", "full") else pytest.param(covariance, 0, marks=pytest.mark.slow)
        for covariance in COVARIANCES
    ]
    + [pytest.param(covariance, seed, marks=pytest.mark.slow) for covariance in COVARIANCES for seed in (1, 2)],
)
def test_the_sample_rule_has_the_highest_bound_and_the_analytic_rule_the_second_highest(
    make_pair: MakePair, make_x: Callable[[int], Tensor], covariance: Covariance, seed: int
) -> None:
    """One item, 20,000 shared draws of z, clusters that overlap: every gap is above 4 standard errors."""
    pyro.set_rng_seed(seed)
    model, guide = make_pair(1, covariance=covariance)
    x = make_x(1).expand(20_000, -1, -1, -1)
    amortized = AmortizedAssignment(model.facets)
    sample, analytic, vade, free = (
        per_draw_elbos(model, guide, x, rule)
        for rule in (SampleAssignment(), AnalyticAssignment(), VaDEAssignment(50), amortized)
    )
    for better, worse in ((sample, analytic), (analytic, vade), (analytic, free)):
        gap = better - worse
        assert gap.mean() > 4 * standard_error(gap)


@pytest.mark.parametrize("rule", (VaDEAssignment, MonteCarloAssignment, AmortizedAssignment))
def test_the_analytic_kl_is_the_smallest_for_every_single_item(
    make_pair: MakePair, make_x: Callable[[int], Tensor], rule: type[AssignmentRule]
) -> None:
    model, guide = make_pair(3, rule=rule)
    analytic = MultiFacetGuide(model, encoder=guide.encoder)
    x = make_x(50)
    assert (FacetELBO().terms(model, guide, x).kl > FacetELBO().terms(model, analytic, x).kl).all()


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("num_facets", (1, 2, 3))
def test_the_sample_rule_is_the_collapsed_mixture(
    make_pair: MakePair, make_x: Callable[[int], Tensor], num_facets: int, covariance: Covariance
) -> None:
    """Losses and gradients are equal at every draw, although our q(c|z) is detached and the mixture has no q(c|z)."""
    model, guide = make_pair(num_facets, covariance=covariance, rule=SampleAssignment)
    x = make_x(4)
    pyro.set_rng_seed(1)
    total, zs = torch.zeros(4), []
    for prior, posterior in zip(model.priors, guide.encoder(x), strict=True):
        q = Independent(Normal(posterior.mean, posterior.stddev), 1)
        mixture = MixtureSameFamily(
            Categorical(logits=prior.logits), MultivariateNormal(prior.loc, covariances(prior)), validate_args=False
        )
        z = q.rsample()
        total = total + mixture.log_prob(z) - q.log_prob(z)
        zs.append(z)
    total = total + model.observation(zs).log_prob(x)
    collapsed = gradients(-total.sum(), model, guide)

    assert_equal(evaluate(FacetELBO(closed_form=False), model, guide, x), collapsed)

    def latent_guide(x: Tensor) -> None:
        with model.plate(len(x)):
            for j, posterior in enumerate(guide.posteriors(x)):
                pyro.sample(latent_site(j), posterior)

    # Pyro gets the same result if it enumerates the clusters in the model.
    pyro.set_rng_seed(1)
    enumerated = config_enumerate(model, "parallel")
    model_side = TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(enumerated, latent_guide, x)
    assert_equal(gradients(model_side, model, guide), collapsed)
