"""Three facets: their axes and their dimensions are found."""

import numpy as np
import pytest

from pyro_mfcvae.subspaces import divide_dims
from pyro_mfcvae.subspaces.kmeans import find_subspaces
from pyro_mfcvae.subspaces.score import SubspaceScore
from pyro_mfcvae.subspaces.several import search_rotations


def _draw(dims: tuple[int, ...], sizes: tuple[int, ...], num: int, *, spreads: tuple[float, ...]) -> tuple:
    """Mixtures in subspaces of these dimensions, rotated together, with unit noise: the points and their clusters."""
    rng = np.random.default_rng(0)
    labels = [rng.integers(k, size=num) for k in sizes]
    parts = [
        spread * rng.normal(size=(k, dim))[label]
        for k, dim, label, spread in zip(sizes, dims, labels, spreads, strict=True)
    ]
    points = np.concatenate(parts, 1) + rng.normal(size=(num, sum(dims)))
    return points @ np.linalg.qr(rng.normal(size=(sum(dims),) * 2))[0], labels


def test_the_search_is_better_than_its_first_rotations() -> None:
    points, _ = _draw((1, 2, 3), (3, 4, 6), 400, spreads=(5.0, 5.0, 5.0))
    progress: list[tuple[str, int, int]] = []
    best = search_rotations(
        points, (1, 2, 3), 12, np.random.default_rng(0), num_tries=3, num_pair_tries=2,
        on_progress=lambda *now: progress.append(now),
    )  # fmt: skip
    assert progress == [("search for subspaces", n, 9) for n in range(1, 10)]
    np.testing.assert_allclose(best.rotation.T @ best.rotation, np.eye(6), rtol=0, atol=1e-10)
    score, sizes = SubspaceScore(points, (1, 2, 3), 12)(best.rotation)
    assert (best.score, best.sizes) == (score, tuple(sizes))
    assert best.key > (True, SubspaceScore(points, (1, 2, 3), 12)(np.eye(6))[0])


@pytest.mark.slow
@pytest.mark.parametrize(("dims", "sizes"), [((2, 4, 6), (3, 6, 12)), ((4, 4, 4), (8, 8, 8))])
def test_the_division_among_three_facets_is_found(dims: tuple[int, ...], sizes: tuple[int, ...]) -> None:
    points, _ = _draw(dims, sizes, 400, spreads=(5.0, 5.0, 5.0))
    assert divide_dims(points, 12, 3, scale=1.0, most_clusters=12).dims == dims


def test_points_sorted_by_a_label_are_split_at_random() -> None:
    """Alternate points of this order would put one cluster into each half."""
    points = np.tile([[-20.0], [20.0]], (100, 1)) + np.random.default_rng(0).normal(size=(200, 1))
    judge = SubspaceScore(points, (1,), 4)
    assert 30 < (judge.fit > 0).sum() < 70
    assert judge(np.eye(1))[1] == [2]


@pytest.mark.parametrize(("size", "most"), [(1, 20), (2, 20), (3, 20), (6, 20), (12, 20), (6, 7)])
def test_the_number_of_clusters_on_a_ring_is_found(size: int, most: int) -> None:
    """Two or three components describe a ring of six clusters hardly better than one."""
    rng = np.random.default_rng(1)
    angles = 2 * np.pi / size * rng.integers(size, size=1200)
    points = 20 * np.stack([np.cos(angles), np.sin(angles)], 1) + rng.normal(size=(1200, 2))
    assert SubspaceScore(points, (2,), most)(np.eye(2))[1] == [size]


def test_axes_of_a_slice_are_the_principal_axes_of_its_scatter() -> None:
    """Mixtures with diagonal covariances describe the slices, so their axes matter."""
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=500)
    noise = rng.normal(size=(500, 2)) * [3.0, 0.3] @ np.array([[0.8, 0.6], [-0.6, 0.8]])
    third = 30.0 * rng.integers(3, size=(500, 1)) + rng.normal(size=(500, 1))
    points = np.concatenate([noise + 40 * labels[:, None] * [1.0, 0.0], third], 1)
    starts = [find_subspaces(points, (2, 1), (2, 3), np.random.default_rng(seed)) for seed in range(4)]
    rotation, _ = min(starts, key=lambda start: start[1])
    z = points @ rotation[:, :2]
    within = sum(np.cov(z[labels == k].T) for k in range(2)) / 2
    np.testing.assert_allclose(np.sqrt(np.diag(within)), [0.3, 3.0], rtol=0.15)
    assert abs(within[0, 1]) < 0.02
