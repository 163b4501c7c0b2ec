"""A score of how well independent mixtures describe points in given subspaces."""

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Number of nats per item that a further component of a mixture must gain, so that the simpler of two equally likely
# mixtures is used.
_COMPONENT_COST = 0.02

# Numbers of components of the mixtures that score a subspace.
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
        stop_early: leave out sizes beyond twice the best one so far. A search has no time for all of them. But a ring
            of six clusters may be described no better by two components than by one, and then it gets one.
    """

    def __init__(self, draws: Array, dims: Sequence[int], most_clusters: int, *, stop_early: bool = True) -> None:
        self._stop_early = stop_early
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
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.mixture import GaussianMixture

        best, best_size = np.full(len(held_out), -np.inf), 1
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            for size in self.sizes:
                if self._stop_early and size > 2 * best_size:
                    break
                mixture = GaussianMixture(
                    size, covariance_type="diag", reg_covar=_MIN_VARIANCE, max_iter=50, random_state=0
                ).fit(fit)
                scores = mixture.score_samples(held_out) - _COMPONENT_COST * size
                if scores.mean() > best.mean():
                    best, best_size = scores, size
        return best, best_size
