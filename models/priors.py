"""Priors p(c_j) and p(z_j | c_j) of one facet."""

from abc import abstractmethod
from typing import Any, Literal

import pyro.distributions as dist
import torch
from pyro.nn import PyroParam
from torch import Tensor, nn

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.facets import Facet
from pyro_mfcvae.networks import AbstractPyroModule

Covariance = Literal["diagonal", "full", "spherical"]


class FacetPrior(AbstractPyroModule):
    """A mixture prior over one facet: ``c ~ Categorical(pi)``, ``z | c ~ p(z | c)``.

    A subclass gives the logits of ``pi`` and the components; it overrides `expected_log_prob` where the expectation
    has a closed form. Methods may be called on a prior of its own as well as inside a model.
    """

    def __init__(self, facet: Facet) -> None:
        super().__init__()
        self.facet = facet

    @abstractmethod
    def log_weights(self) -> Tensor:
        """log pi, shape (K,), normalised."""

    @abstractmethod
    def components(self) -> dist.TorchDistribution:
        """All p(z | c), c = 0 … K-1: batch shape (K,), event shape (D,)."""

    @abstractmethod
    def component(self, c: Tensor) -> dist.TorchDistribution:
        """p(z | c) for an integer tensor ``c`` of any shape: batch shape ``c.shape``, event shape (D,)."""

    def log_prob(self, z: Tensor) -> Tensor:
        """log p(z | c) for every c: (…, D) → (…, K)."""
        log_prob: Tensor = self.components().log_prob(z.unsqueeze(-2))
        return log_prob

    def expected_log_prob(self, loc: Tensor, scale: Tensor) -> Tensor:
        """E[log p(z | c)] over z ~ Normal(loc, scale) for every c: (…, D), (…, D) → (…, K).

        Raises:
            InputError: the prior has no closed form for it.
        """
        raise InputError(
            f"{type(self).__name__} has no closed form of E[log p(z | c)]: use MonteCarloAssignment with "
            "pyro.infer.TraceEnum_ELBO (or FacetELBO(closed_form=False))"
        )


class MixturePrior(FacetPrior):
    """Mixture of Gaussians: ``c ~ Categorical(pi)``, ``z | c ~ Normal(loc_c, Sigma_c)`` (Falck et al. 2021, eq. 2).

    Parameters: ``loc`` (K, D), ``logits`` (K,) unless the weights are fixed at 1/K, and, by ``covariance``,

    - ``"diagonal"``: ``scale`` (K, D), positive; Sigma_c = diag(scale_c²);
    - ``"spherical"``: ``scale`` (K, 1), positive; Sigma_c = scale_c² I;
    - ``"full"``: ``scale_tril`` (K, D, D), lower Cholesky; Sigma_c = scale_tril_c scale_trilᵀ_c.

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
            case "full":
                eye = torch.eye(latent_dim).repeat(num_clusters, 1, 1)
                self.scale_tril = PyroParam(eye, dist.constraints.lower_cholesky)
            case _:
                raise InputError(f"covariance must be 'diagonal', 'full' or 'spherical', got {covariance!r}")

    @property
    def learns_weights(self) -> bool:
        """Whether pi is a parameter."""
        return isinstance(self.logits, nn.Parameter)

    def log_weights(self) -> Tensor:
        return self.logits.log_softmax(-1)

    def components(self) -> dist.TorchDistribution:
        if self.covariance == "full":
            return dist.MultivariateNormal(self.loc, scale_tril=self.scale_tril)
        return dist.Normal(self.loc, self.scale).to_event(1)

    def component(self, c: Tensor) -> dist.TorchDistribution:
        if self.covariance == "full":
            return dist.MultivariateNormal(self.loc[c], scale_tril=self.scale_tril[c])
        return dist.Normal(self.loc[c], self.scale[c]).to_event(1)

    def expected_log_prob(self, loc: Tensor, scale: Tensor) -> Tensor:
        """log N(loc; loc_c, Sigma_c) - tr(Sigma_c⁻¹ diag(scale²)) / 2: (…, D), (…, D) → (…, K)."""
        trace = scale.square() @ self.precision_diagonal().mT
        return self.log_prob(loc) - trace / 2

    def precision_diagonal(self) -> Tensor:
        """The diagonal of Sigma_c⁻¹, shape (K, D)."""
        if self.covariance == "full":
            scale_tril = self.scale_tril
            eye = torch.eye(self.facet.latent_dim, dtype=scale_tril.dtype, device=scale_tril.device)
            inverse = torch.linalg.solve_triangular(scale_tril, eye, upper=False)
            return inverse.square().sum(-2)
        return self.scale.square().reciprocal().expand_as(self.loc)

    @torch.no_grad()
    def set_mixture(self, loc: Tensor, covariance: Tensor, *, probs: Tensor | None = None) -> None:
        """Overwrite the parameters in place, so that optimisers and parameter stores keep seeing the same tensors.

        Args:
            loc: new means, (K, D).
            covariance: new Sigma_c, (K, D, D), positive definite; a diagonal prior takes the diagonal, a spherical one
                its mean.
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
        self.logits.copy_(torch.zeros_like(self.logits) if probs is None else probs.log())
