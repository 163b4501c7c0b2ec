"""Priors that are mixtures of Gaussians or of Student-t distributions."""

from typing import Any

import pyro.distributions as dist
import torch
from pyro.nn import PyroParam
from torch import Tensor, nn

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.facets import Facet
from pyro_mfcvae.models.fits import Covariance, FitSettings, cholesky, fit_gaussians, read_values
from pyro_mfcvae.models.mixtures import Mixture
from pyro_mfcvae.models.priors import FacetPrior, Theta
from pyro_mfcvae.networks import for_densities


class MixturePrior(FacetPrior):
    """Mixture of Gaussians: ``c ~ Categorical(pi)``, ``z | c ~ Normal(loc_c, Sigma_c)`` (Falck et al. 2021, eq. 2).

    Parameters: ``loc`` (K, D), ``logits`` (K,) unless the weights are fixed at 1/K, and, by ``covariance``,

    - ``"diagonal"``: ``scale`` (K, D), positive; Sigma_c = diag(scale_c²);
    - ``"spherical"``: ``scale`` (K, 1), positive; Sigma_c = scale_c² I;
    - ``"full"``: ``scale_tril`` (K, D, D), lower Cholesky; Sigma_c = scale_tril_c scale_trilᵀ_c;
    - ``"tied"``: ``scale_tril`` (1, D, D), the same Sigma for all clusters.

    A new prior has uniform weights, unit covariances, and Glorot-uniform means:
    loc ~ Uniform(±sqrt(6 / (K + D))).

    Args:
        facet: K and D.
        covariance: the shape of Sigma_c.
        learn_weights: whether pi is a parameter.
    """

    scale: Any  # set as a PyroParam, read as a Tensor
    scale_tril: Any

    def __init__(self, facet: Facet, *, covariance: Covariance = "diagonal", learn_weights: bool = True) -> None:
        super().__init__(facet)
        num_clusters, latent_dim = facet.num_clusters, facet.latent_dim
        self.covariance = covariance
        self.loc = nn.Parameter(nn.init.xavier_uniform_(torch.empty(num_clusters, latent_dim)))
        logits = torch.zeros(num_clusters)
        if learn_weights:
            self.logits = nn.Parameter(logits)
        else:
            self.register_buffer("logits", logits)
        match covariance:
            case "diagonal":
                self.scale = PyroParam(torch.ones(num_clusters, latent_dim), dist.constraints.positive)
            case "spherical":
                self.scale = PyroParam(torch.ones(num_clusters, 1), dist.constraints.positive)
            case "full" | "tied":
                eye = torch.eye(latent_dim).repeat(num_clusters if covariance == "full" else 1, 1, 1)
                self.scale_tril = PyroParam(eye, dist.constraints.lower_cholesky)
            case _:
                raise InputError(
                    f"expected covariance 'diagonal', 'full', 'spherical' or 'tied', got {covariance!r}: pass one"
                )

    @property
    def learns_weights(self) -> bool:
        """Whether pi is a parameter."""
        return isinstance(self.logits, nn.Parameter)

    @property
    def has_scale_tril(self) -> bool:
        """Whether the covariances have off-diagonal elements."""
        return self.covariance in ("full", "tied")

    def forward(self, theta: Theta | None = None) -> Mixture:
        spread = self.scale_tril if self.has_scale_tril else self.scale
        return Mixture(for_densities(self.logits), self.components(for_densities(self.loc), for_densities(spread)))

    def components(self, loc: Tensor, spread: Tensor) -> dist.TorchDistribution:
        """All p(z | c), batch shape (K,), event shape (D,). A subclass may return another family.

        Args:
            loc: (K, D).
            spread: the standard deviations ``scale`` or the Cholesky factors ``scale_tril``, in the shape of the
                parameters.
        """
        if self.has_scale_tril:
            return dist.MultivariateNormal(loc, scale_tril=spread)
        return dist.Normal(loc, spread).to_event(1)

    @torch.no_grad()
    def set_mixture(self, loc: Tensor, covariance: Tensor, *, probs: Tensor | None = None) -> None:
        """Overwrite the parameters in place, so that optimisers and parameter stores keep the same tensors.

        Args:
            loc: new means, (K, D).
            covariance: new Sigma_c, (K, D, D), positive definite; a diagonal prior uses only the diagonals, a spherical
                prior the mean of each diagonal, and a tied prior the mean of all matrices.
            probs: new weights, (K,), ≥ 0; None means uniform weights. If the weights are fixed, only None is allowed.

        Raises:
            InputError: a shape or value does not fit, or weights are given although they are fixed.
        """
        if probs is not None and not self.learns_weights:
            raise InputError(
                "expected probs=None for a prior whose weights are fixed at 1/K, got weights: leave them out, or build "
                "the prior with learn_weights=True"
            )
        num_clusters, dim = self.facet.num_clusters, self.facet.latent_dim
        loc = read_values("loc", loc, (num_clusters, dim), like=self.loc)
        covariance = read_values("covariance", covariance, (num_clusters, dim, dim), like=self.loc)
        if probs is not None:
            probs = read_values("probs", probs, (num_clusters,), like=self.loc)
            if probs.device.type == "cpu" and not ((probs >= 0).all() and probs.sum() > 0):
                raise InputError(f"expected probs ≥ 0, one of them positive, got {probs.tolist()}: pass weights")
        variance = covariance.diagonal(dim1=-2, dim2=-1)
        if variance.device.type == "cpu" and not (variance > 0).all():
            raise InputError(f"expected variances > 0, got one of {variance.min().item():g}: pass covariances")
        self.loc.copy_(loc)
        match self.covariance:
            case "diagonal":
                self.scale = variance.sqrt().to(self.loc)
            case "spherical":
                self.scale = variance.mean(-1, keepdim=True).sqrt().to(self.loc)
            case "full":
                self.scale_tril = cholesky(covariance).to(self.loc)
            case "tied":
                self.scale_tril = cholesky(covariance.mean(0, keepdim=True)).to(self.loc)
        self.logits.copy_(torch.zeros_like(self.logits) if probs is None else probs.log())

    @torch.no_grad()
    def fit(self, z: Tensor, settings: FitSettings, *, concentration: float | None = None) -> None:
        """Fit the mixture to points ``z`` (N, D), N ≥ K, as `fit_gaussians` does, and overwrite the parameters."""
        fitted = fit_gaussians(
            z, self.facet.num_clusters, covariance=self.covariance, settings=settings, concentration=concentration
        )
        probs = fitted.weights if self.learns_weights else None
        self.set_mixture(fitted.means, fitted.covariances, probs=probs)

    @torch.no_grad()
    def renumber(self, order: Tensor) -> None:
        """Make cluster ``order[k]`` the new cluster k, in place."""
        for tensor in (*self.parameters(), *self.buffers()):
            if tensor.dim() > 0 and len(tensor) == self.facet.num_clusters:
                tensor.copy_(tensor[order])


