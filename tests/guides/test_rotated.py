"""The rotated encoder: the identity changes nothing, and a map changes means and variances by the formula."""

from functools import partial

import pytest
import torch

from pyro_mfcvae import Facet, InputError
from pyro_mfcvae.guides import FullCovarianceHead, MLPLadderEncoder, RotatedEncoder

FACETS = (Facet(num_clusters=2, latent_dim=1), Facet(num_clusters=2, latent_dim=2))


def test_the_identity_changes_nothing() -> None:
    ladder = MLPLadderEncoder(FACETS, (4,), rung_dims=(6, 6), head_init_scale=1.0)
    x = torch.rand(3, 4)
    for before, after in zip(ladder(x), RotatedEncoder(ladder)(x), strict=True):
        torch.testing.assert_close(after.mean, before.mean)
        torch.testing.assert_close(after.stddev, before.stddev)


def test_a_map_moves_means_and_variances() -> None:
    ladder = MLPLadderEncoder(FACETS, (4,), rung_dims=(6, 6), head_init_scale=1.0)
    encoder, x = RotatedEncoder(ladder), torch.rand(3, 4)
    encoder.axes.copy_(torch.tensor([[0.0, 2.0, 0.0], [1.0, 0.0, 1.0], [0.0, 0.0, 3.0]]))
    (a,), (b, c) = (q.mean.unbind(-1) for q in ladder(x))
    mapped = encoder(x)
    torch.testing.assert_close(mapped[0].mean, b[:, None])
    torch.testing.assert_close(mapped[1].mean, torch.stack([2 * a, b + 3 * c], -1))
    (va,), (vb, vc) = (q.variance.unbind(-1) for q in ladder(x))
    torch.testing.assert_close(mapped[1].variance, torch.stack([4 * va, vb + 9 * vc], -1))


def test_only_diagonal_gaussians_are_mapped() -> None:
    ladder = MLPLadderEncoder(FACETS, (4,), rung_dims=(6, 6), head=partial(FullCovarianceHead))
    with pytest.raises(InputError, match="expected a ladder with a diagonal Gaussian q"):
        RotatedEncoder(ladder)
