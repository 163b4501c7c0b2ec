"""A pair whose encoder returns z almost exactly, so that clusters that are apart are practically observed."""

from collections.abc import Iterator

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_mfcvae import MFCVAE, Facet
from pyro_mfcvae.guides import LadderEncoder, MultiFacetGuide
from pyro_mfcvae.models import BayesianMixturePrior, GaussianLikelihood, MLPLadderDecoder, MultiFacetModel


class Identity(LadderEncoder):
    """q(z | x) = Normal(x, 0.01): the clusters are practically observed."""

    def __init__(self, facet: Facet) -> None:
        super().__init__([facet], (facet.latent_dim,))

    def forward(self, x: Tensor) -> list[dist.TorchDistribution]:
        return [dist.Normal(x, 0.01).to_event(1)]

    def hidden_layers(self) -> Iterator[nn.Module]:
        return iter(())


def make_model(prior: BayesianMixturePrior, num_data: int | None = None) -> MultiFacetModel:
    decoder = MLPLadderDecoder([prior.facet], (prior.facet.latent_dim,), rung_dims=(4,), hidden_dim=4)
    return MultiFacetModel([prior], decoder, GaussianLikelihood(), num_data=num_data)


def random_mean_pair() -> MFCVAE:
    """z ~ Normal(loc, 0.5) with loc ~ q = Normal(2, 1), p(loc) = Normal(0, 3), x = z + Normal(0, 0.3).

    log p(x) is that of Normal(2, sqrt(0.25 + 1 + 0.09)), and KL(q(loc) ‖ p(loc)) = log 3 + (1 + 4) / 18 - 1 / 2.
    """
    facet = Facet(num_clusters=1, latent_dim=1)
    prior = BayesianMixturePrior(facet, random=("loc",), loc_scale=3.0)
    with torch.no_grad():
        prior.scale = torch.full((1, 1), 0.5)
    model = make_model(prior)
    model.likelihood = GaussianLikelihood(scale=0.3)
    model.decoder.forward = lambda zs, alpha: zs[0]  # type: ignore[method-assign]
    guide = MultiFacetGuide(model, encoder=Identity(facet))
    others = guide.globals_guide.others
    others()
    with torch.no_grad():
        others.locs.loc_0.fill_(2.0)
        others.scales.loc_0 = torch.ones_like(others.scales.loc_0)
    guide.encoder.forward = lambda x: [dist.Normal(x, 0.3).to_event(1)]  # type: ignore[method-assign]
    return MFCVAE(model, guide)
