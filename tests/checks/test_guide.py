from dataclasses import replace

import numpy as np
import pytest
from exact_mixture import exact_mixture_arrays
from linear_gaussian import draw, linear_pair

from pyro_mfcvae.checks.check import Check
from pyro_mfcvae.checks.guide import DISCREPANCY, GAP, RULE, TAIL, check_guide
from pyro_mfcvae.draws.arviz_data import to_inference_data
from pyro_mfcvae.draws.check_data import CheckData


def by_question(data: CheckData) -> dict[tuple[str, int | None], Check]:
    return {(check.name, check.facet): check for check in check_guide(data)}


def test_the_exact_guide_passes() -> None:
    checks = by_question(exact_mixture_arrays())
    assert checks[TAIL.name, None].value == 0
    assert checks[GAP.name, None].value == pytest.approx(0, abs=1e-9)
    assert {check.verdict for check in checks.values()} == {"good"}
    assert (RULE.name, 0) not in checks  # the rule p(c | z) loses nothing


@pytest.mark.parametrize("guide", [{"spread": 0.5}, {"shift": 1.0}])
@pytest.mark.parametrize("off", range(2))
def test_a_facet_that_is_off_is_distinguished_from_one_that_is_exact(guide: dict[str, float], off: int) -> None:
    """The facets are independent a posteriori, so the exact facet has equal weights at any value of the other facet."""
    checks = by_question(exact_mixture_arrays(**guide, off=(off,)))  # type: ignore[arg-type]
    gaps = [checks[GAP.name, j] for j in range(2)]
    assert gaps[off].verdict != "good" and checks[GAP.name, None].verdict != "good"
    assert gaps[1 - off].value == pytest.approx(0, abs=1e-9)
    assert checks[TAIL.name, 1 - off].value == 0


def test_the_gap_of_a_guide_that_is_too_wide_equals_that_of_normals() -> None:
    """KL(N(0, s²) || N(0, 1)) = (s² - 1) / 2 - log s; all three dimensions here have the same z."""
    data = exact_mixture_arrays()
    z = 1.5 * np.random.default_rng(0).standard_normal((300, 200))
    log_weights = np.log(1.5) - z * z / 2 + z * z / (2 * 1.5**2)
    gap = by_question(replace(data, log_weights=log_weights))[GAP.name, None]
    assert gap.details["nats"] == pytest.approx(0.625 - np.log(1.5), rel=0.02)
    assert gap.value == pytest.approx(gap.details["nats"] / 3)


def test_nearly_equal_weights_are_trusted_whatever_their_tail() -> None:
    data = exact_mixture_arrays()
    noise = np.random.default_rng(0).standard_normal(data.log_weights.shape)
    check = by_question(replace(data, log_weights=data.log_weights + 0.3 * noise))[TAIL.name, None]
    assert check.verdict == "good" and check.value == 0


def test_weights_of_finite_variance_give_no_alarm() -> None:
    """Every item's weights are Pareto with k = 0.3."""
    data = exact_mixture_arrays()
    weights = 0.3 * np.random.default_rng(0).standard_exponential(data.log_weights.shape)
    assert by_question(replace(data, log_weights=weights))[TAIL.name, None].verdict == "good"


def test_one_bad_cluster_is_named() -> None:
    data = exact_mixture_arrays()
    members = data.facets[0].clusters == 1
    weights = data.log_weights.copy()
    weights[:, members] += 1.2 * np.random.default_rng(0).standard_exponential((len(weights), members.sum()))
    check = by_question(replace(data, log_weights=weights))[TAIL.name, None]
    assert check.verdict != "good" and "cluster 1 of facet 0" in check.advice


def test_a_bad_half_by_confidence_is_named() -> None:
    """The fault affects items of all clusters, so the advice names the half and not a cluster."""
    data = exact_mixture_arrays()
    confidence = data.facets[0].probs.max(-1)
    members = confidence < np.median(confidence)
    weights = data.log_weights.copy()
    weights[:, members] += 2.0 * np.random.default_rng(0).standard_exponential((len(weights), members.sum()))
    check = by_question(replace(data, log_weights=weights))[TAIL.name, None]
    assert check.verdict == "bad" and "the less confident half of facet 0" in check.advice


def test_noise_of_the_draws_is_not_a_discrepancy_of_q_c() -> None:
    """q(c | x) is exact and q(z | x) 1.3 times too wide, so p(c | x) from 64 weights is noisy."""
    data = exact_mixture_arrays(spread=1.3)
    exact = exact_mixture_arrays()
    facet = replace(data.facets[0], probs=exact.facets[0].probs)
    assert by_question(replace(data, facets=(facet, data.facets[1])))[DISCREPANCY.name, 0].verdict == "good"


def test_vades_rule_loses_nats() -> None:
    pair = linear_pair()
    data = CheckData.from_arviz(to_inference_data(pair, draw(pair, 200), num_samples=40, num_simulated=30))
    checks = by_question(data)
    assert checks[RULE.name, 0].verdict == "warn" and checks[RULE.name, 0].value > 0.1
    assert checks[DISCREPANCY.name, 0].verdict == "good"


def test_items_whose_k_hat_cannot_be_found_are_not_trusted() -> None:
    data = exact_mixture_arrays()
    weights = data.log_weights.copy()
    weights[:, :50] = np.nan
    assert by_question(replace(data, log_weights=weights))[TAIL.name, None].details["flagged"] == 0.25
