"""Mixtures, which priors return, with E[log p(z | c)] for the families that have a closed form."""

from collections.abc import Callable
from copy import copy
from typing import Any, Literal, final

import pyro.distributions as dist
import torch
from pyro.ops.indexing import Vindex
from torch import Tensor
from torch import distributions as td

from pyro_mfcvae.errors import InputError

PosteriorCovariance = Literal["diagonal", "full"]

ClosedForm = Callable[[Any, Tensor, Tensor], Tensor]
"""(components, mean (…, D), standard deviations (…, D) or covariance (…, D, D)) ↦ E[log p(z | c)], (…, K)."""

_CLOSED_FORMS: dict[tuple[type, PosteriorCovariance], ClosedForm] = {}


@final
class Mixture:
    """The distribution ``c ~ Categorical(pi)``, ``z | c ~ components[c]`` of one facet.

    Whether E[log p(z | c)] has a closed form depends on the exact classes of the components and of q(z | x). A subclass
    of a family may have another density, so it does not inherit the closed form; `register_closed_form` adds one. To
    change the density, pass other components: this class cannot be subclassed.

    Args:
        logits: log pi plus any constant, (K,); minus infinity for a cluster of weight 0.
        components: all p(z | c), batch shape (K,), event shape (D,). Both arguments may have the same further batch
            dimensions on the left.

    Raises:
        InputError: the shapes do not fit.
    """

    def __init__(self, logits: Tensor, components: dist.TorchDistribution) -> None:
        if len(components.event_shape) != 1 or components.batch_shape[-1:] != logits.shape[-1:]:
            raise InputError(
                f"expected components of batch shape (K,) = ({logits.shape[-1]},) and event shape (D,), got "
                f"{tuple(components.batch_shape)} and {tuple(components.event_shape)}: build them with one row per "
                "cluster and end with .to_event(1)"
            )
        # Minus infinity times a probability of 0 would be NaN, so half of the lowest finite number replaces it; a log
        # density can be added to this without overflow.
        self._log_weights = logits.log_softmax(-1).clamp_min(torch.finfo(logits.dtype).min / 2)
        self._components = components
        self._expected: tuple[td.Distribution, Tensor] | None = None

    @property
    def num_clusters(self) -> int:
        """K."""
        return self._log_weights.shape[-1]

    @property
    def latent_dim(self) -> int:
        """D."""
        return self._components.event_shape[0]

    def log_weights(self) -> Tensor:
        """log pi, (K,), normalised and finite."""
        return self._log_weights

    def components(self) -> dist.TorchDistribution:
        """All p(z | c), c = 0 … K-1: batch shape (K,), event shape (D,)."""
        return self._components

    def component(self, c: Tensor) -> dist.TorchDistribution:
        """p(z | c) for an integer tensor ``c`` of any shape: batch shape ``c.shape``, event shape (D,)."""
        p = self._components
        match _family(p):
            case dist.Normal:
                loc, scale = (Vindex(values)[..., c, :] for values in (p.base_dist.loc, p.base_dist.scale))
                return dist.Normal(loc, scale).to_event(1)
            case dist.MultivariateNormal:
                return dist.MultivariateNormal(Vindex(p.loc)[..., c, :], scale_tril=Vindex(p.scale_tril)[..., c, :, :])
            case dist.MultivariateStudentT:
                df, loc = Vindex(p.df)[..., c], Vindex(p.loc)[..., c, :]
                return dist.MultivariateStudentT(df, loc, Vindex(p.scale_tril)[..., c, :, :])
        return SelectedComponent(p, c)

    def marginal(self) -> dist.TorchDistribution:
        """p(z) = sum_c pi_c p(z | c): batch shape (), event shape (D,)."""
        return MarginalMixture(dist.Categorical(logits=self._log_weights), self._components)

    @torch.no_grad()
    def sample(self, num: int) -> tuple[Tensor, Tensor]:
        """Draw ``num`` clusters (num,), and a z from each, (num, D)."""
        c = dist.Categorical(logits=self._log_weights).sample((num,))
        return c, self.component(c).sample()

    def log_prob(self, z: Tensor) -> Tensor:
        """log p(z | c) for every c: (…, D) → (…, K)."""
        log_prob: Tensor = self._components.log_prob(z.unsqueeze(-2))
        return log_prob

    def has_closed_form(self, covariance: PosteriorCovariance | None) -> bool:
        """Whether E[log p(z | c)] has a closed form under a Gaussian q(z | x) with this covariance. None means that q(z
        | x) is not Gaussian; there is no closed form then.
        """
        return covariance is not None and (_family(self._components), covariance) in _CLOSED_FORMS

    def expected_log_prob_under(self, posterior: td.Distribution) -> Tensor:
        """E[log p(z | c)] over z ~ ``posterior``, batch shape (…), event shape (D,), for every c: (…, K).

        Raises:
            InputError: these components and this posterior have no closed form.
        """
        if self._expected is not None and self._expected[0] is posterior:
            return self._expected[1]
        covariance: PosteriorCovariance | None = None
        match _family(posterior):
            case dist.Normal:
                covariance, moments = "diagonal", (posterior.mean, posterior.stddev)
            case dist.MultivariateNormal | dist.LowRankMultivariateNormal:
                covariance, moments = "full", (posterior.mean, posterior.covariance_matrix)  # type: ignore[attr-defined]
        if covariance is None or not self.has_closed_form(covariance):
            raise InputError(
                f"expected components and a q(z | x) whose E[log p(z | c)] has a closed form, got "
                f"{_name(self._components)} components and a {_name(posterior)} q(z | x): use MonteCarloAssignment or "
                "SampleAssignment, with FacetELBO(closed_form=False) or pyro.infer.TraceEnum_ELBO"
            )
        return _CLOSED_FORMS[_family(self._components), covariance](self._components, *moments)

    def expecting(self, posterior: td.Distribution) -> "Mixture":
        """The same mixture, with the value of E[log p(z | c)] under ``posterior`` stored. So the objective and the
        assignment rule compute it only once.
        """
        mixture = copy(self)
        mixture._expected = (posterior, self.expected_log_prob_under(posterior))
        return mixture

    def __init_subclass__(cls) -> None:
        raise TypeError("Mixture has no subclasses: pass other components, a TorchDistribution, to Mixture itself")


