import re

import numpy as np
import pytest
from exact_mixture import exact_mixture_arrays

from pyro_mfcvae.checks.calibration import (
    calibration_errors,
    calibration_p_value,
    check_calibration,
    confusion,
    reliability,
)

GENERATOR = np.random.default_rng(0)


def draw_truth(probs: np.ndarray) -> np.ndarray:
    cumulative = probs.cumsum(-1)
    return (GENERATOR.random((len(probs), 1)) > cumulative[:, :-1]).sum(-1)


def test_reliability_equals_the_value_computed_by_hand() -> None:
    curve = reliability(np.array([0.9, 0.2, 0.6, 0.7]), np.array([True, False, True, False]), num_bins=2)
    np.testing.assert_allclose(curve.confidence, [0.4, 0.8])
    np.testing.assert_allclose(curve.frequency, [0.5, 0.5])
    np.testing.assert_allclose(curve.share, [0.5, 0.5])
    assert curve.error == pytest.approx(0.5 * 0.1 + 0.5 * 0.3)


def test_fewer_items_than_bins() -> None:
    assert reliability(np.array([0.25]), np.array([False])).error == 0.25


def test_a_miscalibration_hidden_by_the_most_probable_cluster_is_found() -> None:
    """q of cluster 0 is 0.7 or 0.3, the truth 0.9 or 0.5: only the confidence of the more probable one is right."""
    probs = np.repeat([[0.7, 0.3], [0.3, 0.7]], 1000, 0)
    truth = np.concatenate([np.arange(1000) % 10 == 0, np.arange(1000) % 2 == 0]).astype(int)
    hits = probs.argmax(1) == truth
    assert reliability(probs.max(1), hits, num_bins=1).error == pytest.approx(0)
    assert calibration_errors(probs, truth[None])[0, 1] == pytest.approx(0.2)
    assert calibration_p_value(probs, truth) < 1e-6


@pytest.mark.parametrize("num_clusters", [3, 60, pytest.param(200, marks=pytest.mark.slow)])
def test_true_clusters_drawn_from_the_probabilities_are_rarely_rejected(num_clusters: int) -> None:
    p_values = []
    for _ in range(100):
        probs = GENERATOR.dirichlet(np.full(num_clusters, 0.2), size=500)
        p_values.append(calibration_p_value(probs, draw_truth(probs)))
    assert sum(p < 0.05 for p in p_values) <= 12  # 5 expected at most: 3.2 standard errors
    assert min(p_values) > 1e-5


def test_underconfident_probabilities_are_found() -> None:
    probs = GENERATOR.dirichlet(np.full(20, 0.2), size=2000)
    modest = probs**0.8
    modest /= modest.sum(-1, keepdims=True)
    assert calibration_p_value(modest, draw_truth(probs)) < 1e-4


def test_confusion_is_the_mean_by_true_cluster() -> None:
    probs = np.array([[0.9, 0.1, 0.0], [0.5, 0.5, 0.0], [0.2, 0.8, 0.0]])
    rates = confusion(probs, np.array([0, 0, 1]))
    np.testing.assert_allclose(rates[:2], [[0.7, 0.3, 0.0], [0.2, 0.8, 0.0]])
    assert np.isnan(rates[2]).all()


def test_the_exact_guide_is_calibrated() -> None:
    checks = check_calibration(exact_mixture_arrays())
    assert [check.facet for check in checks] == [0, 1]
    assert {check.verdict for check in checks} == {"good"}
    assert max(check.value for check in checks) < 0.015


@pytest.mark.parametrize(
    ("guide", "advice"),
    [
        ({"spread": 0.5}, r"probabilities are too high \(8\d% on average, 7\d% right\)"),
        ({"shift": 1.0}, "probabilities are too high for some clusters and too low for others"),
    ],
)
def test_wrong_guides_are_found(guide: dict[str, float], advice: str) -> None:
    checks = check_calibration(exact_mixture_arrays(**guide))  # type: ignore[arg-type]
    assert "good" not in {check.verdict for check in checks}
    assert re.search(advice, checks[0].advice)


def test_the_clusters_that_are_most_confused_are_named() -> None:
    worst = check_calibration(exact_mixture_arrays())[0].details["most_confused"]
    assert all(pair["true"] != pair["taken_for"] for pair in worst)
    assert [pair["rate"] for pair in worst] == sorted((pair["rate"] for pair in worst), reverse=True)
