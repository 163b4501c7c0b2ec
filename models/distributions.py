"""Distributions that neither torch nor Pyro has."""

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.distributions import Transform
from torch.nn.functional import logsigmoid, pad


class DiscretizedLogistic(dist.TorchDistribution):
    """A logistic variable rounded to the nearest of L levels 0, 1/(L-1), …, 1 (Salimans et al. 2017, without mixing).

        P(x) = sigmoid((x + h - loc) / scale) - sigmoid((x - h - loc) / scale),   h = 1 / (2 (L - 1)),

    where the first term is 1 at x = 1 and the second 0 at x = 0: the tails belong to the outermost levels.

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
        """The same variable, repeated to a batch shape."""
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

    def log_prob(self, value: Tensor) -> Tensor:
        """log P(value); a value between two levels counts as a level of its own."""
        half = 0.5 / (self.num_levels - 1)
        upper = logsigmoid((value + half - self.loc) / self.scale)
        lower = logsigmoid((self.loc - value + half) / self.scale)
        # sigmoid(b) - sigmoid(a) = sigmoid(b) sigmoid(-a) (1 - exp(a - b)), without cancellation.
        between = upper + lower + torch.log(-torch.expm1(-2 * half / self.scale))
        return torch.where(value <= half, upper, torch.where(value >= 1 - half, lower, between))


class SticksToWeights(Transform):
    """Breaks a stick of length 1: w_k = v_k prod_{i<k} (1 - v_i), k = 0 … K-1, with v_{K-1} = 1 (Sethuraman 1994).

    Maps (…, K-1), numbers in (0, 1), to (…, K) on the simplex.
    """

    domain = constraints.independent(constraints.unit_interval, 1)
    codomain = constraints.simplex
    bijective = True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SticksToWeights)

    def __hash__(self) -> int:
        return hash(SticksToWeights)

    def _call(self, v: Tensor) -> Tensor:
        return pad(v, (0, 1), value=1.0) * pad((1 - v).cumprod(-1), (1, 0), value=1.0)

    def _inverse(self, w: Tensor) -> Tensor:
        left = w.flip(-1).cumsum(-1).flip(-1)  # sum over i ≥ k: free of the cancellation in 1 - sum over i < k
        return w[..., :-1] / left[..., :-1]

    def log_abs_det_jacobian(self, v: Tensor, w: Tensor) -> Tensor:
        """sum_k log prod_{i<k} (1 - v_i), over k < K-1."""
        later = torch.arange(v.shape[-1] - 1, -1, -1, dtype=v.dtype, device=v.device)
        return (later * torch.log1p(-v)).sum(-1)

    def forward_shape(self, shape: Any) -> torch.Size:
        """(…, K-1) → (…, K)."""
        return torch.Size((*shape[:-1], shape[-1] + 1))

    def inverse_shape(self, shape: Any) -> torch.Size:
        """(…, K) → (…, K-1)."""
        return torch.Size((*shape[:-1], shape[-1] - 1))


class StickBreaking(dist.TransformedDistribution):  # type: ignore[misc]
    """Weights of K clusters whose sticks are v_k ~ Beta(a_k, b_k), k < K-1, by `SticksToWeights`.

    With a = 1 and b = alpha it is the Dirichlet process of concentration alpha, truncated at K clusters (Ishwaran and
    James 2001): the smaller alpha, the fewer clusters carry most of the weight; all K of them for alpha → ∞.

    Args:
        a: (…, K-1), > 0.
        b: (…, K-1), > 0.
    """

    arg_constraints = {"a": constraints.positive, "b": constraints.positive}  # noqa: RUF012  (torch's own way)

    def __init__(self, a: Tensor, b: Tensor, *, validate_args: bool | None = None) -> None:
        self.a, self.b = torch.broadcast_tensors(a, b)
        sticks = dist.Beta(self.a, self.b).to_event(1)
        super().__init__(sticks, [SticksToWeights()], validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "StickBreaking":
        """The same weights, repeated to a batch shape."""
        shape = (*batch_shape, self.a.shape[-1])
        return StickBreaking(self.a.expand(shape), self.b.expand(shape), validate_args=False)

    @property
    def mean(self) -> Tensor:
        """E[w_k] = E[v_k] prod_{i<k} (1 - E[v_i]): the sticks are independent."""
        weights: Tensor = SticksToWeights()(self.a / (self.a + self.b))
        return weights
