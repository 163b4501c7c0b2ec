"""Exact equalities: Pyro's estimate, the sum written out, and ours; and the closed form is their mean."""

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from pyro.poutine.messenger import Messenger
from reference_elbo import (
    COVARIANCES,
    RULES,
    MakePair,
    assert_equal,
    evaluate,
    every_case,
    gradients,
    optimal_logits,
    standard_error,
    weighted,
    written_out_loss,
)
from torch import Tensor
from torch.distributions import Normal

from pyro_mfcvae import FacetELBO
from pyro_mfcvae.facets import cluster_site, latent_site
from pyro_mfcvae.guides import (
    AmortizedAssignment,
    AnalyticAssignment,
    AssignmentRule,
)
from pyro_mfcvae.models import (
    BernoulliLikelihood,
    GaussianLikelihood,
    Likelihood,
)
from pyro_mfcvae.models.fits import Covariance


@every_case
@pytest.mark.parametrize("rule", RULES)
def test_pyros_estimate_is_the_sum_written_out_and_ours(
    make_pair: MakePair,
    make_x: Callable[[int], Tensor],
    num_facets: int,
    covariance: Covariance,
    weights: str,
    rule: type[AssignmentRule],
) -> None:
    likelihood: Likelihood = BernoulliLikelihood()
    if weights == "weighted":
        likelihood = GaussianLikelihood(scale=0.4, learn_scale=True)
    pair = make_pair(
        num_facets, covariance=covariance, rule=rule, likelihood=likelihood, learn_weights=weights != "faded"
    )
    model, guide = weighted(pair, weights)
    x = make_x(4)

    pyros = evaluate(TraceEnum_ELBO(max_plate_nesting=1), model, guide, x)
    pyro.set_rng_seed(1)
    written_out = gradients(written_out_loss(model, guide, x), model, guide)
    ours = evaluate(FacetELBO(closed_form=False), model, guide, x)

    if weights == "plain":
        assert all(grad.any() for grad in written_out[1].values())  # no parameter is left out of the comparison
    assert_equal(pyros, written_out)
    assert_equal(ours, written_out)


def test_particles_equal_pyros_vectorized_particles(make_pair: MakePair, make_x: Callable[[int], Tensor]) -> None:
    model, guide = make_pair()
    x = make_x(4)
    pyros = TraceEnum_ELBO(max_plate_nesting=1, num_particles=6, vectorize_particles=True)
    assert_equal(
        evaluate(FacetELBO(closed_form=False, num_particles=6), model, guide, x), evaluate(pyros, model, guide, x)
    )


# The closed form. log p(z | c) and log q(z | x) are quadratic in z, so their mean over the 2D sigma points
# loc ± sqrt(D) scale_d e_d is their expectation.


def sigma_points(loc: Tensor, scale: Tensor) -> list[Tensor]:
    num_dims = loc.shape[-1]
    steps = math.sqrt(num_dims) * torch.eye(num_dims)
    return [loc + sign * scale * step for step, sign in product(steps, (1.0, -1.0))]


class Drawing(Messenger):
    """Makes a guide draw the given values; unlike poutine.replay, it lets the particles' plate expand the sites."""

    def __init__(self, values: dict[str, Tensor]) -> None:
        super().__init__()
        self.values = values

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] in self.values:
            msg["value"] = self.values[msg["name"]]


