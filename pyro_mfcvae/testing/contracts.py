"""The contracts of priors, likelihoods, assignment rules and pairs."""

import copy
from collections.abc import Sequence
from functools import partial

import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import TraceEnum_ELBO
from torch import Tensor, nn

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.facets import Facet
from pyro_mfcvae.guides.amortized import MultiFacetGuide
from pyro_mfcvae.guides.assignments import AssignmentRule
from pyro_mfcvae.infer.objective import FacetELBO
from pyro_mfcvae.mfcvae import MFCVAE
from pyro_mfcvae.models.generative import MultiFacetModel
from pyro_mfcvae.models.likelihoods import Likelihood
from pyro_mfcvae.models.mixtures import Mixture
from pyro_mfcvae.models.priors import FacetPrior
from pyro_mfcvae.testing.comparing import (
    assert_close,
    assert_mean,
    check_copy,
    check_gradients,
    check_moves,
    isolated,
    seeded,
)

_NUM_DRAWS = 20_000
_FACETS = (Facet(num_clusters=3, latent_dim=2), Facet(num_clusters=4, latent_dim=3))


def check_prior(prior: FacetPrior, *, reads: Sequence[nn.Module] = (), seed: int = 0) -> None:
    """Check a prior: shapes, draws against densities, the closed form against draws, theta, gradients, moves.

    Args:
        prior: in any state.
        reads: modules that the prior uses but does not own, such as the encoder of a `VampPrior`; they are moved
            together with it.
        seed: seed of the draws.
    """
    with isolated(seed):
        prior, reads = copy.deepcopy((prior, tuple(reads)))
        for module in (prior, *reads):
            module.double()
        mixture, dim = prior(), prior.facet.latent_dim
        _check_mixture(mixture, prior.facet)
        for name, p in prior.hyperprior().items():
            shape = getattr(p, "batch_shape", ())
            assert shape == (), f"expected hyperprior {name} of batch shape (), got {tuple(shape)}: use .to_event"
        theta = prior.draw_theta(0)
        if theta:
            _check_mixture(prior(theta), prior.facet)
            assert prior.point().keys() == theta.keys(), (
                f"expected a value in point() for each of {sorted(theta)}, got {sorted(prior.point())}"
            )
            z = torch.randn(5, dim)
            assert_close(prior(prior.point()).log_prob(z), prior().log_prob(z), "prior(point()) against prior()", 1e-6)
        z = torch.randn(6, dim)
        check_gradients(lambda: prior().marginal().log_prob(z).sum(), prior)
        check_copy(prior, lambda part: part().marginal().log_prob(z))
        check_moves(prior, reads, lambda part, like: part().marginal().log_prob(z.to(like)))


def _check_mixture(mixture: Mixture, facet: Facet) -> None:
    num_clusters, dim = facet.num_clusters, facet.latent_dim
    shapes = (tuple(mixture.log_weights().shape), mixture.latent_dim)
    assert shapes == ((num_clusters,), dim), f"expected K and D of {facet}, got weights {shapes[0]} and D = {shapes[1]}"
    for batch in ((), (5,), (2, 5)):
        c, z = torch.randint(num_clusters, batch), torch.randn(*batch, dim)
        log_probs, component = mixture.log_prob(z), mixture.component(c)
        assert log_probs.shape == (*batch, num_clusters), f"log_prob of z {tuple(z.shape)} has {tuple(log_probs.shape)}"
        assert component.sample().shape == z.shape, f"component(c) for c {batch} draws {component.sample().shape}"
        chosen = log_probs.gather(-1, c.unsqueeze(-1)).squeeze(-1)
        assert_close(component.log_prob(z), chosen, "component(c).log_prob(z) against log_prob(z)[c]", 1e-8)
    with torch.no_grad():
        _check_component_draws(mixture)
        _check_closed_forms(mixture)


def _check_component_draws(mixture: Mixture) -> None:
    """Check that the draws of every cluster have its density p: the mean of q / p over them is 1 for a density q that
    is narrower than p.

    q is a Gaussian with 0.7 times the spread of the draws in every direction. If q were narrower only along the axes,
    it could be wider than a strongly correlated p in another direction, and the mean would have no finite standard
    error.
    """
    c = torch.arange(mixture.num_clusters)
    z = mixture.component(c.expand(_NUM_DRAWS, -1)).sample()
    low, middle, high = z.quantile(torch.tensor([0.25, 0.5, 0.75]), 0)
    u = (z - middle) / (high - low)
    central = (u.abs() <= 2).all(-1).to(u)  # without the tails, which may be heavy, a covariance exists
    covariance = torch.einsum("nk,nki,nkj->kij", central, u, u) / central.sum(0)[:, None, None]
    scale_tril = 0.7 * (high - low).unsqueeze(-1) * torch.linalg.cholesky(covariance)
    ratio = (
        dist.MultivariateNormal(middle, scale_tril=scale_tril).log_prob(z) - mixture.component(c).log_prob(z)
    ).exp()
    assert_mean(ratio, torch.ones(mixture.num_clusters), "draws of the components against their densities: E[q/p]")
    drawn, _ = mixture.sample(_NUM_DRAWS)
    shares = nn.functional.one_hot(drawn, mixture.num_clusters).double()
    assert_mean(shares, mixture.log_weights().exp(), "shares of drawn clusters against log_weights", slack=1e-3)


