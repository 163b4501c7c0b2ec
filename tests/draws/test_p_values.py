import numpy as np
import pytest
from scipy.stats import binomtest, gamma, norm, ttest_1samp

from pyro_mfcvae.draws.p_values import (
    beyond_p_value,
    bonferroni,
    groups_of,
    kolmogorov,
    mean_p_value,
    paired_distance,
    positive_mean_p_value,
    skewed_p_value,
    two_sample,
    two_sided,
    uniform_p_values,
    worst_place,
)

GENERATOR = np.random.default_rng(0)


def test_bonferroni_equals_the_value_computed_by_hand() -> None:
    assert bonferroni([0.2, 0.01, 0.5]) == pytest.approx(0.03)
    assert bonferroni([0.6, 0.7]) == 1 and bonferroni([]) == 1


def test_tests_of_means_are_those_of_scipy() -> None:
    values = GENERATOR.standard_normal((20, 3)) + 0.3
    np.testing.assert_allclose(mean_p_value(values), ttest_1samp(values, 0).pvalue)
    greater = ttest_1samp(values[:, 0], 0, alternative="greater").pvalue
    assert positive_mean_p_value(values[:, 0]) == pytest.approx(greater)
    assert positive_mean_p_value(np.zeros(5)) > 0.4
    assert two_sided(1.959964) == pytest.approx(0.05)


def test_uniform_ranks_have_uniform_p_values() -> None:
    p_values = uniform_p_values(GENERATOR.uniform(size=(200, 4000)))
    for row in p_values:
        assert kolmogorov(row)[1] > 1e-3
        # 4,000 p-values: standard error of a share of 0.01 is 0.0016.
        assert np.mean(row < 0.01) == pytest.approx(0.01, abs=0.006)


def test_shift_and_width_are_distinguished() -> None:
    normal = norm.ppf((np.arange(500) + 0.5) / 500)
    shifted, wide = norm.cdf(normal + 0.5), norm.cdf(normal / 2)
    assert uniform_p_values(shifted)[0] < 1e-10
    assert uniform_p_values(wide)[0] > 0.9 and uniform_p_values(wide)[1] < 1e-10


def test_paired_distance_is_a_sign_test() -> None:
    here, there = np.zeros(30), np.ones(30)
    distance, p_value = paired_distance(here, there)
    assert distance == 1
    assert p_value == pytest.approx(2 * binomtest(0, 30, 0.5).pvalue)  # two cuts, 0 and 1
    assert paired_distance(here, here) == (0.0, 1.0)


def test_exchangeable_pairs_are_rarely_rejected() -> None:
    """The members of a pair may depend on each other."""
    rejected = 0
    for _ in range(400):
        common = GENERATOR.standard_normal(100)
        first, second = (common + 0.3 * GENERATOR.standard_normal(100) for _ in range(2))
        rejected += paired_distance(first, second)[1] < 0.05
    assert rejected <= 30  # 20 expected at most: 2.3 standard errors


def test_items_beyond_a_reference_are_counted_exactly() -> None:
    """All of n items lie beyond the one reference item with probability 1 / (n + 1)."""
    assert beyond_p_value(4, 4, 1, 1) == pytest.approx(1 / 5)
    assert beyond_p_value(0, 4, 1, 1) == 1


def test_a_skewed_tail_has_the_p_value_of_a_gamma() -> None:
    null = GENERATOR.gamma(4.0, size=20_000)
    assert skewed_p_value(12.0, null) == pytest.approx(gamma.sf(12.0, 4.0), rel=0.3)
    assert skewed_p_value(1.0, np.ones(5)) == 1 and skewed_p_value(2.0, np.ones(5)) == 0


def test_two_samples() -> None:
    assert two_sample(np.arange(50.0), np.arange(50.0))[1] == 1
    assert two_sample(np.arange(50.0), np.arange(50.0) + 100) == (1.0, pytest.approx(0, abs=1e-20))


def test_only_groups_with_members_on_both_sides_are_compared() -> None:
    here, there = np.array([0, 0, 1, 1, 2]), np.array([0, 0, 0, 1, 3])
    found = groups_of(here, there, fewest=2)
    assert [(value, [m.sum() for m in members]) for value, members in found] == [(0, [2, 3])]


def test_only_significant_effects_compete_for_the_worst_place() -> None:
    found = {"all": (0.1, 1e-9), "a": (0.9, 0.4), "b": (0.5, 1e-5), "c": (0.2, 1e-12)}
    assert worst_place(found) == ("b", 0.5, pytest.approx(2 * 3e-12))


def test_without_a_significant_effect_the_place_with_the_smallest_p_value_is_named() -> None:
    assert worst_place({"all": (0.1, 0.5), "a": (0.9, 0.4), "b": (0.2, 0.1)}) == ("b", 0.2, pytest.approx(0.4))
    assert worst_place({"all": (0.1, 0.5)}) == ("all", 0.1, 0.5)