class StudentTMixturePrior(MixturePrior):
    """Mixture of multivariate Student-t: ``z | c ~ StudentT(df_c, loc_c, Sigma_c)``, for clusters with outliers.

    E[log p(z | c)] has no closed form: use `MonteCarloAssignment` or `SampleAssignment`. The parameters are those of a
    `MixturePrior` with full covariances, where Sigma_c is the scale matrix (the covariance is Sigma_c df / (df - 2)),
    and ``df`` (K,), which stays above 2, so that the covariance exists.

    Args:
        facet: K and D.
        df: initial degrees of freedom, > 2; for large df a component is close to a Gaussian.
        learn_weights: whether pi is a parameter.
    """

    df: Any  # set as a PyroParam, read as a Tensor

    def __init__(self, facet: Facet, *, df: float = 5.0, learn_weights: bool = True) -> None:
        super().__init__(facet, covariance="full", learn_weights=learn_weights)
        if not df > 2:
            raise InputError(f"expected df > 2, so that there is a covariance, got {df}: pass more degrees of freedom")
        self.df = PyroParam(torch.full((facet.num_clusters,), float(df)), dist.constraints.greater_than(2.0))

    @torch.no_grad()
    def set_mixture(self, loc: Tensor, covariance: Tensor, *, probs: Tensor | None = None) -> None:
        """As for a `MixturePrior`: ``covariance`` is that of the clusters, the degrees of freedom are not changed."""
        num_clusters, dim = self.facet.num_clusters, self.facet.latent_dim
        covariance = read_values("covariance", covariance, (num_clusters, dim, dim), like=self.loc)
        super().set_mixture(loc, covariance * ((self.df - 2) / self.df)[:, None, None], probs=probs)

    def components(self, loc: Tensor, spread: Tensor) -> dist.TorchDistribution:
        return dist.MultivariateStudentT(for_densities(self.df), loc, spread)
