"""Settings and helpers of the search for subspaces: numbers of rotations, items and clusters."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pyro_mfcvae.subspaces.kmeans import find_subspaces, scatter_around

Array = NDArray[np.float64]

Progress = Callable[[str, int, int], None]
"""Called with the name of a task, the number of its finished parts, and the number of all its parts."""

NUM_TRIES = 30
"""Number of rotations that are tried."""

MOST_ITEMS = 3000
"""Number of items that a search uses at most; see `most_items`."""

MOST_COMPARED = 10_000
"""Number of items on which models are compared at most; a comparison needs one fit, and a search many."""

_MOST_ELEMENTS, _FEWEST_ITEMS = 10**8, 500  # elements of all items together: 0.8 GB in double precision

# Number of starts for each rotation, and of items that it is computed from.
_NUM_STARTS = 2
_NUM_POINTS = 1000

_FEWEST_DIMS = 2  # smallest dimension of a facet in an unequal division

_MOST_CLUSTERS = 12  # largest number of clusters of a subspace in the search


@dataclass(frozen=True, eq=False)
class BestRotation:
    """The best rotation found for given dimensions of the facets.

    Attributes:
        rotation: (D, D).
        score: held-out log-likelihood per item less the cost of the components, in nats.
        sizes: best number of components of each slice.
    """

    rotation: Array
    score: float = -np.inf
    sizes: tuple[int, ...] = (1, 1)

    @property
    def key(self) -> tuple[bool, float]:
        """What makes a rotation better: first two components or more in every slice, then the score."""
        return min(self.sizes) > 1, self.score


def most_items(num_elements: int, *, most: int = MOST_ITEMS) -> int:
    """The largest number of items with ``num_elements`` elements that a search reads: ``most``, or fewer if items are
    large, to limit the memory.
    """
    return min(most, max(_MOST_ELEMENTS // num_elements, _FEWEST_ITEMS))


def draw_sizes(num: int, most_clusters: int, rng: np.random.Generator) -> list[int]:
    """Draw numbers of clusters for ``num`` subspaces, log-uniform from 2 to the smaller of ``most_clusters`` and 12."""
    most = max(min(_MOST_CLUSTERS, most_clusters), 2)
    return [int(k) for k in np.exp(rng.uniform(math.log(2), math.log(most + 1), num))]


def find_rotation(points: Array, dims: Sequence[int], sizes: Sequence[int], rng: np.random.Generator) -> Array:
    """The better of two starts of `find_subspaces` on the first 1,000 points (N, D), a rotation (D, D)."""
    starts = [find_subspaces(points[:_NUM_POINTS], dims, sizes, rng) for _ in range(_NUM_STARTS)]
    return min(starts, key=lambda start: start[1])[0]


def divisions(num_dims: int, num_facets: int = 2) -> list[tuple[int, ...]]:
    """Divisions of a number of dimensions among facets, the most equal division first.

    The smaller of two facets gets a half, a third or a quarter of the dimensions, rounded down. Three or more get
    equal shares, or shares in the proportion 1 : 2 : 3 …, rounded down, and the last facet gets what is left. In an
    unequal division every facet gets at least two dimensions.
    """
    shares: set[tuple[int, ...]]
    if num_facets == 2:
        shares = {(num_dims // part,) for part in (2, 3, 4)}
    else:
        total = num_facets * (num_facets + 1) // 2
        shares = {
            (num_dims // num_facets,) * (num_facets - 1),
            tuple(num_dims * j // total for j in range(1, num_facets)),
        }
    found = [(*share, num_dims - sum(share)) for share in sorted(shares, reverse=True)]
    return [found[0], *(dims for dims in found[1:] if min(dims) >= _FEWEST_DIMS)]


def order_axes(points: Array, rotation: Array, dims: Sequence[int], sizes: Sequence[int]) -> Array:
    """Sort the axes of two subspaces, (D, D), so that they can be divided in another way.

    The first axes are those in which the clusters of the first subspace are tight and those of the second are wide: the
    eigenvectors of the difference of the two scatter matrices, as in `find_subspaces`.

    Args:
        points: (N, D).
        rotation: the axes of both subspaces, (D, D).
        dims: dimensions of the two subspaces.
        sizes: numbers of clusters of the two subspaces.
    """
    from sklearn.cluster import KMeans

    first, second = (
        scatter_around(points, KMeans(size, n_init=2, random_state=0).fit(points @ rotation[:, part]).labels_)
        for part, size in zip(slices_of(dims), sizes, strict=True)
    )
    axes: Array = np.linalg.eigh(first - second)[1]
    return axes


def principal_axes(items: Array, num_dims: int, *, scale: float | None, seed: int) -> tuple[Array, Array]:
    """The mean of the items (N, P), (P,), and their first principal directions divided by ``scale``, (P, num_dims).

    Args:
        items: the items, without missing elements.
        num_dims: number of columns; columns beyond the rank of the items are 0.
        scale: > 0. None means the maximum-likelihood estimate of probabilistic PCA, the root mean square of the
            residuals.
        seed: seed of a randomised decomposition.
    """
    from sklearn.decomposition import PCA

    pca = PCA(min(num_dims, *items.shape), random_state=seed).fit(items)
    if scale is None:
        left = (items - pca.mean_).var(0).sum() - pca.explained_variance_.sum()
        scale = float(np.sqrt(max(left, 1e-6 * pca.explained_variance_.sum()) / max(items.shape[1] - num_dims, 1)))
    components = np.zeros((items.shape[1], num_dims))
    components[:, : len(pca.components_)] = pca.components_.T / scale
    return np.asarray(pca.mean_, dtype=np.float64), components


def slices_of(dims: Sequence[int]) -> list[slice]:
    """The slice of each facet in the joint z, where facet j has D_j dimensions."""
    ends = np.cumsum(dims)
    return [slice(end - dim, end) for end, dim in zip(ends, dims, strict=True)]
