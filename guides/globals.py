"""q(theta), the guide over the priors' random parameters."""

from collections.abc import Mapping
from operator import attrgetter
from typing import Any, Protocol

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoDelta, AutoNormal, init_to_value
from pyro.infer.autoguide.guides import AutoContinuous
from pyro.nn import PyroModule, PyroParam
from torch import Tensor
from torch.distributions import biject_to

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.models.distributions import StickBreaking, stick_weights
from pyro_mfcvae.models.generative import MultiFacetModel
from pyro_mfcvae.networks import for_densities

# Initial concentration of q(probs), as a number of items.
_INITIAL_COUNT = 100.0

# Number of draws whose median is used for a q(theta) without `median`, such as a flow.
_MEDIAN_DRAWS = 101


class GlobalGuide(Protocol):
    """A guide over `MultiFacetModel.sample_globals`: a `ConjugateGuide`, any of Pyro's automatic guides, or your own.

    Two methods are optional. ``median()`` returns one typical value of every site by name; without it (or if it raises
    NotImplementedError) `typical_values` takes the median of draws. ``start_at(values)`` moves q(theta) to the given
    values of some sites; without it, only guides of the classes that `move_to` lists can be moved to fitted mixtures.
    """

    def __call__(self) -> Mapping[str, Tensor]:
        """Sample every global site, and return the values by name."""


@torch.no_grad()
def typical_values(guide: GlobalGuide, model: MultiFacetModel) -> Mapping[str, Tensor]:
    """One typical value of every global site: ``guide.median()``, or the median of draws, in unconstrained coordinates.

    The draws have a fixed seed and do not change the random state, so the result depends only on the parameters.
    """
    median = getattr(guide, "median", None)
    try:
        if median is not None:
            values: Mapping[str, Tensor] = median()
            return values
    except NotImplementedError:
        pass
    devices = [model.alpha.device] if model.alpha.is_cuda else []
    with torch.random.fork_rng(devices=devices), poutine.block():
        torch.manual_seed(0)
        if isinstance(guide, AutoContinuous):
            # Delta's draws are expanded views of one row, and torch's median is wrong on such views, so they are
            # copied.
            draws = guide.get_posterior().sample((_MEDIAN_DRAWS,)).contiguous()
            latent = draws.median(0).values
            return {site["name"]: biject_to(site["fn"].support)(value) for site, value in guide._unpack_latent(latent)}
        samples = [guide() for _ in range(_MEDIAN_DRAWS)]
        supports = _sites(model)
    transforms = {name: biject_to(supports[name].support) for name in samples[0]}
    return {
        name: transform(torch.stack([transform.inv(value[name]) for value in samples]).median(0).values)
        for name, transform in transforms.items()
    }


@torch.no_grad()
def move_to(guide: GlobalGuide, values: Mapping[str, Tensor], model: MultiFacetModel) -> None:
    """Move q(theta) to the given values of some of its sites, in place; its spread does not change.

    Raises:
        InputError: the guide has no location that can be set. It is a normalising flow, or a custom guide without
            ``start_at``.
    """
    start_at = getattr(guide, "start_at", None)
    if start_at is not None:
        start_at(values)
        return
    supports = _sites(model)
    unconstrained = {name: biject_to(supports[name].support).inv(value) for name, value in values.items()}
    match guide:
        case AutoDelta():
            for name in unconstrained:
                setattr(guide, name, values[name])
        case AutoContinuous(loc=loc):
            parts = loc.split([shape.numel() for shape in guide._unconstrained_shapes.values()])
            for name, part in zip(guide._unconstrained_shapes, parts, strict=True):
                if name in unconstrained:
                    part.copy_(unconstrained[name].flatten())
        case object(locs=locs):
            for name, value in unconstrained.items():
                loc = attrgetter(name)(locs)
                loc.copy_(value.reshape(loc.shape))
        case _:
            raise InputError(
                f"expected a globals_guide that can be moved to fitted mixtures, got a {type(guide).__name__}: take a "
                "ConjugateGuide or AutoNormal, give yours a method start_at(values), or start it there "
                "(init_loc_fn=init_to_value(values=model.starting_point())) and do not fit mixtures"
            )


def _sites(model: MultiFacetModel) -> dict[str, Any]:
    """p(theta) at every global site, by name."""
    trace = poutine.block(poutine.trace(model.sample_globals).get_trace)()
    return {name: site["fn"] for name, site in trace.iter_stochastic_nodes()}


