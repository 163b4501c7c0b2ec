"""Items in their groups: exact sums, orders and neighbours."""

from dataclasses import replace

import numpy as np
import torch

from pyro_mfcvae.explore.desk import Desk
from pyro_mfcvae.explore.items import FacetView, Items, encode_items
from pyro_mfcvae.groups import Merge, MergeTree
from pyro_mfcvae.infer.planes import FacetPlane
from pyro_mfcvae.runs.grouping import FacetGroups


def facet_groups(labels: list[int]) -> FacetGroups:
    num = len(labels)
    merges = tuple(Merge(0, k, 0.1) for k in range(1, num))
    tree = MergeTree(merges, np.full(num, 1 / num), np.arange(num), num)
    return FacetGroups(tree, np.array(labels), ("",) * (max(labels) + 1))


def build_items(probs: list[list[float]], means: list[list[float]] | None = None) -> Items:
    z = np.array(means or [[0.0]] * len(probs), np.float32)
    plane = FacetPlane(np.zeros(z.shape[1]), np.eye(z.shape[1], 2))
    return Items(torch.zeros(len(probs), 1, 2, 2), {}, [np.array(probs, np.float32)], [z], [plane])


def test_groups_sum_the_probabilities_of_their_clusters() -> None:
    items = build_items([[0.4, 0.3, 0.3], [0.6, 0.1, 0.3], [0.0, 0.5, 0.5], [0.1, 0.2, 0.7]])
    view = FacetView.of(items, 0, facet_groups([0, 1, 1]))
    assert view.groups.tolist() == [1, 0, 1, 1]  # the first item's best cluster is 0, its best group 1
    assert np.allclose(view.confidence, [0.6, 0.6, 1.0, 0.9], atol=1e-6)
    assert view.sizes.tolist() == [1, 3]
    assert np.allclose(view.mean_confidence, [0.6, 2.5 / 3], atol=1e-6)
    assert view.nearest.tolist() == [1, 0]
    assert view.members(1).tolist() == [2, 3, 0]
    assert view.members(1, least_certain=True).tolist() == [0, 3, 2]


def test_the_nearest_group_has_the_most_probability_among_the_members() -> None:
    items = build_items([[0.7, 0.2, 0.1], [0.6, 0.1, 0.3], [0.1, 0.8, 0.1], [0.2, 0.0, 0.8]])
    assert FacetView.of(items, 0, facet_groups([0, 1, 2])).nearest.tolist() == [2, 0, 0]
    alone = FacetView.of(items, 0, facet_groups([0, 0, 0]))
    assert alone.nearest.tolist() == [0]


def test_neighbours_are_the_closest_means() -> None:
    items = build_items([[1.0]] * 5, [[0.0, 0.0], [3.0, 4.0], [1.0, 0.0], [0.0, 2.0], [9.0, 9.0]])
    assert items.nearest(0, np.zeros(2), 4) == [0, 2, 3, 1]
    assert items.nearest(0, np.zeros(2), 99) == [0, 2, 3, 1, 4]


def test_the_map_fills_its_square() -> None:
    rng = np.random.default_rng(0)
    z = np.column_stack([9 * rng.normal(size=500), rng.normal(size=500), 5 * rng.normal(size=500)])
    points = build_items([[1.0]] * 500, z.tolist()).maps[0]
    assert points.shape == (500, 2)
    assert points.min() == 0
    assert points.max() == 1
    assert np.corrcoef(points[:, 0], z[:, 0])[0, 1] > 0.99
    assert np.corrcoef(points[:, 1], z[:, 1])[0, 1] > 0.99


def test_items_are_called_by_name_or_number() -> None:
    items = build_items([[1.0]] * 2)
    assert items.name(1) == "item 1"
    assert replace(items, names=["a.png", "b.png"]).name(1) == "b.png"


def test_items_have_the_results_of_the_pair(desk: Desk) -> None:
    split_of = type("Split", (), {"images": desk.items.images, "labels": {}, "names": None})
    counts: list[int] = []
    again = encode_items(desk.pair, split_of, batch_size=64, on_batch=counts.append)  # type: ignore[arg-type]
    x = desk.items.images.double() / 255
    with torch.no_grad():
        for j, probs in enumerate(desk.pair.assign(x)):
            assert np.allclose(again.probs[j], probs.numpy(), atol=1e-6)
            assert np.allclose(again.means[j], desk.pair.encode(x)[j].mean.numpy(), atol=1e-6)
    assert counts == [64, 128, 192, 200]
