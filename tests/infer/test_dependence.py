import math

import numpy as np
import pytest
import torch
from torch import Tensor

from pyro_mfcvae import Facet
from pyro_mfcvae.infer.dependence import FacetDependence

FACETS = (Facet(num_clusters=3, latent_dim=2), Facet(num_clusters=2, latent_dim=1))


def draw_batch(num_items: int = 40, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    random = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn(2, num_items, facet.latent_dim, generator=random).requires_grad_(),
            torch.rand(num_items, facet.num_clusters, generator=random).softmax(-1).requires_grad_(),
        )
        for facet in FACETS
    ]


def information(z: Tensor, q_c: Tensor) -> Tensor:
    """½ log(v / w) of an analysis of variance, by sums over items and clusters; z (M,), q(c | x) (M, K)."""
    within = z.new_zeros(())
    for weights in q_c.T:
        mean = (weights * z).sum() / weights.sum()
        within = within + (weights * (z - mean) ** 2).sum() / len(z)
    return 0.5 * (z.var(unbiased=False) / within).log()


def expected(batch: list[tuple[Tensor, Tensor]]) -> Tensor:
    (z_0, q_0), (z_1, q_1) = batch
    rows = [z.flatten(0, 1) for z in (z_0, z_1)]
    q_0, q_1 = (torch.cat([q, q]).detach() for q in (q_0, q_1))  # two draws of every item
    return information(rows[1][:, 0], q_0) + information(rows[0][:, 0], q_1) + information(rows[0][:, 1], q_1)


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyro_mfcvae.infer.dependence._ADDED", 0.0)


@pytest.mark.usefixtures("exact")
def test_the_first_batch_gives_the_information_of_an_analysis_of_variance_and_its_gradient() -> None:
    """Moments of the batch alone: the value and its gradient are those of ½ log(v / w), summed over other facets."""
    batch = draw_batch()
    found = FacetDependence(FACETS, torch.ones(2))(batch, torch.ones(2))
    wanted = expected(batch)
    assert found.item() == pytest.approx(wanted.item(), abs=1e-12)
    zs = [z for z, _ in batch]
    for here, there in zip(torch.autograd.grad(found, zs), torch.autograd.grad(wanted, zs), strict=True):
        torch.testing.assert_close(here, there, rtol=0, atol=1e-12)


def test_assignments_get_no_gradient() -> None:
    batch = draw_batch()
    FacetDependence(FACETS, torch.ones(2))(batch, torch.ones(2)).backward()
    assert all(q_c.grad is None for _, q_c in batch)


@pytest.mark.usefixtures("exact")
def test_the_moments_of_all_batches_count_with_weights_that_fall_by_a_tenth() -> None:
    first, second = draw_batch(seed=1), draw_batch(seed=2)
    dependence = FacetDependence(FACETS, torch.ones(2))
    dependence(first, torch.ones(2))
    dependence(second, torch.ones(2))
    old, new = ([torch.cat([q, q]).detach() for _, q in batch] for batch in (first, second))
    rows_old, rows_new = (torch.cat([z.flatten(0, 1) for z, _ in batch], -1).detach() for batch in (first, second))
    torch.testing.assert_close(dependence.frequency_0, 0.09 * old[0].mean(0) + 0.1 * new[0].mean(0))
    torch.testing.assert_close(dependence.sums_1, (0.09 * old[1].T @ rows_old + 0.1 * new[1].T @ rows_new) / 80)
    torch.testing.assert_close(dependence.squares, 0.09 * (rows_old**2).mean(0) + 0.1 * (rows_new**2).mean(0))


@pytest.mark.parametrize("alpha", ([0.5, 1.0], [0.0, 1.0]))
def test_facets_count_as_far_as_they_have_joined(alpha: list[float]) -> None:
    whole = FacetDependence(FACETS, torch.ones(2))(draw_batch(), torch.ones(2))
    part = FacetDependence(FACETS, torch.ones(2))(draw_batch(), torch.tensor(alpha))
    assert part.item() == pytest.approx(whole.item() * alpha[0] * alpha[1], abs=1e-12)


def test_known_values_at_many_items() -> None:
    """z_1 is c_0 plus noise of variance s²: I = ½ log(1 + Var(c_0) / s²); z_0 is independent of c_1: I = 0."""
    random = np.random.default_rng(0)
    c_0, c_1 = random.integers(3, size=100_000), random.integers(2, size=100_000)
    z_0 = torch.from_numpy(random.normal(size=(1, 100_000, 2)))
    z_1 = torch.from_numpy(c_0 + 0.5 * random.normal(size=100_000)).reshape(1, -1, 1)
    batch = [
        (z_0, torch.nn.functional.one_hot(torch.from_numpy(c_0), 3).double()),
        (z_1, torch.nn.functional.one_hot(torch.from_numpy(c_1), 2).double()),
    ]
    found = FacetDependence(FACETS, torch.ones(2))(batch, torch.ones(2))
    assert found.item() == pytest.approx(0.5 * math.log(1 + (2 / 3) / 0.25), abs=0.01)


def test_clusters_without_items_and_a_cluster_that_says_all_stay_finite() -> None:
    c = torch.arange(30) % 2
    q_0 = torch.nn.functional.one_hot(c, 3).double()  # the last cluster is empty
    z_1 = c.double().reshape(1, 30, 1).requires_grad_()
    batch = [(torch.randn(1, 30, 2), q_0), (z_1, torch.ones(30, 2) / 2)]
    found = FacetDependence(FACETS, torch.ones(2))(batch, torch.ones(2))
    found.backward()
    assert 3 < found.item() < 5
    assert z_1.grad is not None and bool(z_1.grad.isfinite().all())
