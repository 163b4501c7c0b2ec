"""Bayesian mixtures: weights, means and spreads are random variables with their own sites in the model."""

from collections.abc import Collection
from typing import Any, ClassVar

import pyro
import pyro.distributions as dist
import torch
from pyro.poutine.runtime import am_i_wrapped
from torch import Tensor

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.facets import Facet, global_site
from pyro_mfcvae.models.distributions import StickBreaking, stick_weights, sticks_of
from pyro_mfcvae.models.fits import Covariance, FitSettings
from pyro_mfcvae.models.mixture_priors import MixturePrior
from pyro_mfcvae.models.mixtures import Mixture
from pyro_mfcvae.models.priors import Hyperprior, Theta
from pyro_mfcvae.networks import for_densities


class BayesianMixturePrior(MixturePrior):
    """A mixture of Gaussians with hyperpriors on the parameters named in ``random``; the others are learned.

        probs    ~ Dirichlet(concentration, …, concentration), or, with ``stick_breaking``,
        sticks   ~ StickBreaking(1, concentration): a Dirichlet process truncated at K clusters
        center_d ~ Normal(0, loc_scale)                        only where ``random`` names "center"; otherwise 0
        loc_cd   ~ Normal(center_d, loc_scale)
        scale_cd ~ HalfNormal(scale_scale);   Sigma_c = diag(scale_c²), or, with full and tied covariances,
        corr_c   ~ LKJCholesky(correlation):  Sigma_c = diag(scale_c) corr_c corr_cᵀ diag(scale_c)

    These parameters are drawn once for all items, at the sites ``probs_j`` or ``sticks_j``, ``center_j``, ``loc_j``,
    ``scale_j`` and ``corr_j``. With sticks, ``probs_j`` is a deterministic site that holds the weights that follow from
    the sticks. If ``poutine.condition`` or ``poutine.do`` sets a value at this site, this value is used as the weights.
    A pair of model and guide uses the mixture at theta ~ q(theta). ``prior()`` without theta is the mixture whose
    parameters `set_mixture` has set.

    Args:
        facet: K and D.
        covariance: the shape of Sigma_c, as for a `MixturePrior`.
        random: the parameters that have a hyperprior: "probs", "loc", "scale" (which includes "corr", if there are
            correlations) and "center", which needs "loc".
        stick_breaking: use sticks instead of a Dirichlet; the data then decide how many clusters have a weight clearly
            above 0.
        concentration: > 0; with a value below 1, a Dirichlet favours few clusters.
        loc_scale: > 0, in units of z.
        scale_scale: > 0, in units of z.
        correlation: concentration of LKJ, > 0; 1 is uniform over correlation matrices.

    Raises:
        InputError: an unknown name in ``random``, or a setting that does not fit.
    """

    names: ClassVar[tuple[str, ...]] = ("probs", "loc", "scale")
    """Names of the parameters that are random by default."""

    def __init__(
        self,
        facet: Facet,
        *,
        covariance: Covariance = "diagonal",
        random: Collection[str] = names,
        stick_breaking: bool = False,
        concentration: float = 1.0,
        loc_scale: float = 3.0,
        scale_scale: float = 1.0,
        correlation: float = 1.0,
    ) -> None:
        super().__init__(facet, covariance=covariance)
        self.stick_breaking = stick_breaking
        self.random = self._check_random(random)
        for name, value in {
            "concentration": concentration,
            "loc_scale": loc_scale,
            "scale_scale": scale_scale,
            "correlation": correlation,
        }.items():
            if not value > 0:
                raise InputError(f"expected {name} > 0, got {value}: pass a positive number")
            self.register_buffer(name, torch.tensor(float(value)))
        parameters = {"probs": "logits", "loc": "loc", "scale": "scale_tril" if self.has_scale_tril else "scale"}
        for name in self.random:
            if name in parameters:
                self._freeze(parameters[name])

    def _check_random(self, random: Collection[str]) -> tuple[str, ...]:
        every = (*self.names, "center")
        if not set(random) <= set(every) or not random:
            raise InputError(
                f"expected random to name some of {', '.join(every)}, got {list(random)}: name at least one"
            )
        if self.stick_breaking and "probs" not in random:
            raise InputError(f'expected "probs" in random with stick_breaking, got {list(random)}: name "probs" too')
        if "center" in random and "loc" not in random:
            raise InputError(f'expected "loc" in random beside "center", got {list(random)}: name "loc" too')
        if "scale" in random and self.has_scale_tril and self.facet.latent_dim == 1:
            raise InputError('expected latent_dim ≥ 2 for random correlations, got 1: use covariance="diagonal"')
        return tuple(name for name in every if name in random)

    def _freeze(self, name: str) -> None:
        """Replace a parameter that q(theta) describes by a buffer; the buffer is the starting point of q(theta)."""
        value = getattr(self, name).detach().clone()
        delattr(self, name)
        self.register_buffer(name, value)

    @property
    def learns_weights(self) -> bool:
        """True, because the weights are either a parameter or have a hyperprior."""
        return True

    def hyperprior(self) -> Hyperprior:
        num_clusters, latent_dim = self.facet.num_clusters, self.facet.latent_dim
        sites: dict[str, Any] = {}
        if "probs" in self.random:
            if self.stick_breaking:
                b = for_densities(self.concentration).expand(num_clusters - 1)
                sites["sticks"] = StickBreaking(torch.ones_like(b), b)
            else:
                sites["probs"] = dist.Dirichlet(for_densities(self.concentration).expand(num_clusters))
        if "center" in self.random:
            loc_scale = for_densities(self.loc_scale)
            sites["center"] = dist.Normal(torch.zeros_like(loc_scale), loc_scale).expand([latent_dim]).to_event(1)
        if "loc" in self.random:
            sites["loc"] = self._loc_given
        if "scale" in self.random:
            num_spreads = 1 if self.covariance == "tied" else num_clusters
            width = 1 if self.covariance == "spherical" else latent_dim
            sites["scale"] = dist.HalfNormal(for_densities(self.scale_scale)).expand([num_spreads, width]).to_event(2)
            if self.has_scale_tril:
                sites["corr"] = (
                    dist.LKJCholesky(latent_dim, for_densities(self.correlation)).expand([num_spreads]).to_event(1)
                )
        return sites

    def draw_theta(self, j: int) -> dict[str, Tensor]:
        """Draw theta as every prior does; with sticks, also record the weights at the deterministic site
        ``probs_j``."""
        theta = super().draw_theta(j)
        if "sticks" in theta and am_i_wrapped():  # Without a handler, nothing reads or sets the site.
            own = stick_weights(theta["sticks"]).exp()
            probs = pyro.deterministic(global_site("probs", j), own, event_dim=1)
            if probs is not own:  # a handler has replaced the weights
                theta = {"probs": probs} | {name: value for name, value in theta.items() if name != "sticks"}
        return theta

    def _loc_given(self, theta: Theta) -> dist.TorchDistribution:
        """p(loc | center), event shape (K, D)."""
        center = for_densities(theta.get("center", torch.zeros_like(self.loc[0]))).unsqueeze(-2)
        shape = (*center.shape[:-2], *self.loc.shape)
        return dist.Normal(center.expand(shape), for_densities(self.loc_scale)).to_event(2)

    def forward(self, theta: Theta | None = None) -> Mixture:
        theta = {name: for_densities(value) for name, value in (theta or {}).items()}
        logits: Tensor = self.logits
        loc = theta.get("loc", self.loc)
        if "sticks" in theta:
            logits = stick_weights(theta["sticks"])
        elif "probs" in theta:
            probs = theta["probs"]
            logits = probs.clamp_min(torch.finfo(probs.dtype).tiny).log()
        if "corr" in theta:
            spread = theta["scale"].unsqueeze(-1) * theta["corr"]
        elif "scale" in theta:
            spread = theta["scale"]
        else:
            spread = self.scale_tril if self.has_scale_tril else self.scale
        return Mixture(for_densities(logits), self.components(for_densities(loc), for_densities(spread)))

    def fit(self, z: Tensor, settings: FitSettings, *, concentration: float | None = None) -> None:
        """Fit like a `MixturePrior`; with sticks, by variational inference for a Dirichlet process."""
        if self.stick_breaking and concentration is None:
            concentration = self.concentration.item()
        super().fit(z, settings, concentration=concentration)

    @torch.no_grad()
    def point(self) -> dict[str, Tensor]:
        """The values of theta that `set_mixture` has set."""
        values: dict[str, Tensor] = {}
        if "probs" in self.random:
            log_weights = self().log_weights()
            values |= {"sticks": sticks_of(log_weights)} if self.stick_breaking else {"probs": log_weights.exp()}
        if "center" in self.random:
            values["center"] = self.loc.mean(0)
        if "loc" in self.random:
            values["loc"] = self.loc.clone()
        if "scale" in self.random:
            if self.has_scale_tril:
                values["scale"] = self.scale_tril.square().sum(-1).sqrt()
                values["corr"] = self.scale_tril / values["scale"].unsqueeze(-1)
            else:
                values["scale"] = self.scale.clone()
        return values
