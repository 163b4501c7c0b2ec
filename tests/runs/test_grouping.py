import json
from pathlib import Path

import numpy as np
import pytest

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.groups import merge_clusters
from pyro_mfcvae.runs.grouping import FacetGroups, Grouping, _checksum


def make_grouping() -> Grouping:
    """Facet 0: five clusters in the groups {2, 3}, {0, 1}, {4}; facet 1: two clusters apart."""
    mass = np.diag([2.0, 2.0, 4.0, 4.0, 1.0])
    mass[0, 1] = mass[1, 0] = 0.5
    mass[2, 3] = mass[3, 2] = 1.0
    return Grouping.from_trees([merge_clusters(mass), merge_clusters(np.eye(2))])


def test_groups_are_those_of_the_trees() -> None:
    grouping = make_grouping()
    assert grouping.num_groups == (3, 2)
    assert grouping.labels(0).tolist() == [1, 1, 0, 0, 2]
    assert grouping.names(0) == ("group 0", "group 1", "group 2")
    assert grouping.facets[0].members(1) == [0, 1]
    assert grouping.facets[0].is_cut


def test_a_group_merges_next_at_the_first_merge_that_has_it() -> None:
    mass = np.diag([2.0, 2.0, 4.0, 4.0])
    mass[0, 1] = mass[1, 0] = 0.5
    mass[2, 3] = mass[3, 2] = 1.0
    mass[1, 2] = mass[2, 1] = 0.01
    grouping = Grouping.from_trees([merge_clusters(mass)])
    first, second, last = (merge.overlap for merge in grouping.facets[0].tree.merges)
    assert (first, second) == (0.2, 0.2)
    assert last == pytest.approx(0.01 / 5.01)
    assert grouping.facets[0].next_overlaps() == [last, last]
    assert grouping.cut(0, 4).facets[0].next_overlaps() == [0.2, 0.2, 0.2, 0.2]
    assert grouping.cut(0, 1).facets[0].next_overlaps() == [None]
    assert grouping.split(0, [1, 2]).facets[0].next_overlaps() == [None, None, None]
    assert grouping.members(0, 1) == [0, 1]


def test_clusters_and_probabilities_are_summed_by_group() -> None:
    grouping = make_grouping()
    assert grouping.of_clusters([[4, 1], [3, 0]]).tolist() == [[2, 1], [0, 0]]
    probs = np.array([[0.1, 0.2, 0.3, 0.15, 0.25]])
    np.testing.assert_allclose(grouping.probs(0, probs), [[0.45, 0.3, 0.25]], rtol=1e-15)


def test_another_cut_keeps_the_names_of_groups_that_stay() -> None:
    grouping = make_grouping().rename(0, 0, "round").rename(0, 1, " two\nlegs ").rename(0, 2, "square")
    assert grouping.names(0) == ("round", "two legs", "square")
    finer = grouping.cut(0, 4)  # the two groups that overlap least are separated first
    assert (sorted(finer.labels(0)), finer.num_groups[0]) == ([0, 1, 2, 2, 3], 4) or finer.num_groups[0] == 4
    assert "square" in finer.names(0)
    assert grouping.cut(0, 1).names(0) == ("group 0",)
    assert grouping.cut(0, 1).reset(0).labels(0).tolist() == [1, 1, 0, 0, 2]


def test_the_name_of_a_divided_group_stays_with_its_largest_part_or_with_what_is_left() -> None:
    grouping = make_grouping().cut(0, 1).rename(0, 0, "all")
    finer = grouping.cut(0, 3)
    assert finer.names(0) == ("all", "group 1", "group 2")  # clusters 2 and 3 have most of the mass
    parted = make_grouping().rename(0, 0, "round").split(0, [2])
    assert (parted.labels(0).tolist(), parted.names(0)) == ([1, 1, 3, 0, 2], ("round", "group 1", "group 2", "group 3"))
    small = grouping.split(0, [2, 3])  # the larger part is split off
    assert (small.labels(0).tolist(), small.names(0)) == ([0, 0, 1, 1, 0], ("all", "group 1"))


def test_groups_that_come_back_get_the_names_that_they_had_last() -> None:
    first = make_grouping().rename(0, 1, "old").rename(0, 2, "odd")
    named = first.rename(0, 1, "legs")
    coarse = named.cut(0, 1)
    back = coarse.cut(0, 3)
    assert back.recall(0, [first, named, coarse]).names(0) == ("group 0", "legs", "odd")
    unnamed = named.rename(0, 1, "")
    assert back.recall(0, [first, named, unnamed, coarse]).names(0) == ("group 0", "group 1", "odd")


def test_groups_are_merged_and_split_by_hand() -> None:
    grouping = make_grouping().rename(0, 2, "odd")
    merged = grouping.merge(0, [2, 1])
    assert merged.labels(0).tolist() == [1, 1, 0, 0, 1]
    assert merged.names(0) == ("group 0", "odd")
    assert not merged.facets[0].is_cut
    parted = grouping.split(0, [3])
    assert parted.labels(0).tolist() == [1, 1, 0, 3, 2]
    assert parted.names(0) == ("group 0", "group 1", "odd", "group 3")
    whole = grouping.split(0, [0, 1])  # all clusters of a group: the group becomes the last one
    assert whole.labels(0).tolist() == [2, 2, 0, 0, 1]
    assert whole.names(0) == ("group 0", "odd", "group 2")
    assert [g.labels(1).tolist() for g in (merged, parted, whole)] == [[0, 1]] * 3


