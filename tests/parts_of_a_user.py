"""Custom parts as a user might write them, one of each kind."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pyro_mfcvae import Facet
from pyro_mfcvae.guides import LadderEncoder, MLPLadderEncoder, MonteCarloAssignment
from pyro_mfcvae.models import BernoulliLikelihood, LadderDecoder, MixturePrior, MLPLadderDecoder, VampPrior


class MyPrior(MixturePrior):
    pass


class MyLikelihood(BernoulliLikelihood):
    pass


class MyRule(MonteCarloAssignment):
    pass


def my_vamp(facet: Facet, *, encoder: LadderEncoder, j: int, gain: float = 1.0) -> VampPrior:
    pseudo_inputs = torch.full((facet.num_clusters, *encoder.in_shape), gain)
    return VampPrior(facet, encoder=encoder, j=j, pseudo_inputs=pseudo_inputs)


def my_ladder(facets: Sequence[Facet], event_shape: Sequence[int]) -> tuple[LadderEncoder, LadderDecoder]:
    return MLPLadderEncoder(facets, event_shape, rung_dims=[7, 7]), MLPLadderDecoder(
        facets, event_shape, rung_dims=[7, 7]
    )


def darkest(images: Tensor) -> Tensor:
    return images.flatten(-3).min(-1).values


def per_channel(images: Tensor) -> Tensor:
    return images.mean((-1, -2))
