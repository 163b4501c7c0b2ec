from pathlib import Path

import numpy as np
import pytest
from command_line import Run

from pyro_mfcvae.groups import merge_clusters
from pyro_mfcvae.runs.folder import RunFolder
from pyro_mfcvae.runs.grouping import Grouping

pytestmark = pytest.mark.usefixtures("place")


def keep_apart() -> None:
    """Make every cluster a separate group."""
    apart = [merge_clusters(np.diag([4.0, 3.0, 2.0, 1.0])), merge_clusters(np.diag([3.0, 2.0, 1.0]))]
    RunFolder(Path("run")).write_grouping(Grouping.from_trees(apart))


@pytest.mark.usefixtures("fitted")
def test_sample_draws_tables_for_every_facet(mfcvae: Run) -> None:
    """The parts of a facet that a table shows: its groups, or the clusters of its only group."""
    keep_apart()
    assert mfcvae("groups", "run", "--num-groups", "1=1")[0] == 0
    kinds = ("groups", "clusters")
    code, out, err = mfcvae("sample", "run", "--num", "3", "--temperature", "0.5")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        line
        for j in range(2)
        for line in (
            f"drawn from the largest {kinds[j]} of facet {j}: run/figures/generated-{j}.png",
            f"the images at the left with facet {j} of those on top: run/figures/composed-{j}.png",
        )
    ]
    files = [Path(f"run/figures/{name}-{j}.png") for name in ("generated", "composed") for j in range(2)]
    first = [file.read_bytes() for file in files]
    mfcvae("sample", "run", "--num", "3", "--temperature", "0.5")
    assert [file.read_bytes() for file in files] == first
    mfcvae("sample", "run", "--num", "3", "--temperature", "0.5", "--seed", "1")
    assert files[0].read_bytes() != first[0]


@pytest.mark.usefixtures("fitted")
def test_sample_draws_from_chosen_clusters(mfcvae: Run) -> None:
    code, out, err = mfcvae("sample", "run", "--clusters", "0=3", "1=0", "--num", "2")
    assert (code, err) == (0, "")
    assert out == "facet 0 in cluster 3, facet 1 in cluster 0: run/figures/drawn-0-3-1-0.png\n"
    assert Path("run/figures/drawn-0-3-1-0.png").is_file()


@pytest.mark.usefixtures("fitted")
def test_sample_draws_from_chosen_groups(mfcvae: Run) -> None:
    keep_apart()
    assert mfcvae("groups", "run", "--num-groups", "0=2")[0] == 0
    code, out, err = mfcvae("sample", "run", "--groups", "0=1", "--clusters", "1=0", "--num", "2")
    assert (code, err) == (0, "")
    assert out == "facet 0 in group 1, facet 1 in cluster 0: run/figures/drawn-0-group-1-1-0.png\n"
    assert Path("run/figures/drawn-0-group-1-1-0.png").is_file()
    code, _, err = mfcvae("sample", "run", "--groups", "0=2")
    assert (code, err) == (2, "mfcvae: expected a group from 0 to 1, got 2: choose one of these\n")
    code, _, err = mfcvae("sample", "run", "--groups", "0=1", "--clusters", "0=0")
    assert (code, err) == (2, "mfcvae: expected a group or a cluster of facet 0, got both: leave one of them out\n")
