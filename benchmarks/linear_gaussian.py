"""A multi-facet mixture whose posterior and evidence are known exactly, with guides that are exact or have a known
fault.

    c_j ~ Categorical(pi_j),  z_j | c_j ~ Normal(mu_jc, diag(s_jc²)),  x | z ~ Normal(W z, sigma² I),  WᵀW = I

The columns of W are orthonormal, so the facets are independent a posteriori and p(z_j | x) is a Gaussian mixture.
"""

import math
from collections.abc import Collection, Iterator, Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_mfcvae.facets import Facet
from pyro_mfcvae.guides import AssignmentRule, LadderEncoder, MultiFacetGuide, VaDEAssignment
from pyro_mfcvae.mfcvae import MFCVAE
from pyro_mfcvae.models import GaussianLikelihood, LadderDecoder, MixturePrior, MultiFacetModel

FACETS = (Facet(num_clusters=3, latent_dim=2), Facet(num_clusters=2, latent_dim=1))
NOISE, NUM_PIXELS = 1.5, 6


class LinearDecoder(LadderDecoder):
    """W z."""

    def __init__(self) -> None:
        super().__init__(FACETS, (NUM_PIXELS,))
        num_dims = sum(f.latent_dim for f in FACETS)
        generator = torch.Generator().manual_seed(0)
        matrix = torch.randn(NUM_PIXELS, num_dims, generator=generator, dtype=torch.float64)
        self.register_buffer("weight", torch.linalg.qr(matrix)[0].to(torch.get_default_dtype()))

    def forward(self, zs: Sequence[Tensor], alpha: Tensor) -> Tensor:
        return torch.cat(list(zs), -1) @ self.weight.T

    def hidden_layers(self) -> Iterator[nn.Module]:
        yield from ()


class PosteriorMixture(dist.MixtureSameFamily):
    """A Gaussian mixture as q(z | x), from which rules can draw; its draws have no gradients."""

    has_rsample = True

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self.sample(torch.Size(sample_shape))


class ExactEncoder(LadderEncoder):
    """p(z_j | x), scaled around its mean and shifted.

    Args:
        model: the model, which determines the posterior.
        spread: factor on the scales, including the distances of components from the overall mean; 1 is exact.
        shift: shift in standard deviations of the posterior; 0 is exact.
        off: the facets with this fault; the others are exact.
    """

    def __init__(
        self, model: MultiFacetModel, *, spread: float = 1.0, shift: float = 0.0, off: Collection[int] = (0, 1)
    ) -> None:
        super().__init__(FACETS, (NUM_PIXELS,))
        self._model = (model,)
        self.spread, self.shift, self.off = spread, shift, off

    def forward(self, x: Tensor) -> list[dist.TorchDistribution]:
        model = self._model[0]
        projections = (x @ model.decoder.weight).split([f.latent_dim for f in FACETS], -1)
        posteriors: list[dist.TorchDistribution] = []
        for j, (u, prior) in enumerate(zip(projections, model.priors, strict=True)):
            spread, shift = (self.spread, self.shift) if j in self.off else (1.0, 0.0)
            u = u.unsqueeze(-2)  # (N, 1, D)
            marginal = dist.Normal(prior.loc, (prior.scale.square() + NOISE**2).sqrt()).to_event(1)
            logits = prior().log_weights() + marginal.log_prob(u)
            precision = prior.scale.square().reciprocal() + NOISE**-2
            loc = (prior.loc / prior.scale.square() + u / NOISE**2) / precision
            scale = precision.rsqrt().expand_as(loc)
            exact = PosteriorMixture(dist.Categorical(logits=logits), dist.Normal(loc, scale).to_event(1))
            mean, stddev = exact.mean.unsqueeze(-2), exact.variance.sqrt().unsqueeze(-2)
            loc = mean + spread * (loc - mean) + shift * stddev
            components = dist.Normal(loc, spread * scale).to_event(1)
            posteriors.append(PosteriorMixture(dist.Categorical(logits=logits), components))
        return posteriors

    def hidden_layers(self) -> Iterator[nn.Module]:
        yield from ()


def linear_pair(
    *,
    spread: float = 1.0,
    shift: float = 0.0,
    off: Collection[int] = (0, 1),
    rule: AssignmentRule | None = None,
) -> MFCVAE:
    """Make the pair; q(c | x) is E_q(z|x)[p(c | z)], which is exact if q(z | x) is exact."""
    priors = [MixturePrior(f) for f in FACETS]
    locs = (torch.tensor([[-2.0, 0.0], [2.0, 0.5], [0.0, 2.5]]), torch.tensor([[-1.5], [1.5]]))
    scales = (torch.tensor([[0.8, 0.8], [0.6, 1.0], [1.0, 0.6]]), torch.tensor([[0.7], [0.9]]))
    weights = (torch.tensor([0.5, 0.3, 0.2]), torch.tensor([0.65, 0.35]))
    for prior, loc, scale, probs in zip(priors, locs, scales, weights, strict=True):
        prior.set_mixture(loc, torch.diag_embed(scale.square()), probs=probs)
    model = MultiFacetModel(priors, LinearDecoder(), GaussianLikelihood(scale=NOISE))
    encoder = ExactEncoder(model, spread=spread, shift=shift, off=off)
    return MFCVAE(model, MultiFacetGuide(model, encoder=encoder, assignment=rule or VaDEAssignment(num_samples=100)))


@torch.no_grad()
def draw(pair: MFCVAE, num: int) -> Tensor:
    """Items of the model, (num, 6)."""
    observation: dist.TorchDistribution = pair.model.observation(pair.sample_latents(num))
    return observation.sample()


@torch.no_grad()
def exact_log_evidence(pair: MFCVAE, x: Tensor) -> Tensor:
    """log p(x), (N,): x is noise orthogonal to the columns of W, and a mixture per facet along them."""
    projections = x @ pair.model.decoder.weight
    num_off = NUM_PIXELS - projections.shape[-1]
    off = x.square().sum(-1) - projections.square().sum(-1)
    total = -0.5 * off / NOISE**2 - num_off * (math.log(NOISE) + 0.5 * math.log(2 * math.pi))
    for u, prior in zip(projections.split([f.latent_dim for f in FACETS], -1), pair.model.priors, strict=True):
        marginal = dist.Normal(prior.loc, (prior.scale.square() + NOISE**2).sqrt()).to_event(1)
        total = total + (prior().log_weights() + marginal.log_prob(u.unsqueeze(-2))).logsumexp(-1)
    return total
