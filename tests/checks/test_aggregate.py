from dataclasses import replace

import numpy as np
import pytest
from exact_mixture import exact_mixture_arrays
from known_models import draw, make_pair
from scipy.stats import norm

from pyro_mfcvae.checks.aggregate import (
    DISTANCE,
    HOLES,
    SHAPE,
    USE,
    check_aggregate,
    compare_shapes,
    energy_coefficient,
    hole_fraction,
    use_p_value,
)
from pyro_mfcvae.draws.arviz_data import to_inference_data
from pyro_mfcvae.draws.check_data import CheckData

GENERATOR = np.random.default_rng(0)


def test_energy_equals_the_value_computed_by_hand() -> None:
    here, there = np.array([[0.0], [2.0]]), np.array([[1.0], [5.0]])
    across = 2 * (1 + 5 + 1 + 3) / 4
    assert energy_coefficient(here, there)[0] == pytest.approx((across - 2 - 4) / across)


def test_energies_at_the_thresholds_are_those_of_shifted_normals() -> None:
    normal = norm.ppf((np.arange(500) + 0.5) / 500)[:, None]  # without noise
    same, p_same = energy_coefficient(normal, normal)
    assert same == pytest.approx(0, abs=0.003) and p_same > 0.9
    for shift, expected in ((0.25, 0.015), (0.5, 0.06)):
        value, p_value = energy_coefficient(normal, normal + shift)
        assert value == pytest.approx(expected, abs=0.004)
        assert p_value < 0.005


def test_equal_points_have_no_distance() -> None:
    assert energy_coefficient(np.zeros((5, 2)), np.zeros((5, 2))) == (0, 1)


def test_shapes_name_the_moment_that_differs() -> None:
    """P(X > Y) - P(X < Y) by hand; then items with equal means that differ in their spread or their correlation."""
    assert compare_shapes(np.array([[3.0], [5.0]]), np.array([[1.0], [4.0]]))[0] == pytest.approx(0.5)
    there = GENERATOR.standard_normal((400, 2))
    for factor, name in (([[1, 0], [0, 2]], "spread of coordinate 1"), ([[1, 0.9], [0, 0.44]], "correlation of")):
        here = GENERATOR.standard_normal((400, 2)) @ np.array(factor)
        value, p_value, what = compare_shapes(here, there)
        assert value > 0.25 and p_value < 1e-8 and what.startswith(name)


def test_shapes_of_the_same_distribution_are_rarely_rejected() -> None:
    p_values = [compare_shapes(*GENERATOR.standard_normal((2, 40, 3)))[1] for _ in range(400)]
    assert sum(p < 0.05 for p in p_values) <= 34 and min(p_values) > 1e-5  # at most 20 expected: 3.2 standard errors


def test_one_cluster_for_two_true_clusters_is_found_by_its_shape() -> None:
    pair = make_pair(3, 2, layout="merged")
    data = to_inference_data(pair, draw(make_pair(3, 2), 300), num_samples=32, num_simulated=300, pixels=False)
    check = next(c for c in check_aggregate(CheckData.from_arviz(data)) if c.question is SHAPE and c.facet == 1)
    assert check.verdict == "bad" and check.details["where"].startswith("cluster")
    assert "may stand for two" in check.advice


def test_holes_are_regions_without_data() -> None:
    full, half = GENERATOR.uniform(size=(4000, 2)), GENERATOR.uniform(size=(4000, 2)) * [0.5, 1.0]
    assert hole_fraction(full, half)[0] == pytest.approx(0.5, abs=0.03)
    assert hole_fraction(full, half)[1] < 1e-10
    assert hole_fraction(half, full)[0] == pytest.approx(0.05, abs=0.02)
    p_values = [hole_fraction(*GENERATOR.standard_normal((2, 100, 2)))[1] for _ in range(200)]
    assert sum(p < 0.05 for p in p_values) <= 20  # 10 expected: 3.2 standard errors


@pytest.mark.parametrize("num_clusters", [2, 100])
def test_clusters_drawn_from_the_weights_are_rarely_rejected(num_clusters: int) -> None:
    weights = GENERATOR.dirichlet(np.full(num_clusters, 0.5))
    drawn = GENERATOR.multinomial(200, weights, size=500) / 200
    p_values = np.array([use_p_value(use, weights, 200) for use in drawn])
    assert np.mean(p_values < 0.05) < 0.09 and np.mean(p_values < 0.001) < 0.01


def test_items_drawn_from_the_model_pass() -> None:
    checks = check_aggregate(exact_mixture_arrays())
    assert [(check.name, check.facet) for check in checks[:3]] == [(q.name, 0) for q in (DISTANCE, SHAPE, HOLES)]
    assert {check.verdict for check in checks} == {"good"}


def test_a_shifted_guide_is_found() -> None:
    verdicts = {check.name: check.verdict for check in check_aggregate(exact_mixture_arrays(shift=1.0))}
    assert verdicts[DISTANCE.name] != "good"


def test_a_cluster_without_items_is_found() -> None:
    data = exact_mixture_arrays()
    facet = replace(data.facets[0], weights=np.array([0.1, 0.1, 0.8]))
    check = next(c for c in check_aggregate(replace(data, facets=(facet, data.facets[1]))) if c.question is USE)
    assert check.verdict == "bad" and check.value == pytest.approx(0.6, abs=0.1)
