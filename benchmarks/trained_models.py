"""A trained model whose posterior is known, because it is tabulated on a grid over z.

Every facet has its own pixels, x_j = f_j(z_j) + noise, where f_j is a trained network. So p(z_j | x) depends on D = 2
coordinates and can be tabulated on a grid of 128 × 128 cells. Data drawn from the trained model, with this posterior as
guide, are an exact case that was not constructed by hand: the decoder is curved, and training decides where clusters
lie.
"""

import math
from collections.abc import Iterator, Sequence
from functools import cache

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI
from pyro.optim import ClippedAdam
from torch import Tensor, nn

from pyro_mfcvae.facets import Facet
from pyro_mfcvae.guides import LadderEncoder, MLPLadderEncoder, MultiFacetGuide, SampleAssignment
from pyro_mfcvae.infer.mixture_fit import initialize_mixtures
from pyro_mfcvae.infer.objective import FacetELBO
from pyro_mfcvae.mfcvae import MFCVAE
from pyro_mfcvae.models import GaussianLikelihood, LadderDecoder, MixturePrior, MultiFacetModel

FACETS = (Facet(num_clusters=5, latent_dim=2), Facet(num_clusters=4, latent_dim=2))
NUM_PIXELS, NUM_CELLS, STEPS, NOISE = 6, 128, 1500, 0.35  # pixels of a facet; cells of an axis


class BlockDecoder(LadderDecoder):
    """One network per facet, each for its own pixels."""

    def __init__(self) -> None:
        super().__init__(FACETS, (NUM_PIXELS * len(FACETS),))
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(f.latent_dim, 32), nn.Tanh(), nn.Linear(32, NUM_PIXELS)) for f in FACETS
        )

    def forward(self, zs: Sequence[Tensor], alpha: Tensor) -> Tensor:
        return torch.cat([block(z) for block, z in zip(self.blocks, zs, strict=True)], -1)

    def hidden_layers(self) -> Iterator[nn.Module]:
        yield from (block[0] for block in self.blocks)


class GridPosterior(dist.TorchDistribution):
    """A density over a square that is constant within the cells of a grid: batch shape (N,), event shape (2,).

    Args:
        logits: logits of the cells, (N, G * G).
        low: lower corner of the square, (2,).
        width: width of a cell, (2,).
    """

    has_rsample = True

    def __init__(self, logits: Tensor, low: Tensor, width: Tensor) -> None:
        self.log_probs, self.probs, self.low, self.width = logits.log_softmax(-1), logits.softmax(-1), low, width
        super().__init__(logits.shape[:-1], torch.Size([2]), validate_args=False)

    @property
    def centres(self) -> Tensor:
        return grid_centres(self.low, self.width)

    @property
    def mean(self) -> Tensor:
        return self.probs @ self.centres

    @property
    def variance(self) -> Tensor:
        return self.probs @ self.centres.square() - self.mean.square() + self.width.square() / 12

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws without gradients."""
        shape = torch.Size(sample_shape)
        cells = torch.multinomial(self.probs, shape.numel(), replacement=True).T.reshape(*shape, -1)
        return self.centres[cells] + self.width * (torch.rand(*cells.shape, 2) - 0.5)

    def log_prob(self, value: Tensor) -> Tensor:
        places = ((value - self.low) / self.width).floor().long().clamp(0, NUM_CELLS - 1)
        cells = (places[..., 0] * NUM_CELLS + places[..., 1]).reshape(-1, len(self.log_probs))
        return (self.log_probs.gather(1, cells.T).T - self.width.log().sum()).reshape(value.shape[:-1])


def grid_centres(low: Tensor, width: Tensor) -> Tensor:
    """Centres of all cells, (G * G, 2)."""
    steps = torch.arange(NUM_CELLS) + 0.5
    return torch.cartesian_prod(low[0] + steps * width[0], low[1] + steps * width[1])


class GridEncoder(LadderEncoder):
    """p(z_j | x) on a grid that covers the prior."""

    def __init__(self, model: MultiFacetModel) -> None:
        super().__init__(FACETS, model.event_shape)
        self._model, self._tables = (model,), []
        with torch.no_grad():
            for j, prior in enumerate(model.priors):
                mixture = prior()
                draws = mixture.sample(20_000)[1]
                low, high = draws.amin(0) - 0.5, draws.amax(0) + 0.5
                width = (high - low) / NUM_CELLS
                centres = grid_centres(low, width)
                log_prior = (mixture.log_weights() + mixture.log_prob(centres)).logsumexp(-1)
                self._tables.append((low, width, log_prior, model.decoder.blocks[j](centres)))

    def forward(self, x: Tensor) -> list[dist.TorchDistribution]:
        noise = self._model[0].likelihood.scale
        posteriors: list[dist.TorchDistribution] = []
        for (low, width, log_prior, images), part in zip(self._tables, x.split(NUM_PIXELS, -1), strict=True):
            products = part @ images.T - images.square().sum(-1) / 2
            posteriors.append(GridPosterior(log_prior + products / noise**2, low, width))
        return posteriors

    def hidden_layers(self) -> Iterator[nn.Module]:
        yield from ()


def draw_curves(num: int) -> Tensor:
    """Draw training items, (num, 12): two independent angles from a few arcs each; a curve maps each angle to six
    pixels.
    """
    blocks = []
    for facet in FACETS:
        c = torch.randint(facet.num_clusters, (num,))
        angle = 2 * math.pi * (c / facet.num_clusters + 0.05 * torch.randn(num))
        radius = 1.0 + 0.1 * torch.randn(num)
        waves = [(radius * f(k * angle)) for k in (1, 2, 3) for f in (torch.cos, torch.sin)]
        blocks.append(torch.stack(waves, -1))
    x = torch.cat(blocks, -1)
    return x + NOISE * torch.randn_like(x)


@cache
def exact_trained_pair() -> MFCVAE:
    """The trained model, with its posterior on the grid as guide."""
    pyro.set_rng_seed(0)
    model = MultiFacetModel([MixturePrior(facet) for facet in FACETS], BlockDecoder(), GaussianLikelihood(scale=NOISE))
    encoder = MLPLadderEncoder(FACETS, model.event_shape, rung_dims=(64, 64))
    guide = MultiFacetGuide(model, encoder=encoder, assignment=SampleAssignment())
    items = draw_curves(5000)
    with pyro.get_param_store().scope():
        svi = SVI(model, guide, ClippedAdam({"lr": 3e-3}), loss=FacetELBO(closed_form=False))
        for step in range(STEPS):
            if step == STEPS // 3:
                initialize_mixtures(model, guide, items[:2000])
            svi.step(items[torch.randint(len(items), (256,))])
    model.eval().requires_grad_(False)
    return MFCVAE(model, MultiFacetGuide(model, encoder=GridEncoder(model), assignment=SampleAssignment()))
