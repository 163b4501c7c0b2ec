"""Ladder decoders: from all facets down to the parameters of p(x | z)."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

from torch import Tensor, nn

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.facets import Facet, check_facets
from pyro_mfcvae.networks import broadcast_batches, linear_layers, mlp


class LadderDecoder(nn.Module, ABC):
    """A decoder that starts at the deepest facet and merges each shallower one on the way down (Zhao et al. 2017).

    Args:
        facets: shallowest first.
        out_shape: event shape of the data, e.g. (channels, height, width).
    """

    def __init__(self, facets: Sequence[Facet], out_shape: Sequence[int]) -> None:
        super().__init__()
        self.facets = check_facets(facets)
        self.out_shape = tuple(out_shape)

    @abstractmethod
    def forward(self, zs: Sequence[Tensor], alpha: Tensor) -> Tensor:
        """Decode ``zs``, J tensors (…, D_j) whose batch shapes broadcast, to (…, *out_shape).

        ``alpha`` (J,) in [0, 1] multiplies each facet's contribution (Li et al. 2020, progressive VLAE).
        """

    @abstractmethod
    def hidden_layers(self) -> Iterator[nn.Module]:
        """The linear layers whose scale is free, in no particular order: all but those that give the output."""


class MLPLadderDecoder(LadderDecoder):
    """The ladder out of linear layers and ReLUs; any J ≥ 1 and any event shape.

        h       = backbone_{J-1}(alpha_{J-1} · rung_{J-1}(z_{J-1}))
        h       = backbone_j(h + merge_weight · alpha_j · rung_j(z_j)),   j = J-2, …, 0
        output  = linear(h)

    with rung_j: D_j → rung_dims[j], backbone_j: rung_dims[j] → rung_dims[j-1] for j ≥ 1 and → ``hidden_dim`` for j = 0.
    The defaults are the paper's MNIST decoder: rungs 500, 2000, backbone 500, 500, merge weight 0.1.

    Args:
        facets: shallowest first.
        out_shape: event shape of the data.
        rung_dims: width of each facet's rung, shallowest first; by default 2000 for the deepest and 500 for the others.
        hidden_dim: width of the last hidden layer.
        merge_weight: weight of a rung where it joins what comes from below.
    """

    def __init__(
        self,
        facets: Sequence[Facet],
        out_shape: Sequence[int],
        *,
        rung_dims: Sequence[int] | None = None,
        hidden_dim: int = 500,
        merge_weight: float = 0.1,
    ) -> None:
        super().__init__(facets, out_shape)
        dims = ladder_dims(self.facets, rung_dims, "rung_dims")
        self.merge_weight = merge_weight
        self.rungs = nn.ModuleList(mlp((f.latent_dim, dim)) for f, dim in zip(self.facets, dims, strict=True))
        self.backbone = nn.ModuleList(mlp((dim, below)) for dim, below in zip(dims, (hidden_dim, *dims), strict=False))
        self.output = nn.Linear(hidden_dim, math.prod(self.out_shape))

    def forward(self, zs: Sequence[Tensor], alpha: Tensor) -> Tensor:
        zs = broadcast_batches(zs)
        deepest = len(zs) - 1
        h = self.backbone[deepest](alpha[deepest] * self.rungs[deepest](zs[deepest]))
        for j in reversed(range(deepest)):
            h = self.backbone[j](h + self.merge_weight * alpha[j] * self.rungs[j](zs[j]))
        # Under autocast the layers give low precision; densities keep the parameters' one.
        output: Tensor = self.output(h).to(self.output.weight.dtype)
        return output.unflatten(-1, self.out_shape)

    def hidden_layers(self) -> Iterator[nn.Module]:
        yield from linear_layers(self.rungs)
        yield from linear_layers(self.backbone)


def ladder_dims(facets: Sequence[Facet], dims: Sequence[int] | None, name: str) -> tuple[int, ...]:
    """One width per facet: ``dims``, or the paper's 500, …, 500, 2000."""
    if dims is None:
        return (500,) * (len(facets) - 1) + (2000,)
    if len(dims) != len(facets):
        raise InputError(f"{name} must give one width per facet: expected {len(facets)}, got {len(dims)}")
    return tuple(dims)
