"""Networks with random weights (``pyro.nn.PyroSample``), and sites that are enumerated by mistake."""

import warnings
from collections.abc import Iterator

from pyro.nn import PyroModule
from torch import Tensor, nn

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.facets import cluster_site, latent_site


def _random_weights(root: nn.Module) -> Iterator[tuple[str, PyroModule, str]]:
    """Name, module and attribute of every `PyroSample` inside."""
    for name, module in root.named_modules():
        if isinstance(module, PyroModule):
            for attribute in module._pyro_samples:
                yield f"{name}.{attribute}" if name else attribute, module, attribute


def draw_weights(model: PyroModule) -> None:
    """Draw the random weights of a model's decoder and likelihood, once for all items.

    Call this inside the model's call, where a PyroModule keeps the values that were drawn, and outside the plate of
    items.

    Raises:
        InputError: the weights belong to a prior, which the guide uses as well, or to a module that is not part of a
            PyroModule.
    """
    for name, module, attribute in _random_weights(model):
        if name.startswith("priors."):
            raise InputError(
                f"expected a prior whose random parameters are those of its hyperprior, got the PyroSample {name!r}, "
                "which the guide would draw again: use BayesianMixturePrior, or return it from hyperprior()"
            )
        if module._pyro_context is not model._pyro_context:
            raise InputError(
                f"expected random weights in a decoder or likelihood that is a PyroModule, got {name!r} in a part of a "
                "plain one: call pyro.nn.module.to_pyro_module_ on the whole part, and set it again"
            )
        getattr(module, attribute)


def refuse_random_weights(*roots: nn.Module, reason: str) -> None:
    """Refuse random weights, whose posterior is unknown here.

    Raises:
        InputError: there are random weights. The message ends with ``reason``, which says what cannot be done and what
            to do.
    """
    for root in roots:
        for name, _, _ in _random_weights(root):
            raise InputError(f"expected no random weights (PyroSample), got {name!r}: {reason}")


def warn_of_copies(j: int, c: Tensor, z: Tensor) -> None:
    """Warn if z_j is drawn or proposed once per value of an enumerated c_j, as NUTS does on the model with clusters."""
    # Pyro enumerates c in a new dimension on the left of all others; a given z does not have this dimension.
    is_enumerated = c.dim() > 1 and c.shape[0] > 1 and c.shape[1:].numel() == 1 and z.shape[-2] > 1
    if is_enumerated and z.dim() - 1 == c.dim() and z.shape[0] == c.shape[0]:
        warnings.warn(
            f"{latent_site(j)} has a copy for every value of {cluster_site(j)}, because that is enumerated: "
            "its draws are not from p(z | x). Run NUTS, and any sampler of z, on model.collapsed, without clusters",
            stacklevel=3,
        )
