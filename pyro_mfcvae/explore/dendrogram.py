"""The merge tree of a facet as lines: clusters run from top to bottom, overlap from left (high) to right (none)."""

from dataclasses import dataclass

import numpy as np

from pyro_mfcvae.groups import MergeTree

_ROW, _WIDTH, _LEFT, _MARGIN = 18, 520, 110, 12


@dataclass(frozen=True)
class Leaf:
    """A cluster in the drawing: its number, and its vertical position."""

    cluster: int
    y: float


@dataclass(frozen=True)
class Branch:
    """A merge of two groups: its SVG path, and the overlap of the two groups."""

    path: str
    overlap: float
    cluster: int


@dataclass(frozen=True)
class Dendrogram:
    """A drawing of a `MergeTree`, ``width`` by ``height`` units."""

    width: float
    height: float
    leaves: tuple[Leaf, ...]
    branches: tuple[Branch, ...]


def draw_tree(tree: MergeTree) -> Dendrogram:
    """Draw a tree. Leaves are placed so that no lines cross, and each merge at its overlap on a square-root scale."""
    order: dict[int, list[int]] = {k: [k] for k in tree.clusters_in_use}
    for merge in tree.merges:
        order[merge.first] = order[merge.first] + order.pop(merge.second)
    sequence = [k for leaves in order.values() for k in leaves]
    height = {k: _MARGIN + _ROW * (n + 0.5) for n, k in enumerate(sequence)}
    at: dict[int, tuple[float, float]] = {k: (float(_LEFT), height[k]) for k in sequence}
    branches = []
    for merge in tree.merges:
        (xa, ya), (xb, yb) = at[merge.first], at[merge.second]
        x = max(xa, xb, _LEFT + (_WIDTH - _LEFT - _MARGIN) * (1 - float(np.sqrt(merge.overlap))))
        branches.append(Branch(f"M{xa:.1f} {ya:.1f}H{x:.1f}V{yb:.1f}H{xb:.1f}", merge.overlap, merge.first))
        at[merge.first] = (x, (ya + yb) / 2)
    leaves = tuple(Leaf(k, height[k]) for k in sequence)
    return Dendrogram(_WIDTH, 2 * _MARGIN + _ROW * len(leaves), leaves, tuple(branches))
