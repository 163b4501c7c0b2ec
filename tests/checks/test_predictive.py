from dataclasses import replace

import numpy as np
import pytest
from exact_mixture import exact_mixture_arrays

from pyro_mfcvae.checks.check import Check
from pyro_mfcvae.checks.predictive import (
    HELD_OUT,
    OUTLIERS,
    OVERFITTING,
    TYPICAL,
    check_overfitting,
    check_predictions,
    typicality,
)
from pyro_mfcvae.draws.check_data import CheckData

GENERATOR = np.random.default_rng(0)


def by_name(data: CheckData) -> dict[str, Check]:
    return {check.name: check for check in check_predictions(data)}


def with_contrast(observed: np.ndarray, replicated: np.ndarray) -> Check:
    data = exact_mixture_arrays()
    observed_all, replicated_all = dict(data.observed), dict(data.replicated)
    observed_all["contrast"], replicated_all["contrast"] = observed, replicated
    return by_name(replace(data, observed=observed_all, replicated=replicated_all))["replicated contrast"]


def test_items_of_the_model_pass() -> None:
    checks = by_name(exact_mixture_arrays())
    assert list(checks) == ["replicated contrast", "replicated mean", TYPICAL.name, HELD_OUT.name]
    assert {check.verdict for check in checks.values()} == {"good"}


def test_another_distribution_with_the_same_mean_is_found() -> None:
    """Half of the items have contrast 0 and half 2; all replications have 1."""
    observed = 2.0 * (np.arange(200) % 2)
    check = with_contrast(observed, np.ones((64, 200)))
    assert check.verdict == "bad" and check.value >= 0.5  # 0.5 overall, and more in some cluster


def test_clusters_that_are_off_in_opposite_directions_are_found() -> None:
    data = exact_mixture_arrays()
    observed = GENERATOR.standard_normal(200)
    offset = np.array([3.0, -3.0, 0.0])[data.facets[0].drawn_clusters]
    check = with_contrast(observed + offset, GENERATOR.standard_normal((64, 200)))
    assert check.verdict == "bad" and check.details["where"].startswith("cluster")
    assert {"cluster 0 of facet 0", "cluster 1 of facet 0"} <= check.details["clusters"].keys()


def test_data_that_are_more_probable_than_drawn_items_are_found() -> None:
    data = exact_mixture_arrays()
    check = by_name(replace(data, bound=data.bound + 5, held_out=data.held_out + 1))[TYPICAL.name]
    assert check.verdict == "bad" and "more probable than items that the model draws" in check.advice


def test_halves_that_do_not_predict_each_other_are_found() -> None:
    data = exact_mixture_arrays()
    assert by_name(replace(data, held_out=data.held_out - 1))[HELD_OUT.name].verdict == "bad"


def test_typicality_is_two_sided_and_ties_count_half() -> None:
    reference = np.arange(99.0)
    found = typicality(np.array([-5.0, 49.0, 500.0]), reference)
    np.testing.assert_allclose(found, [0.01, 1.0, 0.01], atol=1e-12)
    assert typicality(np.zeros(1), np.zeros(50)).tolist() == [1.0]


def test_items_like_the_training_items_pass() -> None:
    checks = check_overfitting(exact_mixture_arrays())
    assert [check.name for check in checks] == [OVERFITTING.name, OUTLIERS.name]
    assert {check.verdict for check in checks} == {"good"}


def test_without_training_items_there_are_no_checks() -> None:
    assert check_overfitting(exact_mixture_arrays(reference=False)) == []


@pytest.mark.parametrize(("by", "expected"), [(-5.0, ("bad", "bad")), (5.0, ("good", "bad"))])
def test_too_low_and_too_high_evidence_is_found(by: float, expected: tuple[str, str]) -> None:
    data = exact_mixture_arrays()
    checks = check_overfitting(replace(data, evidence=data.evidence + by * data.evidence.std()))
    assert tuple(check.verdict for check in checks) == expected


def test_outliers_are_found_with_few_training_items() -> None:
    data = exact_mixture_arrays()
    evidence = data.evidence.copy()
    evidence[:60] -= 100
    few = replace(data, evidence=evidence, reference_evidence=data.reference_evidence[:20])  # type: ignore[index]
    check = check_overfitting(few)[1]
    assert check.verdict == "bad" and set(check.details["outlying_items"]) <= set(range(60))


def test_items_with_equal_evidence_are_not_outliers() -> None:
    data = exact_mixture_arrays()
    same = replace(data, evidence=np.zeros(200), reference_evidence=np.zeros(100))
    assert check_overfitting(same)[1].value == 0
