"""The items of a run, with their assignments and latent coordinates in every facet."""

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyro
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyro_mfcvae.data.images import Split, as_float
from pyro_mfcvae.infer.planes import FacetPlane
from pyro_mfcvae.mfcvae import MFCVAE
from pyro_mfcvae.runs.grouping import FacetGroups

_ROWS_AT_ONCE = 2_000


@dataclass(frozen=True, eq=False)
class Items:
    """N items along J facets.

    Attributes:
        images: (N, *event_shape), uint8 or floats in [0, 1].
        labels: label set → (N,); negative if an item has none.
        probs: q(c_j | x) of every facet, (N, K_j) in single precision.
        means: E[z_j | x] of every facet, (N, D_j).
        planes: for every facet, the plane in which it is drawn.
        names: names of the items, such as their files; None if they have none.
    """

    images: Tensor
    labels: Mapping[str, NDArray[np.int64]]
    probs: Sequence[NDArray[np.float32]]
    means: Sequence[NDArray[np.float32]]
    planes: Sequence[FacetPlane]
    names: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.images)

    @cached_property
    def clusters(self) -> NDArray[np.int64]:
        """Most probable cluster of every item in every facet, (N, J)."""
        return np.stack([probs.argmax(1) for probs in self.probs], 1)

    @cached_property
    def maps(self) -> list[NDArray[np.float64]]:
        """For every facet, the means E[z_j | x] in the facet's plane, (N, 2), scaled to [0, 1]."""
        return [_scale(plane.project(means)) for plane, means in zip(self.planes, self.means, strict=True)]

    def name(self, item: int) -> str:
        """The name of an item, or its number if it has no name."""
        return f"item {item}" if self.names is None else self.names[item]

    def nearest(self, facet: int, mean: NDArray[np.floating], num: int) -> list[int]:
        """The items whose E[z_j | x] are closest to ``mean`` (D_j,), the closest first."""
        distances = np.square(self.means[facet] - mean).sum(1)
        num = min(num, len(self))
        closest = np.argpartition(distances, num - 1)[:num]
        return [int(n) for n in closest[np.argsort(distances[closest], kind="stable")]]


@torch.no_grad()
def encode_items(
    pair: MFCVAE, split: Split, *, batch_size: int = 1024, on_batch: Callable[[int], None] = lambda done: None
) -> Items:
    """Assign every item with the guide, batch by batch.

    Args:
        pair: the fitted model and guide.
        split: the items.
        batch_size: number of items in a batch.
        on_batch: called with the number of items so far.
    """
    pair.eval()
    facets = range(pair.num_facets)
    probs: list[list[NDArray[np.float32]]] = [[] for _ in facets]
    means: list[list[NDArray[np.float32]]] = [[] for _ in facets]
    done = 0
    with pyro.get_param_store().scope():  # so that nothing stays in Pyro's global store
        rule, priors = pair.guide.assignment, pair.priors
        for images in split.images.split(batch_size):
            for j, posterior in enumerate(pair.encode(as_float(images))):
                probs[j].append(rule(j, priors[j], posterior, posterior.mean).exp().float().numpy())
                means[j].append(posterior.mean.float().numpy())
            done += len(images)
            on_batch(done)
    return Items(
        images=split.images,
        labels={name: label.numpy() for name, label in split.labels.items()},
        probs=[np.concatenate(parts) for parts in probs],
        means=[np.concatenate(parts) for parts in means],
        planes=[FacetPlane.of(prior) for prior in priors],
        names=split.names,
    )


@dataclass(frozen=True, eq=False)
class FacetView:
    """The items of one facet by group.

    Attributes:
        groups: most probable group of every item, (N,).
        confidence: probability of this group, (N,), the sum of q(c | x) over its clusters.
        sizes: items per group, (G,).
        mean_confidence: mean confidence of the items of every group, (G,); 0 for a group without items.
        nearest: for every group, the other group with the highest probability among its items, (G,); the group itself
            if there is no other.
        order: all items, the most certain first.
    """

    groups: NDArray[np.int64]
    confidence: NDArray[np.float64]
    sizes: NDArray[np.int64]
    mean_confidence: NDArray[np.float64]
    nearest: NDArray[np.int64]
    order: NDArray[np.int64]

    @classmethod
    def of(cls, items: Items, facet: int, own: FacetGroups) -> "FacetView":
        """Sum q(c | x) over the clusters of each group."""
        membership = (own.labels[:, None] == np.arange(own.num_groups)).astype(np.float32)
        probs = items.probs[facet] @ membership
        groups = probs.argmax(1)
        confidence = probs[np.arange(len(groups)), groups].astype(np.float64)
        sizes = np.bincount(groups, minlength=own.num_groups)
        totals = np.bincount(groups, weights=confidence, minlength=own.num_groups)
        mass = np.stack([probs[groups == g].sum(0) for g in range(own.num_groups)])
        if own.num_groups > 1:
            np.fill_diagonal(mass, -1)
        return cls(
            groups=groups,
            confidence=confidence,
            sizes=sizes,
            mean_confidence=totals / np.maximum(sizes, 1),
            nearest=mass.argmax(1),
            order=np.argsort(-confidence, kind="stable"),
        )

    def members(self, group: int, *, least_certain: bool = False) -> NDArray[np.int64]:
        """The items of a group, the most certain first."""
        members = self.order[self.groups[self.order] == group]
        return members[::-1] if least_certain else members


def csv_of(items: Items, views: Sequence[FacetView], names: Sequence[Sequence[str]]) -> Iterator[str]:
    """The text of a CSV file, in parts: item and name, and for each facet the group, its name, the cluster and the
    probability.

    Args:
        items: the items.
        views: one per facet.
        names: the names of each facet's groups.
    """
    header = ["item", "name"]
    for j in range(len(views)):
        header += [f"group_{j}", f"name_{j}", f"cluster_{j}", f"probability_{j}"]
    yield _lines([header])
    texts = [list(map(_as_text, own)) for own in names]

    def row(n: int) -> list[object]:
        cells: list[object] = [n, "" if items.names is None else _as_text(items.names[n])]
        for j, view in enumerate(views):
            g = int(view.groups[n])
            cells += [g, texts[j][g], int(items.clusters[n, j]), f"{view.confidence[n]:.6f}"]
        return cells

    for start in range(0, len(items), _ROWS_AT_ONCE):
        yield _lines([row(n) for n in range(start, min(start + _ROWS_AT_ONCE, len(items)))])


def _lines(rows: list[Any]) -> str:
    buffer = io.StringIO()
    csv.writer(buffer).writerows(rows)
    return buffer.getvalue()


def _as_text(name: str) -> str:
    """The name, changed so that a spreadsheet does not read it as a formula."""
    return f"'{name}" if name[:1] in "=+-@\t\r" else name


def _scale(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale points to [0, 1]; the outermost points are moved to the edge."""
    low, high = np.quantile(points, (0.001, 0.999), axis=0)
    return np.clip((points - low) / np.maximum(high - low, 1e-12), 0, 1)
