"""Importance weights of draws from the guide, and the bounds on the evidence that they give."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pyro.distributions as dist
import torch
from pyro.nn import pyro_method
from torch import Tensor

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.guides.amortized import MultiFacetGuide
from pyro_mfcvae.infer.elbo import NoSites, PairELBO, draw_globals
from pyro_mfcvae.infer.objective import read_posteriors
from pyro_mfcvae.models.generative import MultiFacetModel
from pyro_mfcvae.models.mixtures import Mixture


class ImportanceWeightedELBO(PairELBO):
    """The bound from Rényi's divergence of order alpha with S draws (Li and Turner 2016); the clusters are summed out:

        L(x) = 1/(1-alpha) log (1/S) sum_s w_s^(1-alpha),   w_s = p(x | z_s) prod_j ( p(z_js) / q(z_js | x) )^beta_j

    with z_s ~ q(z | x) and p(z_j) = sum_c pi_c p(z_j | c). At alpha = 0 it is the importance-weighted bound (Burda et
    al. 2016), which becomes tighter as S grows; with S = 1 it is the ELBO with q(c|z) = p(c|z). The guide's assignment
    rule has no effect. `PairELBO` describes the loss and the pairs that are refused.

    Args:
        num_particles: S ≥ 1.
        alpha: the order; 0 by default. The order 1 is not allowed, because it is the ELBO.
        compile: compute loss and gradient by one program, see `PairELBO`.
    """

    def __init__(self, *, num_particles: int = 8, alpha: float = 0.0, compile: bool = False) -> None:
        super().__init__(num_particles=num_particles, compile=compile)
        if alpha == 1 or not math.isfinite(alpha):
            raise InputError(f"expected a finite alpha other than 1, got {alpha}: for 1 use FacetELBO()")
        self.alpha = alpha

    def bound(
        self, model: MultiFacetModel, guide: MultiFacetGuide, x: Tensor, known: dict[int, Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        if known is not None:
            raise InputError("expected no known clusters with an importance-weighted bound, got some: use FacetELBO")
        bound, kl_globals, _ = self.weighted_bound(model, guide, x)
        return bound, kl_globals

    def weighted_bound(
        self, model: MultiFacetModel, guide: MultiFacetGuide, x: Tensor
    ) -> tuple[Tensor, Tensor, "WeightedDraws"]:
        """Without checks, return three results: the bound of every item, (N,); log q(theta) - log p(theta); and the
        draws.
        """
        draws, kl_globals = _draw(model, guide, x, self.num_particles)
        log_weights = draws.log_likelihood + (model.beta * draws.log_ratios).sum(-1)
        order = 1 - self.alpha
        bound = ((order * log_weights).logsumexp(0) - math.log(self.num_particles)) / order
        return bound, kl_globals, draws


@dataclass(frozen=True)
class WeightedDraws:
    """Draws z_s, s = 1 … S, for N items, with their importance weights.

    Attributes:
        posteriors: q(z_j | x) per facet, batch shape (N,).
        zs: per facet, (S, N, D_j).
        log_likelihood: log p(x | z_s) over the observed elements, (S, N).
        log_ratios: log p(z_js) - log q(z_js | x), where p(z_j) is the whole mixture, (S, N, J).
        log_ratio: log p(z_s) - log q(z_s | x) of all facets together, (S, N). This is the sum over facets, unless a
            random theta makes the facets dependent.
        observation: p(x | z_s), batch shape (S, N).
    """

    posteriors: Sequence[dist.TorchDistribution]
    zs: Sequence[Tensor]
    log_likelihood: Tensor
    log_ratios: Tensor
    log_ratio: Tensor
    observation: dist.TorchDistribution

    @property
    def log_weights(self) -> Tensor:
        """log p(x, z_s) - log q(z_s | x), (S, N)."""
        return self.log_likelihood + self.log_ratio


def weigh(
    model: MultiFacetModel,
    priors: Sequence[Sequence[Mixture]],
    posteriors: Sequence[dist.TorchDistribution],
    zs: Sequence[Tensor],
    x: Tensor,
) -> WeightedDraws:
    """Compute the importance weights of draws of q(z | x), with gradients.

    Args:
        model: the model, for p(x | z).
        priors: the mixtures of all facets, for every draw of theta; densities are averaged over these draws.
        posteriors: q(z_j | x) per facet.
        zs: draws from ``posteriors``, (S, N, D_j) per facet.
        x: the items, (N, *event_shape).
    """
    return _weigh(model, priors, posteriors, zs, model.split_missing(x))


def _weigh(
    model: MultiFacetModel,
    priors: Sequence[Sequence[Mixture]],
    posteriors: Sequence[dist.TorchDistribution],
    zs: Sequence[Tensor],
    split: tuple[Tensor, Tensor | None],
) -> WeightedDraws:
    """`weigh`, for data that `MultiFacetModel.split_missing` has split."""
    filled, observed = split
    with torch.autocast(filled.device.type, enabled=False):
        log_q = torch.stack([posterior.log_prob(z) for posterior, z in zip(posteriors, zs, strict=True)], -1)
        by_theta = [[_marginal(mixture, z) for mixture, z in zip(given, zs, strict=True)] for given in priors]
        log_p = torch.stack([torch.stack(of_facets, -1) for of_facets in by_theta])
        log_ratios = log_p.logsumexp(0) - math.log(len(priors)) - log_q
        log_ratio = log_p.sum(-1).logsumexp(0) - math.log(len(priors)) - log_q.sum(-1)
    observation = model.observation(zs, observed)
    return WeightedDraws(posteriors, zs, observation.log_prob(filled), log_ratios, log_ratio, observation)


def _marginal(mixture: Mixture, z: Tensor) -> Tensor:
    """log p(z) = log sum_c pi_c p(z | c)."""
    return (mixture.log_weights() + mixture.log_prob(z)).logsumexp(-1)


# Entering the model's context lets SVI see which parameters of the model are used.
@pyro_method
def _draw(model: MultiFacetModel, guide: MultiFacetGuide, x: Tensor, num_samples: int) -> tuple[WeightedDraws, Tensor]:
    """S weighted draws for every item, and log q(theta) - log p(theta) at the single theta that all items share."""
    with guide._pyro_context:
        mixtures, kl_globals = draw_globals(model, guide)
        with NoSites():
            split = model.split_missing(x)
            posteriors = read_posteriors(guide, x, *split)
            draws = _weigh(model, [mixtures], posteriors, [q.rsample((num_samples,)) for q in posteriors], split)
    return draws, kl_globals
