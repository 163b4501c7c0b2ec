import numpy as np
import pytest
from exact_mixture import exact_mixture_arrays

from pyro_mfcvae.checks.calibration import calibration_error, check_calibration, confusion, reliability


def test_reliability_by_hand() -> None:
    curve = reliability(np.array([0.9, 0.2, 0.6, 0.7]), np.array([True, False, True, False]), num_bins=2)
    np.testing.assert_allclose(curve.confidence, [0.4, 0.8])
    np.testing.assert_allclose(curve.frequency, [0.5, 0.5])
    np.testing.assert_allclose(curve.share, [0.5, 0.5])
    assert curve.error == pytest.approx(0.5 * 0.1 + 0.5 * 0.3)


def test_fewer_items_than_bins() -> None:
    assert reliability(np.array([0.25]), np.array([False])).error == 0.25


def test_a_preference_for_a_cluster_is_found_that_the_most_probable_one_hides() -> None:
    """q = (0.7, 0.3) or (0.3, 0.7) where 0.9, 0.1 and 0.5, 0.5 are true: right on average, wrong for each."""
    probs = np.repeat([[0.7, 0.3], [0.3, 0.7]], 1000, 0)
    truth = np.concatenate([np.arange(1000) % 10 == 0, np.arange(1000) % 2 == 0]).astype(int)
    hits = probs.argmax(1) == truth
    assert reliability(probs.max(1), hits, num_bins=1).error == pytest.approx(0)
    assert calibration_error(probs, truth) == pytest.approx(0.2)


def test_confusion_is_the_mean_by_true_cluster() -> None:
    probs = np.array([[0.9, 0.1, 0.0], [0.5, 0.5, 0.0], [0.2, 0.8, 0.0]])
    rates = confusion(probs, np.array([0, 0, 1]))
    np.testing.assert_allclose(rates[:2], [[0.7, 0.3, 0.0], [0.2, 0.8, 0.0]])
    assert np.isnan(rates[2]).all()


def test_the_exact_guide_is_calibrated() -> None:
    checks = check_calibration(exact_mixture_arrays())
    assert [check.facet for check in checks] == [0, 1]
    assert {check.verdict for check in checks} == {"good"}
    assert max(check.value for check in checks) < 0.03  # 4,000 items: chance alone makes 0.02


@pytest.mark.parametrize("guide", [{"spread": 0.5}, {"shift": 1.0}])
def test_guides_that_are_off_are_told(guide: dict[str, float]) -> None:
    checks = check_calibration(exact_mixture_arrays(**guide))  # type: ignore[arg-type]
    assert all(check.value > check.details["chance"] for check in checks)
    assert "good" not in {check.verdict for check in checks}


def test_the_clusters_that_are_most_confused_are_named() -> None:
    worst = check_calibration(exact_mixture_arrays())[0].details["most_confused"]
    assert all(pair["true"] != pair["taken_for"] for pair in worst)
    assert [pair["rate"] for pair in worst] == sorted((pair["rate"] for pair in worst), reverse=True)
