"""The objectives of a training, and the decision whether to compile them."""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from pyro_mfcvae.config.training_sections import TrainingConfig
from pyro_mfcvae.errors import InputError
from pyro_mfcvae.infer.dependence import FacetDependence
from pyro_mfcvae.infer.elbo import PairLoss
from pyro_mfcvae.infer.importance import ImportanceWeightedELBO
from pyro_mfcvae.infer.objective import ELBOTerms, FacetELBO
from pyro_mfcvae.mfcvae import MFCVAE

# Compilation takes up to a minute. With fewer steps than these it takes more time than it saves
# (benchmarks/step_time.py and benchmarks/gpu.py).
_MIN_STEPS = {"cpu": 20_000, "cuda": 2_000}
_MIN_CAPTURED_STEPS = 100_000


class Objective(PairLoss):
    """Maps x to (loss, terms): minus the mean ELBO, and the batch's mean ELBO, reconstruction and KL per facet, (2 +
    J,).

    The first ``free_nats`` of a facet's mean KL cost nothing (Kingma et al. 2016, appendix C):

        loss = -reconstruction + sum_j beta_j max(kl_j, free_nats) + kl_globals / num_items + independence dependence

    The dependence is that of `FacetDependence`; the terms do not contain it.

    Known items in a batch count in the loss, but not in the terms. They give no gradient to the mixtures' weights,
    because their frequencies differ from those of the data.

    Args:
        pair: model and guide.
        num_items: size of the data set, over which the KL of the priors' random parameters is spread.
        free_nats: ≥ 0.
        independence: weight of the dependence between facets, ≥ 0.
        tf32: compute the linear layers of the networks in TF32.
    """

    def __init__(
        self,
        pair: MFCVAE,
        *,
        num_items: int,
        free_nats: float = 0.0,
        independence: float = 0.0,
        tf32: bool = False,
    ) -> None:
        super().__init__(FacetELBO(), pair.model, pair.guide, tf32=tf32)
        self.num_items = num_items
        self.free_nats = free_nats
        self.independence = independence
        self.dependence = FacetDependence(pair.model.facets, pair.model.alpha) if independence else None

    def compute(self, x: Tensor, *args: Any) -> tuple[Tensor, ...]:
        """The loss, and the terms.

        Args:
            x: (N, *event_shape).
            args: empty, or, for a batch with known items, the known clusters by facet, int64 (N,), and the number of
                other items, which come first.
        """
        known, num_others = args or (None, None)
        assert isinstance(self.elbo, FacetELBO)
        options: Any = {"num_weighing": num_others, "with_draws": self.dependence is not None}
        terms = self.elbo.raw_terms(self.model, self.guide, x, known, **options)
        loss = self._loss(mean := terms.mean())
        elbo = -loss.detach()
        if num_others is not None:
            mean = _first(terms, num_others).mean()
            elbo = -self._loss(mean).detach()
        if self.dependence is not None:
            with torch.autocast(x.device.type, enabled=False):
                loss = loss + self.independence * self.dependence(terms.draws, self.model.alpha)
        return loss, torch.cat([torch.stack([elbo, mean.reconstruction.detach()]), mean.kl.detach()])

    def _loss(self, mean: ELBOTerms) -> Tensor:
        loss = mean.kl_globals / self.num_items - mean.total
        if self.free_nats:
            loss = loss + (mean.beta * (self.free_nats - mean.kl).clamp_min(0)).sum()
        return loss


class ImportanceObjective(PairLoss):
    """Maps x to (loss, terms) like `Objective`, for `ImportanceWeightedELBO`; reconstruction and KL are means over the
    draws.

    Args:
        pair: model and guide.
        num_items: size of the data set, over which the KL of the priors' random parameters is spread.
        num_particles: draws per item, ≥ 1.
        alpha: order of Rényi's divergence, ≠ 1; 0 gives the importance-weighted bound.
        tf32: compute the linear layers of the networks in TF32.
    """

    def __init__(
        self, pair: MFCVAE, *, num_items: int, num_particles: int, alpha: float = 0.0, tf32: bool = False
    ) -> None:
        elbo = ImportanceWeightedELBO(num_particles=num_particles, alpha=alpha)
        super().__init__(elbo, pair.model, pair.guide, tf32=tf32)
        self.num_items = num_items

    def compute(self, x: Tensor, *args: Any) -> tuple[Tensor, ...]:
        """The loss, and the terms. There are no known items."""
        assert isinstance(self.elbo, ImportanceWeightedELBO) and not args
        bound, kl_globals, draws = self.elbo.weighted_bound(self.model, self.guide, x)
        loss = kl_globals / self.num_items - bound.mean()
        means = torch.stack([-loss.detach(), draws.log_likelihood.detach().mean()])
        return loss, torch.cat([means, -draws.log_ratios.detach().mean((0, 1))])


def build_objective(pair: MFCVAE, settings: TrainingConfig, *, num_items: int, has_known: bool) -> PairLoss:
    """The objective that the settings choose.

    Raises:
        InputError: there are known clusters, but the objective does not support them.
    """
    tf32 = settings.precision == "tf32"
    if settings.objective == "elbo":
        weights: Any = {"free_nats": settings.free_nats, "independence": settings.independence}
        return Objective(pair, num_items=num_items, **weights, tf32=tf32)
    if has_known:
        raise InputError(
            "expected no known clusters with an importance-weighted bound, got some: use training.objective=elbo"
        )
    return ImportanceObjective(
        pair, num_items=num_items, num_particles=settings.num_particles, alpha=settings.renyi_alpha, tf32=tf32
    )


def _first(terms: ELBOTerms, num: int) -> ELBOTerms:
    return replace(terms, reconstruction=terms.reconstruction[:num], kl_z=terms.kl_z[:num], kl_c=terms.kl_c[:num])


def compilation_pays(pair: nn.Module, *, device: torch.device, num_steps: int, captures: bool) -> bool:
    """Whether a training with this number of steps ends earlier if its objective is compiled first.

    The decision depends on the networks, the device and the total number of steps, not on the remaining steps, so a
    resumed training decides as before. On a CPU convolutions take so long that compilation saves nothing. A captured
    step is nearly as fast without compilation. Networks with ``recompute`` are not compiled, because a compiled program
    would keep the maps.
    """
    if any(getattr(module, "recompute", False) for module in pair.modules()):
        return False
    convolves = any(isinstance(module, nn.Conv2d) for module in pair.modules())
    fewest = _MIN_CAPTURED_STEPS if captures else _MIN_STEPS.get(device.type, math.inf)
    return num_steps >= fewest and not (convolves and device.type == "cpu")
