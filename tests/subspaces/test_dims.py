"""Division of the dimensions of z between two facets; those of three are in test_several."""

import numpy as np
import pytest

from pyro_mfcvae.subspaces import divide_dims


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
    gains = [division.gain_of_one for division in found]
    assert gains[0] > 0.3
    assert gains[1] < -0.3


def test_without_a_choice_of_dimensions_nothing_is_compared() -> None:
    division = divide_dims(np.zeros((20, 4)), 2, scale=1.0, most_clusters=2)
    assert (division.independent, division.gain_of_one) == ({}, -np.inf)
