"""Points of three clusters that are far apart."""

import torch
from torch import Tensor

from pyro_mfcvae import Facet

FACET = Facet(num_clusters=3, latent_dim=2)
MEANS = torch.tensor([[-8.0, 0.0], [0.0, 8.0], [8.0, 0.0]], dtype=torch.float64)
SPREADS = torch.tensor([[[0.5, 0.0], [0.3, 0.2]], [[0.4, 0.0], [0.0, 0.4]], [[0.2, 0.0], [-0.4, 0.6]]]).double()
PROBS = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)


def separated(num: int) -> Tensor:
    """Points of three clusters that are far apart."""
    c = torch.arange(num) % 10
    c = (c >= 2).long() + (c >= 5).long()
    return MEANS[c] + (SPREADS[c] @ torch.randn(num, 2, 1)).squeeze(-1)
