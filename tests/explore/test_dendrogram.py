"""The drawn tree: a leaf per cluster in use, a branch per merge, further right the less it overlaps."""

import re

import numpy as np

from pyro_mfcvae.explore.dendrogram import draw_tree
from pyro_mfcvae.groups import merge_clusters


def test_branches_lead_right_by_overlap() -> None:
    mass = np.array([[8.0, 2.0, 0.1, 0.0], [2.0, 8.0, 0.1, 0.0], [0.1, 0.1, 9.0, 1.0], [0.0, 0.0, 1.0, 9.0]])
    tree = merge_clusters(mass)
    drawn = draw_tree(tree)
    assert sorted(leaf.cluster for leaf in drawn.leaves) == [0, 1, 2, 3]
    assert [leaf.cluster for leaf in drawn.leaves] == [0, 1, 2, 3]
    assert len({leaf.y for leaf in drawn.leaves}) == 4
    ends = [float(re.search(r"H([\d.]+)V", branch.path)[1]) for branch in drawn.branches]  # type: ignore[index]
    assert ends == sorted(ends)
    assert max(ends) <= drawn.width
    assert [branch.overlap for branch in drawn.branches] == [merge.overlap for merge in tree.merges]


def test_a_single_cluster_is_a_tree() -> None:
    drawn = draw_tree(merge_clusters(np.ones((1, 1))))
    assert len(drawn.leaves) == 1
    assert drawn.branches == ()
