"""Starting values: of the networks' weights, and of the mixtures."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.guides.amortized import MultiFacetGuide
from pyro_mfcvae.models.generative import MultiFacetModel
from pyro_mfcvae.models.priors import MixturePrior


def initialize_glorot(module: nn.Module) -> None:
    """Weights of every linear layer inside ~ Uniform(±sqrt(6 / (fan_in + fan_out))), biases 0 (Glorot & Bengio 2010)."""
    for layer in _linear_layers(module):
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)


@torch.no_grad()
def initialize_data_dependent(model: MultiFacetModel, guide: MultiFacetGuide, x: Tensor) -> None:
    """Rescale the hidden linear layers so that, on the batch ``x``, every unit has mean 0 and standard deviation 1
    before its activation (Salimans & Kingma 2016). The output layers (the heads of q(z|x) and the decoder's last
    layer) stay as they are: their scale has a meaning.
    """
    outputs = {id(guide.encoder.heads), id(model.decoder.output)}
    handles = []
