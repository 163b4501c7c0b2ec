"""Ladder encoders, which map x to q(z_j | x) with one rung per facet."""

import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import cast

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_mfcvae.convolutions import Pyramid, ResidualBlock, down, recomputed, shrink
from pyro_mfcvae.errors import InputError
from pyro_mfcvae.facets import Facet, check_facets
from pyro_mfcvae.guides.posteriors import GaussianHead, PosteriorHead
from pyro_mfcvae.models.decoders import ladder_dims
from pyro_mfcvae.models.mixtures import PosteriorCovariance
from pyro_mfcvae.networks import AbstractModule, mlp, weight_layers

MakeHead = Callable[[int, int], PosteriorHead]
"""Maps (number of features, latent dimension) to the head of a facet: a class, or `functools.partial` of a class."""


class LadderEncoder(AbstractModule):
    """An encoder with a sequence of rungs, each computed from the one before, starting at x. Facet j reads rung j (Zhao
    et al. 2017).

    Args:
        facets: shallowest first.
        in_shape: event shape of the data, e.g. (channels, height, width).
    """

    covariance: PosteriorCovariance | None = "diagonal"
    """Shape of the covariance of every q(z_j | x); None if q(z_j | x) is not Gaussian."""

    def __init__(self, facets: Sequence[Facet], in_shape: Sequence[int]) -> None:
        super().__init__()
        self.facets = check_facets(facets)
        self.in_shape = tuple(in_shape)

    @abstractmethod
    def forward(self, x: Tensor) -> list[dist.TorchDistribution]:
        """q(z_j | x) for x (…, *in_shape), shallowest first: batch shape (…), event shape (D_j,)."""

    @abstractmethod
    def hidden_layers(self) -> Iterator[nn.Module]:
        """All linear and convolutional layers except the heads, in any order. These layers may be rescaled."""


class MLPLadderEncoder(LadderEncoder):
    """A ladder of linear layers and ReLUs; any J ≥ 1 and any event shape.

        h_0 = relu(linear(x)),   h_j = relu(linear(h_{j-1})),   q(z_j | x) = head_j(h_j)

    Args:
        facets: shallowest first.
        in_shape: event shape of the data.
        rung_dims: width of h_j, shallowest first; by default, as for MNIST in the paper, 2000 for the deepest and 500
            for the others.
        head_init_scale: see `scale_head_init`.
        head: makes the family of q(z_j | x), see `pyro_mfcvae.guides.posteriors`.
    """

    def __init__(
        self,
        facets: Sequence[Facet],
        in_shape: Sequence[int],
        *,
        rung_dims: Sequence[int] | None = None,
        head_init_scale: float = 0.0,
        head: MakeHead = GaussianHead,
    ) -> None:
        super().__init__(facets, in_shape)
        dims = ladder_dims(self.facets, rung_dims, "rung_dims")
        below = (math.prod(self.in_shape), *dims)
        self.rungs = nn.ModuleList(mlp(pair) for pair in zip(below, dims, strict=False))
        self.heads = nn.ModuleList(head(dim, f.latent_dim) for dim, f in zip(dims, self.facets, strict=True))
        self.covariance = _covariance(self.heads)
        scale_head_init(self.heads, head_init_scale)

    def forward(self, x: Tensor) -> list[dist.TorchDistribution]:
        h = x.flatten(-len(self.in_shape))
        posteriors = []
        for rung, head in zip(self.rungs, self.heads, strict=True):
            h = rung(h)
            posteriors.append(head(h))
        return posteriors

    def hidden_layers(self) -> Iterator[nn.Module]:
        yield from weight_layers(self.rungs)


