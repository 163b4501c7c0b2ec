"""What pins the code down: Pyro's estimate = the sum written out = ours; the closed form; the order of the rules."""

import math
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import ELBO, TraceEnum_ELBO, config_enumerate
from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import Categorical, Independent, MixtureSameFamily, MultivariateNormal, Normal

from pyro_mfcvae import Facet, FacetELBO
from pyro_mfcvae.facets import cluster_site, latent_site
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
    BernoulliLikelihood,
    GaussianLikelihood,
    Likelihood,
    MixturePrior,
    MultiFacetModel,
)
from pyro_mfcvae.models.priors import Covariance

MakePair = Callable[..., tuple[MultiFacetModel, MultiFacetGuide]]
Gradients = dict[str, Tensor]

COVARIANCES: tuple[Covariance, ...] = ("diagonal", "spherical", "full")
RULES = (AnalyticAssignment, MonteCarloAssignment, SampleAssignment, VaDEAssignment, AmortizedAssignment)
WEIGHTS = {  # beta, alpha, num_data
    "plain": ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0), None),
    "weighted": ((0.3, 0.0, 1.7), (0.5, 1.0, 0.0), 50),
    "faded": ((0.0, 0.6, 0.4), (0.0, 0.7, 1.0), None),
}


def every_case(test: Callable[..., None]) -> Callable[..., None]:
    test = pytest.mark.parametrize("weights", WEIGHTS)(test)
    test = pytest.mark.parametrize("covariance", COVARIANCES)(test)
    return pytest.mark.parametrize("num_facets", (1, 2, 3))(test)


def weighted(pair: tuple[MultiFacetModel, MultiFacetGuide], weights: str) -> tuple[MultiFacetModel, MultiFacetGuide]:
    model = pair[0]
    beta, alpha, model.num_data = WEIGHTS[weights]
    model.beta.copy_(torch.tensor(beta[: len(model.facets)]))
    model.alpha.copy_(torch.tensor(alpha[: len(model.facets)]))
    return pair


def gradients(loss: Tensor, model: MultiFacetModel, guide: MultiFacetGuide) -> tuple[Tensor, Gradients]:
    named = dict([*model.named_parameters("model"), *guide.named_parameters("guide")])
    grads = torch.autograd.grad(
        loss, list(named.values()), retain_graph=True, allow_unused=True, materialize_grads=True
    )
    return loss.detach(), dict(zip(named, grads, strict=True))


def evaluate(elbo: ELBO, model: MultiFacetModel, guide: MultiFacetGuide, x: Tensor) -> tuple[Tensor, Gradients]:
    """The loss and its gradients, at the draws of one fixed seed."""
    pyro.set_rng_seed(1)
    return gradients(elbo.differentiable_loss(model, guide, x), model, guide)


def assert_equal(actual: tuple[Tensor, Gradients], expected: tuple[Tensor, Gradients]) -> None:
    torch.testing.assert_close(actual, expected, rtol=0.0, atol=1e-10)


def standard_error(samples: Tensor) -> Tensor:
    return samples.std(0) / math.sqrt(len(samples))


# The model's densities once more, written from the parameters alone.


def covariances(prior: MixturePrior) -> Tensor:
    if prior.covariance == "full":
        return prior.scale_tril @ prior.scale_tril.mT
    return torch.diag_embed(prior.scale.square().expand(prior.loc.shape))


def component_log_probs(prior: MixturePrior, z: Tensor) -> Tensor:
    sigma = covariances(prior)
    return torch.stack([MultivariateNormal(m, s).log_prob(z) for m, s in zip(prior.loc, sigma, strict=True)], -1)


def log_weights(prior: MixturePrior) -> Tensor:
    return prior.logits - prior.logits.logsumexp(-1)


def optimal_logits(prior: MixturePrior, loc: Tensor, scale: Tensor) -> Tensor:
    """A_c = log pi_c + log N(loc; mu_c, Sigma_c) - tr(Sigma_c⁻¹ diag(scale²)) / 2."""
    inverses = torch.linalg.inv(covariances(prior))
    products = inverses @ torch.diag_embed(scale.square()).unsqueeze(-3)
    traces = products.diagonal(dim1=-2, dim2=-1).sum(-1)
    return log_weights(prior) + component_log_probs(prior, loc) - traces / 2


