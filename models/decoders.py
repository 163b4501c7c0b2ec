"""Ladder decoders, which map the latents of all facets to the parameters of p(x | z)."""

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from pyro_mfcvae.convolutions import Pyramid, ResidualBlock, recomputed, up
from pyro_mfcvae.errors import InputError
from pyro_mfcvae.facets import Facet, check_facets
from pyro_mfcvae.networks import AbstractModule, broadcast_batches, mlp, weight_layers


class LadderDecoder(AbstractModule):
    """A decoder that starts at the deepest facet and then merges one shallower facet after the other (Zhao et al.
    2017).

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
        """Decode ``zs``, J tensors (…, D_j) with batch shapes that broadcast, to a tensor (…, *out_shape).

        ``alpha`` (J,) in [0, 1] multiplies each facet's contribution (Li et al. 2020, progressive VLAE).
        """

    @abstractmethod
    def hidden_layers(self) -> Iterator[nn.Module]:
        """All linear and convolutional layers except the output layer, in no particular order.

        These layers may be rescaled.
        """


class MLPLadderDecoder(LadderDecoder):
    """A ladder of linear layers and ReLUs; any J ≥ 1 and any event shape.

        h       = backbone_{J-1}(alpha_{J-1} · rung_{J-1}(z_{J-1}))
        h       = backbone_j(h + merge_weight · alpha_j · rung_j(z_j)),   j = J-2, …, 0
        output  = linear(h)

    Here rung_j maps D_j to rung_dims[j] dimensions, and backbone_j maps rung_dims[j] to rung_dims[j-1] dimensions for j
    ≥ 1 and to ``hidden_dim`` for j = 0. The defaults give the paper's MNIST decoder: rungs 500 and 2000, backbone 500
    and 500, merge weight 0.1.

    Args:
        facets: shallowest first.
        out_shape: event shape of the data.
        rung_dims: width of each facet's rung, shallowest first; by default 2000 for the deepest and 500 for the others.
        hidden_dim: width of the last hidden layer.
        merge_weight: weight of a rung when it is added to the hidden layer of the deeper facets.
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
        # Autocast gives low precision, but densities are computed in the precision of the parameters.
        output: Tensor = self.output(h).to(self.output.weight.dtype)
        return output.unflatten(-1, self.out_shape)

    def hidden_layers(self) -> Iterator[nn.Module]:
        yield from weight_layers(self.rungs)
        yield from weight_layers(self.backbone)


class ConvLadderDecoder(LadderDecoder):
    """A ladder of transposed convolutions with batch norm and ELU (Li et al. 2020); any J ≥ 1, any image size.

        h_L     = alpha_{J-1} · rung_{J-1}(z_{J-1})
        h_{l-1} = up(h_l),   where l is the level of a shallower facet j: h_{l-1} = up([h_l, alpha_j · rung_j(z_j)])
        output  = h_0

    The maps h_l and the levels of the facets are those of a `Pyramid`; rung_j is a linear layer from z_j to a map of
    its level. The last up is linear. Without residual blocks, the shallowest facet can only add to the image that the
    other facets make. With residual blocks it can also change that image, for example draw an object over a background
    whose colour depends on a deeper facet. With gates, h_l · (1 + alpha_j · gate_j(z_j)) replaces h_l at the level of
    facet j (FiLM; Perez et al. 2018), so the network does not have to learn products of facets. Gates are linear layers
    that are initialised at zero.

    Args:
        facets: shallowest first.
        out_shape: event shape of the data, (channels, height, width).
        channels: numbers of channels of h_1, h_2, …; the last number also holds for all further maps.
        num_residual_blocks: number of `ResidualBlock`s on every map, ≥ 0; they come after a facet is merged and before
            up.
        gated: give every facet except the deepest a gate.
        recompute: keep only the maps h_l for the backward pass, and compute the layers between them again there.
    """

    def __init__(
        self,
        facets: Sequence[Facet],
        out_shape: Sequence[int],
        *,
        channels: Sequence[int] = (64, 128, 256),
        num_residual_blocks: int = 0,
        gated: bool = False,
        recompute: bool = False,
    ) -> None:
        super().__init__(facets, out_shape)
        self.recompute = recompute
        self.pyramid = Pyramid.build(self.out_shape, len(self.facets), channels=channels)
        shapes, levels = self.pyramid.shapes, self.pyramid.rungs
        self.rungs = nn.ModuleList(_conv_rung(f, shapes[level]) for f, level in zip(self.facets, levels, strict=True))
        joining = zip(self.facets, levels[:-1], strict=False)
        self.gates = nn.ModuleDict({str(level): _gate(f, shapes[level]) for f, level in joining} if gated else {})
        steps: list[nn.Module] = []
        for level, (above, shape) in enumerate(pairwise(shapes), start=1):
            num_in = shape[0] * (2 if level in levels[:-1] else 1)
            step: list[nn.Module] = [ResidualBlock(num_in) for _ in range(num_residual_blocks)]
            step.append(up(num_in, above[0], size=shape[1:], to=above[1:]))
            if level > 1:
                step += [nn.BatchNorm2d(above[0]), nn.ELU()]
            steps.append(nn.Sequential(*step))
        self.steps = nn.ModuleList(steps)  # steps[l - 1] maps level l to level l - 1

    def forward(self, zs: Sequence[Tensor], alpha: Tensor) -> Tensor:
        zs = broadcast_batches(zs)
        batch_shape = zs[0].shape[:-1]
        # Convolutions take one batch dimension.
        flat = [z.reshape(-1, z.shape[-1]) for z in zs]
        h = alpha[-1] * self.rungs[-1](flat[-1])
        joining = {level: j for j, level in enumerate(self.pyramid.rungs[:-1])}
        for level in range(len(self.steps), 0, -1):
            if level in joining:
                j = joining[level]
                below = h * (1 + alpha[j] * self.gates[str(level)](flat[j])) if self.gates else h
                h = torch.cat([below, alpha[j] * self.rungs[j](flat[j])], 1)
            step = self.steps[level - 1]
            h = recomputed(step, h) if self.recompute else step(h)
        # Autocast gives low precision, but densities are computed in the precision of the parameters.
        return h.to(alpha.dtype).reshape(*batch_shape, *h.shape[1:])

    def hidden_layers(self) -> Iterator[nn.Module]:
        yield from weight_layers(self.rungs)
        output = self.steps[0][-1]  # type: ignore[index]
        yield from (layer for layer in weight_layers(self.steps) if layer is not output)


def _conv_rung(facet: Facet, shape: Sequence[int]) -> nn.Sequential:
    num_channels = shape[0]
    return nn.Sequential(
        nn.Linear(facet.latent_dim, math.prod(shape)),
        nn.Unflatten(-1, tuple(shape)),
        nn.BatchNorm2d(num_channels),
        nn.ELU(),
    )


def _gate(facet: Facet, shape: Sequence[int]) -> nn.Sequential:
    linear = nn.Linear(facet.latent_dim, math.prod(shape))
    nn.init.zeros_(linear.weight)
    nn.init.zeros_(linear.bias)
    return nn.Sequential(linear, nn.Unflatten(-1, tuple(shape)))


def ladder_dims(facets: Sequence[Facet], dims: Sequence[int] | None, name: str) -> tuple[int, ...]:
    """One width per facet: ``dims``, or by default the paper's 500, …, 500, 2000."""
    if dims is None:
        return (500,) * (len(facets) - 1) + (2000,)
    if len(dims) != len(facets):
        raise InputError(
            f"expected one width per facet in {name}, {len(facets)} in all, got {len(dims)}: pass one per facet"
        )
    return tuple(dims)
