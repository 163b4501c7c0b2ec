"""Does the prior describe where the data's z lie? The aggregate posterior, E_x[q(z, c | x)], against it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyro_mfcvae.checks.arviz_data import num_facets, values
from pyro_mfcvae.checks.check import Check, Threshold

USE = Threshold(
    warn=0.1, bad=0.25, source="ours: share of items in other clusters than the weights foresee; chance at 5 %"
)
DISTANCE = Threshold(
    warn=0.015,
    bad=0.06,
    source="ours: shifting a normal by 1/4 and 1/2 of its standard deviation; chance by 99 permutations, 5 % level",
)
HOLES = Threshold(
    warn=0.1, bad=0.25, source="ours; 0.05 where both distributions are the same, chance by 3 standard errors of it"
)
_POINTS = 500  # of each distribution, for pairwise distances
_NUM_PERMUTATIONS = 99


def energy_coefficient(here: NDArray[Any], there: NDArray[Any], *, seed: int = 0) -> tuple[float, float]:
    """(2 E|X-Y| - E|X-X'| - E|Y-Y'|) / 2 E|X-Y| in [0, 1], 0 for equal distributions only, and its p-value.

    Székely and Rizzo 2013; p by 99 permutations. For points (N, D) and (M, D).
    """
    from scipy.spatial.distance import cdist

    points = np.concatenate([here, there])
    distances = cdist(points, points)
    num, generator = len(here), np.random.default_rng(seed)
    # A column per way to choose `num` of the points, 1 where chosen: the first is the real one, the others permute it.
    chosen = np.zeros((len(points), 1 + _NUM_PERMUTATIONS))
    for column in range(chosen.shape[1]):
        chosen[generator.permutation(len(points))[:num] if column else slice(num), column] = 1
    inside = np.sum(chosen * (distances @ chosen), 0)
    outside = np.sum((1 - chosen) * (distances @ (1 - chosen)), 0)
    between = distances.sum() - inside - outside
    if not distances.any():
        return 0.0, 1.0
    others = len(points) - num
    across = between / (num * others)
    # Without the zeros of the diagonals: unbiased, so 0 on average for equal distributions.
    within = inside / (num * (num - 1)) + outside / (others * (others - 1))
    value, *permuted = (across - within) / across
    return float(value), (1 + int(np.sum(np.array(permuted) >= value))) / (1 + _NUM_PERMUTATIONS)


def hole_share(prior: NDArray[Any], posterior: NDArray[Any]) -> float:
    """Share of prior draws farther from the nearest of half the posterior draws than 95 % of the other half are."""
    from sklearn.neighbors import NearestNeighbors

    first, second = posterior[::2], posterior[1::2]
    nearest = NearestNeighbors(n_neighbors=1).fit(first)
    usual = np.quantile(nearest.kneighbors(second)[0], 0.95)
    return float(np.mean(nearest.kneighbors(prior)[0] > usual))


def check_aggregate(data: Any) -> list[Check]:
    """Use of clusters against their weights, distance of z, and holes, per facet."""
    checks, generator = [], np.random.default_rng(0)
    for j in range(num_facets(data)):
        use = values(data, "sample_stats", f"assignment_{j}").astype(float)
        weights = values(data, "sample_stats_prior", f"weight_{j}").astype(float)
        drawn = generator.multinomial(len(use), weights / weights.sum(), size=200) / len(use)
        by_chance = float(np.quantile(np.abs(drawn - weights).sum(-1) / 2, 0.95))
        away = float(np.abs(use.mean(0) - weights).sum() / 2)
        z = values(data, "posterior", f"z_{j}")[0].astype(float)
        prior = values(data, "prior", f"z_{j}").astype(float)
        some = [points[generator.permutation(len(points))[:_POINTS]] for points in (z, prior)]
        distance, p_value = energy_coefficient(*some)
        holes = hole_share(prior, z)
        error = np.sqrt(0.05 * 0.95 * (1 / len(prior) + 2 / len(z)))
        checks += [
            Check(
                name="use of clusters",
                asks="Are the clusters used as often as their weights say?",
                value=away,
                unit="total variation from pi",
                threshold=USE,
                is_noise=away <= by_chance,
                advice="Learn the weights, fit the mixture again late (training.refit_steps), or offer fewer clusters.",
                facet=j,
                details={"use": use.mean(0).tolist(), "weights": weights.tolist(), "chance": by_chance},
            ),
            Check(
                name="aggregate posterior",
                asks="Do the z of data and of the prior have the same distribution?",
                value=max(distance, 0.0),
                unit="energy coefficient",
                threshold=DISTANCE,
                is_noise=p_value > 0.05,
                advice="New images of this facet come from where no data are. Use full covariances or more clusters, "
                "or fit the mixture again late (training.refit_steps).",
                facet=j,
                details={"p_value": p_value},
            ),
            Check(
                name="holes of the prior",
                asks="How much of the prior lies where no data are?",
                value=holes,
                unit="share of prior draws",
                threshold=HOLES,
                is_noise=holes <= 0.05 + 3 * error,
                advice="Images drawn from there show nothing that the data have: draw with a temperature below 1, and "
                "look for components without items.",
                facet=j,
            ),
        ]
    return checks
