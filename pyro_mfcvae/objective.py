"""The evidence lower bound with its clusters summed out and, where there is one, its KL in closed form."""

from dataclasses import dataclass
from typing import Any

import torch
from pyro.infer import ELBO
from pyro.nn import pyro_method
from torch import Tensor

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.guides.amortized import MultiFacetGuide
from pyro_mfcvae.models.generative import MultiFacetModel


@dataclass(frozen=True)
class ELBOTerms:
    """The ELBO of every item, term by term, in nats.

    Attributes:
        reconstruction: E_q[log p(x | z)], shape (N,).
        kl_z: E_q[log q(z_j | x) - log p(z_j | c_j)], shape (N, J).
        kl_c: KL(q(c_j | x) ‖ p(c_j)), shape (N, J).
        beta: the weight of each facet's KL, shape (J,).
    """

    reconstruction: Tensor
    kl_z: Tensor
    kl_c: Tensor
    beta: Tensor

    @property
    def kl(self) -> Tensor:
        """Both KL terms together, unweighted, (N, J)."""
        return self.kl_z + self.kl_c

    @property
    def total(self) -> Tensor:
        """reconstruction - sum_j beta_j kl_j, shape (N,): the ELBO where every beta is 1."""
        return self.reconstruction - (self.beta * self.kl).sum(-1)

    def mean(self) -> "ELBOTerms":
        """The batch's mean of every term: shapes (), (J,), (J,)."""
        return ELBOTerms(self.reconstruction.mean(0), self.kl_z.mean(0), self.kl_c.mean(0), self.beta)


class FacetELBO(ELBO):
    """The ELBO of a `MultiFacetModel` and `MultiFacetGuide`, computed directly instead of through traces.

    With A_jc = log pi_jc + E_q(z_j|x)[log p(z_j | c)] and H the entropy,

        ELBO(x) = E_q[log p(x | z)] + sum_j beta_j ( H[q(z_j | x)] + sum_c q(c_j=c | x) (A_jc - log q(c_j=c | x)) ),

    whose bracket is H + logsumexp_c A_jc for the analytic rule (Falck et al. 2021, theorem 1). Only the reconstruction
    is estimated by sampling. With ``closed_form=False`` the expectation in A_jc and the entropy are evaluated at the
    drawn z instead: that is, draw by draw, the estimate of ``TraceEnum_ELBO``.

    Like every Pyro loss it is minus the ELBO summed over the items, scaled to ``num_data`` where the model has it.

    Args:
        closed_form: use the closed form of the KL. Needs a prior that has one and an assignment rule that does not
            look at the drawn z.
        num_particles: draws of z per item, averaged, ≥ 1.
    """

    def __init__(self, *, closed_form: bool = True, num_particles: int = 1) -> None:
        super().__init__(num_particles=num_particles, max_plate_nesting=1)
        self.closed_form = closed_form

    def terms(self, model: MultiFacetModel, guide: MultiFacetGuide, x: Tensor) -> ELBOTerms:
        """The terms of every item of ``x`` (N, *event_shape), differentiable.

        Raises:
            InputError: the pair is not one of ours, x does not fit, or there is no closed form.
        """
        self._check(model, guide)
        model.check_items(x, None)
        return _terms(model, guide, x, self)

    def differentiable_loss(self, model: MultiFacetModel, guide: MultiFacetGuide, x: Tensor) -> Tensor:
        """Minus the ELBO, summed over items: a scalar to call ``backward`` on."""
        num_items = len(x)
        return -self.terms(model, guide, x).total.sum() * ((model.num_data or num_items) / num_items)

    @torch.no_grad()
    def loss(self, model: MultiFacetModel, guide: MultiFacetGuide, x: Tensor) -> float:
        """Minus the ELBO, summed over items, without gradients."""
        return self.differentiable_loss(model, guide, x).item()

    def loss_and_grads(self, model: MultiFacetModel, guide: MultiFacetGuide, x: Tensor) -> float:
        """Minus the ELBO, summed over items; its gradient is added to every parameter's ``grad``."""
        loss = self.differentiable_loss(model, guide, x)
        loss.backward(retain_graph=self.retain_graph)
        return loss.item()

    def _get_trace(self, *args: Any, **kwargs: Any) -> Any:
        raise InputError("FacetELBO makes no traces: where one is needed use pyro.infer.TraceEnum_ELBO")

    def _check(self, model: object, guide: object) -> None:
        if not isinstance(model, MultiFacetModel) or not isinstance(guide, MultiFacetGuide):
            raise InputError(
                "FacetELBO expects a MultiFacetModel and a MultiFacetGuide as they are, got "
                f"{type(model).__name__} and {type(guide).__name__}: for a pair that is wrapped by a handler, or of "
                "another kind, use pyro.infer.TraceEnum_ELBO(max_plate_nesting=1)"
            )
        if self.closed_form and guide.assignment.needs_draw:
            raise InputError(
                f"with {type(guide.assignment).__name__} q(c|z) depends on the drawn z, so the KL has no closed form: "
                "use FacetELBO(closed_form=False) or pyro.infer.TraceEnum_ELBO(max_plate_nesting=1)"
            )


# Entered like a method of the model, so that SVI sees which of the model's parameters are used.
@pyro_method
def _terms(model: MultiFacetModel, guide: MultiFacetGuide, x: Tensor, elbo: FacetELBO) -> ELBOTerms:
    zs, kl_z, kl_c = [], [], []
    posteriors = guide.posteriors(x)
    # Only the networks may run in low precision: autocast would take the densities' matrix products along.
    with torch.autocast(x.device.type, enabled=False):
        for j, posterior in enumerate(posteriors):
            prior = model.priors[j]
            z = posterior.rsample((elbo.num_particles,))
            log_q_c = guide.assignment_logits(j, posterior, z)
            q_c = log_q_c.exp()
            if elbo.closed_form:
                expected = prior.expected_log_prob(posterior.mean, posterior.stddev)
                kl_z.append(-posterior.entropy() - (q_c * expected).sum(-1))
            else:
                kl_z.append(posterior.log_prob(z) - (q_c * prior.log_prob(z)).sum(-1))
            kl_c.append((q_c * (log_q_c - prior.log_weights())).sum(-1))
            zs.append(z)
    reconstruction = model.log_likelihood(zs, x)

    def stack(kls: list[Tensor]) -> Tensor:
        return torch.stack([kl.expand_as(reconstruction).mean(0) for kl in kls], -1)

    return ELBOTerms(reconstruction.mean(0), stack(kl_z), stack(kl_c), model.beta)
