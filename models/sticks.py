"""Stick-breaking weights, as log odds of the sticks, in which neither densities nor weights under- or overflow."""

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.nn.functional import logsigmoid, pad


class StickBreaking(dist.TorchDistribution):
    """Log odds s_k = log(v_k / (1 - v_k)) of independent sticks v_k ~ Beta(a_k, b_k), k = 0 … K-2.

        log p(s) = sum_k a_k log sigmoid(s_k) + b_k log sigmoid(-s_k) - log B(a_k, b_k)

    `stick_weights` turns them into the weights of K clusters, w_k = v_k prod_{i<k} (1 - v_i) with v_{K-1} = 1
    (Sethuraman 1994). With a = 1 and b = alpha this is the Dirichlet process of concentration alpha, truncated at K
    clusters (Ishwaran and James 2001): a small alpha favours few large clusters. The value is s, not w: in float32 the
    weights of 100 clusters underflow, and a stick near 1 rounds to 1, where the density of w or v is not finite.

    Args:
        a: (…, K-1), > 0.
        b: (…, K-1), > 0.
    """

    arg_constraints = {  # noqa: RUF012  (torch's own way)
        "a": constraints.independent(constraints.positive, 1),
        "b": constraints.independent(constraints.positive, 1),
    }
    support = constraints.real_vector
    has_rsample = True

    def __init__(self, a: Tensor, b: Tensor, *, validate_args: bool | None = None) -> None:
        self.a, self.b = torch.broadcast_tensors(a, b)
        super().__init__(self.a.shape[:-1], self.a.shape[-1:], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "StickBreaking":
        """The same sticks, repeated to a batch shape."""
        shape = (*batch_shape, *self.event_shape)
        return StickBreaking(self.a.expand(shape), self.b.expand(shape), validate_args=False)

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws of s, ``sample_shape`` + batch shape + (K-1,), with gradients."""
        shape = self._extended_shape(torch.Size(sample_shape))
        return _log_gamma_draw(self.a.expand(shape)) - _log_gamma_draw(self.b.expand(shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(s), summed over the sticks."""
        log_beta = torch.lgamma(self.a) + torch.lgamma(self.b) - torch.lgamma(self.a + self.b)
        return (self.a * logsigmoid(value) + self.b * logsigmoid(-value) - log_beta).sum(-1)

    @property
    def mean(self) -> Tensor:
        """E[s_k] = digamma(a_k) - digamma(b_k)."""
        return torch.digamma(self.a) - torch.digamma(self.b)

    @property
    def mean_weights(self) -> Tensor:
        """E[w_k] = E[v_k] prod_{i<k} (1 - E[v_i]), (…, K): the sticks are independent."""
        return stick_weights(self.a.log() - self.b.log()).exp()


def stick_weights(sticks: Tensor) -> Tensor:
    """log w_k = log sigmoid(s_k) + sum_{i<k} log sigmoid(-s_i): log odds (…, K-1) to log weights (…, K)."""
    left = pad(logsigmoid(-sticks).cumsum(-1), (1, 0))
    return left + pad(logsigmoid(sticks), (0, 1))


def sticks_of(log_weights: Tensor) -> Tensor:
    """The inverse of `stick_weights`: s_k = log w_k - log sum_{i>k} w_i, (…, K) to (…, K-1)."""
    left = log_weights.flip(-1).logcumsumexp(-1).flip(-1)
    return log_weights[..., :-1] - left[..., 1:]


def _log_gamma_draw(shape: Tensor) -> Tensor:
    """log g, g ~ Gamma(shape, 1): log g' + log(u) / shape with g' ~ Gamma(shape + 1, 1), which cannot underflow."""
    log_uniform = -torch.empty_like(shape).exponential_()
    return torch._standard_gamma(shape + 1).log() + log_uniform / shape
