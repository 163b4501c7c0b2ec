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
from pyro_mfcvae.infer.objective import ELBOTerms, FacetELBO, draw_globals
from pyro_mfcvae.models.generative import Known, MultiFacetModel
from pyro_mfcvae.models.mixtures import Mixture


class ImportanceWeightedELBO(FacetELBO):
    """The bound of Rényi's divergence of order alpha from S draws (Li and Turner 2016), the clusters summed out:

        L(x) = 1/(1-alpha) log (1/S) sum_s w_s^(1-alpha),   w_s = p(x | z_s) prod_j ( p(z_js) / q(z_js | x) )^beta_j

    with z_s ~ q(z | x) and p(z_j) = sum_c pi_c p(z_j | c). At alpha = 0 it is the importance-weighted bound (Burda et
    al. 2016), which tightens with S; with S = 1 it is the ELBO with q(c|z) = p(c|z). The guide's assignment rule has no
    part in it.

    Args:
        num_particles: S ≥ 1.
        alpha: the order, ≠ 1 (that is the ELBO itself); 0 by default.
    """

    def __init__(self, *, num_particles: int = 8, alpha: float = 0.0) -> None:
        super().__init__(closed_form=False, num_particles=num_particles)
        if alpha == 1 or not math.isfinite(alpha):
            raise InputError(f"alpha must be a finite number other than 1, got {alpha}: for 1 use FacetELBO()")
        self.alpha = alpha

    def terms(self, model: MultiFacetModel, guide: MultiFacetGuide, x: Tensor, known: Known | None = None) -> ELBOTerms:
        """Refused: the bound is a logarithm of a sum, and no sum of terms."""
        raise InputError("an importance-weighted bound has no terms: use FacetELBO for them")

    def differentiable_loss(
        self, model: MultiFacetModel, guide: MultiFacetGuide, x: Tensor, known: Known | None = None
    ) -> Tensor:
        """Minus the bound, summed over items: a scalar to call ``backward`` on."""
        self._check(model, guide)
        if known is not None:
            raise InputError("known clusters are not for an importance-weighted bound: use FacetELBO")
        num_items = model.check_items(x, None)
        log_weights, kl_globals = _draw_log_weights(model, guide, x, self.num_particles)
        order = 1 - self.alpha
        bound = ((order * log_weights).logsumexp(0) - math.log(self.num_particles)) / order
        return kl_globals - bound.sum() * ((model.num_data or num_items) / num_items)


@dataclass(frozen=True)
class WeightedDraws:
    """Draws z_s, s = 1 … S, for N items, and how they weigh.

    Attributes:
        posteriors: q(z_j | x) per facet, batch shape (N,).
        zs: per facet, (S, N, D_j).
        log_likelihood: log p(x | z_s), of the observed elements, (S, N).
        log_ratios: log p(z_js) - log q(z_js | x) with p(z_j) the whole mixture, (S, N, J).
        observation: p(x | z_s), batch shape (S, N).
    """

    posteriors: Sequence[dist.TorchDistribution]
    zs: Sequence[Tensor]
    log_likelihood: Tensor
    log_ratios: Tensor
    observation: dist.TorchDistribution

    @property
    def log_weights(self) -> Tensor:
        """log p(x, z_s) - log q(z_s | x), (S, N)."""
        return self.log_likelihood + self.log_ratios.sum(-1)


def weigh(
    model: MultiFacetModel,
    priors: Sequence[Mixture],
    posteriors: Sequence[dist.TorchDistribution],
    zs: Sequence[Tensor],
    x: Tensor,
) -> WeightedDraws:
    """Weigh draws ``zs``, (S, N, D_j) each, of ``posteriors`` for the items ``x`` (N, *event_shape); differentiable."""
    with torch.autocast(x.device.type, enabled=False):
        log_ratios = [
            (prior.log_weights() + prior.log_prob(z)).logsumexp(-1) - posterior.log_prob(z)
            for prior, posterior, z in zip(priors, posteriors, zs, strict=True)
        ]
    filled, observed = model.split_missing(x)
    observation = model.observation(zs, observed)
    return WeightedDraws(posteriors, zs, observation.log_prob(filled), torch.stack(log_ratios, -1), observation)


# Entered like a method of the model, so that SVI sees which of the model's parameters are used.
@pyro_method
def _draw_log_weights(
    model: MultiFacetModel, guide: MultiFacetGuide, x: Tensor, num_samples: int
) -> tuple[Tensor, Tensor]:
    """log w of `ImportanceWeightedELBO`, (S, N), and log q(theta) - log p(theta) of the one theta that all share."""
    priors, kl_globals = draw_globals(model, guide)
    posteriors = guide.posteriors(x)
    draws = weigh(model, priors, posteriors, [posterior.rsample((num_samples,)) for posterior in posteriors], x)
    return draws.log_likelihood + (model.beta * draws.log_ratios).sum(-1), kl_globals
