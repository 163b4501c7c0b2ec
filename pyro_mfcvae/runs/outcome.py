"""Whether what came out of a training is a result at all."""

import math

import torch

from pyro_mfcvae.data.images import Split, as_float
from pyro_mfcvae.errors import InputError
from pyro_mfcvae.mfcvae import MFCVAE

_NUM_ITEMS = 256


class CollapsedError(InputError):
    """A fitted model that says less about the data than a decoder that ignores them."""


@torch.no_grad()
def check_outcome(pair: MFCVAE, split: Split, elbo: float) -> None:
    """Refuse a result whose ELBO is not finite, or far below that of a model with no latent variables at all.

    That model's log p(x) is the likelihood's at a decoder output of zero, where every network starts near. An ELBO ten
    times below it, and at least 100 nats, comes from weights that ran away, and never from a poor clustering.

    Args:
        pair: the fitted model and guide.
        split: the items that were scored.
        elbo: their mean ELBO, in nats.

    Raises:
        CollapsedError: it says which numbers.
    """
    floor = _empty_evidence(pair, split)
    floor = floor - 9 * abs(floor) - 100 if math.isfinite(floor) else -math.inf
    if not math.isfinite(elbo) or elbo < floor:
        raise CollapsedError(
            f"expected an ELBO above {floor:.0f} nats per item, which a model without latent variables has ten times "
            f"over, got {elbo:.0f}: the weights ran away, so lower training.learning_rate"
        )


def _empty_evidence(pair: MFCVAE, split: Split) -> float:
    """Mean log p(x) of some items where the decoder gives zeros."""
    model = pair.model
    x = as_float(split.images[:_NUM_ITEMS]).to(model.alpha.device)
    zs = [torch.zeros(len(x), facet.latent_dim, device=x.device, dtype=x.dtype) for facet in model.facets]
    there = ~x.isnan()
    log_prob = model.likelihood(torch.zeros_like(model.decode(zs))).log_prob(torch.where(there, x, torch.zeros_like(x)))
    return float((log_prob * there).flatten(1).sum(1).mean())
