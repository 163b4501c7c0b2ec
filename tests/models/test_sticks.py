import math

import pytest
import torch
from torch.distributions import Beta, Dirichlet

from pyro_mfcvae.models.distributions import StickBreaking, stick_weights, sticks_of

BOTH = pytest.mark.parametrize("dtype", (torch.float32, torch.float64))


def test_sticks_with_the_right_betas_are_a_dirichlet() -> None:
    """v_k ~ Beta(1, K - 1 - k) gives Dirichlet(1, …, 1) (Connor and Mosimann 1969), times the Jacobian of w(s)."""
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


def test_weights_and_sticks_are_each_others_inverse() -> None:
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
