"""Supervision by a few labels: items with known clusters tie a facet to categories of the user."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyro_mfcvae.data.images import as_float
from pyro_mfcvae.errors import InputError
from pyro_mfcvae.infer.mixture_fit import check_can_be_renumbered
from pyro_mfcvae.interop.inputs import Known, read_known
from pyro_mfcvae.models.generative import MultiFacetModel
from pyro_mfcvae.train.batches import check_images


@dataclass(frozen=True)
class KnownItems:
    """Items whose clusters are known.

    Attributes:
        items: the items, (M, *event_shape), in the form of the training items.
        known: clusters of the items by facet, (M,), negative if unknown.
        batch_size: number of these items that are added to every batch, drawn at random with replacement.
    """

    items: Tensor
    known: Known
    batch_size: int

    def join(self, x: Tensor) -> tuple[Tensor, dict[int, Tensor], int]:
        """A batch (N, *event_shape) followed by known items, the known clusters of both, and N.

        The draws use torch's random state.
        """
        chosen = torch.randint(len(self.items), (self.batch_size,))
        known = {j: torch.cat([c.new_full((len(x),), -1), c[chosen]]).to(x.device) for j, c in self.clusters.items()}
        return torch.cat([x, as_float(self.items[chosen]).to(x)]), known, len(x)

    def check(self, model: MultiFacetModel) -> None:
        """Check items and clusters. This is done once, because the steps do not check them.

        Raises:
            InputError: they do not fit the model, or a facet's mixture cannot be renumbered to the clusters.
        """
        check_images(model, self.items)
        read_known(self.known, model.facets, len(self.items), self.items.device)
        for j in self.known:
            check_can_be_renumbered(model.priors[j], j)

    def for_fit(self, device: torch.device) -> dict[str, Any]:
        """The arguments of `initialize_mixtures` about known clusters."""
        known = {j: clusters.to(device) for j, clusters in self.clusters.items()}
        return {"items": as_float(self.items).to(device), "known": known}

    @property
    def clusters(self) -> dict[int, Tensor]:
        """The known clusters as int64 tensors."""
        return {j: torch.as_tensor(clusters).long() for j, clusters in self.known.items()}


def choose_known_items(
    images: Tensor,
    labels: Mapping[str, Tensor],
    *,
    label: str,
    facet: int,
    items_per_value: int,
    batch_size: int,
    seed: int = 0,
) -> KnownItems:
    """Choose a few random items of every value of a label; value number k becomes the known cluster k of a facet.

    Args:
        images: all training items, uint8 or floats in [0, 1].
        labels: labels of all items by name, (N,), negative if unknown.
        label: the name of the label to use.
        facet: the facet whose clusters the values belong to.
        items_per_value: number of items of each value.
        batch_size: batch size of `KnownItems`.
        seed: seed of the random choice.

    Raises:
        InputError: there is no such label, or too few items of a value.
    """
    if label not in labels:
        raise InputError(
            f"expected a label set of the data ({', '.join(labels) or 'none'}), got {label!r}: choose another"
        )
    of_items = np.asarray(labels[label])
    values = np.unique(of_items[of_items >= 0])
    generator = np.random.default_rng(seed)
    chosen = []
    for value in values:
        members = np.flatnonzero(of_items == value)
        if len(members) < items_per_value:
            raise InputError(
                f"expected {items_per_value} items with {label} = {value}, got {len(members)}: lower "
                "supervision.items_per_value"
            )
        chosen.append(generator.choice(members, items_per_value, replace=False))
    clusters = torch.arange(len(values)).repeat_interleave(items_per_value)
    return KnownItems(images[torch.from_numpy(np.concatenate(chosen))], {facet: clusters}, batch_size)
