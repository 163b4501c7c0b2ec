"""The rotated decoder reverses the encoder's map before its ladder reads the latents, for any batch shape."""

import torch

from pyro_mfcvae import Facet
from pyro_mfcvae.models import MLPLadderDecoder, RotatedDecoder

FACETS = (Facet(num_clusters=2, latent_dim=1), Facet(num_clusters=2, latent_dim=2))


def test_it_decodes_what_was_mapped() -> None:
    ladder = MLPLadderDecoder(FACETS, (4,), rung_dims=(6, 6), hidden_dim=5)
    decoder, axes = RotatedDecoder(ladder), torch.randn(3, 3) + 2 * torch.eye(3)
    decoder.inverse_axes.copy_(axes.inverse())
    zs, alpha = [torch.randn(2, 1, 1), torch.randn(5, 2)], torch.tensor([0.5, 1.0])
    z = torch.cat([zs[0].expand(2, 5, 1), zs[1].expand(2, 5, 2)], -1)
    mapped = (z @ axes).split([1, 2], -1)
    torch.testing.assert_close(decoder(mapped, alpha), ladder(zs, alpha))
    assert len(list(decoder.hidden_layers())) == len(list(ladder.hidden_layers()))