def register_closed_form(family: type, covariance: PosteriorCovariance) -> Callable[[ClosedForm], ClosedForm]:
    """Decorator: register a closed form of E[log p(z | c)] for a family of components and a covariance of q(z | x).

    Args:
        family: the exact class of the components, without the ``Independent`` that ``.to_event(1)`` adds.
        covariance: "diagonal" or "full".
    """

    def register(closed_form: ClosedForm) -> ClosedForm:
        _CLOSED_FORMS[family, covariance] = closed_form
        return closed_form

    return register


class MarginalMixture(dist.MixtureSameFamily):  # type: ignore[misc]
    """sum_c pi_c p(z | c). Unlike that of torch's own mixture, its support has a transform, which NUTS and automatic
    guides need.
    """

    @property
    def support(self) -> Any:
        """The support of the components."""
        return self.component_distribution.support


class SelectedComponent(dist.TorchDistribution):
    """``components[c]`` for components of any family: the batch shape is that of ``c``, the event shape (D,).

    A draw costs as much as a draw from all K components; a density costs no more than the densities of all components.

    Args:
        components: batch shape (K,), event shape (D,).
        c: integers of any shape.
    """

    arg_constraints = {}  # noqa: RUF012  (torch's own way)

    def __init__(self, components: dist.TorchDistribution, c: Tensor) -> None:
        self.components = components
        batch_shape = torch.broadcast_shapes(c.shape, components.batch_shape[:-1])
        self.c = c.expand(batch_shape)
        super().__init__(batch_shape, components.event_shape, validate_args=False)

    @property
    def support(self) -> Any:
        """The support of the components."""
        return self.components.support

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether the components have ``rsample``."""
        return bool(self.components.has_rsample)

    @property
    def mean(self) -> Tensor:
        """E[z | c], (…, D)."""
        return self._select(self.components.mean)

    @property
    def variance(self) -> Tensor:
        """Var[z | c], (…, D)."""
        return self._select(self.components.variance)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "SelectedComponent":
        """This distribution, expanded to a batch shape."""
        return SelectedComponent(self.components, self.c.expand(batch_shape))

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """Draws, ``sample_shape`` + batch shape + (D,), with gradients."""
        return self._select(self._every_component().rsample(sample_shape))

    @torch.no_grad()
    def sample(self, sample_shape: Any = ()) -> Tensor:
        """Draws, ``sample_shape`` + batch shape + (D,)."""
        return self._select(self._every_component().sample(sample_shape))

    def log_prob(self, value: Tensor) -> Tensor:
        """log p(value | c)."""
        log_probs = self.components.log_prob(value.unsqueeze(-2))
        shape = torch.broadcast_shapes(log_probs.shape[:-1], self.c.shape)
        index = self.c.expand(shape).unsqueeze(-1)
        log_prob: Tensor = log_probs.expand(*shape, -1).gather(-1, index).squeeze(-1)
        return log_prob

    def _every_component(self) -> dist.TorchDistribution:
        return self.components.expand((*self.batch_shape, self.components.batch_shape[-1]))

    def _select(self, values: Tensor) -> Tensor:
        """(…, K, D) → (…, D) at c."""
        shape = torch.broadcast_shapes(values.shape[:-2], self.c.shape)
        index = self.c.expand(shape)[..., None, None].expand(*shape, 1, values.shape[-1])
        return values.expand(*shape, *values.shape[-2:]).gather(-2, index).squeeze(-2)


_PYRO: dict[type, type] = {
    td.Normal: dist.Normal,
    td.MultivariateNormal: dist.MultivariateNormal,
    td.LowRankMultivariateNormal: dist.LowRankMultivariateNormal,
}


def _family(distribution: Any) -> type:
    """The exact class of a distribution inside its ``Independent``; torch's Gaussians are treated like Pyro's."""
    family = type(distribution)
    if family in (dist.Independent, td.Independent) and distribution.reinterpreted_batch_ndims == 1:
        family = type(distribution.base_dist)
    return _PYRO.get(family, family)


def _name(distribution: Any) -> str:
    return _family(distribution).__name__


def _gaussian(components: Any, loc: Tensor, trace: Tensor) -> Tensor:
    """log N(loc; loc_c, Sigma_c) - trace / 2, (…, K), for a trace of shape (…, 1, K)."""
    log_prob: Tensor = components.log_prob(loc.unsqueeze(-2))
    return log_prob - trace.squeeze(-2) / 2


@register_closed_form(dist.Normal, "diagonal")
def _diagonal_under_diagonal(components: Any, loc: Tensor, scale: Tensor) -> Tensor:
    precision = components.base_dist.scale.square().reciprocal()
    return _gaussian(components, loc, scale.square().unsqueeze(-2) @ precision.mT)


@register_closed_form(dist.Normal, "full")
def _diagonal_under_full(components: Any, loc: Tensor, covariance: Tensor) -> Tensor:
    precision = components.base_dist.scale.square().reciprocal()
    return _gaussian(components, loc, covariance.diagonal(dim1=-2, dim2=-1).unsqueeze(-2) @ precision.mT)


@register_closed_form(dist.MultivariateNormal, "diagonal")
def _full_under_diagonal(components: Any, loc: Tensor, scale: Tensor) -> Tensor:
    precision = _inverse_scale_tril(components).square().sum(-2).expand(components.loc.shape)
    return _gaussian(components, loc, scale.square().unsqueeze(-2) @ precision.mT)


@register_closed_form(dist.MultivariateNormal, "full")
def _full_under_full(components: Any, loc: Tensor, covariance: Tensor) -> Tensor:
    inverse = _inverse_scale_tril(components)
    precision = (inverse.mT @ inverse).flatten(-2).expand(*components.batch_shape, -1)
    return _gaussian(components, loc, covariance.flatten(-2).unsqueeze(-2) @ precision.mT)


def _inverse_scale_tril(components: Any) -> Tensor:
    """L_c⁻¹, where Sigma_c = L_c L_cᵀ; only one matrix if all clusters share Sigma."""
    scale_tril = components._unbroadcasted_scale_tril
    eye = torch.eye(scale_tril.shape[-1], dtype=scale_tril.dtype, device=scale_tril.device)
    return torch.linalg.solve_triangular(scale_tril, eye, upper=False)