@every_case
@pytest.mark.parametrize("rule", (AnalyticAssignment, AmortizedAssignment))
def test_the_closed_form_is_the_mean_of_pyros_estimates_over_the_sigma_points(
    make_pair: MakePair,
    make_x: Callable[[int], Tensor],
    num_facets: int,
    covariance: Covariance,
    weights: str,
    rule: type[AssignmentRule],
) -> None:
    model, guide = weighted(make_pair(num_facets, covariance=covariance, rule=rule), weights)
    model.alpha.zero_()  # the reconstruction, which alone is not quadratic, is the same for every z
    x = make_x(4)
    points = [sigma_points(q.mean, q.stddev) for q in guide.encoder(x)]
    num_points = math.lcm(*map(len, points))
    zs = {latent_site(j): torch.stack(p * (num_points // len(p))) for j, p in enumerate(points)}
    pyros = TraceEnum_ELBO(max_plate_nesting=1, num_particles=num_points, vectorize_particles=True)
    expected = gradients(pyros.differentiable_loss(model, Drawing(zs)(guide), x), model, guide)
    assert_equal(evaluate(FacetELBO(), model, guide, x), expected)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_the_closed_terms_are_means_of_the_densities_in_pyros_traces(
    make_pair: MakePair, make_x: Callable[[int], Tensor], covariance: Covariance
) -> None:
    model, guide = make_pair(1, covariance=covariance)
    x = make_x(4)
    (posterior,) = guide.encoder(x)
    kl_z, kl_c = torch.zeros(4), torch.zeros(4)
    points = sigma_points(posterior.mean, posterior.stddev)
    for z, c in product(points, range(model.facets[0].num_clusters)):
        values = {latent_site(0): z, cluster_site(0): torch.full((4,), c)}
        guide_trace = poutine.trace(Drawing(values)(guide)).get_trace(x)
        model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(x)
        guide_trace.compute_log_prob()
        model_trace.compute_log_prob()
        log_q, log_p = (
            {site: trace.nodes[site]["log_prob"] for site in values} for trace in (guide_trace, model_trace)
        )
        prob = log_q[cluster_site(0)].exp() / len(points)
        kl_z = kl_z + prob * (log_q[latent_site(0)] - log_p[latent_site(0)])
        kl_c = kl_c + prob * (log_q[cluster_site(0)] - log_p[cluster_site(0)])

    terms = FacetELBO().terms(model, guide, x)
    torch.testing.assert_close(terms.kl_z[:, 0], kl_z, rtol=0.0, atol=1e-10)
    torch.testing.assert_close(terms.kl_c[:, 0], kl_c, rtol=0.0, atol=1e-10)


@every_case
def test_closed_kl_is_minus_entropy_minus_logsumexp_whether_q_is_detached_or_not(
    make_pair: MakePair, make_x: Callable[[int], Tensor], num_facets: int, covariance: Covariance, weights: str
) -> None:
    """The gradient goes through q(c|x) here and does not in FacetELBO: equal by the envelope theorem."""
    model, guide = weighted(make_pair(num_facets, covariance=covariance), weights)
    x = make_x(4)
    collapsed, undetached = torch.zeros(4), torch.zeros(4)
    for j, posterior in enumerate(guide.encoder(x)):
        entropy = Normal(posterior.mean, posterior.stddev).entropy().sum(-1)
        logits = optimal_logits(model.priors[j], posterior.mean, posterior.stddev)
        q_c = logits.softmax(-1)
        collapsed = collapsed + model.beta[j] * (-entropy - logits.logsumexp(-1))
        undetached = undetached + model.beta[j] * (-entropy - (q_c * (logits - q_c.log())).sum(-1))

    terms = FacetELBO().terms(model, guide, x)
    ours = gradients((terms.beta * terms.kl).sum(), model, guide)
    assert_equal(ours, gradients(collapsed.sum(), model, guide))
    assert_equal(ours, gradients(undetached.sum(), model, guide))


def test_pyros_estimates_scatter_around_the_closed_form(make_pair: MakePair, make_x: Callable[[int], Tensor]) -> None:
    """With the same seed, the two use the same z and differ only in their KL. 4 standard errors: fails for 1 seed
    in 16,000.
    """
    model, guide = make_pair()
    x = make_x(4)

    @torch.no_grad()
    def difference(seed: int) -> float:
        losses = []
        pyros = TraceEnum_ELBO(max_plate_nesting=1, num_particles=100, vectorize_particles=True)
        for elbo in (pyros, FacetELBO(num_particles=100)):
            pyro.set_rng_seed(seed)
            losses.append(elbo.loss(model, guide, x))
        return losses[0] - losses[1]

    differences = torch.tensor([difference(seed) for seed in range(40)])
    assert standard_error(differences) < 0.2
    assert differences.mean().abs() < 4 * standard_error(differences)
