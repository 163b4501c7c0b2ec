"""Parts of the package pass the contracts, and parts with faults that the contracts must detect fail them."""

import re
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_mfcvae import Facet
from pyro_mfcvae.guides import (
    AmortizedAssignment,
    AnalyticAssignment,
    AssignmentRule,
    FlowHead,
    FullCovarianceHead,
    MLPLadderEncoder,
    MonteCarloAssignment,
    MultiFacetGuide,
    PosteriorHead,
    SampleAssignment,
    VaDEAssignment,
)
from pyro_mfcvae.models import (
    BayesianMixturePrior,
    BernoulliLikelihood,
    CategoricalLikelihood,
    ContinuousBernoulliLikelihood,
    DiscretizedLogisticLikelihood,
    FacetPrior,
    GaussianLikelihood,
    Likelihood,
    Mixture,
    MixturePrior,
    MLPLadderDecoder,
    MultiFacetModel,
    NegativeBinomialLikelihood,
    PoissonLikelihood,
    StandardNormalPrior,
    StudentTMixturePrior,
    VampPrior,
    register_closed_form,
)
from pyro_mfcvae.models.priors import Theta
from pyro_mfcvae.testing import check_assignment, check_likelihood, check_pair, check_prior

FACETS = (Facet(num_clusters=3, latent_dim=2), Facet(num_clusters=4, latent_dim=3))
FACET = FACETS[1]
PRIORS: dict[str, Callable[[], FacetPrior]] = {
    "diagonal": lambda: MixturePrior(FACET),
    "spherical": lambda: MixturePrior(FACET, covariance="spherical"),
    "full": lambda: MixturePrior(FACET, covariance="full"),
    "tied": lambda: MixturePrior(FACET, covariance="tied", learn_weights=False),
    "student_t": lambda: StudentTMixturePrior(FACET),
    "standard_normal": lambda: StandardNormalPrior(Facet(num_clusters=1, latent_dim=3)),
    "bayesian": lambda: BayesianMixturePrior(FACET, random=("probs", "loc", "scale", "center")),
    "bayesian_full": lambda: BayesianMixturePrior(FACET, covariance="full", stick_breaking=True),
}
LIKELIHOODS: dict[str, tuple[Callable[[], Likelihood], Callable[[Tensor], Tensor]]] = {
    "bernoulli": (BernoulliLikelihood, lambda u: u),
    "continuous_bernoulli": (ContinuousBernoulliLikelihood, lambda u: u),
    "gaussian": (lambda: GaussianLikelihood(scale=0.4, learn_scale=True), lambda u: u),
    "discretized_logistic": (DiscretizedLogisticLikelihood, lambda u: (255 * u).round() / 255),
    "poisson": (PoissonLikelihood, lambda u: (50 * u).round()),
    "negative_binomial": (NegativeBinomialLikelihood, lambda u: (9 * u).round()),
}


@pytest.mark.parametrize("name", PRIORS)
def test_our_priors(name: str) -> None:
    check_prior(PRIORS[name]())


@pytest.mark.parametrize("name", ("full", "student_t"))
def test_clusters_that_are_ridges(name: str) -> None:
    """A Gaussian that is narrow only along the axes would be wider than these clusters in another direction."""
    prior = PRIORS[name]().double()
    covariance = torch.full((4, 3, 3), 0.999) + 0.001 * torch.eye(3)
    prior.set_mixture(torch.randn(4, 3), covariance)  # type: ignore[attr-defined]
    check_prior(prior)


@pytest.mark.parametrize("head", ({}, {"head": FullCovarianceHead}))
def test_a_vamp_prior(head: dict[str, type[PosteriorHead]]) -> None:
    encoder = MLPLadderEncoder(FACETS, (4,), rung_dims=(6, 6), head_init_scale=1.0, **head)
    check_prior(VampPrior(FACET, encoder=encoder, j=1, pseudo_inputs=torch.rand(4, 4)), reads=[encoder])


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_our_likelihoods(name: str) -> None:
    make, data = LIKELIHOODS[name]
    check_likelihood(make(), torch.randn(5, 2, 3), data(torch.rand(5, 2, 3)))


def test_the_categorical_likelihood() -> None:
    x = torch.randint(4, (5, 2)).double()
    check_likelihood(CategoricalLikelihood(), torch.randn(5, 2, 4), x, mean_is_expectation=False)


@pytest.mark.parametrize(
    "rule",
    (AnalyticAssignment(), SampleAssignment(), MonteCarloAssignment(3), VaDEAssignment(3), AmortizedAssignment(FACETS)),
)
def test_our_rules(rule: AssignmentRule) -> None:
    check_assignment(rule, FACETS)


@pytest.mark.parametrize("rule", (AnalyticAssignment, SampleAssignment))
def test_our_pairs(
    make_pair: Callable[..., tuple], make_x: Callable[[int], Tensor], rule: type[AssignmentRule]
) -> None:
    check_pair(*make_pair(2, rule=rule), make_x(4))


def test_a_pair_with_a_flow_and_random_parameters(make_x: Callable[[int], Tensor]) -> None:
    priors = [BayesianMixturePrior(f) for f in FACETS]
    model = MultiFacetModel(priors, MLPLadderDecoder(FACETS, (1, 2, 3), rung_dims=(5, 5)), BernoulliLikelihood())
    encoder = MLPLadderEncoder(FACETS, (1, 2, 3), rung_dims=(5, 5), head=FlowHead)
    check_pair(model, MultiFacetGuide(model, encoder=encoder, assignment=SampleAssignment()), make_x(4))


