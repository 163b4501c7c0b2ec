"""The evidence lower bound, with the clusters summed out and the KL in closed form if there is one."""

from dataclasses import dataclass, field, replace
from typing import Any

import pyro.distributions as dist
import torch
from pyro.nn import pyro_method
from torch import Tensor

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.guides.amortized import MultiFacetGuide
from pyro_mfcvae.infer.elbo import NoSites, PairELBO, draw_globals, is_inherited
from pyro_mfcvae.interop.inputs import Known
from pyro_mfcvae.models.generative import MultiFacetModel
from pyro_mfcvae.models.mixtures import Mixture


@dataclass(frozen=True)
class ELBOTerms:
    """The ELBO of every item, term by term, in nats.

    Attributes:
        reconstruction: E_q[log p(x | z)], shape (N,).
        kl_z: E_q[log q(z_j | x) - log p(z_j | c_j)], shape (N, J).
        kl_c: KL(q(c_j | x) ‖ p(c_j)), shape (N, J).
        beta: the weight of each facet's KL, shape (J,).
        kl_globals: E_q[log q(theta) - log p(theta)] of the priors' random parameters, once for all items, shape ().
        draws: if they were asked for, one pair per facet with gradients: the draws of z_j, shape (S, N, D_j), and log
            q(c_j | x), shape (N, K_j) or (S, N, K_j).
    """

    reconstruction: Tensor
    kl_z: Tensor
    kl_c: Tensor
    beta: Tensor
    kl_globals: Tensor
    draws: tuple[tuple[Tensor, Tensor], ...] = field(default=(), repr=False)

    @property
    def kl(self) -> Tensor:
        """The sum of both KL terms, without beta, (N, J)."""
        return self.kl_z + self.kl_c

    @property
    def total(self) -> Tensor:
        """reconstruction - sum_j beta_j kl_j, shape (N,): the ELBO, given theta, if every beta is 1."""
        return self.reconstruction - (self.beta * self.kl).sum(-1)

    def mean(self) -> "ELBOTerms":
        """The mean of every term over the batch: shapes (), (J,), (J,). The draws are not averaged."""
        return replace(self, reconstruction=self.reconstruction.mean(0), kl_z=self.kl_z.mean(0), kl_c=self.kl_c.mean(0))


