"""The evidence lower bound with its clusters summed out and, where there is one, its KL in closed form."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import ELBO
from pyro.nn import pyro_method
from torch import Tensor, nn

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.guides.amortized import MultiFacetGuide
from pyro_mfcvae.infer.compilation import CompiledObjective
from pyro_mfcvae.models.generative import Known, MultiFacetModel
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
    """

    reconstruction: Tensor
    kl_z: Tensor
    kl_c: Tensor
    beta: Tensor
    kl_globals: Tensor

    @property
    def kl(self) -> Tensor:
        """Both KL terms together, unweighted, (N, J)."""
        return self.kl_z + self.kl_c

    @property
    def total(self) -> Tensor:
        """reconstruction - sum_j beta_j kl_j, shape (N,): the ELBO, given theta, where every beta is 1."""
        return self.reconstruction - (self.beta * self.kl).sum(-1)

    def mean(self) -> "ELBOTerms":
        """The batch's mean of every term of the items: shapes (), (J,), (J,)."""
        return replace(self, reconstruction=self.reconstruction.mean(0), kl_z=self.kl_z.mean(0), kl_c=self.kl_c.mean(0))


class FacetELBO(ELBO):
    """The ELBO of a `MultiFacetModel` and `MultiFacetGuide`, computed directly instead of through traces.

    With A_jc = log pi_jc + E_q(z_j|x)[log p(z_j | c)] and H the entropy,

        ELBO(x) = E_q[log p(x | z)] + sum_j beta_j ( H[q(z_j | x)] + sum_c q(c_j=c | x) (A_jc - log q(c_j=c | x)) ),

    whose bracket is H + logsumexp_c A_jc for the analytic rule (Falck et al. 2021, theorem 1). Only the reconstruction
    is estimated by sampling. With ``closed_form=False`` the expectation in A_jc and the entropy are evaluated at the
    drawn z instead: that is, draw by draw, the estimate of ``TraceEnum_ELBO``.

    Where parameters of the priors are random (`FacetPrior.hyperprior`), all this is given theta ~ q(theta), drawn once,
    and KL(q(theta) ‖ p(theta)), estimated at that draw, is taken off the sum over items.

    Like every Pyro loss it is minus the ELBO summed over the items, scaled to ``num_data`` where the model has it.

    Args:
        closed_form: use the closed form of the KL. Needs a prior that has one and an assignment rule that does not
            look at the drawn z.
        num_particles: draws of z per item, averaged, ≥ 1.
        compile: compute loss and gradient by one program, see `CompiledObjective`, once a first step has told Pyro
            which parameters there are. Every size of a batch is compiled anew; batches with known clusters never are.
    """

    def __init__(self, *, closed_form: bool = True, num_particles: int = 1, compile: bool = False) -> None:
        super().__init__(num_particles=num_particles, max_plate_nesting=1)
        self.closed_form = closed_form
        self.compile = compile
        self._compiled: _CompiledLoss | None = None

    def terms(self, model: MultiFacetModel, guide: MultiFacetGuide, x: Tensor, known: Known | None = None) -> ELBOTerms:
        """The terms of every item of ``x`` (N, *event_shape), given the clusters that are ``known``; differentiable.

        Raises:
            InputError: the pair is not one of ours, x does not fit, or there is no closed form.
        """
        self._check(model, guide)
        model.check_items(x, None, known)
        return _terms(model, guide, x, known, self)

    def differentiable_loss(
        self, model: MultiFacetModel, guide: MultiFacetGuide, x: Tensor, known: Known | None = None
    ) -> Tensor:
        """Minus the ELBO, summed over items: a scalar to call ``backward`` on."""
        if self.compile and known is None and torch.is_grad_enabled():
            if self._compiled is None or not self._compiled.is_of(model, guide):
                self._compiled = _CompiledLoss(self, model, guide)
            return self._compiled(x)
        return self._as_written(model, guide, x, known)

    def _as_written(self, model: MultiFacetModel, guide: MultiFacetGuide, x: Tensor, known: Known | None) -> Tensor:
        num_items = len(x)
        terms = self.terms(model, guide, x, known)
        return terms.kl_globals - terms.total.sum() * ((model.num_data or num_items) / num_items)

    @torch.no_grad()
    def loss(self, model: MultiFacetModel, guide: MultiFacetGuide, x: Tensor, known: Known | None = None) -> float:
        """Minus the ELBO, summed over items, without gradients."""
        return self.differentiable_loss(model, guide, x, known).item()

    def loss_and_grads(
        self, model: MultiFacetModel, guide: MultiFacetGuide, x: Tensor, known: Known | None = None
    ) -> float:
        """Minus the ELBO, summed over items; its gradient is added to every parameter's ``grad``."""
        loss = self.differentiable_loss(model, guide, x, known)
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
        if self.closed_form and guide.encoder.covariance is None:
            raise InputError(
                "this q(z | x) is not Gaussian, so the KL has no closed form: use FacetELBO(closed_form=False) or "
                "pyro.infer.TraceEnum_ELBO(max_plate_nesting=1)"
            )
        if self.closed_form and guide.assignment.needs_draw:
            raise InputError(
                f"with {type(guide.assignment).__name__} q(c|z) depends on the drawn z, so the KL has no closed form: "
                "use FacetELBO(closed_form=False) or pyro.infer.TraceEnum_ELBO(max_plate_nesting=1)"
            )


