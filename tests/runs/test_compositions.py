from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from pyro_mfcvae.groups import merge_clusters
from pyro_mfcvae.guides import MultiFacetGuide
from pyro_mfcvae.mfcvae import MFCVAE
from pyro_mfcvae.models import MultiFacetModel
from pyro_mfcvae.runs.compositions import compose, draw_groups, generate_rows, largest_parts, typical_items
from pyro_mfcvae.runs.grouping import Grouping

MakePair = Callable[..., tuple[MultiFacetModel, MultiFacetGuide]]


def apart(model: MultiFacetModel) -> Grouping:
    """A pair whose clusters do not overlap, so that each is a group. Cluster 1 has nine times the items of any
    other cluster.
    """
    sizes = [facet.num_clusters for facet in model.facets]
    return Grouping.from_trees([merge_clusters(np.diag([1.0, 9.0, *[1.0] * (k - 2)])) for k in sizes])


def test_generated_rows_are_parts_and_columns_share_all_other_facets(make_pair: MakePair) -> None:
    model, guide = make_pair(3)
    pair, seen = MFCVAE(model, guide), list[list[Tensor]]()
    model.decoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    images = generate_rows(pair, apart(model), [[3], [0]], facet=1, num=5, temperature=0.0)
    assert images.shape == (2, 5, 1, 2, 3)
    for zs, k in zip(seen, (3, 0), strict=True):
        torch.testing.assert_close(zs[1], model.priors[1].loc[k].expand(5, -1))
    for j in (0, 2):
        assert torch.equal(seen[0][j], seen[1][j])
        assert len(seen[0][j].unique(dim=0)) > 1


def test_draws_of_a_group_are_those_of_its_clusters_in_proportion_to_their_items(make_pair: MakePair) -> None:
    model, guide = make_pair(2)
    pair, seen = MFCVAE(model, guide), list[list[Tensor]]()
    model.decoder.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    grouping = apart(model)
    mixed = int(grouping.labels(1)[0])
    grouping = grouping.merge(1, [mixed, int(grouping.labels(1)[1])])
    group = int(grouping.labels(1)[0])
    torch.manual_seed(0)
    images = draw_groups(pair, grouping, {1: group}, num=200, clusters={0: 2}, temperature=0.0)
    assert images.shape == (200, 1, 2, 3)
    shallow, deep = seen[0]
    torch.testing.assert_close(shallow, model.priors[0].loc[2].expand(200, -1))
    first, second = ((deep == model.priors[1].loc[k]).all(1) for k in (0, 1))
    assert (first ^ second).all()
    assert 10 <= first.sum() <= 32  # a tenth of 200, within three standard deviations


def test_a_composition_has_the_columns_facet_and_all_else_of_the_row(make_pair: MakePair) -> None:
    pair = MFCVAE(*make_pair(2))
    rows, columns = torch.rand(2, 1, 2, 3), torch.rand(3, 1, 2, 3)
    table = compose(pair, rows, columns, facet=1)
    assert table.shape == (3, 4, 1, 2, 3)
    assert table[0, 0].isnan().all()
    assert torch.equal(table[1:, 0], rows)
    assert torch.equal(table[0, 1:], columns)
    for r in range(2):
        for c in range(3):
            shallow, _ = pair.encode(rows[r : r + 1])
            _, deep = pair.encode(columns[c : c + 1])
            expected = pair.render([shallow.mean, deep.mean])[0].detach()
            torch.testing.assert_close(table[1 + r, 1 + c], expected)


def test_the_largest_clusters_and_their_most_certain_items() -> None:
    assignments = np.array([4, 4, 1, 7, 7, 7, 1, 4])
    confidence = np.array([0.5, 0.9, 0.4, 0.3, 0.8, 0.2, 0.6, 0.7])
    assert largest_parts(assignments, 2) == [4, 7]
    assert largest_parts(assignments, 9) == [4, 7, 1]
    assert typical_items(assignments, confidence, [4, 7, 1]) == [1, 4, 6]
