"""A mixture whose components are the posteriors of learned pseudo-inputs."""

from collections.abc import Callable, Sequence

import pyro.distributions as dist
import torch
from torch import Tensor, nn

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.facets import Facet
from pyro_mfcvae.models.fits import FitSettings, central_items
from pyro_mfcvae.models.mixtures import Mixture
from pyro_mfcvae.models.priors import FacetPrior, Theta
from pyro_mfcvae.networks import for_densities


class VampPrior(FacetPrior):
    """z_j | c ~ q(z_j | u_c), the encoder's posterior of a learned pseudo-input u_c (Tomczak and Welling 2018).

    The pseudo-input of a cluster can be shown as an image, and the prior changes with the encoder during training. The
    parameters are ``pseudo_inputs`` (K, *in_shape) and, unless the weights are fixed, ``logits`` (K,). The encoder
    reads the pseudo-inputs in evaluation mode, so batch norm does not use their statistics.

    Args:
        facet: K and D.
        encoder: the guide's encoder, whose q(z_j | x) must be Gaussian. Its parameters belong to the guide.
        j: the facet's number.
        pseudo_inputs: starting values, (K, *in_shape), for the encoder's in_shape; use items of the data.
        learn_weights: whether pi is a parameter.
    """

    def __init__(
        self,
        facet: Facet,
        *,
        encoder: Callable[[Tensor], Sequence[dist.TorchDistribution]],
        j: int,
        pseudo_inputs: Tensor,
        learn_weights: bool = True,
    ) -> None:
        super().__init__(facet)
        if len(pseudo_inputs) != facet.num_clusters:
            raise InputError(
                f"expected {facet.num_clusters} pseudo-inputs, one per cluster, got {len(pseudo_inputs)}: pass one each"
            )
        self.j = j
        self.pseudo_inputs = nn.Parameter(pseudo_inputs.detach().clone())
        self._encoder = (encoder,)  # inside a tuple the encoder is not a submodule
        posteriors = self._posteriors()
        if isinstance(posteriors, torch.distributions.TransformedDistribution):
            raise InputError("expected an encoder with a Gaussian q(z | x), got a flow: take another head")
        logits = torch.zeros(facet.num_clusters)
        if learn_weights:
            self.logits = nn.Parameter(logits)
        else:
            self.register_buffer("logits", logits)

    def check_encoder(self, encoder: nn.Module) -> None:
        own = self._encoder[0]
        read = {id(p) for p in own.parameters()} if isinstance(own, nn.Module) else None
        if own is encoder or (read and read <= {id(p) for p in encoder.parameters()}):
            return
        raise InputError(
            f"expected the guide's encoder to be the one that the VampPrior of facet {self.j} reads, got another: pass "
            "one encoder to both, and copy model and guide together"
        )

    def _posteriors(self) -> dist.TorchDistribution:
        """q(z_j | u_c), c = 0 … K-1."""
        encoder = self._encoder[0]
        if not isinstance(encoder, nn.Module):
            return encoder(self.pseudo_inputs)[self.j]
        modes = [(module, module.training) for module in encoder.modules()]
        encoder.eval()
        try:
            posterior: dist.TorchDistribution = encoder(self.pseudo_inputs)[self.j]
        finally:
            for module, was_training in modes:
                module.training = was_training
        return posterior

    def forward(self, theta: Theta | None = None) -> Mixture:
        posteriors = self._posteriors()
        if isinstance(posteriors, torch.distributions.LowRankMultivariateNormal):
            posteriors = dist.MultivariateNormal(posteriors.mean, scale_tril=posteriors.scale_tril)
        return Mixture(for_densities(self.logits), posteriors)

    @torch.no_grad()
    def fit(self, z: Tensor, settings: FitSettings) -> None:
        """Take the items whose z lie nearest to the centres of k-means of ``z`` (N, D) as pseudo-inputs."""
        if settings.encoder_inputs is None:
            raise InputError(
                "expected the items of the points z, got only the points: fit a VampPrior by initialize_mixtures"
            )
        chosen = central_items(z, self.facet.num_clusters, seed=settings.seed)
        self.set_pseudo_inputs(settings.encoder_inputs(chosen))

    @torch.no_grad()
    def set_pseudo_inputs(self, items: Tensor) -> None:
        """Set the pseudo-inputs to the given items (K, *in_shape), and the weights to 1/K."""
        self.pseudo_inputs.copy_(items)
        self.logits.zero_()
