"""Ladder encoders: from x up to q(z_j | x), one rung per facet."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import pyro.distributions as dist
from torch import Tensor, nn
from torch.nn.functional import softplus

from pyro_mfcvae.facets import Facet, check_facets
from pyro_mfcvae.models.decoders import ladder_dims
from pyro_mfcvae.networks import linear_layers, mlp

# Keeps q(z|x) from collapsing onto a point, where its density overflows in float32.
MIN_SCALE = 1e-4


class LadderEncoder(nn.Module, ABC):
    """An encoder that climbs from x; facet j reads rung j (Zhao et al. 2017).

    Args:
        facets: shallowest first.
        in_shape: event shape of the data, e.g. (channels, height, width).
    """

    def __init__(self, facets: Sequence[Facet], in_shape: Sequence[int]) -> None:
        super().__init__()
        self.facets = check_facets(facets)
        self.in_shape = tuple(in_shape)

    @abstractmethod
    def forward(self, x: Tensor) -> list[dist.TorchDistribution]:
        """q(z_j | x) for x (…, *in_shape), shallowest first: batch shape (…), event shape (D_j,)."""

    @abstractmethod
    def hidden_layers(self) -> Iterator[nn.Module]:
        """The linear layers whose scale is free, in no particular order: all but those of the heads."""


class GaussianHead(nn.Module):
    """q(z | x) = Normal(loc, diag(scale²)) from features h: loc = W h + b, scale = softplus(V h + a) + 1e-4."""

    def __init__(self, num_features: int, latent_dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(num_features, 2 * latent_dim)

    def forward(self, h: Tensor) -> dist.TorchDistribution:
        # Under autocast the layers give low precision; densities keep the parameters' one.
        loc, raw_scale = self.linear(h).to(self.linear.weight.dtype).chunk(2, -1)
        return dist.Normal(loc, softplus(raw_scale) + MIN_SCALE).to_event(1)


class MLPLadderEncoder(LadderEncoder):
    """The ladder out of linear layers and ReLUs; any J ≥ 1 and any event shape.

        h_0 = relu(linear(x)),   h_j = relu(linear(h_{j-1})),   q(z_j | x) = head_j(h_j)

    All heads but the deepest start at zero, so that their q(z_j | x) is the same for every x: a facet that joins a
    trained ladder starts by saying nothing, and learns what the deeper ones left to say instead of repeating whatever
    the features hold.

    Args:
        facets: shallowest first.
        in_shape: event shape of the data.
        rung_dims: width of h_j, shallowest first; by default, as for MNIST in the paper, 2000 for the deepest and 500
            for the others.
    """

    def __init__(
        self, facets: Sequence[Facet], in_shape: Sequence[int], *, rung_dims: Sequence[int] | None = None
    ) -> None:
        super().__init__(facets, in_shape)
        dims = ladder_dims(self.facets, rung_dims, "rung_dims")
        below = (math.prod(self.in_shape), *dims)
        self.rungs = nn.ModuleList(mlp(pair) for pair in zip(below, dims, strict=False))
        self.heads = nn.ModuleList(GaussianHead(dim, f.latent_dim) for dim, f in zip(dims, self.facets, strict=True))
        for parameter in self.heads[:-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> list[dist.TorchDistribution]:
        h = x.flatten(-len(self.in_shape))
        posteriors = []
        for rung, head in zip(self.rungs, self.heads, strict=True):
            h = rung(h)
            posteriors.append(head(h))
        return posteriors

    def hidden_layers(self) -> Iterator[nn.Module]:
        yield from linear_layers(self.rungs)
