"""The search for the subspaces of facets: how many rotations are tried, on how many items, with how many clusters."""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from pyro_mfcvae.subspaces.kmeans import find_subspaces

Array = NDArray[np.float64]

NUM_TRIES = 30
"""Number of rotations that are tried."""

MOST_ITEMS = 3000
"""Number of items that a search uses at most."""

# Number of starts of each rotation, and of items that it is found on.
_NUM_STARTS = 2
_NUM_POINTS = 1000

_MOST_CLUSTERS = 12  # the search gives a subspace at most this many


def draw_sizes(num: int, most_clusters: int, rng: np.random.Generator) -> list[int]:
    """Numbers of clusters for ``num`` subspaces, log-uniform from 2 to ``most_clusters`` or 12 if that is less."""
    most = max(min(_MOST_CLUSTERS, most_clusters), 2)
    return [int(k) for k in np.exp(rng.uniform(math.log(2), math.log(most + 1), num))]


def find_rotation(points: Array, dims: Sequence[int], sizes: Sequence[int], rng: np.random.Generator) -> Array:
    """The better of two starts of `find_subspaces` on the first 1,000 points (N, D), a rotation (D, D)."""
    starts = [find_subspaces(points[:_NUM_POINTS], dims, sizes, rng) for _ in range(_NUM_STARTS)]
    return min(starts, key=lambda start: start[1])[0]


def slices_of(dims: Sequence[int]) -> list[slice]:
    """The slice of each facet in the joint z, for D_j dimensions of facet j."""
    ends = np.cumsum(dims)
    return [slice(end - dim, end) for end, dim in zip(ends, dims, strict=True)]
