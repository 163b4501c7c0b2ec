"""A score of how well independent mixtures describe points in given subspaces."""

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Number of nats per item that a further component of a mixture must gain, so that the simpler of two equally likely
# mixtures is used.
_COMPONENT_COST = 0.02

# Numbers of components of the mixtures that score a subspace. The powers of two are tried first, then the numbers next
# to the best power. (To try them in ascending order, and to stop at one that is no better, is not enough: a ring of six
# clusters may be described no better by two components than by one.)
_SIZES = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 25, 30)

# Added to the variances of a mixture's components, in units of the variance of q(z | x).
_MIN_VARIANCE = 1e-2


class SubspaceScore:
    """Held-out log-likelihood of independent mixtures of diagonal Gaussians in the slices of rotated points.

    The mixtures are fitted to a random half of the points and scored on the other half. Alternate points would not do:
    files are often sorted by a characteristic.

    Args:
        draws: the points, one draw of q(z | x) for each item, in units of its standard deviation, (N, D).
        dims: dimensions D_j of the slices; their sum is D.
        most_clusters: largest number of components of a mixture.
    """

    def __init__(self, draws: Array, dims: Sequence[int], most_clusters: int) -> None:
        order = np.random.default_rng(0).permutation(len(draws))
        self.fit, self.held_out = draws[order[::2]], draws[order[1::2]]
        self.ends = np.cumsum(dims)[:-1]
        self.sizes = [size for size in _SIZES if size <= min(most_clusters, len(self.fit) // 2)]

    def __call__(self, rotation: Array) -> tuple[float, list[int]]:
        """The mean score of the held-out points, in nats, and the number of components of each slice."""
        scores, sizes = self.of_points(rotation)
        return float(scores.mean()), sizes

    def of_points(self, rotation: Array) -> tuple[Array, list[int]]:
        """The score of every held-out point, summed over the slices, and the number of components of each slice."""
        pairs = zip(
            np.split(self.fit @ rotation, self.ends, 1), np.split(self.held_out @ rotation, self.ends, 1), strict=True
        )
        scores, sizes = zip(*(self.of_slice(*pair) for pair in pairs), strict=True)
        return np.sum(scores, 0), list(sizes)

    def of_slice(self, fit: Array, held_out: Array) -> tuple[Array, int]:
        """The scores of held-out points under the best mixture, in nats, (M,), and its number of components.

        Args:
            fit: points that the mixtures are fitted to, (N, D_j).
            held_out: points that they are scored on, (M, D_j).
        """
        tried = {size: _score(fit, held_out, size) for size in self.sizes if size.bit_count() == 1}

        def best() -> int:
            return max(tried, key=lambda size: float(tried[size].mean()))

        power = best()
        near = [size for size in self.sizes if power / 2 < size < 2 * power and size != power]
        tried |= {size: _score(fit, held_out, size) for size in near}
        return tried[best()], best()


def _score(fit: Array, held_out: Array, size: int) -> Array:
    """The log-likelihood of every held-out point under a mixture of ``size`` components, less their cost."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    mixture = GaussianMixture(size, covariance_type="diag", reg_covar=_MIN_VARIANCE, max_iter=50, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        scores: Array = mixture.fit(fit).score_samples(held_out) - _COMPONENT_COST * size
    return scores
