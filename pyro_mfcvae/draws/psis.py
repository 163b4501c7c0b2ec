"""Pareto-smoothed importance sampling, for many items at once (Vehtari, Simpson, Gelman, Yao and Gabry 2024).

The largest weights of an item are fitted by a generalised Pareto distribution. Its shape k-hat estimates how many
moments the weights have: their means converge at a useful rate if k < 0.7.
"""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

MIN_DRAWS = 30
"""With fewer draws the tail would have fewer than five weights, too few for a fit (Vehtari et al. 2024, appendix C)."""

K_HAT = 0.7
"""If k-hat is above this, means of importance weights converge too slowly to be used (Vehtari et al. 2024, section
3.2.4).
"""

# Log weights that differ by less than this number of nats are equal except for rounding, so there is no tail to fit.
_EQUAL_WEIGHTS = 1e-3


def tail_length(num_samples: int) -> int:
    """The number of weights in the tail, M = ceil(min(S / 5, 3 sqrt S)) (Vehtari et al. 2024, equation 12)."""
    return int(np.ceil(min(num_samples / 5, 3 * num_samples**0.5)))


def smooth(log_weights: NDArray[Any]) -> tuple[Array, Array]:
    """Smooth the tails of log weights (…, S): the new log weights, (…, S), and k-hat, (…).

    k-hat is 0 if the largest weights are equal, because importance sampling is then exact. It is infinite if a weight
    is not finite. In both cases the weights are not changed.
    """
    num_samples = log_weights.shape[-1]
    weights = np.array(log_weights, dtype=np.float64).reshape(-1, num_samples)
    finite: NDArray[np.bool_] = np.asarray(np.isfinite(weights).all(-1))
    k_hat = np.where(finite, 0.0, np.inf)
    num_tail = tail_length(num_samples)
    order = np.argsort(weights, -1)
    ordered = np.take_along_axis(weights, order, -1)
    cutoff = ordered[:, -num_tail - 1]
    fitted = finite & (ordered[:, -1] - cutoff >= _EQUAL_WEIGHTS)
    if fitted.any():
        largest = ordered[fitted, -1:]
        floor = np.exp(cutoff[fitted, None] - largest)
        tail = np.exp(ordered[fitted, -num_tail:] - largest) - floor
        k, sigma = fit_generalised_pareto(tail)
        k_hat[fitted] = k
        probs = (np.arange(num_tail) + 0.5) / num_tail
        quantiles = sigma[:, None] * _box_cox(-np.log1p(-probs)[None, :], k[:, None])
        smoothed = np.minimum(np.log(floor + quantiles), 0.0) + largest
        ordered[fitted, -num_tail:] = smoothed
        np.put_along_axis(weights, order, ordered, -1)
    return weights.reshape(log_weights.shape), k_hat.reshape(log_weights.shape[:-1])


def pareto_k(log_weights: NDArray[Any]) -> Array:
    """k-hat of the importance weights (…, S), (…); see `smooth`."""
    return smooth(log_weights)[1]


def effective_share(log_weights: NDArray[Any]) -> Array:
    """Effective sample size over S, (sum w)² / (S sum w²), of log weights (…, S): (…), in (0, 1]."""
    weights = np.asarray(log_weights, dtype=np.float64)
    weights = np.exp(weights - weights.max(-1, keepdims=True))
    share: Array = weights.sum(-1) ** 2 / np.square(weights).sum(-1) / weights.shape[-1]
    return share


def monte_carlo_error(log_weights: NDArray[Any]) -> Array:
    """Standard error of log (1/S) sum_s w_s from S draws, of log weights (…, S): (…).

    It is the relative error of the mean weight, sqrt((1 / e - 1) / S), where e is the `effective_share`.
    """
    error: Array = np.sqrt(np.maximum(1 / effective_share(log_weights) - 1, 0) / log_weights.shape[-1])
    return error


def log_mean(log_weights: NDArray[Any]) -> Array:
    """Return log (1/S) sum_s w_s of log weights (…, S), with the shape (…)."""
    weights = np.asarray(log_weights, dtype=np.float64)
    with np.errstate(invalid="ignore"):  # NaN stays NaN
        mean: Array = np.logaddexp.reduce(weights, -1) - np.log(weights.shape[-1])
    return mean


def is_untrusted(log_weights: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether log weights (…, S) have a k-hat > 0.7 and an effective sample size below S / 2: (…).

    Weights that are nearly equal can be trusted, whatever the shape of their tail.
    """
    smoothed, k_hat = smooth(log_weights)
    with np.errstate(invalid="ignore"):
        untrusted: NDArray[np.bool_] = ~((k_hat <= K_HAT) | (effective_share(smoothed) >= 0.5))
    return untrusted


@cache
def false_flag_rate(num_samples: int, k: float = 0.5, num_items: int = 4000) -> float:
    """Fraction of items that `is_untrusted` flags if all weights have a Pareto distribution of shape ``k``, by
    simulation.

    For k below 0.5 the weights have a finite variance.
    """
    log_weights = k * np.random.default_rng(0).standard_exponential((num_items, num_samples))
    return float(is_untrusted(log_weights).mean())


def fit_generalised_pareto(tail: Array) -> tuple[Array, Array]:
    """Shape k and scale sigma, (N,), of exceedances (N, M) in ascending order (Zhang and Stephens 2009).

    k is shrunk towards 0.5 with the weight of ten observations (Vehtari et al. 2024, appendix C).
    """
    num = tail.shape[-1]
    num_grid = 30 + int(num**0.5)
    quartile = np.maximum(tail[:, int(num / 4 + 0.5) - 1], 1e-300)
    largest = np.maximum(tail[:, -1:], 1e-300)
    grid = 1 - np.sqrt(num_grid / (np.arange(1, num_grid + 1) - 0.5))
    theta = 1 / largest + grid / (3 * quartile[:, None])  # (N, G)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        shape = np.log1p(-theta[..., None] * tail[:, None, :]).mean(-1)
        log_likelihood = num * (np.log(-theta / shape) - shape - 1)
    log_likelihood = np.where(np.isfinite(log_likelihood), log_likelihood, -np.inf)
    weights = np.exp(log_likelihood - log_likelihood.max(-1, keepdims=True))
    theta_hat = (theta * weights).sum(-1) / weights.sum(-1)
    k = np.log1p(-theta_hat[:, None] * tail).mean(-1)
    sigma = -k / theta_hat
    return (num * k + 10 * 0.5) / (num + 10), sigma


def _box_cox(y: Array, k: Array) -> Array:
    """(exp(k y) - 1) / k, which is y at k = 0."""
    safe = np.where(np.abs(k) < 1e-12, 1.0, k)
    scaled: Array = np.where(np.abs(k) < 1e-12, y, np.expm1(k * y) / safe)
    return scaled
