"""Parts that the convolutional encoder and decoder share: sizes of the feature maps, and blocks between them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import get_proxy_mode
from torch.utils.checkpoint import checkpoint

from pyro_mfcvae.errors import InputError

# The shorter side of a map never has fewer pixels than this.
_MIN_SIDE = 3

# Facets read maps whose shorter side has at least this many pixels; if there are many facets, they also read smaller
# maps.
_USUAL_SIDE = 8


@dataclass(frozen=True)
class Pyramid:
    """Shapes of the feature maps of a convolutional ladder, from the image (level 0) to the deepest facet's map.

    The size of the image is halved, rounding down, until its shorter side is at most 8 pixels. If there are more facets
    than levels, halving goes on down to 3 pixels, and further levels keep the last size. With L levels, facet j of J
    reads level (j+1) L // J. For example, two facets read the maps of 16 × 16 and 8 × 8 pixels of a 32 × 32 image, as
    in Falck et al. 2021.

    Attributes:
        shapes: (channels, height, width) of every level.
        rungs: the level of every facet, shallowest first; the last is the deepest level.
    """

    shapes: tuple[tuple[int, int, int], ...]
    rungs: tuple[int, ...]

    @classmethod
    def build(cls, image_shape: Sequence[int], num_facets: int, *, channels: Sequence[int]) -> "Pyramid":
        """The pyramid over images of a shape.

        Args:
            image_shape: (C, H, W).
            num_facets: J ≥ 1.
            channels: numbers of channels of levels 1, 2, …; the last number also holds for all deeper levels.

        Raises:
            InputError: the items are not images, the images are too small, or there are no channels.
        """
        if len(image_shape) != 3 or min(image_shape[1:]) < 2 * _MIN_SIDE:
            raise InputError(
                "expected images (channels, height, width) for a convolutional ladder, of at least "
                f"{2 * _MIN_SIDE} × {2 * _MIN_SIDE} pixels, got the event shape {tuple(image_shape)}: use an MLP ladder"
            )
        if not channels or min(channels) < 1:
            raise InputError(f"expected numbers ≥ 1 in channels, at least one, got {tuple(channels)}: give one per map")
        num_channels, height, width = image_shape
        sizes = [(height, width)]
        while min(sizes[-1]) > _USUAL_SIDE or (len(sizes) <= num_facets and min(sizes[-1]) >= 2 * _MIN_SIDE):
            sizes.append((sizes[-1][0] // 2, sizes[-1][1] // 2))
        sizes += [sizes[-1]] * (num_facets + 1 - len(sizes))
        num_levels = len(sizes) - 1
        depths = (num_channels, *(channels[min(level, len(channels) - 1)] for level in range(num_levels)))
        return cls(
            shapes=tuple((depth, *size) for depth, size in zip(depths, sizes, strict=True)),
            rungs=tuple((j + 1) * num_levels // num_facets for j in range(num_facets)),
        )

    def halves(self, level: int) -> bool:
        """Whether a level ≥ 1 has half the size of the level before it; if not, it has the same size."""
        return self.shapes[level][1:] != self.shapes[level - 1][1:]


class ResidualBlock(nn.Module):
    """h ↦ elu(h + bn(conv(elu(bn(conv(h)))))) (He et al. 2016): 3 × 3 to half the channels, and 1 × 1 back.

    The residual stacks of van den Oord et al. 2017 have the same form. The cost of a block is less than a third of that
    of two 3 × 3 convolutions.
    """

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        num_within = max(num_channels // 2, 1)
        self.block = nn.Sequential(
            *down(num_channels, num_within, halve=False),
            nn.Conv2d(num_within, num_channels, 1),
            nn.BatchNorm2d(num_channels),
        )

    def forward(self, h: Tensor) -> Tensor:
        return nn.functional.elu(h + self.block(h))


def down(num_in: int, num_out: int, *, halve: bool = True) -> nn.Sequential:
    """Convolution, batch norm and ELU: a 4 × 4 kernel that halves the size of a map, rounding down, or a 3 × 3 kernel
    that keeps it.
    """
    conv = nn.Conv2d(num_in, num_out, 4, stride=2, padding=1) if halve else nn.Conv2d(num_in, num_out, 3, padding=1)
    return nn.Sequential(conv, nn.BatchNorm2d(num_out), nn.ELU())


def up(num_in: int, num_out: int, *, size: Sequence[int], to: Sequence[int]) -> nn.ConvTranspose2d:
    """The transposed convolution that undoes the change of size by `down`: from maps of ``size`` (H, W) to maps of size
    ``to``.
    """
    if tuple(size) == tuple(to):
        return nn.ConvTranspose2d(num_in, num_out, 3, padding=1)
    odd = (to[0] - 2 * size[0], to[1] - 2 * size[1])
    return nn.ConvTranspose2d(num_in, num_out, 4, stride=2, padding=1, output_padding=odd)


def shrink(shape: Sequence[int]) -> tuple[nn.Sequential, int]:
    """Blocks that halve maps (C, H, W) until their shorter side is at most 4 pixels, then flatten them.

    Returns:
        The module, and the number of features that it gives.
    """
    num_channels, *size = shape
    blocks: list[nn.Module] = []
    while min(size) > 4:
        blocks.append(down(num_channels, num_channels))
        size = [side // 2 for side in size]
    return nn.Sequential(*blocks, nn.Flatten()), num_channels * size[0] * size[1]


def recomputed(block: nn.Module, h: Tensor) -> Tensor:
    """Return block(h); its inner maps are not kept but computed again in the backward pass (Chen et al. 2016).

    While operations are traced, the block is called as usual, because the compiler decides which maps are kept.
    """
    if not torch.is_grad_enabled() or get_proxy_mode() is not None:
        return block(h)
    contexts = nullcontext(), _without_statistics(block)
    # A block draws no random numbers, so the random state does not have to be kept.
    result: Tensor = checkpoint(block, h, use_reentrant=False, preserve_rng_state=False, context_fn=lambda: contexts)
    return result


@contextmanager
def _without_statistics(block: nn.Module) -> Iterator[None]:
    """Context in which batch norm normalises as usual but does not update its running statistics a second time."""
    norms = [module for module in block.modules() if isinstance(module, nn.BatchNorm2d) and module.training]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, num_batches) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, num_batches
