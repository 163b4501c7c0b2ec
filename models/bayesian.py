"""Mixtures whose weights, means and spreads are random themselves, with sites of their own in the model."""

from collections.abc import Collection
from typing import ClassVar

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.facets import Facet
from pyro_mfcvae.models.distributions import StickBreaking
from pyro_mfcvae.models.mixture_priors import Covariance, MixturePrior
from pyro_mfcvae.models.mixtures import Mixture
from pyro_mfcvae.models.priors import Theta


class BayesianMixturePrior(MixturePrior):
    """A mixture of Gaussians with hyperpriors on the parameters named in ``random``; the others are learned.

        probs   ~ Dirichlet(concentration, …, concentration), or, with ``stick_breaking``,
                  StickBreaking(1, concentration): a Dirichlet process truncated at K clusters
        loc_cd  ~ Normal(0, loc_scale)
        scale_cd ~ HalfNormal(scale_scale);   Sigma_c = diag(scale_c²), or, with full and tied covariances,
        corr_c  ~ LKJCholesky(correlation):   Sigma_c = diag(scale_c) corr_c corr_cᵀ diag(scale_c)

    drawn once for all items, at the sites ``probs_j``, ``loc_j``, ``scale_j`` and ``corr_j``. Inside a pair the guide
    over these sites has the last word. On its own the prior stands where `set_mixture` has put it.

    Args:
        facet: K and D.
        covariance: the shape of Sigma_c, as for a `MixturePrior`.
        random: which parameters have a hyperprior, out of "probs", "loc" and "scale" (with "corr", where there is one).
        stick_breaking: let the data choose how many clusters have weight.
        concentration: > 0; a Dirichlet's below 1 favours few clusters.
        loc_scale: > 0, in units of z.
        scale_scale: > 0, in units of z.
        correlation: of LKJ, > 0; 1 is uniform over correlation matrices.
    """

    names: ClassVar[tuple[str, ...]] = ("probs", "loc", "scale")

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
        if not set(random) <= set(self.names) or not random:
            raise InputError(f"random must name some of {', '.join(self.names)}, got {list(random)}")
        self.stick_breaking = stick_breaking
        for name, value in {
            "concentration": concentration,
            "loc_scale": loc_scale,
            "scale_scale": scale_scale,
            "correlation": correlation,
        }.items():
            if not value > 0:
                raise InputError(f"{name} must be > 0, got {value}")
            self.register_buffer(name, torch.tensor(float(value)))
        if stick_breaking and "probs" not in random:
            raise InputError('stick_breaking is a hyperprior of the weights: random must name "probs"')
        if "scale" in random and self.has_scale_tril and facet.latent_dim == 1:
            raise InputError('in one dimension there are no correlations: use covariance="diagonal"')
        self.random = tuple(name for name in self.names if name in random)
        for name in self.random:
            self._freeze({"probs": "logits", "scale": "scale_tril" if self.has_scale_tril else "scale"}.get(name, name))

    def _freeze(self, name: str) -> None:
        """Make a parameter a buffer: it starts the guide, and is not learned."""
        value = getattr(self, name).detach().clone()
        delattr(self, name)
        self.register_buffer(name, value)

    @property
    def learns_weights(self) -> bool:
        """Always: as a parameter, or with a hyperprior."""
        return True

    def hyperprior(self) -> dict[str, dist.TorchDistribution]:
        num_clusters, latent_dim = self.facet.num_clusters, self.facet.latent_dim
        distributions: dict[str, dist.TorchDistribution] = {}
        if "probs" in self.random:
            if self.stick_breaking:
                b = self.concentration.expand(num_clusters - 1)
                distributions["probs"] = StickBreaking(torch.ones_like(b), b)
            else:
                distributions["probs"] = dist.Dirichlet(self.concentration.expand(num_clusters))
        if "loc" in self.random:
            zero = torch.zeros_like(self.loc_scale)
            distributions["loc"] = dist.Normal(zero, self.loc_scale).expand([num_clusters, latent_dim]).to_event(2)
        if "scale" in self.random:
            num_spreads = 1 if self.covariance == "tied" else num_clusters
            width = 1 if self.covariance == "spherical" else latent_dim
            distributions["scale"] = dist.HalfNormal(self.scale_scale).expand([num_spreads, width]).to_event(2)
            if self.has_scale_tril:
                lkj = dist.LKJCholesky(latent_dim, self.correlation)
                distributions["corr"] = lkj.expand([num_spreads]).to_event(1)
        return distributions

    def forward(self, theta: Theta | None = None) -> Mixture:
        if not theta:
            return super().forward()
        logits = (
            theta["probs"].clamp_min(torch.finfo(theta["probs"].dtype).tiny).log() if "probs" in theta else self.logits
        )
        loc = theta.get("loc", self.loc)
        if "corr" in theta:
            spread = theta["scale"].unsqueeze(-1) * theta["corr"]
        elif "scale" in theta:
            spread = theta["scale"]
        else:
            spread = self.scale_tril if self.has_scale_tril else self.scale
        return Mixture(logits, self.components(loc, spread))

    @torch.no_grad()
    def point(self) -> dict[str, Tensor]:
        """Where `set_mixture` has put the prior."""
        values = {}
        if "probs" in self.random:
            values["probs"] = self.logits.softmax(-1)
        if "loc" in self.random:
            values["loc"] = self.loc.clone()
        if "scale" in self.random:
            if self.has_scale_tril:
                values["scale"] = self.scale_tril.square().sum(-1).sqrt()
                values["corr"] = self.scale_tril / values["scale"].unsqueeze(-1)
            else:
                values["scale"] = self.scale.clone()
        return values
