import math

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_mfcvae import Facet, InputError
from pyro_mfcvae.guides import (
    MLPLadderEncoder,
    MultiFacetGuide,
)
from pyro_mfcvae.models import (
    BernoulliLikelihood,
    Mixture,
    MixturePrior,
    MLPLadderDecoder,
    MultiFacetModel,
    register_closed_form,
)
from pyro_mfcvae.models.mixtures import SelectedComponent

FACET = Facet(num_clusters=4, latent_dim=3)


class Sharp(dist.Normal):  # type: ignore[misc]
    """A subclass of the Gaussian with another density."""

    def log_prob(self, value: Tensor) -> Tensor:
        return dist.Laplace(self.loc, self.scale).log_prob(value)


class LaplacePrior(MixturePrior):
    """A subclass of the Gaussian mixture with other components."""

    def components(self, loc: Tensor, spread: Tensor) -> dist.TorchDistribution:
        return dist.Laplace(loc, spread).to_event(1)


class SharpPrior(MixturePrior):
    def components(self, loc: Tensor, spread: Tensor) -> dist.TorchDistribution:
        return Sharp(loc, spread).to_event(1)


@pytest.mark.parametrize("kind", (LaplacePrior, SharpPrior))
def test_an_overridden_density_inherits_no_closed_form(kind: type[MixturePrior]) -> None:
    prior = kind(FACET)
    q = dist.Normal(torch.zeros(2, 3), 1.0).to_event(1)
    assert not any(prior.has_closed_form(covariance) for covariance in ("diagonal", "full", None))
    with pytest.raises(InputError, match=f"got {kind.__name__[:-5]} components and a Normal q"):
        prior().expected_log_prob_under(q)
    model = MultiFacetModel([prior], MLPLadderDecoder([FACET], (2,), rung_dims=(4,)), BernoulliLikelihood())
    encoder = MLPLadderEncoder([FACET], (2,), rung_dims=(4,))
    with pytest.raises(InputError, match=f"for AnalyticAssignment, got the {kind.__name__} of facet 0"):
        MultiFacetGuide(model, encoder=encoder)


def test_a_posterior_of_a_subclass_has_no_closed_form() -> None:
    with pytest.raises(InputError, match="got Normal components and a Sharp q"):
        MixturePrior(FACET)().expected_log_prob_under(Sharp(torch.zeros(2, 3), 1.0).to_event(1))


def test_a_registered_closed_form_is_used() -> None:
    """E|z - m| of a Gaussian z is the mean of a folded normal: sqrt(2/pi) s exp(-d²/2s²) + d erf(d / (s sqrt 2))."""

    class Peak(dist.Laplace):  # type: ignore[misc]
        pass

    @register_closed_form(Peak, "diagonal")
    def _(components: dist.Independent, mean: Tensor, scale: Tensor) -> Tensor:
        p, s = components.base_dist, scale.unsqueeze(-2)
        d = mean.unsqueeze(-2) - p.loc
        folded = math.sqrt(2 / math.pi) * s * (-d.square() / (2 * s**2)).exp() + d * torch.erf(d / (s * math.sqrt(2)))
        return (-folded / p.scale - (2 * p.scale).log()).sum(-1)

    mixture = Mixture(torch.zeros(4), Peak(torch.randn(4, 3), 0.7).to_event(1))
    assert mixture.has_closed_form("diagonal") and not mixture.has_closed_form("full")
    q = dist.Normal(torch.randn(6, 3), 0.5).to_event(1)
    values = mixture.log_prob(q.sample((20_000,)))
    error = values.std(0) / 20_000**0.5
    assert ((values.mean(0) - mixture.expected_log_prob_under(q)).abs() < 5 * error).all()


def test_a_mixture_has_no_subclasses_and_checks_its_shapes() -> None:
    with pytest.raises(TypeError, match="Mixture has no subclasses: pass other components"):
        type("Mine", (Mixture,), {})
    with pytest.raises(
        InputError, match=r"expected components of batch shape \(K,\) = \(4,\) .* got \(4, 3\) and \(\)"
    ):
        Mixture(torch.zeros(4), dist.Normal(torch.zeros(4, 3), 1.0))
    with pytest.raises(InputError, match=r"got \(5,\) and \(3,\)"):
        Mixture(torch.zeros(4), dist.Normal(torch.zeros(5, 3), 1.0).to_event(1))


def test_components_of_any_family_are_selected() -> None:
    """Gathered parameters against the rows of the parameters: moments, densities, draws and gradients."""
    loc, c = torch.randn(4, 3, requires_grad=True), torch.tensor([[0, 3], [2, 1], [0, 0]])
    selected = SelectedComponent(dist.Laplace(loc, 0.7).to_event(1), c)
    direct = dist.Laplace(loc[c], 0.7).to_event(1)
    z = torch.randn(5, 3, 2, 3)
    assert (selected.batch_shape, selected.event_shape) == ((3, 2), (3,))
    for actual, expected in ((selected.mean, direct.mean), (selected.variance, direct.variance)):
        torch.testing.assert_close(actual, expected)
    torch.testing.assert_close(selected.log_prob(z), direct.log_prob(z))
    torch.testing.assert_close(selected.expand((5, 3, 2)).log_prob(z), direct.log_prob(z))
    draws = selected.rsample((20_000,))
    assert draws.shape == (20_000, 3, 2, 3)
    assert ((draws.mean(0) - loc[c]).abs() < 6 * 0.7 * math.sqrt(2 / 20_000)).all()
    (gradient,) = torch.autograd.grad(draws.sum(), loc)
    torch.testing.assert_close(gradient, 20_000.0 * torch.tensor([3.0, 1.0, 1.0, 1.0])[:, None].expand(4, 3))


def test_a_mixture_stores_the_expectation_under_one_posterior() -> None:
    mixture = MixturePrior(FACET)()
    q, other = (dist.Normal(torch.full((2, 3), loc), 1.0).to_event(1) for loc in (0.0, 1.0))
    expecting = mixture.expecting(q)
    assert expecting.expected_log_prob_under(q) is expecting.expected_log_prob_under(q)
    for posterior in (q, other):
        torch.testing.assert_close(
            expecting.expected_log_prob_under(posterior), mixture.expected_log_prob_under(posterior), rtol=0, atol=0
        )
