"""Priors with parameters of their own for every cluster: mixtures of Gaussians, and of Student-t."""

from typing import Any, Literal

import pyro.distributions as dist
import torch
from pyro.nn import PyroParam
from pyro.ops.indexing import Vindex
from torch import Tensor, nn

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.facets import Facet
from pyro_mfcvae.models.priors import FacetPrior

Covariance = Literal["diagonal", "full", "spherical", "tied"]


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
                raise InputError(f"covariance must be 'diagonal', 'full', 'spherical' or 'tied', got {covariance!r}")

    @property
    def learns_weights(self) -> bool:
        """Whether pi is a parameter."""
        return isinstance(self.logits, nn.Parameter)

    def log_weights(self) -> Tensor:
        return self.logits.log_softmax(-1)

    @property
    def has_scale_tril(self) -> bool:
        """Whether the covariances have off-diagonal elements."""
        return self.covariance in ("full", "tied")

    def scale_trils(self) -> Tensor:
        """The lower Cholesky factor of every Sigma_c, (K, D, D); not for diagonal and spherical ones."""
        scale_tril: Tensor = self.scale_tril
        return scale_tril.expand(*scale_tril.shape[:-3], self.facet.num_clusters, -1, -1)

    def components(self) -> dist.TorchDistribution:
        if self.has_scale_tril:
            return dist.MultivariateNormal(self.loc, scale_tril=self.scale_trils())
        return dist.Normal(self.loc, self.scale).to_event(1)

    def component(self, c: Tensor) -> dist.TorchDistribution:
        loc = Vindex(self.loc)[..., c, :]
        if self.has_scale_tril:
            return dist.MultivariateNormal(loc, scale_tril=Vindex(self.scale_trils())[..., c, :, :])
        return dist.Normal(loc, Vindex(self.scale)[..., c, :]).to_event(1)

    def expected_log_prob(self, loc: Tensor, scale: Tensor) -> Tensor:
        """log N(loc; loc_c, Sigma_c) - tr(Sigma_c⁻¹ diag(scale²)) / 2: (…, D), (…, D) → (…, K)."""
        trace = scale.square().unsqueeze(-2) @ self.precision_diagonal().mT
        return self.log_prob(loc) - trace.squeeze(-2) / 2

    def expected_log_prob_full(self, loc: Tensor, covariance: Tensor) -> Tensor:
        """log N(loc; loc_c, Sigma_c) - tr(Sigma_c⁻¹ covariance) / 2: (…, D), (…, D, D) → (…, K)."""
        if not self.has_scale_tril:
            return self.expected_log_prob(loc, covariance.diagonal(dim1=-2, dim2=-1).sqrt())
        inverse = self._inverse_scale_trils()
        precision = (inverse.mT @ inverse).flatten(-2)
        trace = (
            covariance.flatten(-2).unsqueeze(-2)
            @ precision.expand(*precision.shape[:-2], self.facet.num_clusters, -1).mT
        )
        return self.log_prob(loc) - trace.squeeze(-2) / 2

    def precision_diagonal(self) -> Tensor:
        """The diagonal of Sigma_c⁻¹, shape (K, D)."""
        if self.has_scale_tril:
            precision = self._inverse_scale_trils().square().sum(-2)
        else:
            precision = self.scale.square().reciprocal()
        return precision.expand(*precision.shape[:-2], self.facet.num_clusters, self.facet.latent_dim)

    def _inverse_scale_trils(self) -> Tensor:
        scale_tril = self.scale_tril
        eye = torch.eye(self.facet.latent_dim, dtype=scale_tril.dtype, device=scale_tril.device)
        return torch.linalg.solve_triangular(scale_tril, eye, upper=False)

    @torch.no_grad()
    def set_mixture(self, loc: Tensor, covariance: Tensor, *, probs: Tensor | None = None) -> None:
        """Overwrite the parameters in place, so that optimisers and parameter stores keep seeing the same tensors.

        Args:
            loc: new means, (K, D).
            covariance: new Sigma_c, (K, D, D), positive definite; a diagonal prior takes the diagonal, a spherical one
                its mean, a tied one the mean of all.
            probs: new weights, (K,), positive; uniform where None. Fixed weights accept only None.
        """
        if probs is not None and not self.learns_weights:
            raise InputError(
                "this prior's weights are fixed at 1/K: pass probs=None, or learn_weights=True to the prior"
            )
        variance = covariance.diagonal(dim1=-2, dim2=-1)
        self.loc.copy_(loc)
        match self.covariance:
            case "diagonal":
                self.scale = variance.sqrt()
            case "spherical":
                self.scale = variance.mean(-1, keepdim=True).sqrt()
            case "full":
                self.scale_tril = torch.linalg.cholesky(covariance)
            case "tied":
                self.scale_tril = torch.linalg.cholesky(covariance.mean(0, keepdim=True))
        self.logits.copy_(torch.zeros_like(self.logits) if probs is None else probs.log())

    @torch.no_grad()
    def renumber(self, order: Tensor) -> None:
        """Make cluster ``order[k]`` the new cluster k, in place."""
        for tensor in (*self.parameters(), *self.buffers()):
            if tensor.dim() > 0 and len(tensor) == self.facet.num_clusters:
                tensor.copy_(tensor[order])


class StudentTMixturePrior(MixturePrior):
    """Mixture of multivariate Student-t: ``z | c ~ StudentT(df_c, loc_c, Sigma_c)``, for clusters with outliers.

    It has no closed form: take `MonteCarloAssignment` or `SampleAssignment`. The parameters are those of a
    `MixturePrior` with full covariances, where Sigma_c is the scale matrix (the covariance is Sigma_c df / (df - 2)),
    and ``df`` (K,), which stays above 2, so that there is a covariance.

    Args:
        facet: K and D.
        df: initial degrees of freedom, > 2; a Gaussian is the limit of many.
        learn_weights: whether pi is a parameter.
    """

    df: Any  # set as a PyroParam, read as a Tensor

    expected_log_prob = FacetPrior.expected_log_prob  # the Gaussian's do not hold
    expected_log_prob_full = FacetPrior.expected_log_prob_full

    def __init__(self, facet: Facet, *, df: float = 5.0, learn_weights: bool = True) -> None:
        super().__init__(facet, covariance="full", learn_weights=learn_weights)
        if not df > 2:
            raise InputError(f"the degrees of freedom of a Student-t mixture must be > 2, got {df}")
        self.df = PyroParam(torch.full((facet.num_clusters,), float(df)), dist.constraints.greater_than(2.0))

    @torch.no_grad()
    def set_mixture(self, loc: Tensor, covariance: Tensor, *, probs: Tensor | None = None) -> None:
        """As for a `MixturePrior`: ``covariance`` is that of the clusters, the degrees of freedom stay as they are."""
        super().set_mixture(loc, covariance * ((self.df - 2) / self.df)[:, None, None], probs=probs)

    def components(self) -> dist.TorchDistribution:
        return dist.MultivariateStudentT(self.df, self.loc, self.scale_trils())

    def component(self, c: Tensor) -> dist.TorchDistribution:
        return dist.MultivariateStudentT(self.df[c], self.loc[c], self.scale_trils()[c])
