"""Checks for divergence during a training, and for an unusable result at its end."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from pyro_mfcvae.data.images import Split, as_float
from pyro_mfcvae.errors import InputError
from pyro_mfcvae.mfcvae import MFCVAE

_NUM_ITEMS = 256  # Number of items for the comparison with a model without latent variables.

_CURE = "lower training.learning_rate, raise likelihood.scale, or set training.on_divergence to retry"


class DivergedError(InputError):
    """Raised if the training has diverged, so that its numbers cannot be used."""

    def __init__(self, what: str) -> None:
        super().__init__(f"{what}, training has diverged: {_CURE}")


def check_parameters(module: nn.Module, step: int) -> None:
    """Raise an error if a parameter or a buffer is not finite, so that such a state is not saved.

    Raises:
        DivergedError: the message names the first such tensor, and its facet if it belongs to one.
    """
    for name, tensor in module.state_dict().items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            facet = next((part for part in name.split(".") if part.isdecimal()), None)
            where = f" (facet {facet})" if facet is not None and ".priors." in f".{name}" else ""
            raise DivergedError(f"{name}{where} is not finite after step {step}")


@contextmanager
def report_divergence(module: nn.Module, step: int) -> Iterator[None]:
    """Raise a `DivergedError` in place of torch's error about the parameters of a distribution, which prints all their
    values.

    Args:
        module: the module whose parameters are searched for the cause.
        step: number of steps taken.
    """
    try:
        yield
    except ValueError as error:
        if "Expected parameter" not in str(error):
            raise
        check_parameters(module, step)
        raise DivergedError(f"a distribution has invalid parameters after step {step}") from None


class CollapsedError(InputError):
    """Raised if the fitted model describes the data worse than a model without latent variables."""


@torch.no_grad()
def check_outcome(pair: MFCVAE, split: Split, elbo: float) -> None:
    """Refuse a result whose ELBO is not finite, or far below that of a model without latent variables.

    The log p(x) of that model is the log likelihood for a decoder output of zero, near which every network starts. If
    the ELBO is ten times as low, and lower by at least 100 nats, the weights have diverged: a poor clustering alone
    cannot cause this.

    Args:
        pair: the fitted model and guide.
        split: the scored items.
        elbo: mean ELBO of these items, in nats.

    Raises:
        CollapsedError: the message has both numbers.
    """
    floor = _empty_evidence(pair, split)
    floor = floor - 9 * abs(floor) - 100 if math.isfinite(floor) else -math.inf
    if not math.isfinite(elbo) or elbo < floor:
        raise CollapsedError(
            f"expected an ELBO above {floor:.0f} nats per item (ten times as low as that of a model without latent "
            f"variables), got {elbo:.0f}: the weights ran away, so lower training.learning_rate"
        )


def _empty_evidence(pair: MFCVAE, split: Split) -> float:
    """Mean log p(x) of some items if the decoder's output is zero."""
    model = pair.model
    x = as_float(split.images[:_NUM_ITEMS]).to(model.alpha.device)
    zs = [torch.zeros(len(x), facet.latent_dim, device=x.device, dtype=x.dtype) for facet in model.facets]
    there = ~x.isnan()
    log_prob = model.likelihood(torch.zeros_like(model.decode(zs))).log_prob(torch.where(there, x, torch.zeros_like(x)))
    return float((log_prob * there).flatten(1).sum(1).mean())
