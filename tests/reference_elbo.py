"""The model's densities and its ELBO, written again from the parameters alone, and functions to compare with them."""

import math
from collections.abc import Callable
from itertools import product

import pyro
import pytest
import torch
from pyro.infer import ELBO
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal

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
    GaussianLikelihood,
    MixturePrior,
    MultiFacetModel,
)
from pyro_mfcvae.models.fits import Covariance

MakePair = Callable[..., tuple[MultiFacetModel, MultiFacetGuide]]
Gradients = dict[str, Tensor]

COVARIANCES: tuple[Covariance, ...] = ("diagonal", "spherical", "full", "tied")
RULES = (AnalyticAssignment, MonteCarloAssignment, SampleAssignment, VaDEAssignment, AmortizedAssignment)
WEIGHTS = {  # beta, alpha, num_data
    "plain": ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0), None),
    "weighted": ((0.3, 0.0, 1.7), (0.5, 1.0, 0.0), 50),
    "faded": ((0.0, 0.6, 0.4), (0.0, 0.7, 1.0), None),
}


def every_case(test: Callable[..., None]) -> Callable[..., None]:
    """Two facets are fast, and so are one and three with the fullest settings; all others are slow."""
    cases = [
        case if case[0] == 2 or case[1:] == ("full", "weighted") else pytest.param(*case, marks=pytest.mark.slow)
        for case in product((1, 2, 3), COVARIANCES, WEIGHTS)
    ]
    return pytest.mark.parametrize(("num_facets", "covariance", "weights"), cases)(test)


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
    """The loss and its gradients at the draws of a fixed seed."""
    pyro.set_rng_seed(1)
    return gradients(elbo.differentiable_loss(model, guide, x), model, guide)


def assert_equal(actual: tuple[Tensor, Gradients], expected: tuple[Tensor, Gradients]) -> None:
    # Gradients reach a thousand here, and the order of summation depends on the CPU.
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-10)


def standard_error(samples: Tensor) -> Tensor:
    return samples.std(0) / math.sqrt(len(samples))


# The model's densities, written again from the parameters alone.


def covariances(prior: MixturePrior) -> Tensor:
    if prior.covariance in ("full", "tied"):
        return (prior.scale_tril @ prior.scale_tril.mT).expand(len(prior.loc), -1, -1)
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
            return optimal_logits(prior, q.loc, q.scale)
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
            raise AssertionError(f"{type(rule).__name__} is not written out")


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
