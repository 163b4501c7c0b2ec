"""The contract of a facet's prior p(c_j) p(z_j | c_j), and the prior without clusters."""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import pyro
import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import TorchDistributionMixin
from pyro.nn.module import PyroModuleList
from torch import Tensor, nn

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.facets import Facet, global_site
from pyro_mfcvae.models.mixtures import Mixture, PosteriorCovariance
from pyro_mfcvae.networks import AbstractPyroModule, for_densities

Theta = Mapping[str, Tensor]
"""Values of a prior's random parameters, by name."""

Hyperprior = Mapping[str, dist.TorchDistribution | Callable[[Theta], dist.TorchDistribution]]
"""p(theta) by name: each value is a distribution, or a function from the values drawn so far to a distribution."""


class FacetPrior(AbstractPyroModule):
    """A module that returns the prior of one facet: ``prior(theta)`` is a `Mixture`.

    A subclass implements `forward`. Inside a model, a call registers the prior's parameters with Pyro; outside a model,
    it does not change Pyro's parameter store.

    Args:
        facet: K and D.
    """

    def __init__(self, facet: Facet) -> None:
        super().__init__()
        self.facet = facet

    def __call__(self, theta: Theta | None = None) -> Mixture:
        # Not PyroModule.__call__: it would enter the prior's own context, and register parameters outside a model.
        mixture: Mixture = nn.Module.__call__(self, theta)
        return mixture

    @abstractmethod
    def forward(self, theta: Theta | None = None) -> Mixture:
        """p(c) and p(z | c).

        Args:
            theta: values of all parameters that `hyperprior` names; None means their current values, `point`.
        """

    @torch.no_grad()
    def has_closed_form(self, covariance: PosteriorCovariance | None = "diagonal") -> bool:
        """Whether E[log p(z | c)] has a closed form under a Gaussian q(z | x) with such a covariance."""
        return self().has_closed_form(covariance)

    def check_encoder(self, encoder: nn.Module) -> None:
        """Refuse a guide's encoder that does not fit the prior. By default every encoder is accepted, because most
        priors do not use one.

        Raises:
            InputError: the prior reads another encoder than ``encoder``.
        """

    def hyperprior(self) -> Hyperprior:
        """p(theta) of the random parameters, by name, in the order in which they are drawn.

        Each distribution has batch shape () and the event shape of its parameter. The model draws the parameters once
        for all items, at sites such as ``probs_j``, and passes the values to `forward`.
        """
        return {}

    def draw_theta(self, j: int) -> dict[str, Tensor]:
        """Draw theta ~ `hyperprior` at Pyro sites whose names end with the facet's number ``j``."""
        theta: dict[str, Tensor] = {}
        for name, p in self.hyperprior().items():
            fn = p if isinstance(p, TorchDistributionMixin) else p(theta)
            theta[name] = pyro.sample(global_site(name, j), fn)
        return theta

    def point(self) -> dict[str, Tensor]:
        """A starting value of theta, by name, for a guide over theta."""
        return {}


class PriorList(PyroModuleList):
    """The priors of all facets, shallowest first; ``priors[j] = other`` replaces a prior by another one for the same
    facet.
    """

    def __init__(self, priors: Sequence[FacetPrior]) -> None:
        super().__init__(priors)  # type: ignore[no-untyped-call]
        self._read_names()

    def __setitem__(self, j: int, prior: nn.Module) -> None:
        facet, own = self[j].facet, getattr(prior, "facet", None)
        if own != facet:
            raise InputError(f"expected a prior of {facet}, got one of {own}: build it for that facet")
        super().__setitem__(j, prior)
        # PyroModule would remove the old prior and add the new one at the end, so the order would change.
        self._modules = dict(sorted(self._modules.items(), key=lambda item: int(item[0])))
        self._read_names()

    def _read_names(self) -> None:
        self.theta_names = [list(prior.hyperprior()) for prior in cast(Sequence[FacetPrior], self)]
        """The names in the `hyperprior` of every prior. They are stored, so that hyperpriors are not built at every
        call.
        """


class StandardNormalPrior(FacetPrior):
    """z ~ Normal(0, I), for a facet without clusters that describes a continuous characteristic, such as style.

    It has no parameters.

    Args:
        facet: K = 1, and D.
    """

    def __init__(self, facet: Facet) -> None:
        super().__init__(facet)
        if facet.num_clusters != 1:
            raise InputError(
                f"expected num_clusters=1 for a standard normal prior, without clusters, got {facet.num_clusters}: "
                "set it to 1, or take a MixturePrior"
            )
        self.register_buffer("loc", torch.zeros(1, facet.latent_dim))

    def forward(self, theta: Theta | None = None) -> Mixture:
        loc = for_densities(self.loc)
        return Mixture(loc.new_zeros(1), dist.Normal(loc, torch.ones_like(loc)).to_event(1))
