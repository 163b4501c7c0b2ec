"""The numbers of clusters that a search offers, and the slices of the joint z."""

import numpy as np

from pyro_mfcvae.subspaces.search import draw_sizes, find_rotation, slices_of


def test_sizes_go_from_two_to_the_most_and_small_ones_come_more_often() -> None:
    rng = np.random.default_rng(0)
    counts = np.bincount(draw_sizes(20_000, 25, rng), minlength=13)
    # P(k) = log((k + 1) / k) / log(13 / 2) for k from 2 to 12
    expected = np.log1p(1 / np.arange(2, 13)) / np.log(13 / 2)
    assert counts[:2].sum() == 0 and len(counts) == 13
    np.testing.assert_allclose(counts[2:] / 20_000, expected, atol=0.01)
    assert draw_sizes(3, 1, rng) == [2, 2, 2]


def test_slices_follow_each_other() -> None:
    assert slices_of((2, 3)) == [slice(0, 2), slice(2, 5)]


def test_the_rotation_is_orthogonal() -> None:
    rng = np.random.default_rng(0)
    rotation = find_rotation(rng.normal(size=(60, 3)), (2, 1), (3, 2), rng)
    np.testing.assert_allclose(rotation.T @ rotation, np.eye(3), atol=1e-12)
