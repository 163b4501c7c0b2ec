"""The base of all bounds on the evidence of a pair: the check of the pair, the loss, and its compiled form."""

from abc import abstractmethod
from contextlib import nullcontext
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer import ELBO
from pyro.poutine.block_messenger import BlockMessenger
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.seed_messenger import SeedMessenger
from pyro.poutine.trace_messenger import TraceMessenger
from torch import Tensor, nn

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.guides.amortized import MultiFacetGuide
from pyro_mfcvae.infer.compilation import CompiledObjective
from pyro_mfcvae.infer.tf32 import TF32Layers
from pyro_mfcvae.interop.entries import stored_parameters
from pyro_mfcvae.interop.inputs import Known
from pyro_mfcvae.interop.param_store import outside_store, reconcile
from pyro_mfcvae.models.generative import MultiFacetModel
from pyro_mfcvae.models.mixtures import Mixture

# Methods that a bound does not call, because it computes their results directly. If a subclass overrode them, this
# would have no effect.
_MODEL_METHODS = ("forward", "plate", "kl_weight", "sample_globals", "global_sites")
_GUIDE_METHODS = ("forward", "sample_globals")

_INSTEAD = "use pyro.infer.TraceEnum_ELBO(max_plate_nesting=1)"


class PairELBO(ELBO):
    """A bound on the evidence of a `MultiFacetModel` and its `MultiFacetGuide`, computed without traces.

    Like every Pyro loss, it is minus the bound, summed over the items, and scaled to ``num_data`` items if the model
    has this number. Anything that would change a trace but not this computation raises an error: overridden methods,
    further sites, and outer handlers such as ``poutine.scale``.

    Args:
        num_particles: draws of z per item, ≥ 1.
        compile: compute loss and gradient by one program, see `CompiledObjective`. It is compiled again for every batch
            size and whenever the pair changes. Batches with known clusters are never compiled.
    """

    # Names of the arguments that the repr shows.
    _options: tuple[str, ...] = ("num_particles", "compile")

    def __init__(self, *, num_particles: int, compile: bool) -> None:
        if num_particles < 1:
            raise InputError(f"expected num_particles ≥ 1, got {num_particles}: pass 1 or more")
        super().__init__(num_particles=num_particles, max_plate_nesting=1)
        self.compile = compile
        self._compiled: CompiledObjective | None = None

    def __repr__(self) -> str:
        options = ", ".join(f"{name}={getattr(self, name)}" for name in self._options)
        return f"{type(self).__name__}({options})"

    @abstractmethod
    def bound(
        self, model: MultiFacetModel, guide: MultiFacetGuide, x: Tensor, known: dict[int, Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        """The bound of every item at a draw theta ~ q(theta), (N,), and log q(theta) - log p(theta), ()."""

    def differentiable_loss(
        self, model: MultiFacetModel, guide: MultiFacetGuide, x: Tensor, known: Known | None = None
    ) -> Tensor:
        """Minus the bound, summed over items: a scalar to call ``backward`` on.

        Raises:
            InputError: the pair, the data or the known clusters do not fit, or a part would be ignored.
        """
        self.check(model, guide)
        model.check_items(x)
        clusters = model.read_known(known, x)
        if self.compile and clusters is None and torch.is_grad_enabled():
            return self._compiled_loss(model, guide, x)
        return self.raw_loss(model, guide, x, clusters)

    def raw_loss(
        self, model: MultiFacetModel, guide: MultiFacetGuide, x: Tensor, known: dict[int, Tensor] | None
    ) -> Tensor:
        """`differentiable_loss` without checks and without compilation."""
        num_items = len(x)
        bound, kl_globals = self.bound(model, guide, x, known)
        return kl_globals - bound.sum() * ((model.num_data or num_items) / num_items)

    def _compiled_loss(self, model: MultiFacetModel, guide: MultiFacetGuide, x: Tensor) -> Tensor:
        loss = self._compiled.objective if self._compiled is not None else None
        if not isinstance(loss, PairLoss) or loss.model is not model or loss.guide is not guide:
            self._compiled = CompiledObjective(PairLoss(self, model, guide))
        reconcile(model, guide)
        value: Tensor = self._compiled(x)[0]  # type: ignore[misc]
        if _PYRO_STACK:  # SVI records which parameters a loss reads
            for root in (model, guide):
                for name, parameter, _ in stored_parameters(root):
                    if parameter.requires_grad:
                        pyro.param(name)
        return value

    @torch.no_grad()
    def loss(self, model: MultiFacetModel, guide: MultiFacetGuide, x: Tensor, known: Known | None = None) -> float:
        """Minus the bound, summed over items, without gradients."""
        return self.differentiable_loss(model, guide, x, known).item()

    def loss_and_grads(
        self, model: MultiFacetModel, guide: MultiFacetGuide, x: Tensor, known: Known | None = None
    ) -> float:
        """Minus the bound, summed over items; its gradient is added to every parameter's ``grad``."""
        loss = self.differentiable_loss(model, guide, x, known)
        loss.backward(retain_graph=self.retain_graph)
        return loss.item()

    def check(self, model: object, guide: object) -> None:
        """Refuse a pair of another kind, and a pair with parts that this bound would ignore."""
        name = type(self).__name__
        if not isinstance(model, MultiFacetModel) or not isinstance(guide, MultiFacetGuide):
            raise InputError(
                f"{name} expects a MultiFacetModel and a MultiFacetGuide as they are, got {type(model).__name__} and "
                f"{type(guide).__name__}: for a pair that is wrapped by a handler, or of another kind, {_INSTEAD}"
            )
        guide.check_model(model)
        for part, base, methods in ((model, MultiFacetModel, _MODEL_METHODS), (guide, MultiFacetGuide, _GUIDE_METHODS)):
            for method in methods:
                if not is_inherited(part, base, method):
                    raise InputError(
                        f"{name} expects {base.__name__}'s own {method}, got that of {type(part).__name__}, which it "
                        f"would not call: {_INSTEAD}"
                    )
            if part._forward_hooks or part._forward_pre_hooks:
                raise InputError(
                    f"{name} expects no forward hooks on the {type(part).__name__}, whose forward it does not call, "
                    f"got some: remove them, or {_INSTEAD}"
                )
        for handler in _PYRO_STACK:
            if not _is_harmless(handler):
                raise InputError(
                    f"{name} expects no outer handler that acts on sample sites, got {type(handler).__name__}, which "
                    f"it would not see: {_INSTEAD}"
                )

    def _get_trace(self, *args: Any, **kwargs: Any) -> Any:
        raise InputError(f"expected no call that needs a trace from {type(self).__name__}, got one: {_INSTEAD}")

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_compiled": None}  # a copy compiles its own programs


class PairLoss(nn.Module):
    """Maps x to (loss, …) of a pair, without Pyro's parameter store.

    This is the module that is compiled, and that Fabric wraps.

    Args:
        elbo: the bound.
        model: p.
        guide: q.
        tf32: compute the linear layers of the networks in TF32, see `TF32Layers`.
    """

    def __init__(self, elbo: PairELBO, model: MultiFacetModel, guide: MultiFacetGuide, *, tf32: bool = False) -> None:
        super().__init__()
        self.elbo, self.model, self.guide = elbo, model, guide
        self.tf32 = tf32

    def forward(self, x: Tensor, *args: Any) -> tuple[Tensor, ...]:
        # Our own densities need no check of their arguments at every step.
        layers = TF32Layers() if self.tf32 else nullcontext()
        with outside_store(), poutine.block(), pyro.validation_enabled(False), layers:
            return self.compute(x, *args)

    def compute(self, x: Tensor, *args: Any) -> tuple[Tensor, ...]:
        """The results, of which the first is the loss."""
        return (self.elbo.raw_loss(self.model, self.guide, x, None),)


class NoSites(Messenger):
    """Refuses sample sites inside a computation that would ignore them."""

    def _pyro_sample(self, msg: Any) -> None:
        raise InputError(
            f"expected networks, priors and rules without sample sites, got {msg['name']!r} (pyro.sample, pyro.factor "
            f"or PyroSample), which this bound would not see: {_INSTEAD}"
        )


def is_inherited(part: object, base: type, method: str) -> bool:
    """Whether an object uses the method of its base class."""
    return getattr(type(part), method) is getattr(base, method) and method not in vars(part)


def _is_harmless(handler: Messenger) -> bool:
    """Whether a handler cannot change a loss, such as SVI's record of parameters, a block or a seed."""
    if isinstance(handler, TraceMessenger):
        return bool(handler.param_only)
    return isinstance(handler, BlockMessenger | SeedMessenger)


def draw_globals(model: MultiFacetModel, guide: MultiFacetGuide) -> tuple[list[Mixture], Tensor]:
    """The priors at a draw of q(theta), and log q(theta) - log p(theta) there."""
    if guide.globals_guide is None:
        with NoSites():
            return model.priors_given({}), torch.zeros_like(model.beta[0])
    q = poutine.trace(guide.globals_guide).get_trace()
    for name, site in q.iter_stochastic_nodes():
        if name not in model.global_sites and not (site["infer"] or {}).get("is_auxiliary"):
            raise InputError(
                f"expected a globals_guide over the sites {model.global_sites}, got one over {name!r} too: after "
                "another prior is set, build a new guide"
            )
    p = poutine.trace(poutine.replay(model.sample_globals, trace=q)).get_trace()
    mixtures: list[Mixture] = p.nodes["_RETURN"]["value"]  # type: ignore[assignment]
    return mixtures, torch.as_tensor(q.log_prob_sum() - p.log_prob_sum())
