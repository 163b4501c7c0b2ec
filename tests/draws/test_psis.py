import warnings
from importlib import import_module

import numpy as np
import pytest

from pyro_mfcvae.draws.psis import (
    effective_share,
    false_flag_rate,
    is_untrusted,
    log_mean,
    pareto_k,
    smooth,
    tail_length,
)

GENERATOR = np.random.default_rng(0)


def test_the_tail_is_a_fifth_of_the_draws_or_three_times_their_root() -> None:
    assert [tail_length(num) for num in (30, 64, 225, 1000)] == [6, 13, 45, 95]


@pytest.mark.parametrize("num_samples", [64, 100, 1000])
def test_weights_and_k_hat_are_those_of_arviz(num_samples: int) -> None:
    log_weights = 0.6 * GENERATOR.standard_exponential((20, num_samples))
    smoothed, k_hat = smooth(log_weights)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        arviz = import_module("arviz")
        if not hasattr(arviz, "psislw"):
            pytest.skip("this ArviZ has another interface")
        theirs, their_k = arviz.psislw(log_weights.copy())
    np.testing.assert_allclose(k_hat, their_k, atol=1e-12)
    normalised = smoothed - np.logaddexp.reduce(smoothed, -1, keepdims=True)
    np.testing.assert_allclose(normalised, theirs, atol=1e-10)


def test_pareto_k_is_that_of_the_right_tail() -> None:
    """N(0, 1) weighed by draws of N(0, s): the weights' tail index is 1 - s² for s < 1; for s ≥ 1 they are bounded."""
    for scale, expected in ((0.5, 0.75), (0.7, 0.51)):
        z = scale * GENERATOR.standard_normal(40_000)
        log_weights = -z * z / 2 + z * z / (2 * scale**2)
        # 40,000 draws: a standard error below 0.03, and a logarithm in the tail that slows convergence.
        assert pareto_k(log_weights[None])[0] == pytest.approx(expected, abs=0.1)
    z = 2 * GENERATOR.standard_normal(40_000)
    assert pareto_k(-z * z / 2 + z * z / 8) <= 0


def test_equal_weights_have_k_hat_0_and_are_not_changed() -> None:
    log_weights = np.full((2, 50), -700.0)
    log_weights[1] += GENERATOR.standard_normal(50)
    before = log_weights.copy()
    k_hat = pareto_k(log_weights)
    assert k_hat[0] == 0 and k_hat[1] != 0
    np.testing.assert_array_equal(log_weights, before)
    assert smooth(log_weights[0])[0].tolist() == [-700.0] * 50


def test_weights_that_are_not_finite_have_an_infinite_k_hat() -> None:
    log_weights = np.zeros((3, 40))
    log_weights[1, 3], log_weights[2, 5] = np.nan, np.inf
    assert pareto_k(log_weights).tolist() == [0, np.inf, np.inf]
    assert is_untrusted(log_weights).tolist() == [False, True, True]


def test_effective_share_and_log_mean_equal_values_computed_by_hand() -> None:
    assert effective_share(np.log([[1.0, 1.0, 2.0]]))[0] == pytest.approx(16 / 6 / 3)
    assert log_mean(np.log([[1.0, 1.0, 2.0]]))[0] == pytest.approx(np.log(4 / 3))


def test_false_flags_are_those_of_tails_with_a_finite_variance() -> None:
    assert 0.02 < false_flag_rate(64) < 0.12
    assert false_flag_rate(64, 0.3) < 0.01 < 0.4 < false_flag_rate(64, 1.0)
