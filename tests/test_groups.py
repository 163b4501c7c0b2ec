"""Groups: merges by hand on small matrices, overlaps against the closed form, and every family of priors."""

from collections.abc import Callable

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy.cluster.hierarchy import fcluster
from torch import Tensor

from pyro_mfcvae import MFCVAE, Facet, InputError
from pyro_mfcvae.groups import joint_mass, merge_clusters
from pyro_mfcvae.models import MixturePrior, StandardNormalPrior, StudentTMixturePrior, VampPrior
from pyro_mfcvae.models.bayesian import BayesianMixturePrior
from pyro_mfcvae.models.priors import FacetPrior

# Two pairs, 0 with 2 and 1 with 3, that overlap by 0.2 and 0.1; and between the pairs by 0.01 / 0.5 at most.
FOUR = np.array(
    [
        [0.200, 0.005, 0.050, 0.000],
        [0.005, 0.215, 0.000, 0.025],
        [0.050, 0.000, 0.200, 0.000],
        [0.000, 0.025, 0.000, 0.225],
    ]
)


# Clusters of masses 0.001, 0.01, 0.1 and 1. The first overlaps with the second by 0.9, their union with the third by
# 0.7, and the union of these three with the last by 0.6.
FALLING = np.zeros((4, 4))
for n, (mass, overlap) in enumerate([(0.001, 0.9), (0.011, 0.7), (0.111, 0.6)]):
    FALLING[n, n + 1] = FALLING[n + 1, n] = mass * overlap
FALLING += np.diag([0.001, 0.01, 0.1, 1.0] - FALLING.sum(1))


def line(means: list[float], *, scale: float = 1.0) -> MixturePrior:
    """Normals on a line."""
    prior = MixturePrior(Facet(num_clusters=len(means), latent_dim=1))
    prior.set_mixture(torch.tensor(means)[:, None], scale**2 * torch.ones(len(means), 1, 1))
    return prior


def test_merges_by_hand() -> None:
    tree = merge_clusters(FOUR)
    assert [(m.first, m.second) for m in tree.merges] == [(0, 2), (1, 3), (0, 1)]
    assert [m.overlap for m in tree.merges] == pytest.approx([0.05 / 0.25, 0.025 / 0.245, 0.005 / 0.495])
    assert tree.num_groups == 2
    assert tree.members() == [[0, 2], [1, 3]]
    assert tree.labels().tolist() == [0, 1, 0, 1]
    assert tree.members(3) == [[0, 2], [3], [1]]
    assert tree.labels(1).tolist() == [0, 0, 0, 0]
    assert tree.labels(4).tolist() == [0, 3, 1, 2]


def chain(*overlaps: float) -> np.ndarray:
    """Clusters of equal mass; each overlaps with the next one by a given amount."""
    mass = np.diag(np.full(len(overlaps) + 1, 0.0))
    for n, overlap in enumerate(overlaps):
        mass[n, n + 1] = mass[n + 1, n] = overlap
    return mass + np.diag(1 - mass.sum(1))


@pytest.mark.parametrize(
    ("overlaps", "num_groups"),
    [
        ([0.05, 0.03, 0.001], 3),  # only the threshold decides: distances of 3.3, 3.8 and 6.2
        ([0.05, 0.03, 1e-15], 2),  # the distances 3.8 and 15.9: groups that overlap by 0.03 are close in comparison
        ([0.03, 0.02, 1e-15, 1e-16], 3),
        ([0.03, 0.002, 1e-60], 2),  # two gaps: the larger one counts
        ([0.03, 1e-9, 1e-60], 3),  # groups that overlap by 1e-9 are apart, however far others are
        ([1e-15, 1e-16], 3),
        ([0.03, 0.02, 0.01, 1e-15, 1e-15, 1e-15], 4),
        ([0.03, 0.02, 0.02, 0.01, 0.01, 1e-15], 7),  # six groups close to each other, and one far away
        ([0.03, 0.0], 2),
        ([0.03], 2),
        ([0.05], 1),
    ],
)
def test_small_overlaps_are_merged_before_a_gap(overlaps: list[float], num_groups: int) -> None:
    assert merge_clusters(chain(*overlaps)).num_groups == num_groups


@pytest.mark.parametrize(("threshold", "num_groups"), [(0.95, 4), (0.85, 3), (0.65, 2), (0.55, 1), (0.0, 1)])
def test_large_thresholds(threshold: float, num_groups: int) -> None:
    assert merge_clusters(FALLING, threshold=threshold, min_share=0.0).num_groups == num_groups


def test_a_merged_group_may_overlap_more_with_a_third_one() -> None:
    mass = np.array([[0.927, 0.038, 0.035], [0.038, 0.927, 0.035], [0.035, 0.035, 0.93]])
    tree = merge_clusters(mass)
    assert [merge.overlap for merge in tree.merges] == pytest.approx([0.038, 0.07])
    assert tree.num_groups == 1
    assert merge_clusters(mass, threshold=0.071).num_groups == 3


def test_groups_are_numbered_by_size() -> None:
    tree = merge_clusters(np.diag([0.1, 0.6, 0.3]))
    assert tree.members() == [[1], [2], [0]]


def test_unused_clusters_join_the_nearest_group() -> None:
    mass = np.diag([0.5, 0.5, 1e-6, 1e-6])
    mass[2, 0], mass[2, 1], mass[3, 1] = 1e-7, 2e-7, 1e-9
    tree = merge_clusters(mass)
    assert (tree.clusters_in_use, tree.nearest.tolist()) == ([0, 1], [0, 1, 1, 1])
    assert tree.num_groups == 2
    assert tree.members() == [[1, 2, 3], [0]]


