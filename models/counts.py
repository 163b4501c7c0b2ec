"""Distributions of counts, in forms that stay accurate in float32."""

import math
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor


class LogRatePoisson(dist.TorchDistribution):
    """x ~ Poisson(exp(log_rate)), x = 0, 1, 2, …, as floats.

    In terms of d = log_rate - log x the density is log p = x (d - (exp(d) - 1)) - log(2 pi x) / 2 - stirling(x), whose
    terms are small near the mode (Loader 2000); the usual form subtracts numbers of the order x log x.

    Args:
        log_rate: log rate of any shape.
    """

    arg_constraints = {"log_rate": constraints.real}  # noqa: RUF012  (torch's own way)
    support = constraints.nonnegative_integer

    def __init__(self, log_rate: Tensor, *, validate_args: bool | None = None) -> None:
        self.log_rate = log_rate
        super().__init__(log_rate.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "LogRatePoisson":
        """This distribution, expanded to a batch shape."""
        return LogRatePoisson(self.log_rate.expand(torch.Size(batch_shape)), validate_args=False)

    @property
    def mean(self) -> Tensor:
        """exp(log_rate)."""
        return self.log_rate.exp()

    @property
    def variance(self) -> Tensor:
        """exp(log_rate)."""
        return self.log_rate.exp()

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Counts, of shape ``sample_shape`` + batch shape."""
        return torch.poisson(self.mean.expand(self._extended_shape(torch.Size(sample_shape))))

    def log_prob(self, value: Tensor) -> Tensor:
        """log P(value)."""
        if self._validate_args:
            self._validate_sample(value)
        log_rate, x = torch.broadcast_tensors(self.log_rate, value)
        positive = x > 0
        x = torch.where(positive, x, 1.0)
        d = torch.where(positive, log_rate - x.log(), 0.0)
        above = x * (d - torch.expm1(d)) - (2 * math.pi * x).log() / 2 - stirling_error(x)
        return torch.where(positive, above, -log_rate.exp())


class MeanNegativeBinomial(dist.TorchDistribution):
    """Counts x of mean m = exp(log_mean) and variance m + m² / r: Poisson with a Gamma(r, r / m) distributed rate.

    The density is evaluated by differences from the mode (Loader 2000), which is accurate up to the Poisson limit; the
    usual form subtracts the logarithms of Gamma(x + r) and Gamma(r), which loses all digits in float32 if r is large.

    Args:
        log_mean: log mean of any shape.
        dispersion: r > 0, broadcasts with ``log_mean``.
    """

    arg_constraints = {"log_mean": constraints.real, "dispersion": constraints.positive}  # noqa: RUF012
    support = constraints.nonnegative_integer

    def __init__(self, log_mean: Tensor, dispersion: Tensor, *, validate_args: bool | None = None) -> None:
        self.log_mean, self.dispersion = torch.broadcast_tensors(log_mean, dispersion)
        super().__init__(self.log_mean.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "MeanNegativeBinomial":
        """This distribution, expanded to a batch shape."""
        shape = torch.Size(batch_shape)
        return MeanNegativeBinomial(self.log_mean.expand(shape), self.dispersion.expand(shape), validate_args=False)

    @property
    def mean(self) -> Tensor:
        """m."""
        return self.log_mean.exp()

    @property
    def variance(self) -> Tensor:
        """m + m² / r."""
        return self.mean + self.mean.square() / self.dispersion

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Counts, of shape ``sample_shape`` + batch shape."""
        dispersion = self.dispersion.expand(self._extended_shape(torch.Size(sample_shape)))
        return torch.poisson(torch._standard_gamma(dispersion) / dispersion * self.mean)

    def log_prob(self, value: Tensor) -> Tensor:
        """log P(value)."""
        if self._validate_args:
            self._validate_sample(value)
        log_mean, r, x = torch.broadcast_tensors(self.log_mean, self.dispersion, value)
        positive, m = x > 0, log_mean.exp()
        x = torch.where(positive, x, 1.0)
        # In x + r trials there are x failures and r successes. The expected number divided by the observed number is
        # 1 + w for the failures and 1 + u for the successes.
        u = (x - m) / (r + m)
        log_u = _accurate_log1p(u, (x + r).log() - (r + m).log())
        w = -u * r / x
        log_w = _accurate_log1p(w, log_mean + torch.log1p(r / x) - (r + m).log())
        deviance = r * (u - log_u) + x * (w - log_w)
        constant = stirling_error(x + r) - stirling_error(r) - stirling_error(x)
        above = constant - deviance - torch.log1p(x / r) / 2 - (2 * math.pi * x).log() / 2
        return torch.where(positive, above, -r * torch.log1p(m / r))


def bounded_log_rate(output: Tensor) -> Tensor:
    """The log rate that belongs to a network's output: the output itself up to 20, and 20 + log(1 + output - 20) above.
    So the rate is exp(output) up to 5e8 and grows linearly above, and no output overflows.
    """
    above = (output - _LARGEST_LOG_RATE).clamp_min(0.0)
    return torch.where(above > 0, _LARGEST_LOG_RATE + torch.log1p(above), output)


_LARGEST_LOG_RATE = 20.0


def stirling_error(x: Tensor) -> Tensor:
    """log Gamma(x + 1) - ((x + 1/2) log x - x + log(2 pi) / 2), for x > 0: the error of Stirling's formula."""
    near = x.clamp_max(_SERIES_FROM)
    exact = torch.lgamma(near + 1) - (near + 0.5) * near.log() + near - math.log(2 * math.pi) / 2
    inverse = x.clamp_min(_SERIES_FROM).reciprocal()
    square = inverse.square()
    series = inverse * (1 / 12 - square * (1 / 360 - square * (1 / 1260 - square * (1 / 1680 - square / 1188))))
    return torch.where(x < _SERIES_FROM, exact, series)


# The first term that the series leaves out is 691 / 360360 x⁻¹¹, here 1e-16.
_SERIES_FROM = 16.0


def _accurate_log1p(u: Tensor, otherwise: Tensor) -> Tensor:
    """log(1 + u), computed by log1p if u is near 0; elsewhere the value ``otherwise``, because 1 + u is inaccurate
    there.
    """
    near = u > -0.5
    return torch.where(near, torch.log1p(torch.where(near, u, 0.0)), otherwise)
