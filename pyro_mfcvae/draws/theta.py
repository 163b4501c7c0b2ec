"""Draws of the random parameters of the priors."""

from collections.abc import Sequence
from typing import Any, cast

import pyro
import torch
from numpy.typing import NDArray
from pyro import poutine
from torch import Tensor

from pyro_mfcvae.mfcvae import MFCVAE


@torch.no_grad()
def draw_theta(pair: MFCVAE, *, num_samples: int) -> dict[str, tuple[tuple[str, ...], NDArray[Any]]]:
    """S draws of q(theta) at every global site, such as ``probs_0``, and at deterministic sites that depend on
    them. The result is empty if no parameter is random.
    """
    guide = pair.guide.globals_guide
    if guide is None:
        return {}
    with pyro.get_param_store().scope(), poutine.block():
        draws = [_values(pair, poutine.trace(guide).get_trace()) for _ in range(num_samples)]
    drawn = {}
    for name in draws[0]:
        array = torch.stack([values[name] for values in draws]).cpu().numpy()[None]
        drawn[name] = (("chain", "draw", *_theta_dims(pair, name, array.shape[2:])), array)
    return drawn


def _values(pair: MFCVAE, guide_trace: poutine.Trace) -> dict[str, Tensor]:
    """The values at all global sites of the model, for the theta in a trace of the guide."""
    trace = poutine.trace(poutine.replay(pair.model.sample_globals, trace=guide_trace)).get_trace()
    sites = ((name, cast(Tensor, site["value"])) for name, site in trace.nodes.items() if site["type"] == "sample")
    return dict(sites)


def _theta_dims(pair: MFCVAE, name: str, shape: Sequence[int]) -> tuple[str, ...]:
    """Names of the dims: clusters and then one or two axes of z, if the sizes are K and D."""
    j = int(name.rpartition("_")[2])
    facet = pair.model.facets[j]
    sizes = (facet.num_clusters, facet.latent_dim, facet.latent_dim)[: len(shape)]
    if tuple(shape) == sizes:
        return (f"cluster_{j}", f"z_{j}_dim", f"other_z_{j}_dim")[: len(shape)]
    return tuple(f"{name}_axis_{i}" for i in range(len(shape)))