def _check_closed_forms(mixture: Mixture) -> None:
    dim = mixture.latent_dim
    loc, scale = torch.randn(4, dim), 0.2 + torch.rand(4, dim)
    tril = torch.diag_embed(scale) + 0.3 * torch.randn(4, dim, dim).tril(-1)
    posteriors = {
        "diagonal": dist.Normal(loc, scale).to_event(1),
        "full": dist.MultivariateNormal(loc, scale_tril=tril),
    }
    for covariance, q in posteriors.items():
        if mixture.has_closed_form(covariance):  # type: ignore[arg-type]
            draws = mixture.log_prob(q.sample((_NUM_DRAWS,)))
            assert_mean(draws, mixture.expected_log_prob_under(q), f"E[log p(z | c)] under a {covariance} Gaussian")
            continue
        try:
            mixture.expected_log_prob_under(q)
        except InputError:
            continue
        raise AssertionError(f"has_closed_form({covariance!r}) is False, but expected_log_prob_under returns a value")


def check_likelihood(
    likelihood: Likelihood, output: Tensor, x: Tensor, *, mean_is_expectation: bool = True, seed: int = 0
) -> None:
    """Check a likelihood: shapes, draws against densities by the score, the mean, extreme outputs, gradients, moves.

    If draws have the density p(x; output), the score d log p / d output has mean 0. If the density is not normalised,
    or the draws have another density, the mean of the score differs from 0.

    Args:
        likelihood: in any state.
        output: output of a decoder, (N, *output_shape), with moderate values.
        x: data in the likelihood's support, (N, *event_shape).
        mean_is_expectation: whether ``mean`` is E[x]; False if it is another typical value, such as the mode.
        seed: seed of the draws.
    """
    with isolated(seed):
        likelihood = copy.deepcopy(likelihood).double()
        output, x = output.detach().double(), x.double()
        event_shape = likelihood.event_shape(tuple(output.shape[1:]))
        assert event_shape == tuple(x.shape[1:]), f"event_shape is {event_shape}, and items of x have {x.shape[1:]}"
        p = likelihood(output)
        assert (p.batch_shape, p.event_shape) == (x.shape, ()), (
            "expected one distribution per element, of event shape ()"
        )
        log_prob = p.log_prob(x)
        assert log_prob.isfinite().all(), "expected finite log_prob of the data x, got infinities or NaN"
        stacked = likelihood(torch.stack([output, output.flip(0)])).log_prob(x)
        assert_close(stacked[0], log_prob, "log_prob under a further batch dimension", 1e-8)
        assert_close(likelihood(output[:1]).log_prob(x[:1]), log_prob[:1], "log_prob of one item alone", 1e-8)
        assert likelihood.encoder_input(x).isfinite().all(), "expected finite encoder_input of the data"
        _check_score(likelihood, output, mean_is_expectation)
        check_gradients(lambda: likelihood(output).log_prob(x).sum(), likelihood)
        check_copy(likelihood, lambda part: part(output).log_prob(x))
        check_moves(likelihood, (), lambda part, like: part(output.to(like)).log_prob(x.to(like)))
        single = copy.deepcopy(likelihood).float()
        for shift in (-110.0, 110.0):
            far = (output + shift).float().requires_grad_()
            value = single(far).log_prob(x.float())
            (slope,) = torch.autograd.grad(value.sum(), far)
            assert value.isfinite().all() and slope.isfinite().all(), (
                f"expected finite float32 log_prob and gradients at outputs shifted by {shift}, got infinities or NaN"
            )


def _check_score(likelihood: Likelihood, output: Tensor, mean_is_expectation: bool) -> None:
    item = output[:1].expand(2000, *output.shape[1:]).clone().requires_grad_()
    p = likelihood(item)
    draws = p.sample()
    assert draws.is_floating_point(), f"expected draws as floats, as the data are, got {draws.dtype}"
    log_prob = p.log_prob(draws)
    assert log_prob.isfinite().all(), "expected finite log_prob of its own draws"
    (score,) = torch.autograd.grad(log_prob.sum(), item)
    assert_mean(score, torch.zeros_like(score[0]), "the score of draws, d log p / d output, against 0", slack=1e-9)
    if mean_is_expectation:
        assert_mean(draws, likelihood.mean(output[:1]).detach()[0], "draws against mean(output)", slack=1e-9)


