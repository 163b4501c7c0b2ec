"""Likelihoods p(x | z), whose parameters are the decoder's output."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from pyro.nn import PyroParam
from torch import Tensor

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.models.counts import LogRatePoisson, MeanNegativeBinomial, bounded_log_rate
from pyro_mfcvae.models.distributions import ContinuousBernoulli, DiscretizedLogistic, FloatCategorical
from pyro_mfcvae.networks import AbstractPyroModule, for_densities


class Likelihood(AbstractPyroModule):
    """Distribution of each element of the data, given the decoder's output."""

    @abstractmethod
    def forward(self, output: Tensor) -> dist.TorchDistribution:
        """The distribution of every element: event shape (), and batch shape equal to the shape of the data
        (`event_shape`).
        """

    @abstractmethod
    def mean(self, output: Tensor) -> Tensor:
        """E[x | z], in the shape of the data; reconstructions are this mean."""

    def encoder_input(self, x: Tensor) -> Tensor:
        """The encoder's input for data ``x`` without missing elements: ``x`` itself by default."""
        return x

    def event_shape(self, output_shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of one item of the data, for a decoder with an output of ``output_shape``: the same by default."""
        return tuple(output_shape)

    def output_shape(self, event_shape: Sequence[int]) -> tuple[int, ...]:
        """Shape of the decoder's output for items of ``event_shape``: the inverse of `event_shape`."""
        return tuple(event_shape)

    def support(self, output_shape: Sequence[int]) -> constraints.Constraint:
        """The values that an element of the data may have; the model refuses other values. By default every finite
        number is allowed.
        """
        return constraints.real


class BernoulliLikelihood(Likelihood):
    """x ~ Bernoulli(logits=output). Grey values in [0, 1] are taken as probabilities, as is usual for MNIST:
    log p = x log sigmoid(output) + (1 - x) log sigmoid(-output)."""

    def forward(self, output: Tensor) -> dist.TorchDistribution:
        # Grey values lie outside the Bernoulli's support {0, 1}, so this site alone is not checked.
        return dist.Bernoulli(logits=output, validate_args=False)

    def mean(self, output: Tensor) -> Tensor:
        return output.sigmoid()

    def support(self, output_shape: Sequence[int]) -> constraints.Constraint:
        return constraints.unit_interval


class ContinuousBernoulliLikelihood(Likelihood):
    """x ~ ContinuousBernoulli(logits=output) on [0, 1]: the Bernoulli's formula, normalised for grey values
    (Loaiza-Ganem and Cunningham 2019)."""

    def forward(self, output: Tensor) -> dist.TorchDistribution:
        return ContinuousBernoulli(output)

    def mean(self, output: Tensor) -> Tensor:
        return ContinuousBernoulli(output).mean

    def support(self, output_shape: Sequence[int]) -> constraints.Constraint:
        return constraints.unit_interval


class _ScaledLikelihood(Likelihood):
    """A likelihood whose location is the decoder's output and whose positive scale is fixed or a parameter."""

    scale: Any  # set as a PyroParam, read as a Tensor

    def __init__(self, name: str, scale: float | Tensor, *, learn_scale: bool, sigmoid_mean: bool) -> None:
        super().__init__()
        value = torch.as_tensor(scale, dtype=torch.get_default_dtype())
        if not (value > 0).all():
            raise InputError(f"expected a scale > 0 for a {name} likelihood, got {scale}: pass a positive scale")
        if learn_scale:
            self.scale = PyroParam(value.clone(), dist.constraints.positive)
        else:
            self.register_buffer("scale", value.clone())
        self.sigmoid_mean = sigmoid_mean

    def loc(self, output: Tensor) -> Tensor:
        """The location, in units of x."""
        return output.sigmoid() if self.sigmoid_mean else output

    def mean(self, output: Tensor) -> Tensor:
        return self.loc(output)


class GaussianLikelihood(_ScaledLikelihood):
    """x ~ Normal(mean(output), scale).

    Args:
        scale: standard deviation, in units of x; > 0. A tensor broadcasts with the data: of shape (C, 1, 1) it gives
            every channel its own scale. With ``learn_scale`` it is the initial value.
        learn_scale: make the scale a constrained parameter.
        sigmoid_mean: squash the mean into (0, 1): mean(output) = sigmoid(output); otherwise the identity.
    """

    def __init__(self, *, scale: float | Tensor = 1.0, learn_scale: bool = False, sigmoid_mean: bool = False) -> None:
        super().__init__("Gaussian", scale, learn_scale=learn_scale, sigmoid_mean=sigmoid_mean)

    def forward(self, output: Tensor) -> dist.TorchDistribution:
        return dist.Normal(self.loc(output), for_densities(self.scale))


class StandardizedGaussianLikelihood(GaussianLikelihood):
    """x ~ Normal(offset + unit · output, unit · scale), element by element: a Gaussian of the standardised data.

    The encoder reads (x - offset) / unit. The buffers ``offset`` and ``unit``, initially 0 and 1, are set by `measure`,
    so new items are standardised like the training items.

    Args:
        event_shape: event shape of the data.
        scale: standard deviation, in units of ``unit``; > 0. With ``learn_scale`` it is the initial value.
        learn_scale: make the scale a constrained parameter.
    """

    offset: Tensor
    unit: Tensor

    def __init__(self, event_shape: Sequence[int], *, scale: float | Tensor = 1.0, learn_scale: bool = False) -> None:
        super().__init__(scale=scale, learn_scale=learn_scale)
        self.register_buffer("offset", torch.zeros(*event_shape))
        self.register_buffer("unit", torch.ones(*event_shape))

    @torch.no_grad()
    def measure(self, x: Tensor) -> None:
        """Set ``offset`` and ``unit`` to the mean and the standard deviation of every element over items (N,
        *event_shape), without missing values. The unit of a constant element is 1.
        """
        x = x.double()
        known = ~x.isnan()
        num = known.sum(0).clamp_min(1)
        offset = x.nan_to_num().sum(0) / num
        variance = torch.where(known, x - offset, 0).square().sum(0) / num
        self.offset.copy_(offset)
        self.unit.copy_(torch.where(variance > 0, variance.sqrt(), 1.0))

    def forward(self, output: Tensor) -> dist.TorchDistribution:
        return dist.Normal(self.mean(output), self.unit * self.scale)

    def mean(self, output: Tensor) -> Tensor:
        return self.offset + self.unit * output

    def encoder_input(self, x: Tensor) -> Tensor:
        return (x - self.offset) / self.unit


class DiscretizedLogisticLikelihood(_ScaledLikelihood):
    """x ~ DiscretizedLogistic(loc(output), scale): probabilities of bytes, not densities.

    Args:
        scale: scale of the logistic, in units of x; > 0. A tensor broadcasts with the data. With ``learn_scale`` it is
            the initial value.
        learn_scale: make the scale a constrained parameter.
        sigmoid_mean: squash the mean into (0, 1).
        num_levels: number of values that x can have, from 0 to 1.
    """

    def __init__(
        self,
        *,
        scale: float | Tensor = 0.1,
        learn_scale: bool = True,
        sigmoid_mean: bool = True,
        num_levels: int = 256,
    ) -> None:
        super().__init__("discretised logistic", scale, learn_scale=learn_scale, sigmoid_mean=sigmoid_mean)
        if num_levels < 2:
            raise InputError(f"expected num_levels ≥ 2, got {num_levels}: 256 for bytes divided by 255")
        self.num_levels = num_levels

    def forward(self, output: Tensor) -> dist.TorchDistribution:
        return DiscretizedLogistic(self.loc(output), for_densities(self.scale), num_levels=self.num_levels)

    def mean(self, output: Tensor) -> Tensor:
        return self(output).mean

    def support(self, output_shape: Sequence[int]) -> constraints.Constraint:
        return constraints.unit_interval


class CountLikelihood(Likelihood):
    """Counts 0, 1, 2, …, as floats, with mean exp(output) (for large outputs see `bounded_log_rate`). Encoders read
    log(1 + x).
    """

    def mean(self, output: Tensor) -> Tensor:
        return bounded_log_rate(output).exp()

    def encoder_input(self, x: Tensor) -> Tensor:
        return torch.log1p(x)

    def support(self, output_shape: Sequence[int]) -> constraints.Constraint:
        return constraints.nonnegative_integer


class PoissonLikelihood(CountLikelihood):
    """x ~ Poisson(exp(output))."""

    def forward(self, output: Tensor) -> dist.TorchDistribution:
        return LogRatePoisson(bounded_log_rate(output))


class NegativeBinomialLikelihood(CountLikelihood):
    """x ~ NegativeBinomial, mean m = exp(output), variance m + m² / dispersion: counts that vary more than Poisson's.

    Args:
        dispersion: initial value of the dispersion, > 0, which is learned; a larger dispersion means a smaller
            variance. A tensor broadcasts with the data.
    """

    dispersion: Any  # set as a PyroParam, read as a Tensor

    def __init__(self, *, dispersion: float | Tensor = 1.0) -> None:
        super().__init__()
        value = torch.as_tensor(dispersion, dtype=torch.get_default_dtype())
        if not (value > 0).all():
            raise InputError(f"expected a dispersion > 0, got {dispersion}: pass a positive dispersion")
        self.dispersion = PyroParam(value.clone(), dist.constraints.positive)

    def forward(self, output: Tensor) -> dist.TorchDistribution:
        return MeanNegativeBinomial(bounded_log_rate(output), for_densities(self.dispersion))


class CategoricalLikelihood(Likelihood):
    """x ~ Categorical(logits=output) over V codes 0 … V-1, for tables of coded answers.

    The decoder's output has the shape (*event_shape, V). ``mean`` is the most probable code.

    Args:
        num_categories: V; None takes V from the decoder's output.
    """

    def __init__(self, num_categories: int | None = None) -> None:
        super().__init__()
        self.num_categories = num_categories

    def forward(self, output: Tensor) -> dist.TorchDistribution:
        return FloatCategorical(logits=output)

    def mean(self, output: Tensor) -> Tensor:
        return output.argmax(-1).to(output.dtype)

    def event_shape(self, output_shape: Sequence[int]) -> tuple[int, ...]:
        if len(output_shape) < 2:
            raise InputError(
                "expected a decoder with an output of shape (*event_shape, num_categories), got "
                f"{tuple(output_shape)}: add a last dimension, one logit per code"
            )
        return tuple(output_shape[:-1])

    def output_shape(self, event_shape: Sequence[int]) -> tuple[int, ...]:
        if self.num_categories is None:
            raise InputError("expected CategoricalLikelihood(num_categories=…), got none: give the number of codes")
        return (*event_shape, self.num_categories)

    def support(self, output_shape: Sequence[int]) -> constraints.Constraint:
        return constraints.integer_interval(0, output_shape[-1] - 1)
