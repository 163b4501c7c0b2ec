"""Families of q(z | x): heads that map an encoder's features to a distribution."""

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import pyro.distributions as dist
import pyro.distributions.transforms as T
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.models.mixtures import PosteriorCovariance
from pyro_mfcvae.networks import AbstractModule, density_dtype, like_parameters

# The smallest scale, so that q(z|x) does not collapse onto a point, where its density overflows in float32.
MIN_SCALE = 1e-4

# Number of features of x on which a flow is conditioned.
_CONTEXT_DIM = 32


class PosteriorHead(AbstractModule):
    """Maps features h (…, F) to q(z | x) with batch shape (…) and event shape (D,), by a linear layer whose outputs are
    the parameters of a family.

    Args:
        num_features: F.
        latent_dim: D.
        num_outputs: number of outputs of the linear layer.
    """

    covariance: ClassVar[PosteriorCovariance | None] = None
    """The shape of the covariance of a Gaussian family; None for other families, which have no expectations in closed
    form.
    """

    def __init__(self, num_features: int, latent_dim: int, *, num_outputs: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.linear = nn.Linear(num_features, num_outputs)

    @abstractmethod
    def forward(self, h: Tensor) -> dist.TorchDistribution:
        """q(z | x)."""

    def outputs(self, h: Tensor, *sizes: int) -> tuple[Tensor, ...]:
        """The outputs of the linear layer, split into parts."""
        # Autocast gives low precision, but densities are computed in the precision of the parameters.
        dtype = density_dtype(self.linear.weight.dtype)
        parts: tuple[Tensor, ...] = self.linear(h).to(dtype).split(sizes, -1)
        return parts


class GaussianHead(PosteriorHead):
    """q(z | x) = Normal(loc, diag(scale²)): loc = W h + b, scale = softplus(V h + a) + 1e-4."""

    covariance = "diagonal"

    def __init__(self, num_features: int, latent_dim: int) -> None:
        super().__init__(num_features, latent_dim, num_outputs=2 * latent_dim)

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        loc, raw_scale = self.outputs(h, self.latent_dim, self.latent_dim)
        return dist.Normal(loc, softplus(raw_scale) + MIN_SCALE).to_event(1)


class FullCovarianceHead(PosteriorHead):
    """q(z | x) = Normal(loc, L Lᵀ): L is lower triangular, with softplus(…) + 1e-4 on the diagonal and linear functions
    of h below it.
    """

    covariance = "full"

    def __init__(self, num_features: int, latent_dim: int) -> None:
        super().__init__(num_features, latent_dim, num_outputs=latent_dim + latent_dim**2)

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        D = self.latent_dim
        loc, raw = self.outputs(h, D, D * D)
        raw = raw.unflatten(-1, (D, D))
        diagonal = softplus(raw.diagonal(dim1=-2, dim2=-1)) + MIN_SCALE
        scale_tril = raw.tril(-1) + torch.diag_embed(diagonal)
        return dist.MultivariateNormal(loc, scale_tril=scale_tril)


class LowRankHead(PosteriorHead):
    """q(z | x) = Normal(loc, F Fᵀ + diag(scale²)): F (D, rank) is linear in h; scale = softplus(…) + 1e-4.

    Pass it to an encoder as ``head=partial(LowRankHead, rank=2)``.

    Args:
        rank: 1 … D.
    """

    covariance = "full"

    def __init__(self, num_features: int, latent_dim: int, *, rank: int = 1) -> None:
        if not 1 <= rank <= latent_dim:
            raise InputError(f"expected 1 ≤ rank ≤ {latent_dim}, the latent dimension, got {rank}: pass another rank")
        super().__init__(num_features, latent_dim, num_outputs=(2 + rank) * latent_dim)
        self.rank = rank

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        D = self.latent_dim
        loc, raw_scale, factor = self.outputs(h, D, D, D * self.rank)
        scale = softplus(raw_scale) + MIN_SCALE
        return dist.LowRankMultivariateNormal(loc, factor.unflatten(-1, (D, self.rank)), scale.square())


class FlowPosterior(dist.TransformedDistribution):  # type: ignore[misc]
    """A Gaussian mapped by invertible transforms. Its ``mean`` is not the expectation, but the image of the Gaussian's
    mean, a typical z.
    """

    @property
    def mean(self) -> Tensor:
        z: Tensor = self.base_dist.mean
        for transform in self.transforms:
            z = transform(z)
        return z

    def expand(self, batch_shape: torch.Size, _instance: None = None) -> "FlowPosterior":
        """This distribution, expanded to a batch shape."""
        return FlowPosterior(self.base_dist.expand(batch_shape), self.transforms, validate_args=False)


class FlowHead(PosteriorHead):
    """z = loc + scale · f_x(eps), eps ~ Normal(0, I), where f_x is one of Pyro's transforms (Rezende and Mohamed 2015).

    The flow acts on the standard normal eps, not on loc + scale · eps: Pyro's splines are the identity outside [-3, 3],
    so with a spline of z itself, a posterior far from 0 would stay Gaussian. There is no closed form: use
    `SampleAssignment` or `MonteCarloAssignment`. ``head=FlowHead`` gives splines.
    ``head=partial(FlowHead, transform=conditional_affine_autoregressive)`` gives an inverse autoregressive flow (Kingma
    et al. 2016); its density is fast at its own draws and takes D passes at other points.

    Args:
        transform: function of `pyro.distributions.transforms` that maps (D, context_dim) to a conditional transform;
            splines by default (Durkan et al. 2019).
    """

    def __init__(
        self,
        num_features: int,
        latent_dim: int,
        *,
        transform: Callable[[int, int], nn.Module] = T.conditional_spline,
    ) -> None:
        super().__init__(num_features, latent_dim, num_outputs=2 * latent_dim + _CONTEXT_DIM)
        self.transform: Any = transform(latent_dim, _CONTEXT_DIM)

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        loc, raw_scale, context = self.outputs(h, self.latent_dim, self.latent_dim, _CONTEXT_DIM)
        base = dist.Normal(torch.zeros_like(loc), torch.ones_like(loc)).to_event(1)
        # Both transforms cache their last draw, so its density needs no inverse, which would take D passes.
        place = T.AffineTransform(loc, softplus(raw_scale) + MIN_SCALE, event_dim=1, cache_size=1)
        return FlowPosterior(base, [self.transform.condition(like_parameters(context, self.transform)), place])
