"""A decoder whose facets are linear combinations of the latents of the rungs."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from pyro_mfcvae.models.decoders import LadderDecoder
from pyro_mfcvae.networks import broadcast_batches


class RotatedDecoder(LadderDecoder):
    """Applies a ladder decoder to [z_0, …, z_{J-1}] inverse_axes, which is split again into the latents of the rungs.

    The buffer ``inverse_axes`` (D, D), where D is the sum of the D_j, is initially the identity. It is the inverse of
    the ``axes`` of a `RotatedEncoder`, so a change of the axes does not change the latents that the two ladders use.
    ``alpha`` weights rungs and not facets, so set the axes after all facets have joined.

    Args:
        ladder: the decoder.
    """

    inverse_axes: Tensor

    def __init__(self, ladder: LadderDecoder) -> None:
        super().__init__(ladder.facets, ladder.out_shape)
        self.ladder = ladder
        self.register_buffer("inverse_axes", torch.eye(sum(facet.latent_dim for facet in self.facets)))

    def forward(self, zs: Sequence[Tensor], alpha: Tensor) -> Tensor:
        z = torch.cat(broadcast_batches(zs), -1) @ self.inverse_axes
        output: Tensor = self.ladder(z.split([facet.latent_dim for facet in self.facets], -1), alpha)
        return output

    def hidden_layers(self) -> Iterator[nn.Module]:
        yield from self.ladder.hidden_layers()
