"""Search for the axes of one facet, or of three and more. Two facets have a search of their own, in `dims`."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from pyro_mfcvae.subspaces.score import SubspaceScore
from pyro_mfcvae.subspaces.search import BestRotation, Progress, draw_sizes, find_rotation, slices_of

Array = NDArray[np.float64]

_NUM_PAIR_TRIES = 8  # number of divisions that are tried for the axes of each pair of facets


def search_rotations(
    draws: Array,
    dims: Sequence[int],
    most_clusters: int,
    rng: np.random.Generator,
    *,
    num_tries: int,
    num_pair_tries: int = _NUM_PAIR_TRIES,
    on_progress: Progress | None = None,
) -> BestRotation:
    """The rotation that makes independent mixtures in the slices of ``dims`` the most likely, among those tried.

    Rotations of all axes are tried first. Then the axes of every two facets are divided between these two again, which
    is an easier search.

    Args:
        draws: one draw of q(z | x) for each item, in units of its standard deviation, (N, D).
        dims: D_j of each facet, of the sum D.
        most_clusters: largest number of components of a mixture.
        rng: draws rotations and numbers of clusters.
        num_tries: number of rotations of all axes.
        num_pair_tries: number of rotations of the axes of each pair of facets.
        on_progress: called after every rotation.

    Returns:
        The best one. Rotations that give every facet two components or more come first.
    """
    judge = SubspaceScore(draws, dims, most_clusters)
    most = min(most_clusters, len(judge.fit) // 2)
    best = BestRotation(np.eye(draws.shape[1]), sizes=(1,) * len(dims))
    slices = slices_of(dims)
    pairs = list(combinations(range(len(dims)), 2))
    num_done, num_in_all = 0, num_tries + num_pair_tries * len(pairs)

    def rotate(points: Array, dims: Sequence[int]) -> Array:
        return find_rotation(points, dims, draw_sizes(len(dims), most, rng), rng)

    def consider(rotation: Array) -> None:
        nonlocal best, num_done
        score, sizes = judge(rotation)
        best = max(best, BestRotation(rotation, score, tuple(sizes)), key=lambda found: found.key)
        num_done += 1
        if on_progress:
            on_progress("search for subspaces", num_done, num_in_all)

    for _ in range(num_tries):
        consider(rotate(judge.fit, dims))
    for a, b in pairs:
        for _ in range(num_pair_tries):
            rotation = best.rotation.copy()
            both = np.concatenate([rotation[:, slices[a]], rotation[:, slices[b]]], 1)
            turned = both @ rotate(judge.fit @ both, (dims[a], dims[b]))
            rotation[:, slices[a]], rotation[:, slices[b]] = turned[:, : dims[a]], turned[:, dims[a] :]
            consider(rotation)
    return best