def test_contracts_do_not_change_parts_or_random_states(
    make_pair: Callable[..., tuple], make_x: Callable[[int], Tensor]
) -> None:
    model, guide = make_pair(1)
    x, state = make_x(3), torch.get_rng_state()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    check_prior(model.priors[0])
    check_pair(model, guide, x)
    assert torch.equal(torch.get_rng_state(), state) and len(pyro.get_param_store()) == 0
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class NarrowNormal(dist.Normal):  # type: ignore[misc]
    """A prior whose draws are narrower than its density."""

    def rsample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008  (torch's own signature)
        return self.loc + 0.8 * (super().rsample(sample_shape) - self.loc)

    def sample(self, sample_shape: torch.Size = torch.Size()) -> Tensor:  # noqa: B008
        return self.rsample(sample_shape).detach()


class WrongDraws(MixturePrior):
    def components(self, loc: Tensor, spread: Tensor) -> dist.TorchDistribution:
        return NarrowNormal(loc, spread).to_event(1)


class Unnamed(BayesianMixturePrior):
    def point(self) -> dict[str, Tensor]:
        return {}


class Detached(MixturePrior):
    def forward(self, theta: Theta | None = None) -> Mixture:
        return Mixture(self.logits, self.components(self.loc.detach(), self.scale))


class Constant(MixturePrior):
    def forward(self, theta: Theta | None = None) -> Mixture:
        return Mixture(self.logits, self.components(self.loc, self.scale * torch.ones(3, dtype=torch.float64)))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (WrongDraws, "draws of the components against their densities"),
        (lambda facet: Unnamed(facet, random=("loc",)), "expected a value in point() for each of ['loc']"),
        (Detached, "expected a gradient of log p with respect to loc, got none"),
        (Constant, "moved to float32 it answers in torch.float64"),
    ],
)
def test_faulty_priors(make: Callable[[Facet], FacetPrior], message: str) -> None:
    with pytest.raises(AssertionError, match=re.escape(message)):
        check_prior(make(FACET))


class ClippedContinuousBernoulli(ContinuousBernoulliLikelihood):
    """The distribution of torch, which clips the logits."""

    def forward(self, output: Tensor) -> dist.TorchDistribution:
        return dist.ContinuousBernoulli(logits=output)


class PlainPoisson(PoissonLikelihood):
    def forward(self, output: Tensor) -> dist.TorchDistribution:
        return dist.Poisson(output.exp())


class IntegerCodes(CategoricalLikelihood):
    def forward(self, output: Tensor) -> dist.TorchDistribution:
        return dist.Categorical(logits=output)


class LocationAsMean(DiscretizedLogisticLikelihood):
    def mean(self, output: Tensor) -> Tensor:
        return self.loc(output)


def test_faulty_likelihoods() -> None:
    """The faults that these checks were written for."""
    output, u = torch.randn(5, 2), torch.rand(5, 2)
    with pytest.raises(AssertionError, match="Tensor-likes are not close"):
        check_likelihood(ClippedContinuousBernoulli(), output + 30, 1 - u / 30)
    with pytest.raises(AssertionError, match="finite float32 log_prob and gradients at outputs shifted by"):
        check_likelihood(PlainPoisson(), 2 * output, (5 * u).round())
    with pytest.raises(AssertionError, match="expected draws as floats"):
        check_likelihood(IntegerCodes(), torch.randn(5, 2, 4), (3 * u).round(), mean_is_expectation=False)
    with pytest.raises(AssertionError, match=r"draws against mean\(output\)"):
        check_likelihood(LocationAsMean(), output - 4, (255 * u).round() / 255)


class NotNormalised(SampleAssignment):
    is_optimum = False

    def forward(self, j: int, prior: Mixture, posterior: dist.TorchDistribution, z: Tensor) -> Tensor:
        return prior.log_weights() + prior.log_prob(z)


class Sharpened(AnalyticAssignment):
    """A rule that is declared to be the optimum but is not."""

    def forward(self, j: int, prior: Mixture, posterior: dist.TorchDistribution, z: Tensor) -> Tensor:
        return (2 * super().forward(j, prior, posterior, z)).log_softmax(-1)


class Undeclared(SampleAssignment):
    needs_draw = is_optimum = False


@pytest.mark.parametrize(
    ("rule", "message"),
    [(NotNormalised(), "logsumexp"), (Sharpened(), "is_optimum is True"), (Undeclared(), "needs_draw is False")],
)
def test_faulty_rules(rule: AssignmentRule, message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_assignment(rule)


class Shifted(dist.Normal):  # type: ignore[misc]
    """A family whose registered closed form is wrong."""


@register_closed_form(Shifted, "diagonal")
def _(components: dist.Independent, mean: Tensor, scale: Tensor) -> Tensor:
    return components.log_prob(mean.unsqueeze(-2)) - scale.square().sum(-1, keepdim=True)


class ShiftedPrior(MixturePrior):
    def components(self, loc: Tensor, spread: Tensor) -> dist.TorchDistribution:
        return Shifted(loc, spread).to_event(1)


def test_a_wrong_closed_form_is_found_in_a_prior_and_in_a_pair(make_x: Callable[[int], Tensor]) -> None:
    with pytest.raises(AssertionError, match=r"E\[log p\(z \| c\)\] under a diagonal Gaussian"):
        check_prior(ShiftedPrior(FACET))
    decoder = MLPLadderDecoder([FACET], (1, 2, 3), rung_dims=(5,))
    model = MultiFacetModel([ShiftedPrior(FACET)], decoder, BernoulliLikelihood())
    guide = MultiFacetGuide(model, encoder=MLPLadderEncoder([FACET], (1, 2, 3), rung_dims=(5,)))
    with pytest.raises(AssertionError, match="the closed form of the KL against draws"):
        check_pair(model, guide, make_x(4))
