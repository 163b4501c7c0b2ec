"""An encoder whose facets are linear combinations of the latents of the rungs."""

from collections.abc import Iterator

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.guides.encoders import LadderEncoder
from pyro_mfcvae.networks import for_densities


class RotatedEncoder(LadderEncoder):
    """q(z_j | x) of a linear map of the ladder's latents: facet j is a slice of z axes, where z are the latents of all
    rungs.

        loc' = loc axes,   scale'² = scale² axes∘axes

    Here loc and scale (…, D) are those of the ladder, and D is the sum of the D_j. Only the diagonal of the mapped
    covariance is kept. This is exact for the identity, and a good approximation if axes is a rotation of latents that
    are measured in units of scale. The buffer ``axes`` (D, D), initially the identity, is set by
    `pyro_mfcvae.subspaces.repartition`, together with that of a `RotatedDecoder`.

    Args:
        ladder: an encoder whose q(z | x) is a Gaussian with a diagonal covariance.
    """

    axes: Tensor

    def __init__(self, ladder: LadderEncoder) -> None:
        super().__init__(ladder.facets, ladder.in_shape)
        if ladder.covariance != "diagonal":
            raise InputError(
                f"expected a ladder with a diagonal Gaussian q(z | x), got one with covariance={ladder.covariance!r}: "
                "choose networks.posterior=diagonal, or leave schedule.repartition_step out"
            )
        self.ladder = ladder
        self.register_buffer("axes", torch.eye(sum(facet.latent_dim for facet in self.facets)))

    def forward(self, x: Tensor) -> list[dist.TorchDistribution]:
        posteriors = self.ladder(x)
        axes = for_densities(self.axes)
        loc = torch.cat([posterior.mean for posterior in posteriors], -1) @ axes
        variance = torch.cat([posterior.variance for posterior in posteriors], -1) @ axes.square()
        sizes = [facet.latent_dim for facet in self.facets]
        return [
            dist.Normal(mean, scale).to_event(1)
            for mean, scale in zip(loc.split(sizes, -1), variance.sqrt().split(sizes, -1), strict=True)
        ]

    def hidden_layers(self) -> Iterator[nn.Module]:
        yield from self.ladder.hidden_layers()
