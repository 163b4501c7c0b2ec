"""k-means in subspaces finds two planted clusterings that a rotation has mixed."""

import numpy as np

from pyro_mfcvae.metrics import ari
from pyro_mfcvae.subspaces.kmeans import find_subspaces


def test_planted_subspaces_are_found() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.integers(3, size=600), rng.integers(2, size=600)
    corners = 10 * np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    planted = np.concatenate([corners[first], 8.0 * second[:, None]], 1) + rng.normal(size=(600, 3))
    mixed = planted @ np.linalg.qr(rng.normal(size=(3, 3)))[0]
    starts = [find_subspaces(mixed, (2, 1), (3, 2), np.random.default_rng(seed)) for seed in range(4)]
    rotation, cost = min(starts, key=lambda start: start[1])
    np.testing.assert_allclose(rotation.T @ rotation, np.eye(3), atol=1e-10)
    assert cost / 600 < 3.1  # three dimensions of unit noise; the total variance is above 50
    one = mixed @ rotation[:, 2]
    assert ari((one > one.mean()).astype(int), second) > 0.99
    plane = mixed @ rotation[:, :2]
    centres = np.stack([plane[first == k].mean(0) for k in range(3)])
    nearest = ((plane[:, None] - centres) ** 2).sum(-1).argmin(1)
    assert ari(nearest, first) > 0.99