class _SingleNormal(AutoNormal):
    """An AutoNormal whose draws are in float32 if its parameters are in half precision, because a Cholesky factor that
    is rounded to half precision is no longer valid.
    """

    def _get_loc_and_scale(self, name: str) -> tuple[Tensor, Tensor]:
        loc, scale = super()._get_loc_and_scale(name)  # type: ignore[no-untyped-call]
        return for_densities(loc), for_densities(scale)


class ConjugateGuide(PyroModule):
    """q(probs_j) or q(sticks_j) in the family that is conjugate to its prior, and an AutoNormal for all other global
    sites.

        probs_j ~ Dirichlet(concentration_j), or sticks_j ~ StickBreaking(a_j, b_j)

    If the clusters were known, with n_k items in cluster k, the exact posterior would be one of these: Dirichlet
    (concentration + n), or sticks Beta(1 + n_k, concentration + n_{k+1} + … + n_{K-1}).

    Args:
        model: the model whose priors determine the sites and the starting values.
    """

    def __init__(self, model: MultiFacetModel) -> None:
        super().__init__("globals")
        sites = _sites(model)
        self.sticks = [name for name, p in sites.items() if isinstance(p, StickBreaking)]
        self.weights = [name for name, p in sites.items() if isinstance(p, dist.Dirichlet)]
        conjugate = {*self.sticks, *self.weights}
        for name in self.sticks:
            self._add_positive(f"{name}_a", sites[name].a)
            self._add_positive(f"{name}_b", sites[name].b)
        for name in self.weights:
            self._add_positive(f"{name}_concentration", sites[name].concentration)
        start = {name: sites[name].mean for name in conjugate} | model.starting_point()
        self.others: AutoNormal | None = None
        if sites.keys() - conjugate:
            others = poutine.block(model.sample_globals, hide_fn=lambda site: site["name"] in conjugate)
            self.others = _SingleNormal(others, init_loc_fn=init_to_value(values=start))  # type: ignore[no-untyped-call]
        self._start_weights(start)

    def _add_positive(self, name: str, value: Tensor) -> None:
        setattr(self, name, PyroParam(value.clone(), dist.constraints.positive))

    def weights_posterior(self, name: str) -> dist.TorchDistribution:
        """q of the weights at site ``name``: a Dirichlet for ``probs_j``, `StickBreaking` for ``sticks_j``."""
        if name in self.sticks:
            return StickBreaking(*(for_densities(getattr(self, f"{name}_{of}")) for of in "ab"))
        return dist.Dirichlet(for_densities(getattr(self, f"{name}_concentration")))

    def forward(self) -> dict[str, Tensor]:
        values = {name: pyro.sample(name, self.weights_posterior(name)) for name in (*self.weights, *self.sticks)}
        return values | (self.others() if self.others is not None else {})

    @torch.no_grad()
    def median(self) -> dict[str, Tensor]:
        """Means of the weights (sticks are set to E[v]), and medians of all other parameters."""
        values: dict[str, Tensor] = {name: self.weights_posterior(name).mean for name in self.weights}
        values |= {name: (getattr(self, f"{name}_a") / getattr(self, f"{name}_b")).log() for name in self.sticks}
        return values | (self.others.median() if self.others is not None else {})

    @torch.no_grad()
    def start_at(self, values: Mapping[str, Tensor]) -> None:
        """Move q(theta) to the given values of some of its sites; its concentration and spread do not change."""
        self._start_weights(values)
        if self.others is not None and self.others.prototype_trace is not None:
            for name, site in self.others.prototype_trace.iter_stochastic_nodes():
                if name in values:
                    attrgetter(name)(self.others.locs).copy_(biject_to(site["fn"].support).inv(values[name]))

    @torch.no_grad()
    def _start_weights(self, values: Mapping[str, Tensor]) -> None:
        for name in values.keys() & set(self.weights):
            count = (getattr(self, f"{name}_concentration") - 1).sum().clamp_min(_INITIAL_COUNT)
            setattr(self, f"{name}_concentration", 1 + count * values[name])
        for name in values.keys() & set(self.sticks):
            # The two counts of the first stick add up to all items.
            a, b = getattr(self, f"{name}_a")[:1], getattr(self, f"{name}_b")[:1]
            count = (a + b - 2).clamp_min(_INITIAL_COUNT)
            probs = stick_weights(values[name]).exp()
            left = probs.flip(-1).cumsum(-1).flip(-1)
            setattr(self, f"{name}_a", 1 + count * probs[:-1])
            setattr(self, f"{name}_b", 1 + count * left[1:])
