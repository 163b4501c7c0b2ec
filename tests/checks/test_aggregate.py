import numpy as np
import pytest
from exact_mixture import exact_mixture_arrays
from scipy.stats import norm

from pyro_mfcvae.checks.aggregate import check_aggregate, energy_coefficient, hole_share


def test_energy_by_hand() -> None:
    here, there = np.array([[0.0], [2.0]]), np.array([[1.0], [5.0]])
    across = 2 * (1 + 5 + 1 + 3) / 4
    assert energy_coefficient(here, there)[0] == pytest.approx((across - 2 - 4) / across)


def test_energy_is_what_the_thresholds_are_named_after() -> None:
    normal = norm.ppf((np.arange(500) + 0.5) / 500)[:, None]  # without noise
    same, p_same = energy_coefficient(normal, normal)
    assert same == pytest.approx(0, abs=0.003) and p_same == 1
    for shift, expected in ((0.25, 0.015), (0.5, 0.06)):
        value, p_value = energy_coefficient(normal, normal + shift)
        assert value == pytest.approx(expected, abs=0.004)
        assert p_value == 0.01


def test_points_that_are_all_the_same() -> None:
    assert energy_coefficient(np.zeros((5, 2)), np.zeros((5, 2))) == (0, 1)


def test_holes_are_where_no_data_lie() -> None:
    generator = np.random.default_rng(0)
    full, half = generator.uniform(size=(4000, 2)), generator.uniform(size=(4000, 2)) * [0.5, 1.0]
    assert hole_share(full, half) == pytest.approx(0.5, abs=0.03)
    assert hole_share(half, full) == pytest.approx(0.05, abs=0.02)


def test_the_model_s_own_items_pass() -> None:
    checks = check_aggregate(exact_mixture_arrays())
    assert [(check.name, check.facet) for check in checks[:3]] == [
        ("use of clusters", 0),
        ("aggregate posterior", 0),
        ("holes of the prior", 0),
    ]
    assert {check.verdict for check in checks} == {"good"}


def test_a_guide_that_is_shifted_is_not_where_the_prior_is() -> None:
    verdicts = {check.name: check.verdict for check in check_aggregate(exact_mixture_arrays(shift=1.0))}
    assert verdicts["use of clusters"] != "good" and verdicts["aggregate posterior"] != "good"
