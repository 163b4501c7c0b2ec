"""Planes in the latent spaces of facets, for pictures of the items."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pyro_mfcvae.models.mixtures import Mixture

# Number of draws of a facet's prior from which its plane is found.
_NUM_DRAWS = 4096


@dataclass(frozen=True)
class FacetPlane:
    """The plane in a facet's latent space in which its clusters lie furthest apart.

    It is spanned by the first two linear discriminants of draws of the prior: the directions v with the largest (v' B
    v) / (v' W v), where B is the covariance of the cluster means and W the covariance within clusters.

    Attributes:
        origin: mean of the draws, (D,).
        axes: (D, 2), scaled to unit variance within clusters; the second is zero if D = 1.
    """

    origin: NDArray[np.float64]
    axes: NDArray[np.float64]

    @classmethod
    def of(cls, prior: Mixture) -> "FacetPlane":
        """The plane of one facet's prior; torch's random state is not changed."""
        from scipy.linalg import eigh

        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(0)
            clusters, draws = (tensor.cpu().numpy() for tensor in prior.sample(_NUM_DRAWS))
        z = draws.astype(np.float64)
        members = [clusters == k for k in np.unique(clusters)]
        means = np.zeros_like(z)
        for member in members:
            means[member] = z[member].mean(0)
        within = np.cov(z - means, rowvar=False).reshape(z.shape[1], -1)
        total = np.cov(z, rowvar=False).reshape(within.shape)
        # A millionth of the total covariance keeps W invertible if clusters have only a few draws each.
        _, vectors = eigh(total, within + 1e-6 * np.trace(total) * np.eye(len(total)))
        axes = vectors[:, ::-1][:, :2]
        axes = axes * np.where(axes[np.abs(axes).argmax(0), range(axes.shape[1])] < 0, -1, 1)
        return cls(z.mean(0), np.pad(axes, ((0, 0), (0, 2 - axes.shape[1]))))

    def project(self, z: NDArray[np.floating]) -> NDArray[np.float64]:
        """Coordinates in the plane: (N, D) → (N, 2)."""
        return (z - self.origin) @ self.axes
