"""New images from a fitted pair: drawn from groups or clusters, or with facets swapped between images."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyro_mfcvae.mfcvae import MFCVAE
from pyro_mfcvae.runs.grouping import Grouping


@torch.no_grad()
def generate_rows(
    pair: MFCVAE, grouping: Grouping, parts: Sequence[Sequence[int]], *, facet: int, num: int, temperature: float = 1.0
) -> Tensor:
    """Draw one row of images for each part of a facet, where a part is a list of clusters: (parts, num, *event_shape).

    All images of a column share one draw of the other facets, so they differ by this facet only. For every part and
    column a new z_facet is drawn; the clusters of a part are drawn in proportion to their shares of the items.
    ``temperature`` is that of `MFCVAE.sample`.
    """
    shared = pair.sample_latents(num, temperature=temperature)
    rows = []
    for clusters in parts:
        own = _draw_part(pair, grouping, clusters, facet=facet, num=num, temperature=temperature)
        rows.append(pair.render([own if j == facet else z for j, z in enumerate(shared)]))
    return torch.stack(rows)


@torch.no_grad()
def draw_groups(
    pair: MFCVAE,
    grouping: Grouping,
    groups: Mapping[int, int],
    *,
    num: int,
    clusters: Mapping[int, int] | None = None,
    temperature: float = 1.0,
) -> Tensor:
    """Draw images with facet j in group ``groups[j]`` or in cluster ``clusters[j]``, if given: (num, *event_shape).

    The clusters of a group are drawn in proportion to their shares of the items; ``temperature`` is that of
    `MFCVAE.sample`.
    """
    zs = pair.sample_latents(num, clusters=clusters, temperature=temperature)
    for j, g in groups.items():
        members = grouping.members(j, g)
        zs[j] = _draw_part(pair, grouping, members, facet=j, num=num, temperature=temperature)
    return pair.render(zs)


def _draw_part(
    pair: MFCVAE, grouping: Grouping, clusters: Sequence[int], *, facet: int, num: int, temperature: float
) -> Tensor:
    """Draws of z_facet from several clusters, (num, D)."""
    members = torch.tensor(clusters)
    shares = torch.from_numpy(grouping.facets[facet].tree.shares)[members]
    drawn = members[torch.multinomial(shares, num, replacement=True)]
    z = pair.sample_latents(num, temperature=temperature)[facet]
    for k in drawn.unique().tolist():
        rows = drawn == k
        z[rows] = pair.sample_latents(int(rows.sum()), clusters={facet: k}, temperature=temperature)[facet]
    return z


@torch.no_grad()
def compose(pair: MFCVAE, x_rows: Tensor, x_columns: Tensor, *, facet: int) -> Tensor:
    """Combine every image of ``x_rows`` (R, *event_shape) with the facet of every image of ``x_columns`` (C,
    *event_shape).

    Returns:
        (1 + R, 1 + C, *event_shape), with the given images in the first column and row, and NaN in the corner.
    """
    num_rows, num_columns = len(x_rows), len(x_columns)
    composed = pair.swap(
        x_rows.repeat_interleave(num_columns, 0),
        x_columns.repeat(num_rows, *[1] * (x_columns.dim() - 1)),
        facets=[facet],
    )
    table = x_rows.new_full((1 + num_rows, 1 + num_columns, *x_rows.shape[1:]), torch.nan)
    table[0, 1:] = x_columns
    table[1:, 0] = x_rows
    table[1:, 1:] = composed.unflatten(0, (num_rows, num_columns))
    return table


def largest_parts(assignments: NDArray[np.int64], num: int) -> list[int]:
    """At most ``num`` groups or clusters with the most items, the largest first."""
    parts, counts = np.unique(assignments, return_counts=True)
    return [int(k) for k in parts[np.argsort(-counts, kind="stable")][:num]]


def typical_items(assignments: NDArray[np.int64], confidence: NDArray[np.float64], parts: Sequence[int]) -> list[int]:
    """The most certain item of every group or cluster."""
    return [int(np.argmax(np.where(assignments == k, confidence, -1.0))) for k in parts]
