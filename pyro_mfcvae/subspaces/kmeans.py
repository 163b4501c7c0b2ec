"""Find several subspaces at once in which points form clusters, by k-means in orthogonal subspaces.

The alternation is that of Nr-Kmeans (Mautz, Ye, Plant and Böhm 2018, "Discovering non-redundant k-means clusterings in
optimal subspaces", KDD), with subspaces of given dimensions.
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

# Largest number of iterations, and the relative decrease of the cost below which the iterations stop.
_MAX_ITERATIONS = 60
_TOLERANCE = 1e-6


def find_subspaces(
    points: Array, dims: Sequence[int], num_clusters: Sequence[int], rng: np.random.Generator
) -> tuple[Array, float]:
    """Rotate so that the points (N, D) fall into num_clusters[j] tight clusters in their j-th slice of dims[j] axes.

    Minimises sum_j sum_n |P_jᵀ (x_n - m_j(n))|² over rotations [P_0, …, P_{J-1}] and assignments, where m_j(n) is the
    mean of the points in the cluster of point n. It starts from a random rotation and k-means++ centres. Two steps
    alternate: the axes of every two subspaces are divided between them by the eigenvectors of the difference of their
    scatter matrices; and every point is assigned to its nearest centre in each subspace.

    Returns:
        The rotation, (D, D), whose slices are aligned with the principal axes of their scatter, and the cost.
    """
    size = points.shape[1]
    rotation = np.linalg.qr(rng.normal(size=(size, size)))[0]
    ends = np.cumsum(dims)
    slices = [slice(end - dim, end) for end, dim in zip(ends, dims, strict=True)]
    labels = [_kmeans(points @ rotation[:, part], k, rng) for part, k in zip(slices, num_clusters, strict=True)]
    centres = [_means(points, label, k, rng) for label, k in zip(labels, num_clusters, strict=True)]
    previous = np.inf
    for _ in range(_MAX_ITERATIONS):
        scatters = [_scatter(points, label, centre) for label, centre in zip(labels, centres, strict=True)]
        for a, b in combinations(range(len(dims)), 2):
            both = np.concatenate([rotation[:, slices[a]], rotation[:, slices[b]]], 1)
            axes = both @ np.linalg.eigh(both.T @ (scatters[a] - scatters[b]) @ both)[1]
            rotation[:, slices[a]], rotation[:, slices[b]] = axes[:, : dims[a]], axes[:, dims[a] :]
        cost = 0.0
        for j, part in enumerate(slices):
            labels[j] = _nearest(points @ rotation[:, part], centres[j] @ rotation[:, part])
            centres[j] = _means(points, labels[j], num_clusters[j], rng)
            cost += float((((points - centres[j][labels[j]]) @ rotation[:, part]) ** 2).sum())
        if previous - cost < _TOLERANCE * abs(cost):
            break
        previous = cost
    for part, scatter in zip(slices, scatters, strict=True):
        rotation[:, part] @= np.linalg.eigh(rotation[:, part].T @ scatter @ rotation[:, part])[1]
    return rotation, cost


def _kmeans(points: Array, num_clusters: int, rng: np.random.Generator) -> NDArray[np.int64]:
    from sklearn.cluster import KMeans

    kmeans = KMeans(num_clusters, n_init=1, max_iter=5, random_state=int(rng.integers(2**31))).fit(points)
    labels: NDArray[np.int64] = kmeans.labels_
    return labels


def scatter_around(points: Array, labels: NDArray[np.int64]) -> Array:
    """The scatter matrix (D, D) of points (N, D) around the means of their clusters; every cluster has a point."""
    counts = np.bincount(labels)
    means = np.stack([np.bincount(labels, weights=column) for column in points.T], 1) / counts[:, None]
    return _scatter(points, labels, means)


def _nearest(points: Array, centres: Array) -> NDArray[np.int64]:
    """The nearest centre of every point, (N,)."""
    distances = (centres**2).sum(1) - 2 * points @ centres.T
    nearest: NDArray[np.int64] = distances.argmin(1)
    return nearest


def _means(points: Array, labels: NDArray[np.int64], num_clusters: int, rng: np.random.Generator) -> Array:
    """The mean of every cluster's points, (K, D); a random point for an empty cluster."""
    counts = np.bincount(labels, minlength=num_clusters)
    sums = np.stack([np.bincount(labels, weights=column, minlength=num_clusters) for column in points.T], 1)
    empty = np.flatnonzero(counts == 0)
    means: Array = sums / np.maximum(counts, 1)[:, None]
    means[empty] = points[rng.integers(len(points), size=len(empty))]
    return means


def _scatter(points: Array, labels: NDArray[np.int64], centres: Array) -> Array:
    deviations = points - centres[labels]
    scatter: Array = deviations.T @ deviations
    return scatter