def test_one_cluster_is_one_group() -> None:
    tree = merge_clusters([[1.0]])
    assert (tree.num_groups, tree.num_clusters, tree.merges, tree.members()) == (1, 1, (), [[0]])
    assert tree.linkage().shape == (0, 4)


@pytest.mark.parametrize("num_groups", [1, 2, 3, 4])
def test_the_linkage_is_scipys(num_groups: int) -> None:
    tree = merge_clusters(FOUR)
    cut = fcluster(tree.linkage(), num_groups, "maxclust")
    assert len({(a, b) for a, b in zip(cut, tree.labels(num_groups), strict=True)}) == num_groups


@pytest.mark.parametrize("num_groups", [0, 5])
def test_invalid_cuts_are_refused(num_groups: int) -> None:
    with pytest.raises(InputError, match=f"between 1 and 4, the clusters in use, got {num_groups}: choose one of"):
        merge_clusters(FOUR).labels(num_groups)


@pytest.mark.parametrize(
    ("mass", "message"),
    [
        (np.ones((2, 3)), r"square matrix, got the shape \(2, 3\): pass M of \(K, K\)"),
        (np.zeros((2, 2)), "finite elements ≥ 0 that are not all 0"),
        (np.array([[1.0, np.nan], [0.0, 1.0]]), "finite elements ≥ 0"),
    ],
)
def test_invalid_joint_masses_are_refused(mass: np.ndarray, message: str) -> None:
    with pytest.raises(InputError, match=message):
        merge_clusters(mass)


def test_the_joint_mass_against_quadrature() -> None:
    prior = line([0.0, 2.0, 7.0])
    weights = torch.tensor([0.5, 0.3, 0.2])
    mass = joint_mass(prior(), weights=weights, num_draws=200_000)
    z = torch.linspace(-12, 19, 40_001)
    joint = weights.log() + dist.Normal(torch.tensor([0.0, 2.0, 7.0]), 1.0).log_prob(z[:, None])
    density = joint.exp()
    exact = (density[:, :, None] * joint.softmax(-1)[:, None, :]).sum(0) * (z[1] - z[0])
    np.testing.assert_allclose(mass, exact.numpy(), atol=1e-3)
    np.testing.assert_allclose(mass.sum(1), weights.numpy(), atol=1e-12)


def test_the_joint_mass_of_distant_clusters_in_single_precision() -> None:
    prior = line([0.0, 40.0]).float()
    assert 1e-300 < joint_mass(prior())[0, 1] < 1e-100


def test_the_draws_do_not_change_the_random_state() -> None:
    prior = line([0.0, 1.0])
    state = torch.get_rng_state()
    first, second = (joint_mass(prior()) for _ in range(2))
    assert torch.equal(state, torch.get_rng_state())
    assert np.array_equal(first, second)


def full_vamp() -> VampPrior:
    return VampPrior(
        Facet(num_clusters=4, latent_dim=1),
        encoder=lambda u: [dist.Normal(u, 0.5).to_event(1)],
        j=0,
        pseudo_inputs=torch.tensor([[0.0], [1.0], [10.0], [11.0]]),
    )


def student() -> StudentTMixturePrior:
    prior = StudentTMixturePrior(Facet(num_clusters=4, latent_dim=1), df=30.0)
    prior.set_mixture(torch.tensor([[0.0], [1.0], [10.0], [11.0]]), 0.25 * torch.ones(4, 1, 1))
    return prior


def bayesian() -> BayesianMixturePrior:
    prior = BayesianMixturePrior(Facet(num_clusters=4, latent_dim=1))
    prior.set_mixture(torch.tensor([[0.0], [1.0], [10.0], [11.0]]), 0.25 * torch.ones(4, 1, 1))
    return prior


@pytest.mark.parametrize("make", [lambda: line([0.0, 1.0, 10.0, 11.0], scale=0.5), full_vamp, student, bayesian])
def test_every_family_of_priors(make: Callable[[], FacetPrior]) -> None:
    tree = merge_clusters(joint_mass(make()()))
    assert tree.num_groups == 2
    assert sorted(tree.members()) == [[0, 1], [2, 3]]


def test_a_facet_without_clusters_has_a_density() -> None:
    mass = joint_mass(StandardNormalPrior(Facet(num_clusters=1, latent_dim=2))())
    assert mass.tolist() == [[1.0]]
    assert merge_clusters(mass).num_groups == 1


def test_groups_of_a_pair_with_and_without_items(
    make_pair: Callable[..., tuple], make_x: Callable[[int], Tensor]
) -> None:
    pair = MFCVAE(*make_pair())
    assert [tree.num_clusters for tree in pair.groups()] == [3, 4]
    x = make_x(7)
    for tree, probs in zip(pair.groups(x, batch_size=3), pair.assign(x), strict=True):
        share = np.bincount(probs.argmax(-1).numpy(), minlength=tree.num_clusters) / 7
        np.testing.assert_allclose(tree.shares, share, atol=1e-5)
        assert tree.clusters_in_use == np.flatnonzero(share).tolist()
    for tree, same in zip(pair.groups(x, batch_size=3), pair.groups(x.numpy(), batch_size=3), strict=True):
        np.testing.assert_array_equal(same.shares, tree.shares)
