"""Entries of Pyro's parameter store: the names of our modules' parameters, and the modules that wrote the entries."""

import re
from collections.abc import Iterator
from itertools import count
from typing import Any

from pyro.distributions import constraints
from pyro.nn import PyroModule
from pyro.params.param_store import _MODULE_NAMESPACE_DIVIDER
from torch import nn
from torch.distributions.constraints import Constraint
from torch.utils.weak import WeakTensorKeyDictionary

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.interop.tracing import is_tracing

serial = count()
_DEFAULT_NAME = re.compile(r"mfcvae_\d+_")

# Parameter → the root module that last put it into a store. If an entry of the store is missing here, it was loaded.
owners: Any = WeakTensorKeyDictionary()

Entry = tuple[str, nn.Parameter, Constraint]
"""Name in the store, unconstrained parameter, constraint."""


def default_name(part: str) -> str:
    """A new name for a model or a guide that the user gave no name."""
    return f"mfcvae_{next(serial)}_{part}"


def is_default(name: str) -> bool:
    """Whether a name was made by `default_name`, or is derived from one."""
    return _DEFAULT_NAME.match(name) is not None


def stored_parameters(module: PyroModule) -> Iterator[Entry]:
    """Every parameter of a module under its name in Pyro's store."""
    prefix = f"{module._pyro_name}." if module._pyro_name else ""
    for name, parameter in module._parameters.items():
        if parameter is not None:
            constrained = name.removesuffix("_unconstrained")
            if constrained in module._pyro_params:
                yield prefix + constrained, parameter, module._pyro_params[constrained][0]
            else:
                yield prefix + name, parameter, constraints.real
    for key, child in module._modules.items():
        if isinstance(child, PyroModule):
            yield from stored_parameters(child)
        elif child is not None:
            for name, parameter in child.named_parameters():
                yield f"{prefix}{key}{_MODULE_NAMESPACE_DIVIDER}{name}", parameter, constraints.real


def network_buffers(module: PyroModule) -> Iterator[str]:
    """Buffers of the networks. The buffers of our own modules follow from their arguments, so they are not listed."""
    for key, child in module._modules.items():
        if isinstance(child, PyroModule):
            yield from network_buffers(child)
        elif child is not None:
            yield from (f"{key}.{name}" for name, _ in child.named_buffers())


def refuse_traced_buffers(module: PyroModule) -> None:
    """Refuse networks with buffers inside ``torch.jit.trace``, which merges buffers with equal values."""
    if is_tracing() and (buffers := list(network_buffers(module))):
        raise InputError(
            f"expected networks without buffers under torch.jit, which would mix them up, got {buffers[0]!r} and "
            f"{len(buffers) - 1} others (the statistics of batch norm): use FacetELBO(compile=True)"
        )
