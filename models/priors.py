"""Priors p(c_j) and p(z_j | c_j) of one facet: what all have in common, and the one without clusters."""

from abc import abstractmethod
from collections.abc import Mapping
from copy import copy
from typing import Literal, Self

import pyro.distributions as dist
import torch
from torch import Tensor

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.facets import Facet
from pyro_mfcvae.networks import AbstractPyroModule

PosteriorCovariance = Literal["diagonal", "full"]


class FacetPrior(AbstractPyroModule):
    """A mixture prior over one facet: ``c ~ Categorical(pi)``, ``z | c ~ p(z | c)``.

    A subclass gives the logits of ``pi`` and the components; it overrides `expected_log_prob` where the expectation
    has a closed form. Methods may be called on a prior of its own as well as inside a model.
    """

    def __init__(self, facet: Facet) -> None:
        super().__init__()
        self.facet = facet

    def has_closed_form(self, covariance: PosteriorCovariance | None = "diagonal") -> bool:
        """Whether E[log p(z | c)] is there for a Gaussian q(z | x) with such a covariance; never for other families."""
        match covariance:
            case "diagonal":
                return type(self).expected_log_prob is not FacetPrior.expected_log_prob
            case "full":
                return type(self).expected_log_prob_full is not FacetPrior.expected_log_prob_full
        return False

    @abstractmethod
    def log_weights(self) -> Tensor:
        """log pi, shape (K,), normalised."""

    @abstractmethod
    def components(self) -> dist.TorchDistribution:
        """All p(z | c), c = 0 … K-1: batch shape (K,), event shape (D,)."""

    @abstractmethod
    def component(self, c: Tensor) -> dist.TorchDistribution:
        """p(z | c) for an integer tensor ``c`` of any shape: batch shape ``c.shape``, event shape (D,)."""

    @torch.no_grad()
    def sample(self, num: int) -> tuple[Tensor, Tensor]:
        """Draw ``num`` clusters (num,), and a z from each, (num, D)."""
        c = dist.Categorical(logits=self.log_weights()).sample((num,))
        return c, self.component(c).sample()

    def log_prob(self, z: Tensor) -> Tensor:
        """log p(z | c) for every c: (…, D) → (…, K)."""
        log_prob: Tensor = self.components().log_prob(z.unsqueeze(-2))
        return log_prob

    def expected_log_prob(self, loc: Tensor, scale: Tensor) -> Tensor:
        """E[log p(z | c)] over z ~ Normal(loc, scale) for every c: (…, D), (…, D) → (…, K).

        Raises:
            InputError: the prior has no closed form for it.
        """
        raise self._no_closed_form()

    def expected_log_prob_full(self, loc: Tensor, covariance: Tensor) -> Tensor:
        """The same over z ~ Normal(loc, covariance): (…, D), (…, D, D) → (…, K)."""
        raise self._no_closed_form()

    def expected_log_prob_under(self, posterior: dist.TorchDistribution) -> Tensor:
        """The same over z ~ ``posterior``, a Gaussian of batch shape (…) and event shape (D,): (…, K)."""
        match posterior:
            case torch.distributions.MultivariateNormal() | torch.distributions.LowRankMultivariateNormal():
                return self.expected_log_prob_full(posterior.mean, posterior.covariance_matrix)
            case torch.distributions.Independent(base_dist=torch.distributions.Normal()):
                return self.expected_log_prob(posterior.mean, posterior.stddev)
        raise InputError(
            f"E[log p(z | c)] under a {type(posterior).__name__} has no closed form: use MonteCarloAssignment or "
            "SampleAssignment with FacetELBO(closed_form=False)"
        )

    def _no_closed_form(self) -> InputError:
        return InputError(
            f"{type(self).__name__} has no closed form of E[log p(z | c)]: use MonteCarloAssignment with "
            "pyro.infer.TraceEnum_ELBO (or FacetELBO(closed_form=False))"
        )

    def hyperprior(self) -> dict[str, dist.TorchDistribution]:
        """p(theta) of the parameters that are random themselves, by name: none by default.

        Batch shape (), event shape that of the parameter. The model draws them at sites such as ``probs_j``, once for
        all items, and then asks `given` for the prior at these values.
        """
        return {}

    def point(self) -> dict[str, Tensor]:
        """Where a guide over these parameters may start, by name."""
        return {}

    def given(self, values: Mapping[str, Tensor]) -> Self:
        """This prior with tensors in place of its attributes ``values``: parameters are shared, none is overwritten."""
        if not values:
            return self
        prior = copy(self)
        prior.__dict__.update(values)  # an instance's attribute is found before a module's parameter
        return prior


class StandardNormalPrior(FacetPrior):
    """z ~ Normal(0, I), a facet without clusters: for what varies smoothly, such as style. No parameters.

    Args:
        facet: K = 1, and D.
    """

    def __init__(self, facet: Facet) -> None:
        super().__init__(facet)
        if facet.num_clusters != 1:
            raise InputError(
                f"a standard normal prior has no clusters, so its facet must have num_clusters=1, got "
                f"{facet.num_clusters}: set it to 1, or take a MixturePrior"
            )
        self.register_buffer("loc", torch.zeros(1, facet.latent_dim))

    def log_weights(self) -> Tensor:
        return self.loc.new_zeros(1)

    def components(self) -> dist.TorchDistribution:
        return dist.Normal(self.loc, torch.ones_like(self.loc)).to_event(1)

    def component(self, c: Tensor) -> dist.TorchDistribution:
        loc = self.loc[c]
        return dist.Normal(loc, torch.ones_like(loc)).to_event(1)

    def expected_log_prob(self, loc: Tensor, scale: Tensor) -> Tensor:
        """log Normal(loc; 0, I) - |scale|² / 2: (…, D), (…, D) → (…, 1)."""
        return self.log_prob(loc) - scale.square().sum(-1, keepdim=True) / 2

    def expected_log_prob_full(self, loc: Tensor, covariance: Tensor) -> Tensor:
        return self.log_prob(loc) - covariance.diagonal(dim1=-2, dim2=-1).sum(-1, keepdim=True) / 2
