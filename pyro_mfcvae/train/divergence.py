"""What a training that diverged says: which term, which facet, at which step."""

import torch
from torch import nn

from pyro_mfcvae.errors import InputError

_CURE = "lower training.learning_rate, raise likelihood.scale, or set training.on_divergence to retry"


class DivergedError(InputError):
    """A training whose numbers are of no use any more."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}, training has diverged: {_CURE}")


def check_parameters(module: nn.Module, step: int) -> None:
    """Raise where a parameter or a buffer is not finite: such a state is not saved.

    Raises:
        DivergedError: it names the first one, with its facet where it belongs to one.
    """
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            facet = next((part for part in name.split(".") if part.isdecimal()), None)
            where = f" (facet {facet})" if facet is not None and ".priors." in f".{name}" else ""
            raise DivergedError(f"{name}{where} is not finite after step {step}")
