"""Groups of clusters that overlap so much that a person would count them as one cluster.

A mixture with many components uses several of them to follow the shape of one cluster. Components that overlap are
merged, one pair at a time, and the merges form a tree (Hennig 2010, "Methods for merging Gaussian mixture components",
Adv. Data Anal. Classif. 4:3-34).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.models.mixtures import Mixture

MERGE_THRESHOLD = 0.04
"""Groups that overlap by less than this are not merged, unless `merge_clusters` finds a gap among smaller overlaps.
"""

# Two groups whose overlap is below the threshold but at least this large are still merged if the groups of the next
# merge are at least twice as far apart.
_MIN_CLOSE, _GAP = 1e-3, 2.0
_MIN_OVERLAP = 1e-300  # a smaller overlap is replaced by this one when gaps are measured

# A cluster is in use if its share of the items is at least this fraction of 1/K.
_MIN_SHARE = 0.1

# Number of draws per cluster for the estimates of overlaps. An estimate of 0.04 has a standard error of at most 0.0031.
_NUM_DRAWS = 4000

# Number of log densities in memory at once.
_MAX_ELEMENTS = 2**22


@dataclass(frozen=True)
class Merge:
    """One step of a `MergeTree`: two groups become one.

    Attributes:
        first: smallest cluster number of one group.
        second: smallest cluster number of the other group, larger than ``first``.
        overlap: overlap of the two groups, in [0, 1].
    """

    first: int
    second: int
    overlap: float


@dataclass(frozen=True, eq=False)
class MergeTree:
    """How the clusters of one facet merge into groups, down to a single one.

    Attributes:
        merges: the merges in order; their number is that of the clusters in use minus 1.
        shares: share of the items in each cluster, (K,).
        nearest: the closest cluster in use of each cluster, (K,); for a cluster in use, the cluster itself.
        num_groups: the number of groups that remain after all merges of overlapping groups.
    """

    merges: tuple[Merge, ...]
    shares: NDArray[np.float64]
    nearest: NDArray[np.int64]
    num_groups: int

    @property
    def num_clusters(self) -> int:
        """K."""
        return len(self.nearest)

    @property
    def clusters_in_use(self) -> list[int]:
        """The clusters in use, in order."""
        return [k for k in range(self.num_clusters) if self.nearest[k] == k]

    def labels(self, num_groups: int | None = None) -> NDArray[np.int64]:
        """The group of every cluster, (K,). Group 0 has the largest share of the items, group 1 the second largest, and
        so on.

        Args:
            num_groups: cut the tree at this number of groups, 1 … clusters in use; at `num_groups` if None.
        """
        owner = self._owners(self.num_groups if num_groups is None else num_groups)
        names = np.unique(owner)
        sizes = np.array([self.shares[owner == name].sum() for name in names])
        rank = np.empty(len(names), np.int64)
        rank[np.argsort(-sizes, kind="stable")] = np.arange(len(names))
        numbers: NDArray[np.int64] = rank[np.searchsorted(names, owner)]
        return numbers

    def members(self, num_groups: int | None = None) -> list[list[int]]:
        """The clusters of every group, in order."""
        labels = self.labels(num_groups)
        return [np.flatnonzero(labels == g).tolist() for g in range(labels.max() + 1)]

    def linkage(self) -> NDArray[np.float64]:
        """The tree as SciPy's linkage matrix, (U - 1, 4), for the U clusters in use.

        The height of a merge is 1 - overlap, but at least the height of every earlier merge.
        """
        position = {k: n for n, k in enumerate(self.clusters_in_use)}
        node, size = dict(position), dict.fromkeys(position, 1)
        rows, height = [], 0.0
        for n, merge in enumerate(self.merges):
            height = max(height, 1 - merge.overlap)
            a, b = merge.first, merge.second
            size[a] += size[b]
            rows.append((node[a], node[b], height, size[a]))
            node[a] = len(position) + n
        return np.array(rows, dtype=np.float64).reshape(-1, 4)

    def _owners(self, num_groups: int) -> NDArray[np.int64]:
        """The smallest cluster in use of the group of every cluster, (K,)."""
        most = len(self.merges) + 1
        if not 1 <= num_groups <= most:
            raise InputError(
                f"expected a number of groups between 1 and {most}, the clusters in use, got {num_groups}: choose one "
                "of these"
            )
        owner = self.nearest.copy()
        for merge in self.merges[: most - num_groups]:
            owner[owner == merge.second] = merge.first
        return owner


def merge_clusters(
    joint_mass: ArrayLike, *, threshold: float = MERGE_THRESHOLD, min_share: float | None = None
) -> MergeTree:
    """Merge, one pair at a time, the two groups that overlap most.

    The overlap of groups a and b is the larger of P(assigned to b | drawn from a) and P(assigned to a | drawn from b),
    the directly estimated misclassification probability (DEMP; Hennig 2010, section 4.3).

    Args:
        joint_mass: M[a, b] = P(drawn from cluster a, assigned to cluster b), (K, K); any positive scale.
        threshold: a merge counts for `num_groups` if its overlap, or that of a later merge, is at least this. (A later
            overlap can be larger, since a merged group may overlap more with a third group than its parts did.) Further
            merges count if a gap follows them. Let o_m be the largest overlap of merge m and all later merges, and d(o)
            = 2 Φ⁻¹(1 - o) the distance of two standard normals whose misclassification probability is o. There is a gap
            after merge m if o_m ≥ 0.001 and d(o_{m+1}) ≥ 2 d(o_m); the one with the largest ratio d(o_{m+1}) / d(o_m)
            is used. A gap that would leave less than half of the groups is ignored, because one group that lies far
            from all others is not a reason to merge the others.
        min_share: clusters with a smaller share of the mass are not in use, except the largest cluster; None means a
            tenth of 1/K. A cluster that is not in use joins the group that most of its mass is assigned to.

    Raises:
        InputError: ``joint_mass`` is not square, has a negative or infinite element, or is zero.
    """
    mass = _check_mass(joint_mass)
    mass = mass / mass.sum()
    shares = mass.sum(1)
    min_share = _MIN_SHARE / len(mass) if min_share is None else min_share
    in_use = np.flatnonzero((shares >= min_share) | (np.arange(len(mass)) == shares.argmax()))
    nearest = np.arange(len(mass))
    unused = np.setdiff1d(nearest, in_use)
    nearest[unused] = in_use[mass[np.ix_(unused, in_use)].argmax(1)]
    merges = _merge_all(mass[np.ix_(in_use, in_use)], in_use.tolist())
    num_groups = len(in_use) - _count_merges([merge.overlap for merge in merges], threshold)
    return MergeTree(merges=tuple(merges), shares=shares, nearest=nearest, num_groups=num_groups)


def _count_merges(overlaps: Sequence[float], threshold: float) -> int:
    """The number of merges that count for `num_groups`, see `merge_clusters`."""
    largest = np.maximum.accumulate(overlaps[::-1])[::-1] if overlaps else np.empty(0)
    stop = int((largest >= threshold).sum())
    distances = [-2 * NormalDist().inv_cdf(overlap) for overlap in np.clip(largest, _MIN_OVERLAP, 0.5)]
    most = stop + (len(overlaps) + 1 - stop) // 2  # so that at least half of the groups are left
    later = (n for n in range(stop + 1, min(len(overlaps), most + 1)) if _MIN_CLOSE <= largest[n - 1] < 0.5)
    gaps = {n: distances[n] / distances[n - 1] for n in later}
    last = max(gaps, key=gaps.__getitem__, default=stop)
    return last if gaps.get(last, 0) >= _GAP else stop


def _merge_all(mass: NDArray[np.float64], names: Sequence[int]) -> list[Merge]:
    mass, left, merges = mass.copy(), list(names), []
    while len(left) > 1:
        conditional = mass / mass.sum(1, keepdims=True)
        overlap = np.maximum(conditional, conditional.T)
        np.fill_diagonal(overlap, -1)
        a, b = sorted(int(n) for n in np.unravel_index(overlap.argmax(), overlap.shape))
        merges.append(Merge(left[a], left[b], float(overlap[a, b])))
        mass[a] += mass[b]
        mass[:, a] += mass[:, b]
        mass = np.delete(np.delete(mass, b, 0), b, 1)
        del left[b]
    return merges


def _check_mass(joint_mass: ArrayLike) -> NDArray[np.float64]:
    mass = np.asarray(joint_mass, dtype=np.float64)
    if mass.ndim != 2 or mass.shape[0] != mass.shape[1] or mass.size == 0:
        raise InputError(f"expected the joint mass as a square matrix, got the shape {mass.shape}: pass M of (K, K)")
    if not np.isfinite(mass).all() or (mass < 0).any() or mass.sum() == 0:
        raise InputError(
            "expected a joint mass of finite elements ≥ 0 that are not all 0, got other values: pass shares or counts"
        )
    return mass


@torch.no_grad()
def joint_mass(
    prior: Mixture, *, weights: Tensor | None = None, num_draws: int = _NUM_DRAWS, seed: int = 0
) -> NDArray[np.float64]:
    """M[a, b] = w_a E_{z ~ p(z|a)}[ w_b p(z|b) / sum_k w_k p(z|k) ], (K, K); symmetric except for Monte Carlo error.

    The sum of M over the clusters of two groups is the mass that is drawn from one group and assigned to the other, so
    merges need no further draws. Only draws and densities of the components are used, so they can be of any family.

    Args:
        prior: prior of one facet.
        weights: w, (K,), such as the share of the items in each cluster; None means the prior's own weights. A weight
            of 0 is replaced by a millionth, so that the closest cluster can be found.
        num_draws: number of draws from every component.
        seed: seed of the draws; Pyro's and torch's random states are not changed.
    """
    log_weights = prior.log_weights()
    if weights is not None:
        log_weights = (weights / weights.sum()).clamp_min(1e-6).to(log_weights).log().log_softmax(-1)
    num_clusters = len(log_weights)
    at_once = max(1, _MAX_ELEMENTS // (num_clusters**2 * prior.latent_dim))
    total = log_weights.new_zeros(num_clusters, num_clusters, dtype=torch.float64)
    with torch.random.fork_rng(devices=[log_weights.device] if log_weights.is_cuda else []):
        torch.manual_seed(seed)
        components = prior.components()
        for start in range(0, num_draws, at_once):
            z = components.sample((min(at_once, num_draws - start),))
            total += (prior.log_prob(z) + log_weights).double().softmax(-1).sum(0)
    mass: NDArray[np.float64] = (log_weights.exp().double()[:, None] * total / num_draws).cpu().numpy()
    return mass


def build_groups(
    priors: Sequence[Mixture],
    *,
    weights: Sequence[Tensor] | None = None,
    threshold: float = MERGE_THRESHOLD,
    seed: int = 0,
) -> list[MergeTree]:
    """The `MergeTree` of every facet; `MFCVAE.groups` calls it.

    Args:
        priors: one per facet.
        weights: see `joint_mass`, one per facet.
        threshold: see `merge_clusters`.
        seed: seed of the draws that estimate overlaps.
    """
    per_facet = [None] * len(priors) if weights is None else weights
    masses = [joint_mass(prior, weights=w, seed=seed) for prior, w in zip(priors, per_facet, strict=True)]
    return [merge_clusters(mass, threshold=threshold) for mass in masses]
