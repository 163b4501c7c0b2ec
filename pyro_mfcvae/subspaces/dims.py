"""Division of the dimensions of z among facets: how many each facet gets, and which."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.subspaces.score import SubspaceScore
from pyro_mfcvae.subspaces.search import (
    BestRotation,
    Progress,
    divisions,
    draw_sizes,
    find_rotation,
    order_axes,
    principal_axes,
)
from pyro_mfcvae.subspaces.several import search_rotations

Array = NDArray[np.float64]

_NUM_TRIES = 12  # number of rotations that are tried for each division
# The same for three facets or more, and for each pair of them.
_NUM_TRIES_OF_SEVERAL, _NUM_PAIR_TRIES = 8, 4
_NUM_ROUNDS = 2  # number of times that the best rotation of every division is tried for the other divisions

# Number of nats per item by which unequal divisions must be better than the equal one. If the items have fewer
# directions than z has dimensions, all divisions are equally likely, and their scores differ by less.
_MARGIN = 0.15


@dataclass(frozen=True)
class Gain:
    """By how much one model of the items is better than another one.

    Attributes:
        nats: mean difference of the held-out log-likelihoods, each less the cost of its components, per item.
        error: standard error of the mean.
    """

    nats: float
    error: float


@dataclass(frozen=True, eq=False)
class Division:
    """Dimensions of the facets, and the models of the items that were compared.

    Attributes:
        dims: D_j of each facet, in ascending order.
        found: for each division, the rotation under which one mixture per facet is most likely; empty if there is only
            one division.
        joint: held-out log-likelihood of a single mixture in all dimensions, with as many components as one facet may
            have, less their cost, in nats per item.
        joint_size: number of components of this mixture.
        mean: mean of the items, (P,).
        components: principal components in units of the scale, (P, D).
    """

    dims: tuple[int, ...]
    found: Mapping[tuple[int, ...], BestRotation] = field(default_factory=dict)
    joint: float = -math.inf
    joint_size: int = 1
    mean: Array | None = None
    components: Array | None = None

    @property
    def one_may_be_better(self) -> bool:
        """Whether the single mixture was more likely than independent ones under every division."""
        return bool(self.found) and self.joint > max(best.score for best in self.found.values())

    def gain_of_one(self, items: Array, *, most_clusters: int, seed: int = 0) -> Gain:
        """By how much a single mixture is better than independent ones under the best division and rotation found.

        All mixtures are fitted again, to a random half of these items, and compared on the other half.

        Args:
            items: (N, P), without missing elements; there may be more of them than the search used.
            most_clusters: largest number of clusters of a facet.
            seed: seed of the draws of q(z | x).
        """
        if self.mean is None or self.components is None:
            raise InputError("expected a division that was searched for, got one without a choice: call divide_dims")
        dims, best = max(self.found.items(), key=lambda pair: pair[1].score)
        points = (items - self.mean) @ self.components
        draws = points + np.random.default_rng(seed).normal(size=points.shape)
        all_dims, axes = (draws.shape[1],), np.eye(draws.shape[1])
        one, _ = SubspaceScore(draws, all_dims, most_clusters).of_points(axes)
        several, _ = SubspaceScore(draws, dims, most_clusters).of_points(best.rotation)
        gains = one - several
        return Gain(float(gains.mean()), float(gains.std(ddof=1) / math.sqrt(len(gains))))


def search_divisions(
    draws: Array,
    candidates: Collection[tuple[int, ...]],
    most_clusters: int,
    rng: np.random.Generator,
    *,
    num_tries: int = _NUM_TRIES,
    on_progress: Progress | None = None,
) -> dict[tuple[int, ...], BestRotation]:
    """For each division of the dimensions, find the rotation under which two independent mixtures are most likely.

    Random rotations are tried for every division. Then the axes of the best rotation of each division are sorted by the
    facet whose clusters they separate. The sorted axes are cut, from either end, at the dimensions of each other
    division, and the result is kept if it is better there. So a division whose own random rotations were poor can use
    those of another division.

    Args:
        draws: one draw of q(z | x) for each item, in units of its standard deviation, (N, D).
        candidates: pairs of dimensions D_0 and D_1 of the two facets, with the sum D.
        most_clusters: largest number of components of a mixture.
        rng: random generator of rotations and numbers of clusters.
        num_tries: number of random rotations for each division.
        on_progress: called after every random rotation that is tried.

    Returns:
        One result per candidate. Rotations that give both facets two components or more are preferred.
    """
    found = {dims: BestRotation(np.eye(draws.shape[1])) for dims in sorted(candidates)}
    judges = {dims: SubspaceScore(draws, dims, most_clusters) for dims in found}

    def consider(dims: tuple[int, ...], rotation: Array) -> None:
        score, sizes = judges[dims](rotation)
        found[dims] = max(found[dims], BestRotation(rotation, score, tuple(sizes)), key=lambda best: best.key)

    for n in range(num_tries):
        for m, (dims, judge) in enumerate(judges.items(), 1):
            most = min(most_clusters, len(judge.fit) // 2)
            consider(dims, find_rotation(judge.fit, dims, draw_sizes(2, most, rng), rng))
            if on_progress:
                on_progress("search for subspaces", n * len(judges) + m, num_tries * len(judges))
    for dims in _NUM_ROUNDS * list(found):
        best = found[dims]
        axes = order_axes(judges[dims].fit, best.rotation, dims, best.sizes)
        for other in found:
            if other != dims:
                consider(other, axes)
                consider(other, axes[:, ::-1])
    return found


def divide_dims(
    items: Array, num_dims: int, num_facets: int = 2, *, scale: float, most_clusters: int, seed: int = 0
) -> Division:
    """Divide a number of dimensions among facets.

    Two facets get equal shares, or the first gets a quarter of the dimensions. Three or more get equal shares, or
    shares in the proportion 1 : 2 : 3 …. Shares are equal unless independent mixtures are more likely under an unequal
    division, by 0.15 nats per item or more; see `search_divisions` and `search_rotations`. A characteristic with few
    values, such as four directions of a gaze, needs few dimensions. With more dimensions, its facet also describes
    parts of other characteristics.

    Args:
        items: (N, P), without missing elements.
        num_dims: sum of the dimensions of all facets, at least ``num_facets``.
        num_facets: 2 or more.
        scale: standard deviation of the likelihood, in the unit of the items.
        most_clusters: largest number of clusters of a facet.
        seed: seed of the search.

    Returns:
        The division, and what was compared.
    """
    candidates = divisions(num_dims, num_facets)
    if len(candidates) == 1:
        return Division(candidates[0])
    rng = np.random.default_rng(seed)
    mean, components = principal_axes(items, num_dims, scale=scale, seed=seed)
    points = (items - mean) @ components
    draws = points + rng.normal(size=points.shape)
    if num_facets == 2:
        found = search_divisions(draws, candidates, most_clusters, rng)
    else:
        found = {
            dims: search_rotations(
                draws,
                dims,
                most_clusters,
                rng,
                num_tries=_NUM_TRIES_OF_SEVERAL,
                num_pair_tries=_NUM_PAIR_TRIES,
            )
            for dims in candidates
        }
    equal, *unequal = candidates
    gain = max(found[dims].score for dims in unequal) - found[equal].score
    dims = unequal[-1] if gain > _MARGIN else equal
    joint, (joint_size,) = SubspaceScore(draws, (num_dims,), most_clusters)(np.eye(num_dims))
    return Division(dims, found, joint, joint_size, mean, components)
