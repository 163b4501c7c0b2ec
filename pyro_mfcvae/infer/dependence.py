"""A penalty on facets that depend on each other: the information of one facet's clusters about the others."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pyro_mfcvae.facets import Facet

# Weight of the newest batch in the running moments, so that these describe about the last twenty batches.
_RATE = 0.1

# Softened assignments q_T(c | x) ∝ q(c | x)^(1/T) have a gradient also between clusters that lie far apart. Logarithms
# below the smallest one, such as those of clusters of weight 0, get no gradient.
_TEMPERATURE, _LEAST_LOG = 10.0, -1e4
_ASSIGNMENT_WEIGHT = 0.1  # weight of a softened assignment; a coordinate of z has the weight 1

# Information below this multiple of its expectation under independence is ignored.
_TIMES_CHANCE = 2.0

# Items of the overall mean that are added to each cluster, as a fraction of all items; the smallest variance, as a
# fraction of 1 and the second moment; and the smallest variance within clusters, as a fraction of the variance. They
# keep the estimate finite for clusters without items, for facets that are not used, and for assignments that are 0.
_ADDED, _MIN_VARIANCE, _MIN_WITHIN = 1e-3, 1e-6, 1e-4


class FacetDependence(nn.Module):
    """Estimate of the information in nats that the clusters of each facet have about the other facets:

        sum_{a ≠ b} alpha_a alpha_b (sum_d I(c_a; z_bd) + 0.1 sum_k I(c_a; r_bk)),

    where d are the coordinates of z_b, and r_bk ∝ q(c_b = k | x)^(1/10) are softened assignments. Each term is the
    information in an analysis of variance: given c_a, a feature f is Gaussian with the mean of its cluster and a
    variance w that all clusters share,

        I(c_a; f) = E[log Normal(f; m_c, w) - log Normal(f; m, v)] = ½ log(v / w),

    where m and v are the overall mean and variance. Means and variances are running moments over the last batches,
    because a single batch has too few items of each cluster. The gradient with respect to f uses only the densities:
    the moments are maximum likelihood estimates, so the gradient with respect to them is zero. There is no gradient for
    the clusters c_a, and none for information that chance explains, because this gradient would be noise that moves
    clusters towards each other.

    Through the prior, the ELBO already contains the total correlation of the facets, with weight 1. β-TCVAE (Chen et
    al. 2018) and FactorVAE (Kim and Mnih 2018) give it another weight; here the same idea is applied to the dependence
    between the clusters of one facet and the features of another.

    Args:
        facets: the facets, which give the shapes of z_j and c_j.
        like: a tensor with the dtype and device of the moments.
    """

    squares: Tensor

    def __init__(self, facets: Sequence[Facet], like: Tensor) -> None:
        super().__init__()
        self.sizes = [(facet.latent_dim, facet.num_clusters) for facet in facets]
        num_features = sum(map(sum, self.sizes))
        for j, facet in enumerate(facets):
            self.register_buffer(f"frequency_{j}", like.new_zeros(facet.num_clusters))
            self.register_buffer(f"sums_{j}", like.new_zeros(facet.num_clusters, num_features))
        self.register_buffer("squares", like.new_zeros(num_features))

    def forward(self, draws: Sequence[tuple[Tensor, Tensor]], alpha: Tensor) -> Tensor:
        """Add the batch to the moments, then return the estimate, a scalar.

        Args:
            draws: for each facet draws of z_j, (S, N, D_j), and log q(c_j | x), (N, K_j) or (S, N, K_j).
            alpha: weight of each facet, (J,); it is 0 before the facet joins.
        """
        rows = [(z.flatten(0, 1), log_q.expand(*z.shape[:2], -1).flatten(0, 1)) for z, log_q in draws]
        features = torch.cat([torch.cat([z, _soften(log_q)], -1) for z, log_q in rows], -1)
        weights = [
            torch.cat([weight.expand(dim), _ASSIGNMENT_WEIGHT * weight.expand(num)])
            for weight, (dim, num) in zip(alpha, self.sizes, strict=True)
        ]
        with torch.no_grad():
            self._update("squares", features.square().mean(0))
        total = features.new_zeros(())
        for j, (_, log_q) in enumerate(rows):
            others = torch.cat([torch.zeros_like(w) if i == j else w for i, w in enumerate(weights)])
            total = total + alpha[j] * (others * self._information(j, features, log_q.detach().exp())).sum()
        return total

    def _information(self, j: int, features: Tensor, q_c: Tensor) -> Tensor:
        """I(c_j; f) of every feature f of all facets, (F,), for features (M, F) and q(c_j | x), (M, K_j).

        It is set to 0 if it is at most twice its expectation under independence, (K - 1) / (2 n) nats for K clusters
        and n items. Here n is the effective number of items in the running moments, M (2 - rate) / rate.
        """
        with torch.no_grad():
            frequency = self._update(f"frequency_{j}", q_c.mean(0))
            sums = self._update(f"sums_{j}", q_c.T @ features / len(features))
            weight = frequency.sum()  # the total weight of the running moments is below 1 in the first steps
            frequency, sums, squares = frequency / weight, sums / weight, self.squares / weight
            mean = sums.sum(0)
            variance = torch.maximum(squares - mean.square(), _MIN_VARIANCE * (1 + squares))
            means = (sums + _ADDED * mean) / (frequency + _ADDED).unsqueeze(-1)
            between = frequency @ (means - mean).square()
            within = torch.maximum(variance - between, _MIN_WITHIN * variance)
            information = 0.5 * (variance.log() - within.log())
            num_free = (q_c.square().mean(0) / q_c.mean(0).clamp_min(1e-12)).sum() - 1
            by_chance = 0.5 * num_free * _RATE / ((2 - _RATE) * len(features))
            counts = (information > _TIMES_CHANCE * by_chance).to(features)
        # mean over c of (f - m_c)²
        to_cluster = features.square() - 2 * features * (q_c @ means) + q_c @ means.square()
        ratio = (features - mean).square() / variance - to_cluster / within
        return counts * (information + 0.5 * ratio.mean(0))

    def _update(self, name: str, value: Tensor) -> Tensor:
        moment: Tensor = getattr(self, name)
        moment.mul_(1 - _RATE).add_(value, alpha=_RATE)
        return moment


def _soften(log_q: Tensor) -> Tensor:
    """q_T(c | x) of every item, from log q(c | x)."""
    return (log_q.clamp_min(_LEAST_LOG) / _TEMPERATURE).softmax(-1)
