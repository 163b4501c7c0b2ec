"""Three facets: their axes and their dimensions are found."""

import numpy as np
import pytest

from pyro_mfcvae.metrics import ari
from pyro_mfcvae.subspaces import choose_dims
from pyro_mfcvae.subspaces.kmeans import find_subspaces
from pyro_mfcvae.subspaces.score import SubspaceScore
from pyro_mfcvae.subspaces.search import slices_of
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


def test_subspaces_of_very_different_variances_are_found() -> None:
    points, labels = _draw((2, 2, 2), (4, 4, 4), 400, spreads=(60.0, 20.0, 7.0))
    rotation, _ = find_subspaces(points, (2, 2, 2), (4, 4, 4), np.random.default_rng(0))
    found = [points @ rotation[:, part] for part in slices_of((2, 2, 2))]
    for label in labels:
        within = [sum(z[label == k].var(0).sum() for k in range(4)) / 4 for z in found]
        assert min(within) < 2.5  # two dimensions of unit noise; the others have the variance of other clusters as well


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


@pytest.mark.parametrize(("dims", "sizes"), [((2, 4, 6), (3, 6, 12)), ((4, 4, 4), (8, 8, 8))])
def test_the_division_among_three_facets_is_found(dims: tuple[int, ...], sizes: tuple[int, ...]) -> None:
    points, _ = _draw(dims, sizes, 400, spreads=(5.0, 5.0, 5.0))
    assert choose_dims(points, 12, 3, scale=1.0, most_clusters=12) == dims


def test_points_sorted_by_a_label_are_split_at_random() -> None:
    """Alternate points of this order would put one cluster into each half."""
    points = np.tile([[-20.0], [20.0]], (100, 1)) + np.random.default_rng(0).normal(size=(200, 1))
    judge = SubspaceScore(points, (1,), 4)
    assert 30 < (judge.fit > 0).sum() < 70
    assert judge(np.eye(1))[1] == [2]


def test_clusters_are_numbered_for_every_subspace() -> None:
    points, labels = _draw((2, 2), (3, 4), 300, spreads=(50.0, 10.0))
    rotation, cost = find_subspaces(points, (2, 2), (3, 4), np.random.default_rng(1))
    assert cost / len(points) < 5  # four dimensions of unit noise
    plane = points @ rotation[:, :2]
    centres = np.stack([plane[labels[0] == k].mean(0) for k in range(3)])
    assert ari(((plane[:, None] - centres) ** 2).sum(-1).argmin(1), labels[0]) > 0.99
