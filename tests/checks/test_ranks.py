import numpy as np
import pytest
from exact_mixture import exact_mixture_arrays
from scipy.stats import norm

from pyro_mfcvae.checks.ranks import asymmetry, check_ranks, rank_distance

GRID = norm.ppf((np.arange(20_000) + 0.5) / 20_000)  # a standard normal, without noise


def test_distances_are_those_that_the_thresholds_are_named_after() -> None:
    assert rank_distance(norm.cdf(GRID))[0] < 1e-3
    assert rank_distance(norm.cdf(GRID + 1 / 8))[0] == pytest.approx(0.05, abs=0.001)
    assert rank_distance(norm.cdf(GRID + 1 / 4))[0] == pytest.approx(0.1, abs=0.001)
    assert rank_distance(norm.cdf(2 * GRID))[0] == pytest.approx(0.16, abs=0.005)


def test_asymmetry_tells_bias_from_width() -> None:
    assert asymmetry(norm.cdf(GRID + 1 / 4)) < 1e-6
    assert asymmetry(norm.cdf(2 * GRID)) > 0.99


def test_the_exact_guide_passes() -> None:
    assert {check.verdict for check in check_ranks(exact_mixture_arrays())} == {"good"}


def test_guides_that_are_off_are_told_and_how() -> None:
    narrow, shifted, wide = (
        check_ranks(exact_mixture_arrays(**guide))[0]  # type: ignore[arg-type]
        for guide in ({"spread": 0.5}, {"shift": 1.0}, {"spread": 1.3})
    )
    assert narrow.verdict == shifted.verdict == "bad" and wide.verdict == "warn"
    assert narrow.details["width"] > 1.5 and "too narrow" in narrow.advice
    assert wide.details["width"] < 0.8 and "too wide" in wide.advice
    assert shifted.details["mean_rank"] == pytest.approx(norm.cdf(-1 / np.sqrt(2)), abs=0.05)
    assert max(shifted.details["asymmetry_p_values"]) < 1e-6 < min(narrow.details["asymmetry_p_values"])