def written_out_logits(rule: AssignmentRule, j: int, prior: MixturePrior, q: Normal, z: Tensor) -> Tensor:
    match rule:
        case AnalyticAssignment():
            return optimal_logits(prior, q.loc, q.scale).detach()
        case SampleAssignment():
            return (log_weights(prior) + component_log_probs(prior, z)).detach()
        case MonteCarloAssignment():
            draws = q.rsample((rule.num_samples,))
            return log_weights(prior) + component_log_probs(prior, draws).sum(0) / rule.num_samples
        case VaDEAssignment():
            draws = q.rsample((rule.num_samples,))
            return (log_weights(prior) + component_log_probs(prior, draws)).softmax(-1).sum(0).log()
        case AmortizedAssignment():
            return rule.heads[j](torch.cat([q.loc, q.scale.log()], -1))
        case _:
            raise NotImplementedError


def written_out_loss(model: MultiFacetModel, guide: MultiFacetGuide, x: Tensor) -> Tensor:
    total, zs = torch.zeros(len(x)), []
    for j, (prior, posterior) in enumerate(zip(model.priors, guide.encoder(x), strict=True)):
        q = Normal(posterior.base_dist.loc, posterior.base_dist.scale)
        z = q.rsample()
        probs = written_out_logits(guide.assignment, j, prior, q, z).softmax(-1)
        for c in range(prior.facet.num_clusters):
            log_p = log_weights(prior)[c] + component_log_probs(prior, z)[:, c]
            log_q = probs[:, c].log() + q.log_prob(z).sum(-1)
            total = total + model.beta[j] * probs[:, c] * (log_p - log_q)
        zs.append(z)
    output = model.decoder(zs, model.alpha)
    if isinstance(model.likelihood, GaussianLikelihood):
        log_x = Normal(output, model.likelihood.scale).log_prob(x)
    else:
        log_x = x * output.sigmoid().log() + (1 - x) * (-output).sigmoid().log()
    total = total + log_x.flatten(1).sum(-1)
    return -total.sum() * (model.num_data or len(x)) / len(x)


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


def test_particles_at_once_are_pyros_vectorized_particles(make_pair: MakePair, make_x: Callable[[int], Tensor]) -> None:
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
    model.alpha.zero_()  # the reconstruction, the one thing that is not quadratic, is the same for every z
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
    """Paired by seed, the two share z and differ in their KL alone. 4 standard errors: fails for 1 seed in 16,000."""
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

    differences = torch.tensor([difference(seed) for seed in range(100)])
    assert standard_error(differences) < 0.1
    assert differences.mean().abs() < 4 * standard_error(differences)


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
    torch.testing.assert_close(prior.expected_log_prob(loc, scale), expected, rtol=0.0, atol=1e-10)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_no_q_on_a_grid_of_the_simplex_beats_the_analytic_one(
    make_pair: MakePair, make_x: Callable[[int], Tensor], covariance: Covariance
) -> None:
    model, guide = make_pair(1, covariance=covariance)
    (posterior,) = guide.posteriors(make_x(6))
    logits = optimal_logits(model.priors[0], posterior.mean, posterior.stddev)
    analytic = guide.assignment_logits(0, posterior, posterior.mean).exp()
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
def test_monte_carlo_tends_to_analytic(make_pair: MakePair, make_x: Callable[[int], Tensor], num_samples: int) -> None:
    """Log ratios of q(c|x) are unbiased. 6 items × 2 ratios, 4 standard errors: fails for 1 seed in 1,300."""
    model, guide = make_pair(1, covariance="full")
    prior = model.priors[0]
    (posterior,) = guide.posteriors(make_x(6))
    z = posterior.mean
    log_probs = prior.log_prob(posterior.sample((20_000,)))
    error = (log_probs - log_probs[..., :1]).std(0)[:, 1:] / math.sqrt(num_samples)

    def log_ratios(rule: AssignmentRule) -> Tensor:
        logits = rule(0, prior, posterior, z)
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


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("covariance", COVARIANCES)
def test_sample_beats_analytic_beats_vade_and_amortized(
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
    """Draw by draw, with gradients; q(c|z) is detached in ours and not there at all in the collapsed mixture."""
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

    # Pyro sums the clusters out on the model's side to the same.
    pyro.set_rng_seed(1)
    enumerated = config_enumerate(model, "parallel")
    model_side = TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(enumerated, latent_guide, x)
    assert_equal(gradients(model_side, model, guide), collapsed)