def check_assignment(rule: AssignmentRule, facets: Sequence[Facet] = _FACETS, *, seed: int = 0) -> None:
    """Check a rule for q(c | x): shapes, normalisation, its declared properties, gradients, moves.

    Args:
        rule: in any state.
        facets: the facets that the rule was built for.
        seed: seed of parameters and draws.
    """
    with isolated(seed):
        for j, facet in enumerate(facets):
            _check_rule(copy.deepcopy(rule).double(), j, facet.num_clusters, facet.latent_dim)


def _check_rule(rule: AssignmentRule, j: int, K: int, D: int) -> None:
    logits, loc = torch.randn(K).requires_grad_(), torch.randn(K, D).requires_grad_()
    gaussian = Mixture(logits, dist.Normal(loc, 0.5 + torch.rand(K, D)).to_event(1))
    q = dist.Normal(torch.randn(5, D), 0.2 + torch.rand(5, D)).to_event(1)
    z = q.sample((2,))
    log_q = seeded(lambda: rule(j, gaussian, q, z))
    assert log_q.shape in ((5, K), (2, 5, K)), f"expected K = {K} logits per item, got shape {tuple(log_q.shape)}"
    assert_close(log_q.logsumexp(-1), torch.zeros_like(log_q[..., 0]), "the logits' logsumexp and 0", 1e-8)
    if not rule.needs_draw:
        assert_close(
            seeded(lambda: rule(j, gaussian, q, z + 1)), log_q, "needs_draw is False, but q(c) at z, z + 1", 0.0
        )
    if not rule.needs_closed_form:
        heavy = Mixture(logits, dist.StudentT(4.0, loc, 1.0).to_event(1))
        assert rule(j, heavy, q, z).isfinite().all(), "needs_closed_form is False, but a Student-t gives no q(c)"
    if rule.is_optimum:
        expected = gaussian.log_prob(z) if rule.needs_draw else gaussian.expected_log_prob_under(q)
        best = (gaussian.log_weights() + expected).log_softmax(-1)
        assert_close(log_q.expand_as(best), best, "is_optimum is True, but q(c) and the optimum", 1e-8)
    if not log_q.requires_grad:
        assert not rule.is_optimum, "expected a gradient of q(c) with respect to the prior, got none: do not detach it"
        return
    slopes = torch.autograd.grad(log_q.exp().square().sum(), [logits, loc, *rule.parameters()], allow_unused=True)
    assert all(slope is None or slope.isfinite().all() for slope in slopes), "expected finite gradients of q(c)"


def _loss_and_grads(elbo: FacetELBO | TraceEnum_ELBO, pair: MFCVAE, x: Tensor) -> Tensor:
    return torch.tensor(elbo.loss_and_grads(pair.model, pair.guide, x))


def check_pair(model: MultiFacetModel, guide: MultiFacetGuide, x: Tensor, *, seed: int = 0) -> None:
    """Check a pair: FacetELBO against TraceEnum_ELBO, the closed form against draws, gradients, copy, moves.

    Args:
        model: in any state. The other checks check its parts one by one.
        guide: guide of this model.
        x: some items, (N, *event_shape), in the likelihood's support.
        seed: seed of the draws.
    """
    with isolated(seed):
        pair = copy.deepcopy(MFCVAE(model, guide)).double().eval()
        model, guide, x = pair.model, pair.guide, x.double()
        results = []
        for elbo in (FacetELBO(closed_form=False), TraceEnum_ELBO(max_plate_nesting=1)):
            pair.zero_grad()
            loss = seeded(partial(_loss_and_grads, elbo, pair, x))
            grads = {name: p.grad for name, p in pair.named_parameters() if p.grad is not None}
            assert all(grad.isfinite().all() for grad in grads.values()), "expected finite gradients of the loss"
            results.append((loss, {name: grad.clone() for name, grad in grads.items()}))
        assert_close(results[0][0], results[1][0], "FacetELBO(closed_form=False) against TraceEnum_ELBO", 1e-8)
        for name, grad in results[1][1].items():
            assert_close(results[0][1].get(name, torch.zeros_like(grad)), grad, f"gradients of {name}, likewise", 1e-8)
        with torch.no_grad():
            if guide.has_closed_form and not model.global_sites:
                exact = FacetELBO().terms(model, guide, x).kl.sum(-1)
                kls = [FacetELBO(closed_form=False).terms(model, guide, x).kl.sum(-1) for _ in range(400)]
                assert_mean(torch.stack(kls), exact, "the closed form of the KL against draws")
            draws = torch.as_tensor(poutine.trace(model).get_trace(num=3).nodes["x"]["value"])
            assert draws.shape == (3, *model.event_shape), f"drew x of shape {tuple(draws.shape)}"
        check_copy(pair, lambda part: seeded(lambda: torch.cat(part.assign(x), -1)))
        check_moves(pair, (), lambda part, like: torch.cat([q.mean for q in part.encode(x.to(like))], -1))
