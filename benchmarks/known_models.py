"""Models of any size whose posterior is known exactly, with or without missing pixels, and faults that can be built
into them.

    c_j ~ Categorical(pi_j),  z_j | c_j ~ Normal(mu_jc, diag(s_jc²)),  x_jdr | z ~ Normal(z_jd, sigma²),  r = 1 … 3

Every coordinate of z has its own three pixels. So coordinates and facets are independent given x and c, for every set
of missing pixels, and p(z_j | x) is a Gaussian mixture with the weights p(c_j | x). With the rule p(c | z) the guide is
the exact posterior.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_mfcvae.facets import Facet
from pyro_mfcvae.guides import AssignmentRule, LadderEncoder, MultiFacetGuide, SampleAssignment
from pyro_mfcvae.mfcvae import MFCVAE
from pyro_mfcvae.models import GaussianLikelihood, LadderDecoder, MixturePrior, MultiFacetModel
from pyro_mfcvae.models.mixtures import Mixture

PIXELS_PER_DIM = 3
NOISE = 1.0
MISSING = 0.3  # share of missing pixels


@dataclass(frozen=True)
class Fault:
    """A fault of a guide, in facet 1.

    Attributes:
        spread: factor on the scale of q(z | x), including the distances of its components from the mean.
        shift: shift of q(z | x), in its standard deviations.
        correlation: correlation between the first two coordinates of every component of q(z | x).
        narrowed: fraction of the items whose q(z | x) has 0.3 of its width.
        dropped: cluster that q(z | x) leaves out.
        temper: exponent of q(c | x); None for the rule p(c | z).
    """

    spread: float = 1.0
    shift: float = 0.0
    correlation: float = 0.0
    narrowed: float = 0.0
    dropped: int | None = None
    temper: float | None = None


class RepeatDecoder(LadderDecoder):
    """Repeats every coordinate of z three times; facets that are cut off give zeros."""

    def __init__(self, facets: Sequence[Facet], *, cut: Sequence[int] = ()) -> None:
        super().__init__(facets, (PIXELS_PER_DIM * sum(f.latent_dim for f in facets),))
        self.gains = [0.0 if j in cut else 1.0 for j in range(len(facets))]

    def forward(self, zs: Sequence[Tensor], alpha: Tensor) -> Tensor:
        together = torch.cat([gain * z for gain, z in zip(self.gains, zs, strict=True)], -1)
        return together.repeat_interleave(PIXELS_PER_DIM, -1)

    def hidden_layers(self) -> Iterator[nn.Module]:
        yield from ()


def fast_logsumexp(x: Tensor) -> Tensor:
    """log sum exp over the last dimension, (..., K) -> (...), 8 times faster on CPUs if most exp underflow."""
    largest = x.argmax(-1, keepdim=True)
    return (x.gather(-1, largest) - x.log_softmax(-1).gather(-1, largest)).squeeze(-1)


class PosteriorMixture(dist.MixtureSameFamily):
    """A Gaussian mixture as q(z | x), from which rules can draw; its draws have no gradients.

    Each draw uses only one component, and the densities of all components are one matrix product.
    """

    has_rsample = True

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        return self.sample(torch.Size(sample_shape))

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        components = self.component_distribution
        if not isinstance(components, dist.Independent):
            return super().sample(torch.Size(sample_shape))
        c = self.mixture_distribution.sample(torch.Size(sample_shape))
        rows = torch.arange(c.shape[-1])
        normal = components.base_dist
        return torch.normal(normal.loc[rows, c], normal.scale[rows, c])

    def log_prob(self, value: Tensor) -> Tensor:
        components = self.component_distribution
        if not isinstance(components, dist.Independent):
            return super().log_prob(value)
        loc, precision = components.base_dist.loc, components.base_dist.scale.square().reciprocal()
        constant = 0.5 * (precision.log() - math.log(2 * math.pi) - precision * loc**2).sum(-1)
        linear = torch.cat([precision * loc, -0.5 * precision], -1).mT  # (N, 2D, K)
        draws = value if value.ndim == 3 else value.unsqueeze(0)
        powers = torch.cat([draws, draws**2], -1).transpose(0, 1)  # (N, S, 2D)
        joint = torch.baddbmm(
            (constant + self.mixture_distribution.logits.log_softmax(-1)).unsqueeze(1), powers, linear
        )
        log_prob = fast_logsumexp(joint).T
        return log_prob if value.ndim == 3 else log_prob[0]


class FastNormal(dist.Independent):
    """Normal components with independent coordinates, whose densities at a z are one matrix product."""

    def log_prob(self, value: Tensor) -> Tensor:
        if value.shape[-2] != 1 or value.ndim < 3:
            return super().log_prob(value)
        loc, precision = self.base_dist.loc, self.base_dist.scale.square().reciprocal()
        constant = 0.5 * (precision.log() - math.log(2 * math.pi) - precision * loc**2).sum(-1)
        z = value.squeeze(-2)
        return constant + z @ (precision * loc).T - 0.5 * z**2 @ precision.T


class FastPrior(MixturePrior):
    """The same prior with a faster mixture."""

    def forward(self, theta: object = None) -> Mixture:
        return Mixture(self.logits, FastNormal(dist.Normal(self.loc, self.scale), 1))


class ExactEncoder(LadderEncoder):
    """p(z_j | x) for items with a mask of the observed pixels, or with a fault in facet 1."""

    def __init__(self, model: MultiFacetModel, fault: Fault) -> None:
        num_pixels = model.event_shape[0]
        super().__init__(model.facets, (2 * num_pixels if model.missing else num_pixels,))
        self._model, self.fault = (model,), fault

    def forward(self, x: Tensor) -> list[dist.TorchDistribution]:
        model = self._model[0]
        x, observed = x.chunk(2, -1) if model.missing else (x, torch.ones_like(x))
        dims = [f.latent_dim for f in model.facets]
        sums, counts = (t.unflatten(-1, (-1, PIXELS_PER_DIM)).sum(-1).split(dims, -1) for t in (x * observed, observed))
        noise = float(model.likelihood.scale)
        posteriors = []
        for j, prior in enumerate(model.priors):
            gain = model.decoder.gains[j]
            # A coordinate with n observed pixels of sum s: likelihood exp(s z - n z² / 2) / noise², up to a constant.
            information = (gain**2 * counts[j] / noise**2).unsqueeze(-2)
            evidence = (gain * sums[j] / noise**2).unsqueeze(-2)
            prior_precision = prior.scale.square().reciprocal()
            precision = prior_precision + information
            loc = (prior.loc * prior_precision + evidence) / precision
            terms = prior_precision.log() - precision.log() + precision * loc**2 - prior_precision * prior.loc**2
            logits = prior().log_weights() + 0.5 * terms.sum(-1)
            scale = precision.rsqrt().expand_as(loc)
            posteriors.append(self._spoil(logits, loc, scale, x) if j == 1 else _mixture(logits, loc, scale))
        return posteriors

    def _spoil(self, logits: Tensor, loc: Tensor, scale: Tensor, x: Tensor) -> dist.TorchDistribution:
        fault = self.fault
        if fault.dropped is not None:
            logits = logits.clone()
            logits[..., fault.dropped] = -1e4
        exact = _mixture(logits, loc, scale)
        spread = torch.full_like(loc[..., :1], fault.spread)
        if fault.narrowed:
            some = (x.sum(-1) * 1000 % 1) < fault.narrowed
            spread[some] = 0.3
        if fault.spread != 1 or fault.narrowed or fault.shift:
            mean, stddev = exact.mean.unsqueeze(-2), exact.variance.sqrt().unsqueeze(-2)
            loc, scale = mean + spread * (loc - mean) + fault.shift * stddev, spread * scale
        if fault.correlation:
            tril = torch.diag_embed(scale)
            tril[..., 1, 0] = fault.correlation * scale[..., 1]
            tril[..., 1, 1] = math.sqrt(1 - fault.correlation**2) * scale[..., 1]
            return PosteriorMixture(dist.Categorical(logits=logits), dist.MultivariateNormal(loc, scale_tril=tril))
        return _mixture(logits, loc, scale)

    def hidden_layers(self) -> Iterator[nn.Module]:
        yield from ()


class TemperedAssignment(AssignmentRule):
    """p(c | x)^t, normalised, in facet 1; p(c | x) in all other facets."""

    def __init__(self, exponent: float) -> None:
        super().__init__()
        self.exponent = exponent

    def forward(self, j: int, prior: object, posterior: dist.TorchDistribution, z: Tensor) -> Tensor:
        logits: Tensor = posterior.mixture_distribution.logits.log_softmax(-1)
        return (self.exponent * logits if j == 1 else logits).log_softmax(-1)


def _mixture(logits: Tensor, loc: Tensor, scale: Tensor) -> PosteriorMixture:
    return PosteriorMixture(dist.Categorical(logits=logits), dist.Normal(loc, scale).to_event(1))


def make_pair(
    num_clusters: int,
    latent_dim: int,
    *,
    missing: bool = False,
    fault: Fault | None = None,
    rule: AssignmentRule | None = None,
    cut: Sequence[int] = (),
    noise: float = NOISE,
    layout: Literal["apart", "close", "merged"] = "apart",
) -> MFCVAE:
    """Make a pair of two facets with K clusters in D dimensions each; the random means are the same in every call.

    Args:
        num_clusters: K.
        latent_dim: D.
        missing: whether pixels may be missing.
        fault: fault of the guide.
        rule: the assignment rule; p(c | z) if None.
        cut: facets that the decoder ignores; facet 1 then has the weights .999 and .001 / (K - 1).
        noise: scale of the likelihood.
        layout: how facet 1 is changed. "merged": clusters 0 and 1 get the same mean and scale, which fit both.
            "close": cluster 2 overlaps cluster 1. "apart": no change.
    """
    facets = (Facet(num_clusters=num_clusters, latent_dim=latent_dim),) * 2
    generator = torch.Generator().manual_seed(0)
    priors = []
    for j, facet in enumerate(facets):
        reach = 3.0 * num_clusters ** (1 / latent_dim)
        loc = reach * (torch.rand(num_clusters, latent_dim, generator=generator) - 0.5)
        scale = 0.4 + 0.6 * torch.rand(num_clusters, latent_dim, generator=generator)
        probs = 0.5 + torch.rand(num_clusters, generator=generator)
        if j == 1:
            # Faults are built into clusters 0 and 1. With every seed these are separate and have a tenth of the items
            # each.
            loc[0] = loc[2:].amin(0) - 6.0
            loc[1] = loc[0] + 3.0
            probs[:2] = torch.maximum(probs[:2], 0.125 * probs[2:].sum())
            if j in cut:
                probs[:] = 0.001 / (num_clusters - 1)
                probs[0] = 0.999
            if layout == "close":
                loc[2] = loc[1] + 2.0 / latent_dim**0.5
                probs[2] = probs[1]
            if layout == "merged":
                share = probs[:2, None] / probs[:2].sum()
                mean = (share * loc[:2]).sum(0)
                second = (share * (scale[:2] ** 2 + (loc[:2] - mean) ** 2)).sum(0)
                loc[:2], scale[:2] = mean, second.sqrt()
        prior = FastPrior(facet)
        prior.set_mixture(loc, torch.diag_embed(scale.square()), probs=probs / probs.sum())
        priors.append(prior)
    decoder = RepeatDecoder(facets, cut=cut)
    model = MultiFacetModel(priors, decoder, GaussianLikelihood(scale=noise), missing=missing)
    fault = fault or Fault()
    chosen = rule or (SampleAssignment() if fault.temper is None else TemperedAssignment(fault.temper))
    return MFCVAE(model, MultiFacetGuide(model, encoder=ExactEncoder(model, fault), assignment=chosen))


@torch.no_grad()
def draw(pair: MFCVAE, num: int, *, offset: float = 0.0) -> Tensor:
    """Items of the model, (num, 6 D); 30 % of the pixels are missing if the model has missing elements.

    ``offset`` is added to the first of the three pixels of every coordinate of facet 1, in cluster 0 of facet 1.
    """
    cs, zs = zip(*(prior().sample(num) for prior in pair.model.priors), strict=True)
    x = pair.model.observation(zs).sample()
    if offset:
        first = torch.zeros_like(x[0])
        first[x.shape[1] // 2 :: PIXELS_PER_DIM] = offset
        x = x + first * (cs[1] == 0).unsqueeze(-1)
    if pair.model.missing:
        x = torch.where(torch.rand_like(x) < MISSING, torch.nan, x)
    return x
