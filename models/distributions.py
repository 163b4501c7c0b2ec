"""Distributions that torch and Pyro do not have."""

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.nn.functional import logsigmoid, pad

# The mean over 255 thresholds is computed in parts, so that it needs at most eight times the memory of the data.
_THRESHOLDS_AT_ONCE = 8

# Log probability of every other cluster for an item whose cluster is known. Its exponential is 0 in every precision.
# The product of both is 0; with minus infinity it would be NaN.
IMPOSSIBLE = -1e4


class DiscretizedLogistic(dist.TorchDistribution):
    """A logistic variable rounded to the nearest of L levels 0, 1/(L-1), …, 1 (Salimans et al. 2017, without mixing).

        P(x) = sigmoid((x + h - loc) / scale) - sigmoid((x - h - loc) / scale),   h = 1 / (2 (L - 1)),

    The first term is 1 at x = 1, and the second term is 0 at x = 0, so the first and last level include the tails.

    Args:
        loc: centre, of any shape.
        scale: > 0, broadcasts with ``loc``; the standard deviation before rounding is scale · pi / sqrt(3).
        num_levels: L ≥ 2; 256 for bytes divided by 255.
    """

    arg_constraints = {"loc": constraints.real, "scale": constraints.positive}  # noqa: RUF012  (torch's own way)
    support = constraints.unit_interval

    def __init__(self, loc: Tensor, scale: Tensor, *, num_levels: int = 256, validate_args: bool | None = None) -> None:
        self.loc, self.scale = torch.broadcast_tensors(loc, torch.as_tensor(scale).to(loc))
        self.num_levels = num_levels
        super().__init__(self.loc.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "DiscretizedLogistic":
        """This distribution, expanded to a batch shape."""
        shape = torch.Size(batch_shape)
        return DiscretizedLogistic(
            self.loc.expand(shape), self.scale.expand(shape), num_levels=self.num_levels, validate_args=False
        )

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Levels, of shape ``sample_shape`` + batch shape."""
        u = torch.rand(torch.Size(sample_shape) + self.batch_shape, dtype=self.loc.dtype, device=self.loc.device)
        x = self.loc + self.scale * torch.logit(u.clamp(torch.finfo(u.dtype).tiny, 1 - torch.finfo(u.dtype).eps))
        return (x * (self.num_levels - 1)).round().clamp(0, self.num_levels - 1) / (self.num_levels - 1)

    @property
    def mean(self) -> Tensor:
        """E[x] = 1/(L-1) sum_l P(x > l / (L-1)), a sum over the L-1 thresholds between levels."""
        num = self.num_levels - 1
        total = torch.zeros_like(self.loc)
        for start in range(0, num, _THRESHOLDS_AT_ONCE):
            levels = torch.arange(start, min(start + _THRESHOLDS_AT_ONCE, num)).to(self.loc)
            thresholds = ((levels + 0.5) / num).reshape(-1, *[1] * self.loc.dim())
            total = total + ((self.loc - thresholds) / self.scale).sigmoid().sum(0)
        return total / num

    def log_prob(self, value: Tensor) -> Tensor:
        """log P(value) by the formula above, also for a value between two levels."""
        half = 0.5 / (self.num_levels - 1)
        upper = logsigmoid((value + half - self.loc) / self.scale)
        lower = logsigmoid((self.loc - value + half) / self.scale)
        # sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - exp(a - b)), without cancellation.
        between = upper + lower + torch.log(-torch.expm1(-2 * half / self.scale))
        return torch.where(value <= half, upper, torch.where(value >= 1 - half, lower, between))


class ContinuousBernoulli(dist.TorchDistribution):
    """x in [0, 1] with density proportional to exp(logits · x) (Loaiza-Ganem and Cunningham 2019).

        log p(x) = l (x - 1/2) + log( (l/2) / sinh(l/2) ),   l = logits

    The density is normalised for every logit; torch's own distribution clips the logits at ±16.

    Args:
        logits: logits of any shape.
    """

    arg_constraints = {"logits": constraints.real}  # noqa: RUF012  (torch's own way)
    support = constraints.unit_interval
    has_rsample = True

    def __init__(self, logits: Tensor, *, validate_args: bool | None = None) -> None:
        self.logits = logits
        super().__init__(logits.shape, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "ContinuousBernoulli":
        """This distribution, expanded to a batch shape."""
        return ContinuousBernoulli(self.logits.expand(torch.Size(batch_shape)), validate_args=False)

    @property
    def mean(self) -> Tensor:
        """E[x] = 1/2 + coth(l/2)/2 - 1/l."""
        small, m = self._split(_SERIES_BELOW)
        far = 1 - (-m).exp() / torch.expm1(-m) - 1 / m
        square = self.logits.square()
        near = self.logits * (1 / 12 - square * (1 / 720 - square * (1 / 30240 - square / 1209600)))
        return torch.where(small, 0.5 + near, torch.where(self.logits > 0, far, 1 - far))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws, ``sample_shape`` + batch shape, with gradients, by inverting the distribution function."""
        shape = self._extended_shape(torch.Size(sample_shape))
        u = torch.rand(shape, dtype=self.logits.dtype, device=self.logits.device)
        small, m = self._split(1e-4)
        below = -torch.log1p(u * torch.expm1(-m)) / m  # the draw for logits -|l|
        tilted = u + self.logits * u * (1 - u) / 2  # to first order in l
        return torch.where(small, tilted, torch.where(self.logits > 0, 1 - below, below)).clamp(0.0, 1.0)

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(value)."""
        if self._validate_args:
            self._validate_sample(value)
        small, m = self._split(_SERIES_BELOW)
        far = m.log() - torch.log(-torch.expm1(-m))
        square = self.logits.square()
        near = -square * (1 / 24 - square * (1 / 2880 - square * (1 / 181440 - square / 9676800)))
        # exp(l x) for l > 0 is exp(l) exp(-l (1 - x)): so the exponent is measured from the nearer end of [0, 1], where
        # it is small.
        end = torch.where(self.logits > 0, value - 1, value)
        return torch.where(small, self.logits * (value - 0.5) + near, self.logits * end + far)

    def _split(self, bound: float) -> tuple[Tensor, Tensor]:
        """The mask |l| < bound, and |l| with the masked values replaced by 1, so that no gradient is NaN."""
        small = self.logits.abs() < bound
        return small, torch.where(small, 1.0, self.logits.abs())


# The closed forms lose digits near 0. The first term that the series leave out is of the order 1e-13 at the bound.
_SERIES_BELOW = 0.1


class FloatCategorical(dist.Categorical):
    """A Categorical over codes 0 … V-1. Its draws are floats, because networks read floats."""

    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Codes, of shape ``sample_shape`` + batch shape."""
        codes: Tensor = dist.Categorical.sample(self, torch.Size(sample_shape))
        return codes.to(self.logits.dtype)


class KnownCategorical(dist.Categorical):
    """c ~ Categorical(pi) for items of which some have a known cluster; log_prob is the joint density.

    If the cluster of an item is known, every draw is that cluster. Its log_prob is log pi_c as without conditioning, so
    the model's trace has the joint density; the log_prob of the item's other clusters is ``IMPOSSIBLE``.

    Args:
        log_weights: log pi, (K,) or (N, K).
        known: (N,), negative if unknown.
    """

    def __init__(self, log_weights: Tensor, known: Tensor, *, validate_args: bool | None = None) -> None:
        others = torch.arange(log_weights.shape[-1], device=known.device) != known.unsqueeze(-1)
        ruled_out = others & (known >= 0).unsqueeze(-1)
        self._joint = torch.where(ruled_out, log_weights.new_tensor(IMPOSSIBLE), log_weights)
        super().__init__(logits=self._joint, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "KnownCategorical":
        """This distribution, expanded to a batch shape."""
        new = dist.Categorical._get_checked_instance(self, KnownCategorical, _instance)
        new._joint = self._joint.expand(*batch_shape, self._joint.shape[-1])
        dist.Categorical.expand(self, batch_shape, _instance=new)
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """log pi_c where c is possible."""
        index, joint = torch.broadcast_tensors(value.long().unsqueeze(-1), self._joint)
        log_prob: Tensor = joint.gather(-1, index[..., :1]).squeeze(-1)
        return log_prob


class StickBreaking(dist.TorchDistribution):
    """Log odds s_k = log(v_k / (1 - v_k)) of independent sticks v_k ~ Beta(a_k, b_k), k = 0 … K-2.

        log p(s) = sum_k a_k log sigmoid(s_k) + b_k log sigmoid(-s_k) - log B(a_k, b_k)

    `stick_weights` maps s to the weights of K clusters, w_k = v_k prod_{i<k} (1 - v_i) with v_{K-1} = 1 (Sethuraman
    1994). With a = 1 and b = alpha this is the Dirichlet process of concentration alpha, truncated at K clusters
    (Ishwaran and James 2001): a small alpha favours few large clusters. The random variable is s and not w or v: in
    float32 the weights of 100 clusters underflow, and a stick v near 1 rounds to 1, where the densities of w and v are
    not finite.

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
        """This distribution, expanded to a batch shape."""
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
        """E[w_k] = E[v_k] prod_{i<k} (1 - E[v_i]), (…, K): a product, because the sticks are independent."""
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
