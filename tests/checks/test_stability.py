import copy

import numpy as np
from exact_mixture import exact_mixture_arrays, exact_mixture_data

from pyro_mfcvae.checks.stability import check_stability, split_half_agreement, twins
from pyro_mfcvae.draws.arviz_data import attach
from pyro_mfcvae.draws.check_data import CheckData


def test_twins_overlap_by_half_and_are_in_use() -> None:
    overlap = np.array([[0.5, 0.4, 0.0, 0.5], [0.5, 0.5, 0.1, 0.0], [0.0, 0.2, 0.5, 0.0], [0.5, 0.0, 0.0, 0.5]])
    assert twins(overlap, np.array([0.5, 0.3, 0.2, 0.0])) == [(0, 1, 0.9)]
    assert twins(overlap, np.full(4, 0.25)) == [(0, 3, 1.0), (0, 1, 0.9)]


def test_halves_agree_where_there_are_clusters_and_not_where_there_are_none() -> None:
    generator = np.random.default_rng(0)
    apart = generator.standard_normal((600, 2)) + 10 * generator.integers(3, size=600)[:, None]
    assert split_half_agreement(apart, 3) == 1
    assert split_half_agreement(generator.standard_normal((600, 2)), 6) < 0.6
    flat = np.concatenate([apart, np.zeros((600, 1))], 1)  # a coordinate that is not in use
    assert split_half_agreement(flat, 3) == 1


def test_facets_of_independent_clusters_are_not_redundant() -> None:
    checks = {(check.name, check.facet): check for check in check_stability(exact_mixture_arrays())}
    assert checks["redundancy of facets", None].verdict == "good"
    assert checks["twin clusters", 0].verdict == checks["twin clusters", 1].verdict == "good"
    assert ("other seeds", 0) not in checks


def spoilt() -> object:
    """The facets say the same, facet 1 has twins, and other seeds found something else in facet 0."""
    data = copy.deepcopy(exact_mixture_data())
    stats = data["sample_stats"]
    second = stats["assignment_0"].values[:, [0, 1]].copy()
    second[:, 1] += stats["assignment_0"].values[:, 2]
    attach(data, "sample_stats", "assignment_1", (("item", "cluster_1"), second))
    attach(data, "sample_stats_prior", "overlap_1", (("cluster_1", "other_cluster_1"), np.full((2, 2), 0.5)))
    attach(data, "sample_stats", "seed_agreement", (("facet",), np.array([0.3, 1.0])))
    return data


def test_what_is_wrong_is_told() -> None:
    checks = {(check.name, check.facet): check for check in check_stability(CheckData.from_arviz(spoilt()))}
    assert checks["redundancy of facets", None].verdict == "bad"
    assert checks["twin clusters", 1].verdict == "bad"
    assert checks["twin clusters", 1].details["pairs"] == [(0, 1, 1.0)]
    assert "0 and 1 (100%)" in checks["twin clusters", 1].advice
    assert checks["other seeds", 0].verdict == "bad" and checks["other seeds", 0].value == 0.7
    assert checks["other seeds", 1].verdict == "good"


def test_halves_are_not_asked_where_they_have_fewer_items_than_clusters() -> None:
    data = copy.deepcopy(exact_mixture_data())
    num = data["sample_stats"].sizes["item"]
    in_use = num // 2 + 1
    attach(data, "sample_stats", "assignment_0", (("item", "many"), np.full((num, in_use), 1 / in_use)))
    attach(data, "sample_stats_prior", "overlap_0", (("many", "other"), np.eye(in_use) / 2))
    names = {(check.name, check.facet) for check in check_stability(CheckData.from_arviz(data))}
    assert ("twin clusters", 0) in names and ("halves of the data", 1) in names
    assert ("halves of the data", 0) not in names
