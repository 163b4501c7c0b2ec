from dataclasses import replace

import numpy as np
import pytest
from exact_mixture import exact_mixture_arrays
from scipy.stats import norm

from pyro_mfcvae.checks.check import Check
from pyro_mfcvae.checks.ranks import BETWEEN, CORRELATION, JOINT, SHIFT, WIDTH, check_ranks
from pyro_mfcvae.draws.check_data import CheckData

GENERATOR = np.random.default_rng(0)


def by_question(data: CheckData) -> dict[tuple[str, int | None], Check]:
    return {(check.name, check.facet): check for check in check_ranks(data)}


def with_residuals(residuals: np.ndarray) -> CheckData:
    """Facet 0 has these residuals (P, 2), and the ranks of a normal q(z | x)."""
    data = exact_mixture_arrays()
    facet = replace(data.facets[0], residuals=residuals, ranks=norm.cdf(residuals))
    return replace(data, facets=(facet, data.facets[1]))


def test_the_exact_guide_passes() -> None:
    checks = by_question(exact_mixture_arrays())
    assert {check.verdict for check in checks.values()} == {"good"}
    assert set(checks) == {
        *((question.name, j) for question in (SHIFT, WIDTH) for j in range(2)),
        (CORRELATION.name, 0),
        (BETWEEN.name, None),
        (JOINT.name, None),
    }


def test_wrong_guides_and_their_faults_are_found() -> None:
    narrow, shifted, wide = (
        by_question(exact_mixture_arrays(**guide))  # type: ignore[arg-type]
        for guide in ({"spread": 0.5}, {"shift": 1.0}, {"spread": 1.5})
    )
    assert narrow[WIDTH.name, 0].value == pytest.approx(2, rel=0.1) and "too narrow" in narrow[WIDTH.name, 0].advice
    assert wide[WIDTH.name, 0].value == pytest.approx(1.5, rel=0.1) and "too wide" in wide[WIDTH.name, 0].advice
    # The whitening mixes coordinates: a shift of each coordinate by one standard deviation becomes a shift of 1 to sqrt
    # 2.
    assert 0.9 < shifted[SHIFT.name, 0].value < 1.5
    assert {narrow[WIDTH.name, 0].verdict, shifted[SHIFT.name, 0].verdict, wide[WIDTH.name, 0].verdict} == {"bad"}
    assert narrow[SHIFT.name, 0].verdict == "good"
    assert narrow[JOINT.name, None].verdict == "bad"


def test_a_tenth_of_the_items_with_a_narrow_guide_are_found() -> None:
    residuals = GENERATOR.standard_normal((2000, 2))
    residuals[:200] /= 0.3
    check = by_question(with_residuals(residuals))[WIDTH.name, 0]
    assert check.verdict == "bad"
    assert max(check.details["standard_deviation"]) == pytest.approx((0.9 + 0.1 / 0.09) ** 0.5, rel=0.05)


def test_a_correlation_is_found() -> None:
    residuals = GENERATOR.standard_normal((2000, 2))
    residuals[:, 1] = 0.6 * residuals[:, 0] + 0.8 * residuals[:, 1]
    checks = by_question(with_residuals(residuals))
    assert checks[CORRELATION.name, 0].verdict == "bad"
    assert checks[CORRELATION.name, 0].value == pytest.approx(0.6, abs=0.05)
    assert min(checks[name, 0].p_value for name in (WIDTH.name, SHIFT.name)) > 0.01


def test_a_fault_of_one_cluster_is_named() -> None:
    data = exact_mixture_arrays()
    members = data.facets[0].prior_clusters == 2
    residuals = GENERATOR.standard_normal((2000, 2))
    residuals[members] += 0.6
    check = by_question(with_residuals(residuals))[SHIFT.name, 0]
    assert check.verdict == "bad" and check.details["where"] == "cluster 2"


def test_facets_that_depend_on_each_other_are_found() -> None:
    data = exact_mixture_arrays()
    second = data.facets[1]
    residuals = GENERATOR.standard_normal((2000, 2))
    residuals[:, 0] = 0.5 * second.residuals[:, 0] + 0.75**0.5 * residuals[:, 0]
    assert by_question(with_residuals(residuals))[BETWEEN.name, None].verdict == "bad"
