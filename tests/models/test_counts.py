"""Counts in float32 and at their extremes, against exact fractions and float64."""

import math
from fractions import Fraction

import pyro.distributions as dist
import pytest
import torch
from torch import Tensor

from pyro_mfcvae.models import NegativeBinomialLikelihood, PoissonLikelihood
from pyro_mfcvae.models.counts import LogRatePoisson, MeanNegativeBinomial, bounded_log_rate, stirling_error

BOTH = pytest.mark.parametrize("dtype", (torch.float32, torch.float64))


@BOTH
@pytest.mark.parametrize("log_rate", (-110.0, -3.0, 0.0, 1.6, 9.0, 15.0))
def test_poisson_is_exact_from_the_smallest_rates_to_thousands_of_counts(log_rate: float, dtype: torch.dtype) -> None:
    rate = math.exp(log_rate)
    x = torch.tensor([0.0, 1.0, 2.0, 17.0, round(rate), round(1.01 * rate + 1)], dtype=dtype)
    expected = x.double() * log_rate - rate - torch.lgamma(x.double() + 1)
    eta = torch.full_like(x, log_rate).requires_grad_()
    log_prob = LogRatePoisson(eta).log_prob(x)
    bound = 1e-6 if dtype == torch.float32 else 1e-9
    # The error is absolute near the mode, where most items are, and relative to log p far from it.
    assert ((log_prob - expected).abs() < bound * (1 + expected.abs()) + bound * (x - rate).abs()).all()
    (gradient,) = torch.autograd.grad(log_prob.sum(), eta)
    torch.testing.assert_close(gradient.double(), x.double() - rate, rtol=1e-5, atol=1e-6 * max(rate, 1.0))


def test_poisson_accepts_a_rate_that_underflows() -> None:
    assert LogRatePoisson(torch.tensor(-110.0, dtype=torch.float32)).log_prob(torch.tensor(1.0)).item() == -110.0


@pytest.mark.parametrize("kind", (PoissonLikelihood, NegativeBinomialLikelihood))
@pytest.mark.parametrize("output", (-1e4, 60.0, 100.0, 1e4))
def test_no_output_overflows(kind: type[PoissonLikelihood] | type[NegativeBinomialLikelihood], output: float) -> None:
    out = torch.full((3,), output, dtype=torch.float32, requires_grad=True)
    log_prob = kind().float()(out).log_prob(torch.tensor([0.0, 1.0, 20_000.0]))
    (gradient,) = torch.autograd.grad(log_prob.sum(), out)
    assert log_prob.isfinite().all() and gradient.isfinite().all()


def test_the_rate_is_exponential_and_then_linear() -> None:
    output = torch.tensor([-3.0, 0.0, 19.9, 20.0, 21.0, 40.0], requires_grad=True)
    rate = bounded_log_rate(output).exp()
    expected = [math.exp(v) if v <= 20 else math.exp(20) * (1 + v - 20) for v in output.tolist()]
    torch.testing.assert_close(rate.detach(), torch.tensor(expected))
    (slope,) = torch.autograd.grad(rate.sum(), output)
    torch.testing.assert_close(slope, torch.tensor([math.exp(min(v, 20)) for v in output.tolist()]))


def exact_log_prob(x: int, m: float, r: float) -> float:
    """log C(x + r - 1, x) + r log(r / (r + m)) + x log(m / (r + m)), the coefficient as a product of fractions."""
    coefficient = Fraction(1)
    for i in range(x):
        coefficient *= (Fraction(r) + i) / (i + 1)
    log_coefficient = math.log(coefficient.numerator) - math.log(coefficient.denominator)
    return log_coefficient - r * math.log1p(m / r) + x * (math.log(m) - math.log(r + m))


@BOTH
@pytest.mark.parametrize("dispersion", (0.125, 1.0, 64.0, 2.0**13, 2.0**20, 2.0**30))
@pytest.mark.parametrize("log_mean", (-110.0, -2.0, 1.6, 6.0))
def test_negative_binomial_up_to_the_poisson_limit(log_mean: float, dispersion: float, dtype: torch.dtype) -> None:
    x = torch.tensor([0.0, 1.0, 5.0, 16.0, 120.0], dtype=dtype)
    mean = math.exp(torch.tensor(log_mean, dtype=dtype).item())
    expected = torch.tensor([exact_log_prob(int(n), mean, dispersion) for n in x], dtype=torch.float64)
    r = torch.full_like(x, dispersion).requires_grad_()
    eta = torch.full_like(x, log_mean).requires_grad_()
    log_prob = MeanNegativeBinomial(eta, r).log_prob(x)
    bound = 1e-5 if dtype == torch.float32 else 1e-11
    assert ((log_prob - expected).abs() < bound * (1 + expected.abs())).all()
    by_mean, by_dispersion = torch.autograd.grad(log_prob.sum(), (eta, r))
    x, r = x.double(), r.detach().double()
    torch.testing.assert_close(by_mean.double(), x - (x + r) * mean / (r + mean), rtol=1e-4, atol=1e-5)
    slope = torch.digamma(x + r) - torch.digamma(r) + (r / (r + mean)).log() + 1 - (x + r) / (r + mean)
    # digamma(x + r) - digamma(r) is inaccurate for large r; there the slope must be small instead.
    torch.testing.assert_close((by_dispersion * r).double(), slope * r, rtol=1e-3, atol=1e-3)


def test_a_thousand_counts_near_the_poisson_limit_in_single_precision() -> None:
    torch.manual_seed(0)
    x = torch.poisson(torch.full((1000,), 5.0, dtype=torch.float32))
    poisson = dist.Poisson(torch.tensor(5.0)).log_prob(x.double()).sum().item()
    for dispersion in (1e5, 1e6, 1e7):
        likelihood = NegativeBinomialLikelihood(dispersion=dispersion).float()
        log_prob = likelihood(torch.full((1000,), math.log(5.0), dtype=torch.float32)).log_prob(x).sum()
        log_prob.backward()
        assert log_prob.item() == pytest.approx(poisson, abs=0.2)
        assert likelihood.dispersion_unconstrained.grad.abs() < 0.1


def test_stirling_error_is_exact() -> None:
    x = torch.tensor([1e-3, 0.5, 1.0, 3.0, 15.9, 16.1, 40.0, 1000.0])
    expected = torch.lgamma(x + 1) - ((x + 0.5) * x.log() - x + math.log(2 * math.pi) / 2)
    torch.testing.assert_close(stirling_error(x), expected, rtol=0.0, atol=1e-11)


def moments(distribution: dist.TorchDistribution, num: int = 40_000) -> tuple[Tensor, Tensor]:
    draws = distribution.sample((num,))
    return draws.mean(0), draws.var(0)


@pytest.mark.parametrize(
    "distribution",
    (
        LogRatePoisson(torch.tensor([-1.0, 1.0, 6.0])),
        MeanNegativeBinomial(torch.tensor([-1.0, 1.0, 6.0]), torch.tensor(1.7)),
    ),
)
def test_draws_have_the_right_moments(distribution: dist.TorchDistribution) -> None:
    mean, variance = moments(distribution)
    assert ((mean - distribution.mean).abs() < 5 * (distribution.variance / 40_000).sqrt()).all()
    torch.testing.assert_close(variance, distribution.variance, rtol=0.1, atol=0.0)
    assert distribution.expand((2, 3)).sample().shape == (2, 3)
    with pytest.raises(ValueError, match="support"):
        distribution.log_prob(torch.tensor(0.5))
