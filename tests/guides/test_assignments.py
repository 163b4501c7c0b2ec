from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_mfcvae import Facet, InputError
from pyro_mfcvae.guides import (
    AmortizedAssignment,
    AnalyticAssignment,
    AssignmentRule,
    MonteCarloAssignment,
    SampleAssignment,
    VaDEAssignment,
)
from pyro_mfcvae.models import MixturePrior

FACET = Facet(num_clusters=3, latent_dim=2)
RULES = (AnalyticAssignment, MonteCarloAssignment, SampleAssignment, VaDEAssignment)


def scene() -> tuple[MixturePrior, dist.TorchDistribution, Tensor]:
    """A prior with unequal weights, q(z|x) of five items, and a draw."""
    prior = MixturePrior(FACET)
    variance = torch.rand(3, 2) + 0.5
    prior.set_mixture(torch.randn(3, 2), torch.diag_embed(variance), probs=torch.tensor([0.2, 0.3, 0.5]))
    posterior = dist.Normal(torch.randn(5, 2), torch.rand(5, 2) + 0.2).to_event(1)
    return prior, posterior, posterior.sample()


def posterior_of_clusters(prior: MixturePrior, z: Tensor) -> Tensor:
    """p(c | z) by Bayes' rule."""
    densities = dist.Normal(prior.loc, prior.scale).log_prob(z.unsqueeze(-2)).sum(-1).exp()
    joint = torch.tensor([0.2, 0.3, 0.5]) * densities
    return joint / joint.sum(-1, keepdim=True)


def test_analytic_equals_the_value_computed_by_hand() -> None:
    prior, posterior, z = scene()
    variance = prior.scale.square()
    distance = (posterior.mean.unsqueeze(-2) - prior.loc).square() + posterior.variance.unsqueeze(-2)
    logits = torch.tensor([0.2, 0.3, 0.5]).log() - (distance / variance + variance.log()).sum(-1) / 2
    torch.testing.assert_close(AnalyticAssignment()(0, prior(), posterior, z).exp(), logits.softmax(-1))


def test_the_analytic_rule_does_not_depend_on_the_draw() -> None:
    prior, posterior, z = scene()
    rule = AnalyticAssignment()
    assert torch.equal(rule(0, prior(), posterior, z), rule(0, prior(), posterior, z + 1))


def test_sample_is_the_posterior_at_the_draw() -> None:
    prior, posterior, z = scene()
    torch.testing.assert_close(SampleAssignment()(0, prior(), posterior, z).exp(), posterior_of_clusters(prior, z))


def test_vade_is_the_mean_posterior_over_draws() -> None:
    prior, posterior, z = scene()
    pyro.set_rng_seed(1)
    probs = VaDEAssignment(7)(0, prior(), posterior, z).exp()
    pyro.set_rng_seed(1)
    expected = posterior_of_clusters(prior, posterior.sample((7,))).mean(0)
    torch.testing.assert_close(probs, expected)


def test_monte_carlo_is_the_geometric_mean_over_draws() -> None:
    prior, posterior, z = scene()
    pyro.set_rng_seed(1)
    probs = MonteCarloAssignment(7)(0, prior(), posterior, z).exp()
    pyro.set_rng_seed(1)
    geometric = posterior_of_clusters(prior, posterior.sample((7,))).log().mean(0).exp()
    torch.testing.assert_close(probs, geometric / geometric.sum(-1, keepdim=True))


def test_the_rules_differ() -> None:
    prior, posterior, z = scene()
    probs = [rule()(0, prior(), posterior, z).exp() for rule in RULES]
    for i, one in enumerate(probs):
        for other in probs[:i]:
            assert (one - other).abs().max() > 1e-3


def test_at_a_point_all_rules_equal_bayes_rule() -> None:
    """A q(z|x) of width 0 has only one z, so all rules agree."""
    prior, posterior, _ = scene()
    point = dist.Normal(posterior.mean, torch.full((5, 2), 1e-7)).to_event(1)
    for rule in RULES:
        probs = rule()(0, prior(), point, point.mean).exp()
        torch.testing.assert_close(probs, posterior_of_clusters(prior, point.mean), rtol=0.0, atol=1e-5)


def test_amortized_is_the_softmax_of_its_head(make_facets: Callable[[int], tuple[Facet, ...]]) -> None:
    facets = make_facets(2)
    rule = AmortizedAssignment(facets, hidden_dim=6)
    for j, facet in enumerate(facets):
        posterior = dist.Normal(torch.randn(5, 2 + j), torch.rand(5, 2 + j) + 0.2).to_event(1)
        first, _, last = rule.heads[j]
        features = torch.cat([posterior.mean, posterior.stddev.log()], -1)
        hidden = (features @ first.weight.T + first.bias).clamp_min(0)
        expected = (hidden @ last.weight.T + last.bias).softmax(-1)
        torch.testing.assert_close(rule(j, MixturePrior(facet), posterior, posterior.mean).exp(), expected)


@pytest.mark.parametrize("rule", (*RULES, AmortizedAssignment))
def test_logits_are_normalised_also_for_particles(rule: type[AssignmentRule]) -> None:
    prior, posterior, _ = scene()
    built = AmortizedAssignment([FACET]) if rule is AmortizedAssignment else rule()
    logits = built(0, prior(), posterior, posterior.sample((4,)))
    assert logits.shape == ((4, 5, 3) if rule is SampleAssignment else (5, 3))
    torch.testing.assert_close(logits.exp().sum(-1), torch.ones(logits.shape[:-1]))


def test_which_rules_are_the_optimum_and_which_need_the_draw() -> None:
    rules = (*RULES, AmortizedAssignment)
    assert [rule for rule in rules if rule.is_optimum] == [AnalyticAssignment, SampleAssignment]
    assert [rule for rule in rules if rule.needs_draw] == [SampleAssignment]


@pytest.mark.parametrize("rule", (MonteCarloAssignment, VaDEAssignment))
def test_there_is_at_least_one_sample(rule: type[AssignmentRule]) -> None:
    with pytest.raises(InputError, match="expected num_samples ≥ 1, got 0"):
        rule(0)


def test_amortized_needs_facets() -> None:
    with pytest.raises(InputError, match="at least one facet"):
        AmortizedAssignment([])
