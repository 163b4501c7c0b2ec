"""How many dimensions of z each of two facets gets."""

import numpy as np
from numpy.typing import NDArray

from pyro_mfcvae.subspaces.linear_start import find_linear_facets
from pyro_mfcvae.subspaces.search import divisions

_NUM_TRIES = 8  # number of rotations that are tried for each division


def choose_dims(
    items: NDArray[np.float64], num_dims: int, *, scale: float, most_clusters: int, seed: int = 0
) -> tuple[int, int]:
    """Divide a number of dimensions between two facets.

    Candidates give the first facet a half, a third or a quarter of the dimensions. For each, `find_linear_facets` looks
    for the subspaces that are the most likely as independent mixtures. The candidate with the highest held-out score
    wins. A characteristic with few values, such as four directions of a gaze, needs few dimensions. With more of them,
    its facet also describes parts of other characteristics.

    Args:
        items: (N, P), without missing elements.
        num_dims: sum of the dimensions of both facets, 2 or more.
        scale: standard deviation of the likelihood, in the unit of the items.
        most_clusters: largest number of clusters of a facet.
        seed: seed of the search.

    Returns:
        D_0 and D_1; D_0 is the smaller one.
    """
    candidates = divisions(num_dims)
    if len(candidates) == 1:
        return candidates[0]

    def score(dims: tuple[int, int]) -> float:
        return find_linear_facets(
            items, dims, scale=scale, most_clusters=most_clusters, seed=seed, num_tries=_NUM_TRIES
        ).score

    return max(candidates, key=score)  # of equal scores the first, so the most equal division
