"""Starting values of the networks' weights."""

from typing import cast

import torch
from torch import Tensor, nn

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.guides.amortized import MultiFacetGuide
from pyro_mfcvae.infer.asking import Array, read_data
from pyro_mfcvae.models.generative import MultiFacetModel
from pyro_mfcvae.models.likelihoods import StandardizedGaussianLikelihood
from pyro_mfcvae.models.mixture_priors import MixturePrior
from pyro_mfcvae.networks import weight_layers


def initialize_glorot(module: nn.Module) -> None:
    """Set all weights inside to draws from Uniform(±sqrt(6 / (fan_in + fan_out))), and biases to 0 (Glorot & Bengio
    2010).

    A mixture prior gets means ~ Uniform(±sqrt(6 / (K + D))), unit covariances and uniform weights.
    """
    for layer in weight_layers(module):
        nn.init.xavier_uniform_(layer.get_parameter("weight"))
        if layer.bias is not None:
            nn.init.zeros_(layer.get_parameter("bias"))
    for child in module.modules():
        if isinstance(child, MixturePrior):
            loc = nn.init.xavier_uniform_(torch.empty_like(child.loc))
            child.set_mixture(loc, torch.eye(child.facet.latent_dim).to(loc).expand(len(loc), -1, -1))


def measure_units(model: MultiFacetModel, x: Tensor) -> None:
    """If the likelihood standardises, set its offset and unit to the mean and standard deviation of items x (N,
    *event_shape).

    Other likelihoods are not changed.
    """
    if isinstance(model.likelihood, StandardizedGaussianLikelihood):
        model.likelihood.measure(x)


@torch.no_grad()
def initialize_data_dependent(model: MultiFacetModel, guide: MultiFacetGuide, x: Array) -> None:
    """Shift and scale the hidden layers so that every unit has mean 0 and standard deviation 1 before its activation,
    over the batch ``x`` and over the positions of a feature map (Salimans & Kingma 2016). A layer without bias is only
    scaled.

    The heads of q(z|x) and the decoder's last layer are not changed, because their scale has a meaning.

    Args:
        model: the model whose decoder is rescaled, at z drawn from q(z|x).
        guide: the guide whose encoder is rescaled.
        x: a few hundred items, (N, *event_shape).

    Raises:
        InputError: the guide belongs to another model, the items do not fit the model, or there is only one item.
    """
    guide.check_model(model)
    x = read_data(model, x)
    if len(x) < 2:
        raise InputError(f"expected a few hundred items to standardise units over, got {len(x)}: pass more")
    layers = [layer for net in (guide.encoder, model.decoder) for layer in net.hidden_layers()]
    handles = [layer.register_forward_hook(_standardize) for layer in layers]
    try:
        zs = [posterior.sample() for posterior in guide.posteriors(x)]
        model.decoder(zs, torch.ones_like(model.alpha))
    finally:
        for handle in handles:
            handle.remove()


def _standardize(layer: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> Tensor:
    weight, bias = layer.get_parameter("weight"), layer.bias
    units = output.movedim(1, -1).flatten(0, -2)
    loc, scale = units.mean(0), units.std(0)
    scale = torch.where(scale > 0, scale, 1.0)  # A unit that is constant over the batch is shifted but not scaled.
    out_dim = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
    weight.div_(_along(scale, out_dim, weight))
    if bias is None:
        return output / _along(scale, 1, output)
    cast(Tensor, bias).copy_((bias - loc) / scale)  # type: ignore[operator]
    return (output - _along(loc, 1, output)) / _along(scale, 1, output)


def _along(values: Tensor, dim: int, like: Tensor) -> Tensor:
    """A vector reshaped so that it lies along one dimension of a tensor."""
    return values.reshape([-1 if d == dim else 1 for d in range(like.dim())])