class ConvLadderEncoder(LadderEncoder):
    """A ladder of strided convolutions with batch norm and ELU (Li et al. 2020); any J ≥ 1, images of any size.

        h_l = down(h_{l-1}),   h_0 = x,   q(z_j | x) = head_j(shrink_j(h_{l(j)}))

    The maps h_l and the levels l(j) are those of a `Pyramid`. shrink_j are convolutions of facet j that reduce the map
    to 4 pixels on its shorter side.

    Args:
        facets: shallowest first.
        in_shape: event shape of the data, (channels, height, width).
        channels: numbers of channels of h_1, h_2, …; the last number also holds for all further maps.
        num_residual_blocks: number of `ResidualBlock`s after every down(h), ≥ 0.
        head_init_scale: see `scale_head_init`.
        head: makes the family of q(z_j | x), see `pyro_mfcvae.guides.posteriors`.
        recompute: keep only the maps h_1, h_2, … for the backward pass, and compute the layers between them again
            there.
    """

    def __init__(
        self,
        facets: Sequence[Facet],
        in_shape: Sequence[int],
        *,
        channels: Sequence[int] = (64, 128, 256),
        num_residual_blocks: int = 0,
        head_init_scale: float = 0.0,
        head: MakeHead = GaussianHead,
        recompute: bool = False,
    ) -> None:
        super().__init__(facets, in_shape)
        self.recompute = recompute
        self.pyramid = Pyramid.build(self.in_shape, len(self.facets), channels=channels)
        shapes = self.pyramid.shapes
        self.levels = nn.ModuleList(
            nn.Sequential(
                down(above[0], shape[0], halve=self.pyramid.halves(level)),
                *(ResidualBlock(shape[0]) for _ in range(num_residual_blocks)),
            )
            for level, (above, shape) in enumerate(pairwise(shapes), start=1)
        )
        rungs, num_features = zip(*(shrink(shapes[level]) for level in self.pyramid.rungs), strict=True)
        self.rungs = nn.ModuleList(rungs)
        self.heads = nn.ModuleList(head(num, f.latent_dim) for num, f in zip(num_features, self.facets, strict=True))
        self.covariance = _covariance(self.heads)
        scale_head_init(self.heads, head_init_scale)

    def forward(self, x: Tensor) -> list[dist.TorchDistribution]:
        batch_shape = x.shape[: -len(self.in_shape)]
        maps = [x.reshape(-1, *self.in_shape)]  # convolutions accept only one batch dimension
        for level in self.levels:
            maps.append(recomputed(level, maps[-1]) if self.recompute else level(maps[-1]))
        return [
            head((h := rung(maps[level])).reshape(*batch_shape, *h.shape[1:]))
            for level, rung, head in zip(self.pyramid.rungs, self.rungs, self.heads, strict=True)
        ]

    def hidden_layers(self) -> Iterator[nn.Module]:
        yield from weight_layers(self.levels)
        yield from weight_layers(self.rungs)


class SeparateEncoder(LadderEncoder):
    """One encoder per facet instead of a ladder: q(z_j | x) = encoders[j](x).

    Args:
        encoders: one encoder per facet, shallowest first, all with the same in_shape and the same family of q(z | x).
    """

    def __init__(self, encoders: Sequence[LadderEncoder]) -> None:
        if any(len(encoder.facets) != 1 for encoder in encoders):
            found = ", ".join(str(len(encoder.facets)) for encoder in encoders)
            raise InputError(
                f"expected encoders of one facet each, got encoders of {found}: make one encoder per facet, such as "
                "MLPLadderEncoder([facet], in_shape)"
            )
        kinds = {(encoder.in_shape, encoder.covariance) for encoder in encoders}
        if len(kinds) > 1:
            raise InputError(
                "expected encoders of the same in_shape and family of q(z | x), got "
                + " and ".join(sorted(f"{shape} with {covariance or 'a flow'}" for shape, covariance in kinds))
                + ": build all encoders in the same way"
            )
        super().__init__([encoder.facets[0] for encoder in encoders], encoders[0].in_shape)
        self.encoders = nn.ModuleList(encoders)
        self.covariance = encoders[0].covariance

    def forward(self, x: Tensor) -> list[dist.TorchDistribution]:
        return [encoder(x)[0] for encoder in self._list()]

    def hidden_layers(self) -> Iterator[nn.Module]:
        for encoder in self._list():
            yield from encoder.hidden_layers()

    def _list(self) -> list[LadderEncoder]:
        return cast(list[LadderEncoder], list(self.encoders))


def _covariance(heads: nn.ModuleList) -> PosteriorCovariance | None:
    return cast(PosteriorHead, heads[0]).covariance


@torch.no_grad()
def scale_head_init(heads: nn.ModuleList, gain: float) -> None:
    """Multiply the initial weights of all heads except the deepest by ``gain`` ≥ 0, in place.

    With 0 their q(z_j | x) is the same for every x. So a facet that joins a trained ladder starts without information
    about x. It then learns what the deeper facets do not encode, instead of repeating their information. With 1 the
    heads start like other linear layers.
    """
    if gain < 0:
        raise InputError(f"expected head_init_scale ≥ 0, got {gain}: pass 0 or more")
    for head in list(heads)[:-1]:
        for parameter in cast(PosteriorHead, head).linear.parameters():
            parameter.mul_(gain)