def test_groups_are_read_from_their_file(tmp_path: Path) -> None:
    grouping = make_grouping().merge(0, [0, 2]).rename(1, 1, "grün")
    grouping.write(tmp_path / "groups.json", model="abc")
    again = Grouping.read(tmp_path / "groups.json", model="abc", num_clusters=(5, 2))
    assert again is not None
    assert [again.labels(j).tolist() for j in range(2)] == [grouping.labels(j).tolist() for j in range(2)]
    assert again.names(1) == ("group 0", "grün")
    assert again.reset(0).labels(0).tolist() == [1, 1, 0, 0, 2]
    assert again.facets[0].tree.merges == grouping.facets[0].tree.merges


def test_groups_of_another_or_an_unknown_model_are_not_read(tmp_path: Path) -> None:
    make_grouping().write(tmp_path / "groups.json", model="abc")
    assert Grouping.read(tmp_path / "groups.json", model="abd", num_clusters=(5, 2)) is None
    assert Grouping.read(tmp_path / "nothing.json", model="abc", num_clusters=(5, 2)) is None


@pytest.mark.parametrize("text", ["{", "[]", '{"model": "abc"}', '{"model": "abc", "facets": [{"labels": [0]}]}'])
def test_a_damaged_file_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "groups.json").write_text(text)
    with pytest.raises(InputError, match=r"expected the groups of a run in .*groups.json, got something else .*remove"):
        Grouping.read(tmp_path / "groups.json", model="abc", num_clusters=(5, 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda g: g.labels(2), "expected a facet from 0 to 1, got 2"),
        (lambda g: g.rename(0, 3, "x"), "expected a group from 0 to 2, got 3"),
        (lambda g: g.merge(0, [1, 1]), "expected two groups or more to merge, got 1"),
        (lambda g: g.split(0, [5]), r"expected clusters from 0 to 4, got \[5\]"),
        (lambda g: g.split(0, []), r"expected clusters from 0 to 4, got \[\]"),
        (lambda g: g.cut(0, 6), "expected a number of groups between 1 and 5, the clusters in use, got 6"),
    ],
)
def test_changes_that_do_not_fit_are_refused(change: object, message: str) -> None:
    assert callable(change)
    with pytest.raises(InputError, match=message):
        change(make_grouping())


def test_labels_and_names_must_fit_the_tree() -> None:
    tree = merge_clusters(np.eye(2))
    with pytest.raises(InputError, match=r"expected one group for each of 2 clusters, numbered .*, got \[0, 2\]"):
        FacetGroups(tree, np.array([0, 2]), ("", "", ""))
    with pytest.raises(InputError, match="expected a name, which may be empty, for each of 2 groups, got 1"):
        FacetGroups(tree, np.array([0, 1]), ("",))


def test_a_grouping_is_a_line_per_facet() -> None:
    shown = repr(make_grouping().rename(0, 1, "two legs")).splitlines()
    assert shown == [
        "Grouping: groups",
        "  facet 0: 3 of 5 clusters (group 0, two legs, group 2)",
        "  facet 1: 2 of 2 clusters",
    ]


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    path = tmp_path / "groups.json"
    make_grouping().write(path, model="abc")
    content = path.read_bytes()
    generator = np.random.default_rng(0)
    for place in generator.choice(8 * len(content), 400, replace=False):
        damaged = bytearray(content)
        damaged[place // 8] ^= 1 << (place % 8)
        path.unlink()  # ext4 waits for the disk if a file is overwritten
        path.write_bytes(damaged)
        try:
            found = Grouping.read(path, model="abc", num_clusters=(5, 2))
        except InputError:
            continue
        assert found is not None and json.loads(damaged) == json.loads(content)  # a blank became another blank


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("names", ["\ud800", "", ""]),
        ("labels", [10**30, 0, 0, 0, 0]),
        ("names", 3),
        ("labels", [[0, 1], [1, 0]]),
        ("tree", None),
    ],
)
def test_a_file_with_a_right_checksum_and_wrong_content_is_refused(tmp_path: Path, key: str, value: object) -> None:
    path = tmp_path / "groups.json"
    make_grouping().write(path, model="a")
    content = json.loads(path.read_text())
    del content["sha256"]
    content["facets"][0][key] = value
    path.write_text(json.dumps({**content, "sha256": _checksum(content)}))
    with pytest.raises(InputError, match=r"expected the groups of a run in .*groups.json, .*: remove the file"):
        Grouping.read(path, model="a", num_clusters=(5, 2))


def test_groups_of_other_facets_are_refused(tmp_path: Path) -> None:
    make_grouping().write(tmp_path / "groups.json", model="a")
    for num_clusters in ((2, 5), (5,), (5, 2, 2)):
        with pytest.raises(InputError, match=r"facets of \[5, 2\] clusters, where the run has"):
            Grouping.read(tmp_path / "groups.json", model="a", num_clusters=num_clusters)
