"""Faults that parts of the package once had: for each, a contract fails."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_mfcvae import Facet, InputError
from pyro_mfcvae.guides import MLPLadderEncoder, MultiFacetGuide, SampleAssignment
from pyro_mfcvae.models import (
    BernoulliLikelihood,
    Likelihood,
    Mixture,
    MixturePrior,
    MLPLadderDecoder,
    MultiFacetModel,
    NegativeBinomialLikelihood,
    PoissonLikelihood,
    register_closed_form,
)
from pyro_mfcvae.models.priors import Theta
from pyro_mfcvae.testing import check_assignment, check_likelihood, check_pair, check_prior

FACET = Facet(num_clusters=3, latent_dim=2)


class LaplaceWithTheGaussiansForm(dist.Laplace):  # type: ignore[misc]
    """A subclass of a family that inherited its closed form."""


@register_closed_form(LaplaceWithTheGaussiansForm, "diagonal")
def _(components: dist.Independent, mean: Tensor, scale: Tensor) -> Tensor:
    p = components.base_dist
    normal = dist.Normal(p.loc, p.scale).to_event(1)
    return normal.log_prob(mean.unsqueeze(-2)) - (scale.unsqueeze(-2) / p.scale).square().sum(-1) / 2


class LaplacePrior(MixturePrior):
    def components(self, loc: Tensor, spread: Tensor) -> dist.TorchDistribution:
        return LaplaceWithTheGaussiansForm(loc, spread).to_event(1)


class SharedEntry(MixturePrior):
    """Reads its parameters from Pyro's store by name, so that a copy finds those of the original."""

    def forward(self, theta: Theta | None = None) -> Mixture:
        own = {"logits": self.logits, "loc": self.loc, "scale": self.scale}
        store = pyro.get_param_store()
        logits, loc, scale = (store.setdefault(name, value.detach().clone()) + 0 * value for name, value in own.items())
        return Mixture(logits, self.components(loc, scale))


class NoTrace(MixturePrior):
    """Uses minus infinity as the logarithm of a weight of 0, also in products with 0."""

    def forward(self, theta: Theta | None = None) -> Mixture:
        logits = torch.where(torch.arange(len(self.logits)) == 0, self.logits - torch.inf, self.logits)
        return Mixture(logits * self.logits.exp(), self.components(self.loc, self.scale))


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        (LaplacePrior, r"E\[log p\(z \| c\)\] under a diagonal Gaussian"),
        (SharedEntry, "a copy whose parameters were changed answers as before"),
        (NoTrace, "finite|nan|NaN|gradient"),
    ],
)
def test_priors(prior: type[MixturePrior], message: str) -> None:
    with pytest.raises(AssertionError, match=message):
        check_prior(prior(FACET))


class LogGammaNegativeBinomial(NegativeBinomialLikelihood):
    """The usual form, which loses its digits in float32 at a large dispersion."""

    def forward(self, output: Tensor) -> dist.TorchDistribution:
        return dist.GammaPoisson(self.dispersion.expand_as(output), self.dispersion / output.exp())


class OverflowingPoisson(PoissonLikelihood):
    def forward(self, output: Tensor) -> dist.TorchDistribution:
        return dist.Poisson(output.exp())


@pytest.mark.parametrize(
    "likelihood", [LogGammaNegativeBinomial(dispersion=1e6), LogGammaNegativeBinomial(), OverflowingPoisson()]
)
def test_likelihoods(likelihood: Likelihood) -> None:
    with pytest.raises(AssertionError):
        check_likelihood(likelihood, torch.randn(5, 2), torch.randint(0, 9, (5, 2)).double())


class DetachedOptimum(SampleAssignment):
    """A rule that is right only for FacetELBO, because other objectives need the gradient of q(c | x)."""

    def forward(self, j: int, prior: Mixture, posterior: dist.TorchDistribution, z: Tensor) -> Tensor:
        return super().forward(j, prior, posterior, z).detach()


def test_a_rule() -> None:
    """A pair whose q(c | x) is right only for FacetELBO."""
    with pytest.raises(AssertionError, match="gradient"):
        check_assignment(DetachedOptimum())


class ExtraFactor(MultiFacetModel):
    def forward(self, *args: object, **options: object) -> Tensor:
        x: Tensor = super().forward(*args, **options)  # type: ignore[arg-type]
        pyro.factor("more", torch.tensor(-1000.0))
        return x


def test_a_pair() -> None:
    """FacetELBO refuses a part that it would ignore, and so does the contract."""
    decoder = MLPLadderDecoder([FACET], (1, 2, 3), rung_dims=(5,), hidden_dim=4)
    model = ExtraFactor([MixturePrior(FACET)], decoder, BernoulliLikelihood())
    guide = MultiFacetGuide(model, encoder=MLPLadderEncoder([FACET], (1, 2, 3), rung_dims=(5,)))
    with pytest.raises(InputError, match="own forward"):
        check_pair(model, guide, torch.rand(4, 1, 2, 3))
