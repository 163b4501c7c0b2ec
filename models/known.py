"""Clusters that are known for some items: what a user may pass, and p(c) given them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.facets import Facet

Known = Mapping[int, Tensor | NDArray[Any] | Sequence[int]]
"""By facet: the cluster of every item, integers (N,), negative where it is not known."""

# Log probability of the clusters that an item of a known cluster is not in: its exponential is 0 in every precision,
# and unlike minus infinity it gives no NaN when multiplied by that.
IMPOSSIBLE = -1e4


def read_known(
    known: Known | None, facets: Sequence[Facet], num_items: int, device: torch.device
) -> dict[int, Tensor] | None:
    """The known clusters as int64 tensors on a device; integers of any type and container are accepted.

    Raises:
        InputError: there is no such facet, or not one integer below K_j per item.
    """
    return None if known is None else {j: _read(j, known[j], facets, num_items).to(device) for j in known}


def _read(j: int, values: Any, facets: Sequence[Facet], num_items: int) -> Tensor:
    if not 0 <= j < len(facets):
        raise InputError(f"expected known clusters of facets 0 … {len(facets) - 1}, got facet {j}: leave it out")
    num_clusters = facets[j].num_clusters
    wish = (
        f"expected the known clusters of facet {j} as {num_items} integers below {num_clusters}, negative where unknown"
    )
    try:
        clusters = values if isinstance(values, Tensor) else torch.from_numpy(np.array(values))
    except (TypeError, ValueError):
        raise InputError(f"{wish}, got {type(values).__name__} of no numbers: convert them to integers") from None
    if clusters.is_floating_point() or clusters.is_complex() or clusters.dtype == torch.bool:
        raise InputError(f"{wish}, got {clusters.dtype}: convert them to integers")
    if clusters.shape != (num_items,):
        raise InputError(f"{wish}, got the shape {tuple(clusters.shape)}: give one per item")
    clusters = clusters.long()
    if len(clusters) and (highest := int(clusters.max())) >= num_clusters:
        raise InputError(f"{wish}, got numbers up to {highest}: number the clusters from 0")
    return clusters


class KnownCategorical(dist.Categorical):  # type: ignore[misc]
    """c ~ Categorical(pi), conditioned on the clusters that are known, with the joint density.

    A draw is the known cluster where there is one. Its log_prob is log pi_c as without conditioning, so that the
    model's trace has the joint density; that of every other cluster of such an item is ``IMPOSSIBLE``.

    Args:
        log_weights: log pi, (K,) or (N, K).
        known: (N,), negative where unknown.
    """

    def __init__(self, log_weights: Tensor, known: Tensor, *, validate_args: bool | None = None) -> None:
        others = torch.arange(log_weights.shape[-1], device=known.device) != known.unsqueeze(-1)
        ruled_out = others & (known >= 0).unsqueeze(-1)
        self._joint = torch.where(ruled_out, log_weights.new_tensor(IMPOSSIBLE), log_weights)
        super().__init__(logits=self._joint, validate_args=validate_args)

    def expand(self, batch_shape: Any, _instance: Any = None) -> "KnownCategorical":
        """The same distribution, repeated to a batch shape."""
        new = self._get_checked_instance(KnownCategorical, _instance)
        new._joint = self._joint.expand(*batch_shape, self._joint.shape[-1])
        super().expand(batch_shape, _instance=new)
        return new

    def log_prob(self, value: Tensor) -> Tensor:
        """log pi_c where c is possible."""
        index, joint = torch.broadcast_tensors(value.long().unsqueeze(-1), self._joint)
        log_prob: Tensor = joint.gather(-1, index[..., :1]).squeeze(-1)
        return log_prob
