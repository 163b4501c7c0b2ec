"""How much the clusters of one facet tell about z of the others: a penalty that keeps facets from sharing labels."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyro_mfcvae.facets import Facet

# Weight of the newest batch in the running moments, so that these describe about the last twenty.
_RATE = 0.1

# Items of the overall mean that are added to each cluster, as a fraction of all items, and the smallest variance within
# clusters, as a fraction of the variance. Both keep the estimate finite for clusters without items.
_ADDED, _MIN_WITHIN = 1e-3, 1e-4


class FacetDependence(nn.Module):
    """Estimate of sum_{a ≠ b} alpha_a alpha_b sum_d I(c_a; z_bd), in nats, over the clusters c_a of every facet and the
    dimensions d of every other facet's z_b.

    Each term is the mutual information of an analysis of variance: given c_a, z_bd is Gaussian with the mean of its
    cluster and a variance w that all clusters share,

        I(c_a; z_bd) = E[log Normal(z_bd; m_c, w) - log Normal(z_bd; m, v)] = ½ log(v / w),

    m and v the overall mean and variance. Means and variances are running moments over the last batches, because a
    single batch has too few items of each cluster. The gradient reaches z through the densities only. These
    moments maximise the likelihood, so the gradient with respect to them is zero. q(c | x) gets no gradient.

    The ELBO already contains the total correlation of the facets, with weight 1, through its prior. As a penalty of
    another weight it is that of β-TCVAE (Chen et al. 2018) and FactorVAE (Kim and Mnih 2018), here between facets, and
    between clusters and z.

    Args:
        facets: shapes of the z_j and c_j.
        like: a tensor of the wanted dtype and device.
    """

    squares: Tensor

    def __init__(self, facets: Sequence[Facet], like: Tensor) -> None:
        super().__init__()
        self.dims = [facet.latent_dim for facet in facets]
        num_dims = sum(self.dims)
        for j, facet in enumerate(facets):
            self.register_buffer(f"frequency_{j}", like.new_zeros(facet.num_clusters))
            self.register_buffer(f"sums_{j}", like.new_zeros(facet.num_clusters, num_dims))
        self.register_buffer("squares", like.new_zeros(num_dims))

    def forward(self, draws: Sequence[tuple[Tensor, Tensor]], alpha: Tensor) -> Tensor:
        """The estimate, a scalar; the batch is added to the moments first.

        Args:
            draws: for each facet draws of z_j, (S, N, D_j), and q(c_j | x), (N, K_j) or (S, N, K_j).
            alpha: of each facet, (J,); facets that have not joined count nothing.
        """
        z = torch.cat([z_j for z_j, _ in draws], -1)
        num_draws, num_items, _ = z.shape
        z = z.flatten(0, 1)
        by_dim = torch.cat([alpha[j].expand(dim) for j, dim in enumerate(self.dims)])
        with torch.no_grad():
            self._update("squares", z.square().mean(0))
        total, start = z.new_zeros(()), 0
        for j, (_, q_c) in enumerate(draws):
            q_c = q_c.detach().expand(num_draws, num_items, -1).flatten(0, 1)
            is_other = torch.ones_like(by_dim)
            is_other[start : start + self.dims[j]] = 0
            start += self.dims[j]
            information = self._information(j, z, q_c)
            total = total + (alpha[j] * by_dim * is_other * information).sum()
        return total

    def _information(self, j: int, z: Tensor, q_c: Tensor) -> Tensor:
        """I(c_j; z_d) of every dimension d of the joint z, (D,)."""
        with torch.no_grad():
            frequency = self._update(f"frequency_{j}", q_c.mean(0))
            sums = self._update(f"sums_{j}", q_c.T @ z / len(z))
            weight = frequency.sum()  # of the running moments, below 1 in the first steps
            frequency, sums = frequency / weight, sums / weight
            mean = sums.sum(0)
            variance = (self.squares / weight - mean.square()).clamp_min(1e-12)
            means = (sums + _ADDED * mean) / (frequency + _ADDED).unsqueeze(-1)
            between = frequency @ (means - mean).square()
            within = torch.maximum(variance - between, _MIN_WITHIN * variance)
        to_cluster = z.square() - 2 * z * (q_c @ means) + q_c @ means.square()  # E over c of the squared distance
        ratio = (z - mean).square() / variance - to_cluster / within
        return 0.5 * (variance.log() - within.log() + ratio.mean(0))

    def _update(self, name: str, value: Tensor) -> Tensor:
        moment: Tensor = getattr(self, name)
        moment.mul_(1 - _RATE).add_(value, alpha=_RATE)
        return moment
