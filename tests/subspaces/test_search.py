"""Parts of the search for subspaces: divisions of dimensions, scatter, and the order of axes."""

import numpy as np
import pytest

from pyro_mfcvae.subspaces.kmeans import scatter_around
from pyro_mfcvae.subspaces.search import divisions, most_items, order_axes


@pytest.mark.parametrize(
    ("num_dims", "expected"),
    [(12, [(6, 6), (4, 8), (3, 9)]), (8, [(4, 4), (2, 6)]), (7, [(3, 4), (2, 5)]), (3, [(1, 2)]), (2, [(1, 1)])],
)
def test_divisions(num_dims: int, expected: list[tuple[int, int]]) -> None:
    assert divisions(num_dims) == expected


def test_the_scatter_is_the_sum_of_the_clusters_covariances() -> None:
    rng = np.random.default_rng(0)
    points, labels = rng.normal(size=(30, 4)), np.arange(30) % 3
    expected = sum(10 * np.cov(points[labels == k].T, bias=True) for k in range(3))
    np.testing.assert_allclose(scatter_around(points, labels), expected, rtol=0, atol=1e-12)


def test_axes_are_ordered_by_whose_clusters_they_separate() -> None:
    """Three clusters in one plane and four in a space of three dimensions: the axes of the plane come first."""
    rng = np.random.default_rng(0)
    plane, space = (20 * rng.normal(size=(k, dim))[rng.integers(k, size=400)] for k, dim in ((3, 2), (4, 3)))
    points = np.concatenate([plane, space], 1) + rng.normal(size=(400, 5))
    turned = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    axes = order_axes(points @ turned, turned.T, (2, 3), (3, 4))
    np.testing.assert_allclose(axes.T @ axes, np.eye(5), rtol=0, atol=1e-12)
    of_plane = turned @ axes[:, :2]  # in the coordinates of the points
    assert np.abs(of_plane[2:]).max() < 0.05


@pytest.mark.parametrize(
    ("num_elements", "expected"), [(3072, 3000), (50_000, 2000), (3 * 224 * 224, 664), (10**6, 500)]
)
def test_a_search_reads_fewer_large_items(num_elements: int, expected: int) -> None:
    assert most_items(num_elements) == expected
