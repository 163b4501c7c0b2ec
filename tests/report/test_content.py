from pathlib import Path

import pandas as pd
import pytest
import torch

from pyro_mfcvae.report.content import gather
from pyro_mfcvae.runs.folder import RunFolder

pytestmark = pytest.mark.usefixtures("place", "fitted")


def test_parts_count_every_item_once_and_leave_the_random_state() -> None:
    run = RunFolder(Path("run"))
    state = torch.get_rng_state()
    content, facets = gather(run)
    assert torch.equal(torch.get_rng_state(), state)
    assert [facet.number for facet in facets] == [1, 0]
    assert [facet.place for facet in facets] == ["the deepest", "the shallowest"]
    table = pd.read_parquet(run.assignments_path)
    for facet in facets:
        assert sum(group.num_items for group in facet.groups) == 80
        assert sum(group.share for group in facet.groups) == pytest.approx(1)
        for group in facet.groups:
            assert sum(cluster.num_items for cluster in group.clusters) == group.num_items
            assert group.surest is not None and group.drawn is not None
        assert len(facet.tree.branches) == len(facet.tree.leaves) - 1
        assert max(facet.group_of_cluster) + 1 == content.grouping.num_groups[facet.number]
        counts = table[f"facet_{facet.number}_group"].value_counts()
        assert [group.num_items for group in facet.groups] == counts.tolist()
    assert content.checks() == content.sweep() == {}
