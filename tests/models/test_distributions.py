import math

import pytest
import torch
from torch.distributions import Beta, Dirichlet

from pyro_mfcvae.models import CategoricalLikelihood, DiscretizedLogisticLikelihood
from pyro_mfcvae.models.distributions import (
    ContinuousBernoulli,
    DiscretizedLogistic,
    FloatCategorical,
    StickBreaking,
    stick_weights,
    sticks_of,
)

BOTH = pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
LOGITS = (-500.0, -30.0, -16.0, -3.0, -0.0999, -0.01, -1e-6, 0.0, 1e-9, 1e-3, 0.0999, 0.1001, 5.0, 30.0, 500.0)


@BOTH
@pytest.mark.parametrize("logit", LOGITS)
def test_continuous_bernoulli_is_normalised_and_has_its_mean(logit: float, dtype: torch.dtype) -> None:
    """Gauss-Legendre quadrature over the end of [0, 1] with the mass, over a length of 40 / |logit|."""
    from numpy.polynomial.legendre import leggauss

    nodes, masses = (torch.from_numpy(values) for values in leggauss(40))
    width = min(1.0, 40 / max(abs(logit), 1e-9))
    x = (nodes + 1) / 2 * width
    x = 1 - x if logit > 0 else x
    p = ContinuousBernoulli(torch.tensor(logit, dtype=dtype))
    density = p.log_prob(x.to(dtype)).double().exp() * masses * width / 2
    bound = 1e-4 if dtype == torch.float32 else 1e-10
    assert density.sum().item() == pytest.approx(1.0, abs=bound)
    assert p.mean.item() == pytest.approx((density * x).sum().item(), abs=bound)


@BOTH
def test_continuous_bernoulli_has_gradients_everywhere(dtype: torch.dtype) -> None:
    """d log p / dl = x - mean, and the mean is increasing in l."""
    logits = torch.tensor([-1e4, -100.0, -0.1, 0.0, 1e-5, 0.3, 90.0, 1e4], dtype=dtype, requires_grad=True)
    p, x = ContinuousBernoulli(logits), torch.tensor(0.3, dtype=dtype)
    (gradient,) = torch.autograd.grad(p.log_prob(x).sum(), logits)
    torch.testing.assert_close(gradient, x - p.mean, rtol=0.0, atol=1e-5 if dtype == torch.float32 else 1e-10)
    (slope,) = torch.autograd.grad(p.mean.sum(), logits)
    assert slope.isfinite().all() and (slope >= 0).all()
    assert torch.autograd.grad(p.rsample().sum(), logits)[0].isfinite().all()


def test_draws_of_a_continuous_bernoulli() -> None:
    """Means and distribution functions at 0.3 of 20,000 draws within 5 standard errors."""
    logits = torch.tensor([-40.0, -2.0, 0.0, 1e-5, 0.7, 60.0])
    p = ContinuousBernoulli(logits)
    draws = p.sample((20_000,))
    assert (draws >= 0).all() and (draws <= 1).all()
    assert ((draws.mean(0) - p.mean).abs() < 5 * draws.std(0) / 20_000**0.5).all()
    grid = 0.3 * (torch.arange(20_000)[:, None] + 0.5) / 20_000
    expected = 0.3 * p.log_prob(grid).exp().mean(0)
    below = (draws < 0.3).double().mean(0)
    assert ((below - expected).abs() < 5 * (expected * (1 - expected) / 20_000).sqrt() + 1e-3).all()


@pytest.mark.parametrize("num_levels", (2, 11, 256))
def test_the_mean_of_a_discretised_logistic_is_the_sum_over_its_levels(num_levels: int) -> None:
    levels = torch.arange(num_levels).double() / (num_levels - 1)
    loc = torch.tensor([-0.5, 0.0067, 0.3, 1.0, 2.0])
    for scale in (1e-4, 0.1, 3.0):
        p = DiscretizedLogistic(loc, torch.tensor(scale), num_levels=num_levels)
        expected = (p.log_prob(levels[:, None]).exp() * levels[:, None]).sum(0)
        torch.testing.assert_close(p.mean, expected, rtol=0.0, atol=1e-10)


def test_a_reconstruction_shows_the_mean_and_not_the_location() -> None:
    likelihood = DiscretizedLogisticLikelihood(scale=0.1)
    output = torch.tensor([-5.0])
    levels = torch.arange(256).double() / 255
    expected = (likelihood(output).log_prob(levels).exp() * levels).sum()
    torch.testing.assert_close(likelihood.mean(output)[0], expected, rtol=0.0, atol=1e-10)
    assert output.sigmoid().item() == pytest.approx(0.0067, abs=1e-4)
    assert likelihood.mean(output).item() == pytest.approx(0.0727, abs=1e-3)