class FacetELBO(PairELBO):
    """The ELBO of a `MultiFacetModel` and `MultiFacetGuide`, computed directly instead of through traces.

    With A_jc = log pi_jc + E_q(z_j|x)[log p(z_j | c)] and H the entropy,

        ELBO(x) = E_q[log p(x | z)] + sum_j beta_j ( H[q(z_j | x)] + sum_c q(c_j=c | x) (A_jc - log q(c_j=c | x)) ),

    For the analytic rule the bracket is H + logsumexp_c A_jc (Falck et al. 2021, theorem 1), and only the
    reconstruction is estimated by sampling. With ``closed_form=False`` the expectation in A_jc and the entropy are
    evaluated at the drawn z; for every draw this is equal to the estimate of ``TraceEnum_ELBO``.

    If parameters of the priors are random (`FacetPrior.hyperprior`), one theta ~ q(theta) is drawn, all terms are
    conditional on it, and the estimate of KL(q(theta) ‖ p(theta)) at that draw is subtracted from the sum over items.

    `PairELBO` describes the loss that Pyro's ``SVI`` minimises, and the pairs that are refused.

    Args:
        closed_form: whether to use the closed form of the KL; by default it is used if it exists. It exists if all
            priors have one and the assignment rule does not depend on the drawn z.
        num_particles: draws of z per item, averaged, ≥ 1.
        compile: compute loss and gradient by one program, see `PairELBO`.
    """

    _options = ("closed_form", *PairELBO._options)

    def __init__(self, *, closed_form: bool | None = None, num_particles: int = 1, compile: bool = False) -> None:
        super().__init__(num_particles=num_particles, compile=compile)
        self.closed_form = closed_form

    def terms(self, model: MultiFacetModel, guide: MultiFacetGuide, x: Tensor, known: Known | None = None) -> ELBOTerms:
        """The terms of every item of ``x`` (N, *event_shape), given the ``known`` clusters, with gradients.

        Raises:
            InputError: the pair is of another kind, x does not fit, or the closed form does not exist.
        """
        self.check(model, guide)
        model.check_items(x)
        return self.raw_terms(model, guide, x, model.read_known(known, x))

    def raw_terms(
        self,
        model: MultiFacetModel,
        guide: MultiFacetGuide,
        x: Tensor,
        known: dict[int, Tensor] | None,
        *,
        num_weighing: int | None = None,
        with_draws: bool = False,
    ) -> ELBOTerms:
        """`terms` without checks.

        Args:
            model: p.
            guide: q.
            x: the items, (N, *event_shape).
            known: known clusters by facet, int64 (N,).
            num_weighing: only the first ``num_weighing`` items give a gradient to the mixtures' weights; by default all
                items do.
            with_draws: return the draws as well.
        """
        return _terms(model, guide, x, known, self, num_weighing, with_draws)

    def bound(
        self, model: MultiFacetModel, guide: MultiFacetGuide, x: Tensor, known: dict[int, Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        terms = self.raw_terms(model, guide, x, known)
        return terms.total, terms.kl_globals

    def check(self, model: object, guide: object) -> None:
        super().check(model, guide)
        assert isinstance(guide, MultiFacetGuide)
        if self.closed_form and guide.encoder.covariance is None:
            raise InputError(
                "expected a Gaussian q(z | x) for the closed form of the KL, got another family: use "
                "FacetELBO(closed_form=False) or pyro.infer.TraceEnum_ELBO(max_plate_nesting=1)"
            )
        if self.closed_form and guide.assignment.needs_draw:
            raise InputError(
                "expected a q(c|x) that does not depend on the drawn z for the closed form of the KL, got "
                f"{type(guide.assignment).__name__}: use FacetELBO(closed_form=False) or "
                "pyro.infer.TraceEnum_ELBO(max_plate_nesting=1)"
            )

    def uses_closed_form(self, guide: MultiFacetGuide, mixtures: list[Mixture]) -> bool:
        """Whether the KL of a pair is computed in closed form."""
        if self.closed_form is not None:
            return self.closed_form
        covariance = guide.encoder.covariance
        return not guide.assignment.needs_draw and all(mixture.has_closed_form(covariance) for mixture in mixtures)


# Entering the model's context lets SVI see which parameters of the model are used.
@pyro_method
def _terms(
    model: MultiFacetModel,
    guide: MultiFacetGuide,
    x: Tensor,
    known: dict[int, Tensor] | None,
    elbo: FacetELBO,
    num_weighing: int | None,
    with_draws: bool,
) -> ELBOTerms:
    with guide._pyro_context:
        mixtures, kl_globals = draw_globals(model, guide)
        closed_form = elbo.uses_closed_form(guide, mixtures)
        filled, observed = model.split_missing(x)
        zs, kl_z, kl_c, log_q_cs = [], [], [], []
        with NoSites():
            posteriors = read_posteriors(guide, x, filled, observed)
            # Autocast would also lower the precision of matrix products in densities, but only the networks may use low
            # precision.
            with torch.autocast(x.device.type, enabled=False):
                for j, (mixture, posterior) in enumerate(zip(mixtures, posteriors, strict=True)):
                    z = posterior.rsample((elbo.num_particles,))
                    facet = FacetTerms(guide, j, closed_form, known, num_weighing, with_draws)
                    z_term, c_term, log_q_c = facet(mixture, posterior, z)
                    zs.append(z)
                    log_q_cs.append(log_q_c)
                    kl_z.append(z_term)
                    kl_c.append(c_term)
            reconstruction = model.observation(zs, observed).log_prob(filled)

    def stack(kls: list[Tensor]) -> Tensor:
        return torch.stack([kl.expand_as(reconstruction).mean(0) for kl in kls], -1)

    draws = tuple(zip(zs, log_q_cs, strict=True)) if with_draws else ()
    return ELBOTerms(reconstruction.mean(0), stack(kl_z), stack(kl_c), model.beta, kl_globals, draws)


@dataclass(frozen=True)
class FacetTerms:
    """Maps (mixture, q(z_j | x), draws z) to the two KL terms of facet j and log q(c_j | x).

    Attributes:
        guide: the guide, whose rule gives q(c_j | x).
        j: the facet.
        closed_form: whether to evaluate E_q[log p(z | c)] and the entropy in closed form instead of at the draws.
        known: known clusters by facet, int64 (N,).
        num_weighing: only the first ``num_weighing`` items give a gradient to the mixture's weights; with None all
            items do.
        with_gradient: keep the gradient of log q(c_j | x), even if the terms do not need it.
    """

    guide: MultiFacetGuide
    j: int
    closed_form: bool
    known: dict[int, Tensor] | None = None
    num_weighing: int | None = None
    with_gradient: bool = False

    def __call__(self, mixture: Mixture, posterior: dist.TorchDistribution, z: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """E_q[log q(z | x) - log p(z | c)] and KL(q(c | x) ‖ p(c)), for draws z (S, N, D): (N,) or (S, N); and
        log q(c | x), (N, K) or (S, N, K)."""
        if self.closed_form:
            mixture = mixture.expecting(posterior)  # the assignment rule uses the same expectation
            log_p_z, log_q_z = mixture.expected_log_prob_under(posterior), -posterior.entropy()
        else:
            log_p_z, log_q_z = mixture.log_prob(z), posterior.log_prob(z)
        rule = self.guide.assignment
        # At the optimum over q(c | x) the gradient with respect to it is zero (envelope theorem). The analytic rule is
        # the optimum of the closed form, the sample rule the optimum at the drawn z.
        is_detached = rule.is_optimum and rule.needs_draw != self.closed_form
        with torch.set_grad_enabled(torch.is_grad_enabled() and (self.with_gradient or not is_detached)):
            log_q = self.guide.assignment_logits(self.j, mixture, posterior, z, self.known)
        log_q_c = log_q.detach() if is_detached else log_q
        q_c = log_q_c.exp()
        kl_c = (q_c * (log_q_c - self._log_weights(mixture, len(posterior.mean)))).sum(-1)
        return log_q_z - (q_c * log_p_z).sum(-1), kl_c, log_q

    def _log_weights(self, mixture: Mixture, num_items: int) -> Tensor:
        log_weights = mixture.log_weights()
        if self.num_weighing is None:
            return log_weights
        is_weighing = torch.arange(num_items, device=log_weights.device) < self.num_weighing
        return torch.where(is_weighing.unsqueeze(-1), log_weights, log_weights.detach())


def read_posteriors(guide: MultiFacetGuide, x: Tensor, filled: Tensor, observed: Any) -> list[dist.TorchDistribution]:
    """q(z_j | x) per facet, computed from the split data, or by `posteriors` if a subclass overrides it."""
    if is_inherited(guide, MultiFacetGuide, "posteriors"):
        return guide.posteriors_of(filled, observed)
    return guide.posteriors(x)
