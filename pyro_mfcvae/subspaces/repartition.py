"""Repartition: choose again which axes of the joint z make up each facet.

In a ladder the depth of a facet decides what it learns. Facets may therefore repeat each other, even if other axes of
the joint z separate the characteristics. In the prior, facets are independent mixtures. So among invertible maps of z,
p(z) = |det A| prod_j mixture_j((zA)_j), the map with the highest likelihood is used: independent subspace analysis with
mixtures. Candidates come from the ladder's own axes and from `find_subspaces` with many numbers of clusters.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyro_mfcvae.guides.amortized import MultiFacetGuide
from pyro_mfcvae.guides.rotated import RotatedEncoder
from pyro_mfcvae.models.generative import MultiFacetModel
from pyro_mfcvae.models.rotated import RotatedDecoder
from pyro_mfcvae.subspaces.score import SubspaceScore
from pyro_mfcvae.subspaces.search import MOST_ITEMS, NUM_TRIES, draw_sizes, find_rotation, slices_of

Array = NDArray[np.float64]

_BATCH_SIZE = 1000  # number of items that are encoded at once

# Number of nats per item by which other axes must be better than the ladder's; otherwise the axes are not changed.
_MARGIN = 0.2

# Number of nats per item by which other axes may be worse if, on the ladder's axes, a facet has no clusters. Two
# characteristics in one facet and none in the other are as likely as one in each.
_CONCESSION = 0.5


@dataclass(frozen=True, eq=False)
class Axes:
    """Axes of the joint z, and how well mixtures fit on them.

    Attributes:
        matrix: z ↦ z matrix gives the facets' latents, one slice per facet, (D, D).
        score: held-out log-likelihood per item minus the cost of the components, in nats, in units of the standard
            deviation of q(z | x).
        ladder_score: the score of the ladder's own axes.
        sizes: best number of components for each facet's slice.
    """

    matrix: Array
    score: float
    ladder_score: float
    sizes: tuple[int, ...]


def choose_axes(
    loc: Array,
    scale: Array,
    dims: Sequence[int],
    *,
    most_clusters: int = 30,
    seed: int = 0,
    num_tries: int = NUM_TRIES,
) -> Axes | None:
    """Choose the axes on which independent mixtures of the given dimensions are most likely.

    z is measured in units of the root mean square of ``scale``, in which q(z | x) has the same width in all directions,
    also after a rotation. Mixtures are fitted to one half of the items (one draw of each q(z | x)) and scored on the
    other half.

    Args:
        loc: means of q(z | x), (N, D).
        scale: their standard deviations, (N, D).
        dims: D_j of each facet, with the sum D.
        most_clusters: largest number of clusters of any facet.
        seed: seed of the draws and of the starts.
        num_tries: number of rotations that are tried.

    Returns:
        None if the ladder's axes are equally good, or if no other axes give every facet at least two clusters. If a
        facet has no clusters on the ladder's axes, the new axes may be a little less likely.
    """
    rng = np.random.default_rng(seed)
    unit = np.sqrt((scale**2).mean(0))
    points = ((loc - loc.mean(0)) / unit)[rng.permutation(len(loc))[:MOST_ITEMS]]
    judge = SubspaceScore(points + rng.normal(size=points.shape), dims, most_clusters)
    ladder = np.eye(points.shape[1])
    ladder_score, ladder_sizes = judge(ladder)
    needed = ladder_score + (_MARGIN if min(ladder_sizes) > 1 else -_CONCESSION)
    most = min(most_clusters, len(judge.fit) // 2)
    best: Axes | None = None
    for n in range(num_tries):
        sizes = [max(2, int(k)) for k in rng.permutation(ladder_sizes)] if n < 2 else draw_sizes(len(dims), most, rng)
        rotation = find_rotation(judge.fit, dims, sizes, rng)
        score, found = judge(rotation)
        if min(found) > 1 and score > (needed if best is None else best.score):
            best = Axes(rotation, score, ladder_score, tuple(found))
    if best is None:
        return None
    rotation = _in_order(best.matrix, dims)
    return Axes(rotation / unit[:, None], best.score, ladder_score, best.sizes)


def _in_order(rotation: Array, dims: Sequence[int]) -> Array:
    """The rotation, with slices of equal dimensions in the order that changes the facets least."""
    from scipy.optimize import linear_sum_assignment

    slices = slices_of(dims)
    kept = np.array([[(rotation[old, new] ** 2).sum() for new in slices] for old in slices])
    kept[np.not_equal.outer(dims, dims)] = -1.0 - rotation.size  # only slices of equal dimension are exchanged
    order = linear_sum_assignment(kept, maximize=True)[1]
    return np.concatenate([rotation[:, slices[new]] for new in order], 1)


@torch.no_grad()
def repartition(model: MultiFacetModel, guide: MultiFacetGuide, x: Tensor, *, seed: int = 0) -> Axes | None:
    """Set the axes of a pair that has a `RotatedEncoder` and a `RotatedDecoder` to better ones, if there are any.

    Reconstructions do not change, except through the covariances of q(z | x). The mixtures must be fitted afterwards.

    Args:
        model: the model; the axes of its decoder are set in place.
        guide: the guide; the axes of its encoder are set in place.
        x: a few thousand items, (N, *event_shape).
        seed: see `choose_axes`.

    Returns:
        The axes, or None if nothing has changed.
    """
    encoder, decoder = guide.encoder, model.decoder
    if not isinstance(encoder, RotatedEncoder) or not isinstance(decoder, RotatedDecoder):
        return None
    parts = [encoder.ladder(guide.encoder_input(part)) for part in x.split(_BATCH_SIZE)]
    loc, scale = (
        torch.cat([torch.cat([getattr(q, moment) for q in part], -1) for part in parts]).double().cpu().numpy()
        for moment in ("mean", "stddev")
    )
    axes = choose_axes(
        loc,
        scale,
        [facet.latent_dim for facet in model.facets],
        most_clusters=max(facet.num_clusters for facet in model.facets),
        seed=seed,
    )
    if axes is not None:
        encoder.axes.copy_(torch.from_numpy(axes.matrix))
        decoder.inverse_axes.copy_(torch.from_numpy(np.linalg.inv(axes.matrix)))
    return axes
