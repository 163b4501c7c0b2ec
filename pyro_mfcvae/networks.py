"""Building blocks that the encoders and decoders share."""

from abc import ABCMeta
from collections.abc import Iterator, Sequence
from itertools import count, pairwise

import torch
from torch import Tensor, nn

from pyro_mfcvae.interop.param_store import StoredModule

_serial = count()


class _AbstractMeta(type(StoredModule), ABCMeta):  # type: ignore[misc]
    """The metaclass of PyroModule combined with ABCMeta."""


class AbstractModule(nn.Module, metaclass=_AbstractMeta):
    """An nn.Module whose subclasses must implement its abstract methods. They may also be PyroModules, so
    ``pyro.nn.module.to_pyro_module_`` can convert them, and their weights can be a `PyroSample`.
    """


class AbstractPyroModule(StoredModule, metaclass=_AbstractMeta):  # type: ignore[metaclass]
    """A PyroModule whose subclasses must implement its abstract methods."""

    def __init__(self) -> None:
        # If they had no names, two modules would share parameters in Pyro's parameter store.
        super().__init__(f"{type(self).__name__}_{next(_serial)}")


def mlp(dims: Sequence[int]) -> nn.Sequential:
    """Linear layers of widths ``dims`` with a ReLU after each: ``dims[0] → … → dims[-1]``."""
    layers: list[nn.Module] = []
    for num_in, num_out in pairwise(dims):
        layers += [nn.Linear(num_in, num_out), nn.ReLU()]
    return nn.Sequential(*layers)


def density_dtype(dtype: torch.dtype) -> torch.dtype:
    """The precision in which densities are computed: that of their parameters, or float32 if the parameters are in half
    precision.
    """
    return torch.promote_types(dtype, torch.float32)


def for_densities(tensor: Tensor) -> Tensor:
    """The tensor, converted to float32 if it is in half precision, because densities and their solvers fail in half
    precision.
    """
    return tensor.to(density_dtype(tensor.dtype))


def like_parameters(tensor: Tensor, module: nn.Module) -> Tensor:
    """The tensor, converted to the precision of the parameters of ``module``, which will read it."""
    first = next((p for p in module.parameters() if p.is_floating_point()), tensor)
    return tensor.to(first.dtype)


def broadcast_batches(zs: Sequence[Tensor]) -> list[Tensor]:
    """Expand the batch shapes of tensors ``(…, D_j)`` to their common batch shape; the last dimension ``D_j`` stays."""
    batch = torch.broadcast_shapes(*(z.shape[:-1] for z in zs))
    return [z.expand(batch + z.shape[-1:]) for z in zs]


def weight_layers(module: nn.Module) -> Iterator[nn.Module]:
    """All linear and convolutional layers inside a module."""
    return (child for child in module.modules() if isinstance(child, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)))
