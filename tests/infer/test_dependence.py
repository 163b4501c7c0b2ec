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
            (3 * torch.randn(num_items, facet.num_clusters, generator=random)).log_softmax(-1).requires_grad_(),
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
    (z_0, log_q_0), (z_1, log_q_1) = batch
    rows = [z.flatten(0, 1) for z in (z_0, z_1)]
    log_q_0, log_q_1 = (torch.cat([log_q, log_q]) for log_q in (log_q_0, log_q_1))  # two draws of every item
    q_0, q_1 = log_q_0.detach().exp(), log_q_1.detach().exp()
    soft_0, soft_1 = (log_q_0 / 10).softmax(-1), (log_q_1 / 10).softmax(-1)
    coordinates = information(rows[1][:, 0], q_0) + sum(information(z, q_1) for z in rows[0].T)
    assignments = sum(information(r, q_0) for r in soft_1.T) + sum(information(r, q_1) for r in soft_0.T)
    return coordinates + 0.1 * assignments


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pyro_mfcvae.infer.dependence._ADDED", 0.0)
    monkeypatch.setattr("pyro_mfcvae.infer.dependence._TIMES_CHANCE", 0.0)


@pytest.mark.usefixtures("exact")
def test_the_first_batch_gives_the_information_of_an_analysis_of_variance_and_its_gradient() -> None:
    """The first batch alone gives the moments: the value and its gradient are those of ½ log(v / w), summed over
    other facets.
    """
    batch = draw_batch()
    found = FacetDependence(FACETS, torch.ones(2))(batch, torch.ones(2))
    wanted = expected(batch)
    assert found.item() == pytest.approx(wanted.item(), abs=1e-12)
    inputs = [tensor for pair in batch for tensor in pair]
    for here, there in zip(torch.autograd.grad(found, inputs), torch.autograd.grad(wanted, inputs), strict=True):
        torch.testing.assert_close(here, there, rtol=0, atol=1e-12)


@pytest.mark.usefixtures("exact")
def test_the_moments_of_all_batches_count_with_weights_that_fall_by_a_tenth() -> None:
    first, second = draw_batch(seed=1), draw_batch(seed=2)
    dependence = FacetDependence(FACETS, torch.ones(2))
    dependence(first, torch.ones(2))
    dependence(second, torch.ones(2))
    (z_old, log_q_old), (z_new, log_q_new) = (batch[1] for batch in (first, second))
    old, new = (torch.cat([log_q, log_q]).exp().detach() for log_q in (log_q_old, log_q_new))
    torch.testing.assert_close(dependence.frequency_1, 0.09 * old.mean(0) + 0.1 * new.mean(0))
    rows_old, rows_new = (z.flatten(0, 1)[:, 0].detach() for z in (z_old, z_new))
    sums = (0.09 * old.T @ rows_old + 0.1 * new.T @ rows_new) / 80
    torch.testing.assert_close(dependence.sums_1[:, 5], sums)  # after 2 coordinates and 3 assignments of facet 0
    torch.testing.assert_close(dependence.squares[5], 0.09 * (rows_old**2).mean() + 0.1 * (rows_new**2).mean())


@pytest.mark.parametrize("alpha", ([0.5, 1.0], [0.0, 1.0]))
def test_facets_are_weighted_by_alpha(alpha: list[float]) -> None:
    whole = FacetDependence(FACETS, torch.ones(2))(draw_batch(), torch.ones(2))
    part = FacetDependence(FACETS, torch.ones(2))(draw_batch(), torch.tensor(alpha))
    assert part.item() == pytest.approx(whole.item() * alpha[0] * alpha[1], abs=1e-12)


def one_hot(c: Tensor, num: int) -> Tensor:
    """Logarithms of nearly certain assignments."""
    return (20.0 * torch.nn.functional.one_hot(c, num).double()).log_softmax(-1)


def test_known_values_at_many_items() -> None:
    """z_1 is c_0 plus noise of variance s²: I = ½ log(1 + Var(c_0) / s²); z_0 is independent of c_1, and c_0 of c_1."""
    random = np.random.default_rng(0)
    c_0, c_1 = (torch.from_numpy(random.integers(num, size=100_000)) for num in (3, 2))
    z_0 = torch.from_numpy(random.normal(size=(1, 100_000, 2)))
    z_1 = (c_0 + torch.from_numpy(0.5 * random.normal(size=100_000))).reshape(1, -1, 1)
    found = FacetDependence(FACETS, torch.ones(2))([(z_0, one_hot(c_0, 3)), (z_1, one_hot(c_1, 2))], torch.ones(2))
    assert found.item() == pytest.approx(0.5 * math.log(1 + (2 / 3) / 0.25), abs=0.01)


def test_information_that_chance_explains_costs_nothing() -> None:
    """By chance, three clusters and 1,000 items have (3 - 1) / (2 · 19,000) nats; twice that amount costs nothing."""
    random = torch.Generator().manual_seed(0)
    c_0 = torch.randint(3, (1000,), generator=random)
    draws_0, log_q_1 = (torch.zeros(1, 1000, 2), one_hot(c_0, 3)), torch.full((1000, 2), math.log(0.5))
    noise = torch.randn(1, 1000, 1, generator=random)
    noise = noise - noise.new_tensor([noise[0, c_0 == k].mean() for k in range(3)])[c_0].reshape(1, -1, 1)
    values = []
    for effect in (0.01, 0.02):  # half the squared effect times Var(c_0) = 2/3 is the information: 3e-5 and 1.3e-4
        z_1 = (noise / noise.std() + effect * c_0.reshape(1, -1, 1)).requires_grad_()
        found = FacetDependence(FACETS, torch.ones(2))([draws_0, (z_1, log_q_1)], torch.ones(2))
        found.backward()
        assert z_1.grad is not None
        values.append((found.item() > 0, bool(z_1.grad.any())))
    assert values == [(False, False), (True, True)]


def test_a_gradient_reaches_facets_whose_clusters_lie_far_apart() -> None:
    """c_1 repeats c_0 in clusters with no item between them; there is still a gradient that pulls the logits
    together.
    """
    c = torch.arange(40) % 2
    log_q_1 = one_hot(c, 2).requires_grad_()
    z_0, z_1 = torch.randn(1, 40, 2), torch.randn(1, 40, 1)
    FacetDependence(FACETS, torch.ones(2))([(z_0, one_hot(c, 3)), (z_1, log_q_1)], torch.ones(2)).backward()
    assert log_q_1.grad is not None
    own = log_q_1.grad.gather(1, c.unsqueeze(1))
    assert bool((own > 1e-5).all())  # a step of gradient descent makes each item's own cluster less certain


def test_empty_and_certain_clusters_give_finite_values() -> None:
    c = torch.arange(30) % 2  # the last cluster of facet 0 is empty
    z_1 = c.double().reshape(1, 30, 1).requires_grad_()
    log_q_1 = torch.full((30, 2), math.log(0.5)).requires_grad_()  # a facet without information
    batch = [(torch.randn(1, 30, 2), one_hot(c, 3)), (z_1, log_q_1)]
    found = FacetDependence(FACETS, torch.ones(2))(batch, torch.ones(2))
    found.backward()
    assert 3 < found.item() < 5
    for tensor in (z_1, log_q_1):
        assert tensor.grad is not None and bool(tensor.grad.isfinite().all())