# Entered like a method of the model, so that SVI sees which of the model's parameters are used.
@pyro_method
def _terms(
    model: MultiFacetModel, guide: MultiFacetGuide, x: Tensor, known: Known | None, elbo: FacetELBO
) -> ELBOTerms:
    zs, kl_z, kl_c = [], [], []
    priors, kl_globals = draw_globals(model, guide)
    posteriors = guide.posteriors(x)
    # Only the networks may run in low precision: autocast would take the densities' matrix products along.
    with torch.autocast(x.device.type, enabled=False):
        for j, posterior in enumerate(posteriors):
            prior = priors[j]
            z = posterior.rsample((elbo.num_particles,))
            log_q_c = guide.assignment_logits(j, prior, posterior, z, known)
            q_c = log_q_c.exp()
            if elbo.closed_form:
                expected = prior.expected_log_prob_under(posterior)
                kl_z.append(-posterior.entropy() - (q_c * expected).sum(-1))
            else:
                kl_z.append(posterior.log_prob(z) - (q_c * prior.log_prob(z)).sum(-1))
            kl_c.append((q_c * (log_q_c - prior.log_weights())).sum(-1))
            zs.append(z)
    reconstruction = model.log_likelihood(zs, x)

    def stack(kls: list[Tensor]) -> Tensor:
        return torch.stack([kl.expand_as(reconstruction).mean(0) for kl in kls], -1)

    return ELBOTerms(reconstruction.mean(0), stack(kl_z), stack(kl_c), model.beta, kl_globals)


def draw_globals(model: MultiFacetModel, guide: MultiFacetGuide) -> tuple[Sequence[Mixture], Tensor]:
    """The priors at a draw of q(theta), and log q(theta) - log p(theta) there."""
    if guide.globals_guide is None:
        return model.priors_given({}), torch.zeros_like(model.beta[0])
    q = poutine.trace(guide.globals_guide).get_trace()
    p = poutine.trace(poutine.replay(model.sample_globals, trace=q)).get_trace()
    priors: Sequence[Mixture] = p.nodes["_RETURN"]["value"]  # type: ignore[assignment]
    return priors, torch.as_tensor(q.log_prob_sum() - p.log_prob_sum())


class _Loss(nn.Module):
    """x ↦ the loss, out of Pyro's sight."""

    def __init__(self, elbo: FacetELBO, model: MultiFacetModel, guide: MultiFacetGuide) -> None:
        super().__init__()
        self.elbo, self.model, self.guide = elbo, model, guide

    def forward(self, x: Tensor) -> tuple[Tensor]:
        with pyro.get_param_store().scope(), poutine.block(), pyro.validation_enabled(False):
            return (self.elbo._as_written(self.model, self.guide, x, None),)


class _CompiledLoss:
    """x ↦ the loss of a pair, compiled, with the ``pyro.param`` statements that the loss as written makes.

    It is evaluated as written at first, and again whenever Pyro's parameter store no longer holds the pair's
    parameters: that shows which statements there are.
    """

    def __init__(self, elbo: FacetELBO, model: MultiFacetModel, guide: MultiFacetGuide) -> None:
        self._loss = _Loss(elbo, model, guide)
        self._program = CompiledObjective(self._loss)
        self._constants = self._read_constants()
        self._noted: dict[str, Tensor] = {}

    def is_of(self, model: MultiFacetModel, guide: MultiFacetGuide) -> bool:
        same = self._loss.model is model and self._loss.guide is guide
        return same and self._constants == self._read_constants()

    def _read_constants(self) -> tuple[bool, int, int | None]:
        """What the program has taken in as numbers."""
        elbo = self._loss.elbo
        return elbo.closed_form, elbo.num_particles, self._loss.model.num_data

    def __call__(self, x: Tensor) -> Tensor:
        store, loss = pyro.get_param_store(), self._loss
        ours = set(loss.parameters())
        if self._noted and all(
            name in store and _unconstrained(store[name]) is parameter and parameter in ours
            for name, parameter in self._noted.items()
        ):
            value: Tensor = self._program(x)[0]
            for name in self._noted:
                pyro.param(name)
            return value
        with poutine.trace(param_only=True) as seen:
            value = loss.elbo._as_written(loss.model, loss.guide, x, None)
        self._noted = {name: _unconstrained(site["value"]) for name, site in seen.trace.nodes.items()}
        return value


def _unconstrained(value: Any) -> Tensor:
    """The parameter behind a value of Pyro's parameter store."""
    parameter: Tensor = value.unconstrained()
    return parameter
