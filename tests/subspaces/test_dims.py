"""Division of the dimensions of z between two facets; those of three are in test_several."""

import numpy as np
import pytest

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.subspaces import divide_dims
from pyro_mfcvae.subspaces.dims import Division
from pyro_mfcvae.subspaces.score import SubspaceScore
from pyro_mfcvae.subspaces.search import BestRotation


@pytest.mark.parametrize(("num_dims", "expected"), [(2, (1, 1)), (3, (1, 2)), (5, (2, 3))])
def test_few_dimensions_have_one_division(num_dims: int, expected: tuple[int, int]) -> None:
    assert divide_dims(np.zeros((20, 4)), num_dims, scale=1.0, most_clusters=2).dims == expected


@pytest.mark.slow
@pytest.mark.parametrize(("dims", "num_clusters"), [((2, 6), (3, 12)), ((4, 4), (8, 8))])
def test_the_division_of_the_data_is_found(dims: tuple[int, int], num_clusters: tuple[int, int]) -> None:
    """Two mixtures in subspaces of these dimensions, rotated together; the unit is the likelihood's scale, 0.1."""
    rng = np.random.default_rng(2)
    parts = [
        3 * rng.normal(size=(k, dim))[rng.integers(k, size=500)] for dim, k in zip(dims, num_clusters, strict=True)
    ]
    points = np.concatenate(parts, 1) + rng.normal(size=(500, 8))
    rotation = np.linalg.qr(rng.normal(size=(8, 8)))[0]
    assert divide_dims(0.1 * points @ rotation, 8, scale=0.1, most_clusters=20).dims == dims


@pytest.mark.slow
def test_shares_are_equal_if_the_items_have_few_directions() -> None:
    """Three by three clusters in four directions: four more dimensions hold only noise, and no division is better."""
    rng = np.random.default_rng(0)
    parts = [8 * rng.normal(size=(3, 2))[rng.integers(3, size=600)] for _ in range(2)]
    points = np.concatenate([*parts, np.zeros((600, 4))], 1)
    assert {divide_dims(points, 8, scale=1.0, most_clusters=20, seed=seed).dims for seed in range(4)} == {(4, 4)}


@pytest.mark.slow
def test_one_mixture_is_better_if_the_items_have_one_clustering_and_worse_if_they_have_two() -> None:
    """In both cases the right model is better than the other one by more than the margin of `auto`."""
    rng = np.random.default_rng(0)
    one = 4 * rng.normal(size=(12, 8))[rng.integers(12, size=600)] + rng.normal(size=(600, 8))
    parts = [4 * rng.normal(size=(5, 4))[rng.integers(5, size=600)] for _ in range(2)]
    two = np.concatenate(parts, 1) + rng.normal(size=(600, 8))
    found = [divide_dims(points, 8, scale=1.0, most_clusters=12) for points in (one, two)]
    assert [division.one_may_be_better for division in found] == [True, False]
    gains = [division.gain_of_one(points, most_clusters=12) for division, points in zip(found, (one, two), strict=True)]
    assert gains[0].nats > 5 * gains[0].error > 0
    assert gains[1].nats < -5 * gains[1].error < 0


def test_without_a_choice_of_dimensions_nothing_is_compared() -> None:
    division = divide_dims(np.zeros((20, 4)), 2, scale=1.0, most_clusters=2)
    assert (division.found, division.one_may_be_better) == ({}, False)
    with pytest.raises(InputError, match="got one without a choice: call divide_dims"):
        division.gain_of_one(np.zeros((20, 4)), most_clusters=2)


def test_the_gain_is_the_mean_difference_of_held_out_scores_and_its_standard_error() -> None:
    """Two clusters that differ along both axes: independent mixtures miss that the axes agree."""
    rng = np.random.default_rng(0)
    points = 4 * rng.integers(2, size=(400, 1)) + rng.normal(size=(400, 2))
    division = Division((1, 1), {(1, 1): BestRotation(np.eye(2))}, 0.0, 2, np.zeros(2), np.eye(2))
    gain = division.gain_of_one(points, most_clusters=2, seed=3)
    draws = points + np.random.default_rng(3).normal(size=points.shape)
    one = SubspaceScore(draws, (2,), 2).of_points(np.eye(2))[0]
    several = SubspaceScore(draws, (1, 1), 2).of_points(np.eye(2))[0]
    np.testing.assert_allclose(gain.nats, (one - several).mean(), rtol=1e-12)
    np.testing.assert_allclose(gain.error, (one - several).std(ddof=1) / np.sqrt(200), rtol=1e-12)
    assert gain.nats > 0.3