def test_codes_are_drawn_as_floats_that_the_density_takes() -> None:
    logits = torch.randn(2, 3, 5)
    p = CategoricalLikelihood()(logits)
    assert isinstance(p, FloatCategorical)
    for drawn in (p.sample(), p.expand((4, 2, 3)).sample((7,)), p.to_event(1).mask(torch.tensor(True)).sample()):
        assert drawn.dtype == logits.dtype
    x = p.sample()
    expected = logits.log_softmax(-1).gather(-1, x.long().unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(p.log_prob(x), expected)
    assert math.isclose(p.log_prob(p.enumerate_support()).exp().sum(0).mean().item(), 1.0)


def test_sticks_with_the_right_betas_are_a_dirichlet() -> None:
    """v_k ~ Beta(1, K - 1 - k) gives weights w ~ Dirichlet(1, …, 1) (Connor and Mosimann 1969); the density of s
    also has the Jacobian of w(s).
    """
    w = Dirichlet(torch.ones(5)).sample()
    s = sticks_of(w.log())
    sticks = StickBreaking(torch.ones(4), torch.tensor([4.0, 3.0, 2.0, 1.0]))
    jacobian = torch.autograd.functional.jacobian(lambda s: stick_weights(s).exp()[:-1], s)
    expected = Dirichlet(torch.ones(5)).log_prob(w) + torch.linalg.slogdet(jacobian).logabsdet
    torch.testing.assert_close(sticks.log_prob(s), expected, rtol=0.0, atol=1e-10)
    torch.testing.assert_close(sticks.mean_weights, torch.full((5,), 0.2))
    assert sticks.expand((2, 3)).sample().shape == (2, 3, 4)


def test_the_density_is_that_of_a_beta_in_log_odds() -> None:
    a, b, s = torch.tensor([0.3, 2.0]), torch.tensor([1.5, 0.7]), torch.tensor([-2.0, 0.4])
    v = s.sigmoid()
    expected = (Beta(a, b).log_prob(v) + v.log() + (1 - v).log()).sum()
    torch.testing.assert_close(StickBreaking(a, b).log_prob(s), expected)


def test_weights_and_sticks_are_inverse_functions() -> None:
    s = torch.tensor([0.0, math.log(0.2 / 0.8), math.log(9.0)])
    torch.testing.assert_close(stick_weights(s).exp(), torch.tensor([0.5, 0.1, 0.36, 0.04]))
    s = 5 * torch.randn(7, 30)
    torch.testing.assert_close(sticks_of(stick_weights(s)), s, rtol=0.0, atol=1e-6)


@BOTH
@pytest.mark.parametrize(("num_clusters", "alpha"), ((100, 1.0), (30, 0.3), (500, 5.0), (30, 1e-3), (1, 1.0), (2, 0.5)))
def test_densities_weights_and_gradients_are_finite(num_clusters: int, alpha: float, dtype: torch.dtype) -> None:
    a = torch.ones(num_clusters - 1, dtype=dtype, requires_grad=True)
    b = torch.full((num_clusters - 1,), alpha, dtype=dtype, requires_grad=True)
    sticks = StickBreaking(a, b)
    s = sticks.rsample((50,))
    log_prob, log_weights = sticks.log_prob(s), stick_weights(s)
    assert log_prob.shape == (50,) and log_weights.shape == (50, num_clusters)
    assert log_prob.isfinite().all() and log_weights.isfinite().all()
    torch.testing.assert_close(log_weights.logsumexp(-1), torch.zeros(50, dtype=dtype), rtol=0.0, atol=1e-5)
    double = StickBreaking(a.double(), b.double()).log_prob(s.double())
    torch.testing.assert_close(log_prob.double(), double, rtol=1e-5, atol=1e-5)
    for gradient in torch.autograd.grad(log_prob.sum() + log_weights[:, 0].sum(), (a, b)):
        assert gradient.isfinite().all()


def test_the_means_are_those_of_draws() -> None:
    """5 standard errors of 20,000 draws."""
    sticks = StickBreaking(torch.tensor([1.0, 0.2, 3.0]), torch.tensor([1.3, 0.1, 8.0]))
    draws = sticks.sample((20_000,))
    assert ((draws.mean(0) - sticks.mean).abs() < 5 * draws.std(0) / 20_000**0.5).all()
    weights = stick_weights(draws).exp()
    assert ((weights.mean(0) - sticks.mean_weights).abs() < 5 * weights.std(0) / 20_000**0.5).all()


def test_gradients_of_draws_are_those_of_the_mean() -> None:
    """d E[s] / da = trigamma(a): the mean of pathwise gradients, within 5 standard errors of 20,000 draws."""
    a = torch.full((20_000, 1), 0.4, requires_grad=True)
    (gradient,) = torch.autograd.grad(StickBreaking(a, torch.full((20_000, 1), 2.0)).rsample().sum(), a)
    expected = torch.polygamma(1, torch.tensor(0.4))
    assert (gradient.mean() - expected).abs() < 5 * gradient.std() / 20_000**0.5
