"""Repartition: axes of planted independent mixtures are found, near ties stay, and a pair's images do not change."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from pyro_mfcvae import MFCVAE, Facet
from pyro_mfcvae.guides import MLPLadderEncoder, MultiFacetGuide, RotatedEncoder
from pyro_mfcvae.models import GaussianLikelihood, MixturePrior, MLPLadderDecoder, MultiFacetModel, RotatedDecoder
from pyro_mfcvae.subspaces import repartition as module
from pyro_mfcvae.subspaces.repartition import Axes, choose_axes, repartition

UNIT = np.array([0.5, 2.0, 1.0])


def planted(rotation: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means (N, 3) and standard deviations of q(z | x): 4 clusters in a plane and 3 on a line, in units of UNIT."""
    rng = np.random.default_rng(1)
    plane = 12 * np.array([[0.0, 0.0], [1.0, 0.1], [0.1, 1.0], [1.0, 1.3]])[rng.integers(4, size=800)]
    line = 9.0 * rng.integers(3, size=(800, 1))
    return (np.concatenate([plane, line], 1) @ rotation) * UNIT, np.broadcast_to(UNIT, (800, 3)).copy()


def mixing() -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(5).normal(size=(3, 3)))[0]


def test_planted_axes_are_found() -> None:
    loc, scale = planted(mixing())
    axes = choose_axes(loc, scale, (2, 1), most_clusters=6, num_tries=8)
    assert axes is not None
    assert axes.score > axes.ladder_score + 1
    assert axes.sizes == (4, 3)
    line = loc @ axes.matrix[:, 2]
    assert len(np.unique(np.round((line - line.min()) / 3))) == 3  # three values, nine units apart
    inside = axes.matrix * UNIT[:, None]
    np.testing.assert_allclose(inside.T @ inside, np.eye(3), atol=1e-10)


def test_correct_axes_are_not_changed() -> None:
    assert choose_axes(*planted(np.eye(3)), (2, 1), most_clusters=6, num_tries=4) is None


def test_a_facet_without_clusters_gets_some() -> None:
    loc, scale = planted(np.eye(3))
    noise = np.random.default_rng(2).normal(size=(800, 1))
    loc = np.concatenate([noise, loc], 1)  # facet 0 is noise, and facet 1 holds both characteristics
    axes = choose_axes(loc, np.concatenate([np.ones((800, 1)), scale], 1), (1, 3), most_clusters=12, num_tries=8)
    assert axes is not None
    assert sorted(axes.sizes) == [3, 4]


def rotated_pair() -> MFCVAE:
    facets = (Facet(num_clusters=3, latent_dim=1), Facet(num_clusters=4, latent_dim=2))
    encoder = RotatedEncoder(MLPLadderEncoder(facets, (5,), rung_dims=(8, 8), head_init_scale=1.0))
    decoder = RotatedDecoder(MLPLadderDecoder(facets, (5,), rung_dims=(8, 8), hidden_dim=8))
    model = MultiFacetModel([MixturePrior(f) for f in facets], decoder, GaussianLikelihood(scale=0.5))
    return MFCVAE(model, MultiFacetGuide(model, encoder=encoder))


def test_new_axes_do_not_change_the_images(monkeypatch: pytest.MonkeyPatch) -> None:
    pair, x = rotated_pair(), torch.rand(6, 5)
    before = pair.reconstruct(x)
    loc = torch.cat([q.mean for q in pair.encode(x)], -1)
    matrix = mixing() * np.array([[2.0], [0.5], [1.0]])
    monkeypatch.setattr(module, "choose_axes", lambda *_, **__: Axes(matrix, 1.0, 0.0, (2, 2)))
    assert repartition(pair.model, pair.guide, x) is not None
    torch.testing.assert_close(pair.reconstruct(x), before)
    torch.testing.assert_close(torch.cat([q.mean for q in pair.encode(x)], -1), loc @ torch.from_numpy(matrix))


def test_a_ladder_without_rotation_is_left_alone(
    make_pair: Callable[..., tuple[MultiFacetModel, MultiFacetGuide]], make_x: Callable[[int], Tensor]
) -> None:
    model, guide = make_pair()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert repartition(model, guide, make_x(9)) is None
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
