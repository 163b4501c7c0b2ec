from dataclasses import replace

import numpy as np
from exact_mixture import exact_mixture_arrays

from pyro_mfcvae.checks.check import Check
from pyro_mfcvae.checks.stability import REDUNDANCY, REFITS, SEEDS, check_stability, refit
from pyro_mfcvae.draws.check_data import CheckData

GENERATOR = np.random.default_rng(0)


def by_question(data: CheckData) -> dict[tuple[str, int | None], Check]:
    return {(check.name, check.facet): check for check in check_stability(data)}


def test_clusters_that_are_apart_survive_a_refit_and_cuts_through_a_cloud_do_not() -> None:
    c = GENERATOR.integers(3, size=600)
    apart = GENERATOR.standard_normal((600, 2)) + 10 * c[:, None]
    assert refit(apart, np.eye(3)[c], np.arange(3), GENERATOR) == 1
    cloud = GENERATOR.standard_normal((600, 2))
    cut = np.digitize(cloud[:, 0], [-1, -0.5, 0, 0.5, 1])
    assert refit(cloud, np.eye(6)[cut], np.arange(6), GENERATOR) < 0.8
    assert refit(cloud, np.eye(6)[cut], np.zeros(6, int), GENERATOR) == 1  # one group


def test_an_unused_coordinate_does_not_change_the_result() -> None:
    c = GENERATOR.integers(2, size=200)
    z = np.stack([10.0 * c + GENERATOR.standard_normal(200), np.zeros(200)], -1)
    assert refit(z, np.eye(2)[c], np.arange(2), GENERATOR) == 1


def test_the_exact_guide_passes() -> None:
    checks = by_question(exact_mixture_arrays())
    assert {check.verdict for check in checks.values()} == {"good"}
    assert (REDUNDANCY.name, None) in checks and (SEEDS.name, 0) not in checks


def test_groups_that_are_less_stable_than_in_the_model_are_found() -> None:
    """The model's clusters are 20 standard deviations apart; the data are one cloud that was divided into four."""
    data = exact_mixture_arrays()
    cloud = GENERATOR.standard_normal((1, 200, 1))
    cuts = np.eye(4)[np.digitize(cloud[0, :, 0], [-0.7, 0, 0.7])]
    c = np.arange(2000) % 4
    facet = replace(
        data.facets[1],
        z=cloud,
        probs=cuts,
        groups=np.arange(4),
        prior_z=20.0 * c[:, None] + GENERATOR.standard_normal((2000, 1)),
        prior_probs=np.eye(4)[c],
    )
    check = by_question(replace(data, facets=(data.facets[0], facet)))[REFITS.name, 1]
    assert check.p_value < 0.01 and check.value > 0.1 and min(check.details["ari_of_simulated_items"]) == 1


def test_facets_that_divide_items_in_the_same_way_are_redundant() -> None:
    data = exact_mixture_arrays()
    merged = data.facets[0].probs[:, :1], data.facets[0].probs[:, 1:].sum(1, keepdims=True)
    second = replace(data.facets[1], probs=np.concatenate(merged, 1))
    assert by_question(replace(data, facets=(data.facets[0], second)))[REDUNDANCY.name, None].verdict == "bad"


def test_disagreement_with_other_seeds_is_found() -> None:
    checks = by_question(replace(exact_mixture_arrays(), seed_agreement=np.array([0.3, 1.0])))
    assert checks[SEEDS.name, 0].verdict == "bad" and checks[SEEDS.name, 0].value == 0.7
    assert checks[SEEDS.name, 1].verdict == "good"
