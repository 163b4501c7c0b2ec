"""Distributions that neither torch nor Pyro has."""

from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions import constraints
from torch import Tensor
from torch.nn.functional import logsigmoid


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
