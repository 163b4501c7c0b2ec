"""p-values of the checks' test statistics, and their combination within a check."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

MIN_MEMBERS = 30
"""A cluster with fewer items is not tested separately, because the distribution of its mean would not have normal
tails.
"""

ALL = "all items"
"""The name of the whole in `worst_place`."""

_CERTAIN = 1e-3  # An effect is significant if its p-value, corrected for the number of places, is at most this.


def bonferroni(p_values: Iterable[float]) -> float:
    """The p-value of the smallest of m p-values, min(1, m min p); 1 if there are none."""
    collected = [float(p) for p in p_values]
    return min(1.0, len(collected) * min(collected)) if collected else 1.0


def worst_place(found: Mapping[str, tuple[float, float]]) -> tuple[str, float, float]:
    """The place whose effect is largest, that effect, and one p-value for all places.

    The place is chosen among those with a significant effect. If no effect is significant, it is the place with the
    smallest p-value.

    Args:
        found: place → effect and p-value. The first place is the whole; the others are its parts, and their p-values
            are corrected for the number of parts.
    """
    whole, *parts = found
    corrected = {whole: found[whole][1]} | {place: min(1.0, len(parts) * found[place][1]) for place in parts}
    certain = [place for place in found if corrected[place] <= _CERTAIN]
    where = max(certain, key=lambda place: found[place][0]) if certain else min(found, key=corrected.__getitem__)
    p_parts = [min(corrected[place] for place in parts)] if parts else []
    return where, found[where][0], bonferroni([corrected[whole], *p_parts])


def two_sided(z: Any) -> Any:
    """2 P(Z > |z|) for a standard normal Z."""
    from scipy.special import ndtr

    return 2 * ndtr(-np.abs(z))


def mean_p_value(values: Array, axis: int = 0) -> Any:
    """Two-sided p-value of the hypothesis that the mean is 0, by Student's t: (n, …) → (…)."""
    from scipy.special import stdtr

    num = values.shape[axis]
    error = values.std(axis, ddof=1) / num**0.5
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(error > 0, values.mean(axis) / error, np.where(values.mean(axis) == 0, 0.0, np.inf))
    return 2 * stdtr(num - 1, -np.abs(t))


def positive_mean_p_value(values: Array) -> float:
    """One-sided p-value of the hypothesis that the mean is at most 0, for values (n,)."""
    two = float(mean_p_value(values))
    return two / 2 if values.mean() > 0 else 1 - two / 2


def uniform_p_values(ranks: Array) -> Array:
    """Two p-values, (2, …), of the hypothesis that ranks (n, …) are uniform on (0, 1): one for their mean, one for
    their spread.

    The mean has variance 1/12n, and the mean of 12 (r - 1/2)² is 1 with variance 4/5n.
    """
    num = len(ranks)
    location = (ranks.mean(0) - 0.5) * (12 * num) ** 0.5
    spread = ((12 * (ranks - 0.5) ** 2).mean(0) - 1) / (0.8 / num) ** 0.5
    p_values: Array = two_sided(np.stack([location, spread]))
    return p_values


def kolmogorov(ranks: Array) -> tuple[float, float]:
    """Largest distance between the distribution function of ranks (n,) and the uniform one, and its p-value."""
    from scipy.stats import kstest

    result = kstest(ranks, "uniform")
    return float(result.statistic), float(result.pvalue)


def two_sample(here: Array, there: Array) -> tuple[float, float]:
    """Largest distance between the distribution functions of two samples, (n,) and (m,), and the p-value of equal
    distributions.
    """
    from scipy.stats import ks_2samp

    result = ks_2samp(here, there, method="auto")
    return float(result.statistic), float(result.pvalue)


def paired_distance(here: Array, there: Array, *, num_cuts: int = 19) -> tuple[float, float]:
    """Largest distance between two distribution functions over several cuts, and its p-value if pairs are exchangeable.

    If the members of a pair lie on different sides of a cut, each of them is below the cut with probability 1/2, so the
    test is a sign test (McNemar 1947). The p-value is corrected (Bonferroni) for the cuts, which are quantiles of both
    samples.

    Args:
        here: (n,).
        there: the other member of each pair, (n,).
        num_cuts: number of cuts.
    """
    from scipy.stats import binom

    cuts = np.unique(np.quantile(np.concatenate([here, there]), (np.arange(num_cuts) + 0.5) / num_cuts, method="lower"))
    first, second = here[:, None] <= cuts, there[:, None] <= cuts
    only_first, only_second = (first & ~second).sum(0), (second & ~first).sum(0)
    p_values = np.minimum(1, 2 * binom.cdf(np.minimum(only_first, only_second), only_first + only_second, 0.5))
    distance = np.abs(only_first - only_second) / len(here)
    return float(distance.max()), bonferroni(p_values)


def beyond_p_value(num_beyond: int, num_here: int, num_extreme: int, num_reference: int) -> float:
    """P(at least ``num_beyond`` of n exchangeable items lie beyond the m-th most extreme of r reference items); their
    number is beta-binomial.

    Args:
        num_beyond: the number of items beyond.
        num_here: n.
        num_extreme: m ≥ 1.
        num_reference: r.
    """
    from scipy.stats import betabinom

    return float(betabinom.sf(num_beyond - 1, num_here, num_extreme, num_reference + 1 - num_extreme))


def skewed_p_value(value: float, null: Array) -> float:
    """P(at least ``value``) under the Pearson type III distribution with the first three moments of simulated values
    (B,).

    It can be smaller than 1/B, the smallest p-value that a count of simulated values can give.
    """
    from scipy.stats import pearson3

    spread = float(null.std(ddof=1))
    if spread == 0:
        return 1.0 if value <= null.mean() + 1e-12 else 0.0
    skewness = float(np.mean((null - null.mean()) ** 3) / null.std() ** 3)
    return float(pearson3.sf(value, max(skewness, 0.0), loc=null.mean(), scale=spread))


def groups_of(*labels: NDArray[Any], fewest: int = MIN_MEMBERS) -> list[tuple[Any, tuple[NDArray[np.bool_], ...]]]:
    """The labels that at least ``fewest`` items have in every array, each with the masks of these items."""
    common = [np.unique(label) for label in labels]
    shared = [value for value in common[0] if all(value in other for other in common[1:])]
    found = [(value, tuple(label == value for label in labels)) for value in shared]
    return [(value, members) for value, members in found if min(m.sum() for m in members) >= fewest]
