"""q(theta): the guide over the priors' random parameters, beside the amortised guide."""

from collections.abc import Mapping
from operator import attrgetter
from typing import Any, Protocol

import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoNormal, init_to_value
from pyro.nn import PyroModule, PyroParam
from torch import Tensor
from torch.distributions import biject_to

from pyro_mfcvae.models.distributions import StickBreaking
from pyro_mfcvae.models.generative import MultiFacetModel

# Items that q(probs) starts with: how sure it is at first of the weights it starts at.
_INITIAL_COUNT = 100.0


class GlobalGuide(Protocol):
    """A guide over `MultiFacetModel.sample_globals`: ours, or Pyro's AutoDelta, AutoNormal, AutoMultivariateNormal."""

    def __call__(self) -> Mapping[str, Tensor]:
        """Sample every global site; returns their values by name."""

    def median(self) -> Mapping[str, Tensor]:
        """One typical value of every global site."""


class ConjugateGuide(PyroModule):
    """q(probs_j) in the family that is conjugate to p(probs_j), all other global sites by an AutoNormal.

        probs_j ~ Dirichlet(concentration_j), or StickBreaking(a_j, b_j)

    Were the clusters known, with n_k items in cluster k, the exact posterior would be one of these: Dirichlet
    (concentration + n), or sticks Beta(1 + n_k, concentration + n_{k+1} + … + n_{K-1}).

    Args:
        model: its priors say which sites there are, and where the guide starts.
    """

    def __init__(self, model: MultiFacetModel) -> None:
        super().__init__("globals")
        trace = poutine.block(poutine.trace(model.sample_globals).get_trace)()
        sites: dict[str, Any] = {name: site["fn"] for name, site in trace.iter_stochastic_nodes()}
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
            self.others = AutoNormal(others, init_loc_fn=init_to_value(values=start))
        self._start_weights(start)

    def _add_positive(self, name: str, value: Tensor) -> None:
        setattr(self, name, PyroParam(value.clone(), dist.constraints.positive))

    def _weights_posterior(self, name: str) -> dist.TorchDistribution:
        if name in self.sticks:
            return StickBreaking(getattr(self, f"{name}_a"), getattr(self, f"{name}_b"))
        return dist.Dirichlet(getattr(self, f"{name}_concentration"))

    def forward(self) -> dict[str, Tensor]:
        values = {name: pyro.sample(name, self._weights_posterior(name)) for name in (*self.weights, *self.sticks)}
        return values | (self.others() if self.others is not None else {})

    @torch.no_grad()
    def median(self) -> dict[str, Tensor]:
        """Means of the weights, medians of the others."""
        values: dict[str, Tensor] = {n: self._weights_posterior(n).mean for n in (*self.weights, *self.sticks)}
        return values | (self.others.median() if self.others is not None else {})

    @torch.no_grad()
    def start_at(self, values: Mapping[str, Tensor]) -> None:
        """Move q(theta) to values of some of its sites; it stays as sure of them as it is."""
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
            count = (getattr(self, f"{name}_a")[0] + getattr(self, f"{name}_b")[0] - 2).clamp_min(_INITIAL_COUNT)
            left = values[name].flip(-1).cumsum(-1).flip(-1)
            setattr(self, f"{name}_a", 1 + count * values[name][:-1])
            setattr(self, f"{name}_b", 1 + count * left[1:])
