"""Does the prior describe where the data's z lie? The aggregate posterior, E_x[q(z, c | x)], against it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pyro_mfcvae.checks.check import Check, Threshold
from pyro_mfcvae.checks.figures import describe, draw_histogram, finish, make_panels
from pyro_mfcvae.draws.check_data import CheckData
from pyro_mfcvae.plots import COLOURS, FAINT, SHADE, TEXT_SIZE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

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
_CLOUD = 1000  # points of a picture
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


def check_aggregate(data: CheckData) -> list[Check]:
    """Use of clusters against their weights, distance of z, and holes, per facet."""
    checks, generator = [], np.random.default_rng(0)
    for j, facet in enumerate(data.facets):
        use, weights = facet.probs.astype(float), facet.weights.astype(float)
        drawn = generator.multinomial(len(use), weights / weights.sum(), size=200) / len(use)
        by_chance = float(np.quantile(np.abs(drawn - weights).sum(-1) / 2, 0.95))
        away = float(np.abs(use.mean(0) - weights).sum() / 2)
        z, prior = facet.z[0].astype(float), facet.prior_z.astype(float)
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
                advice="Learn the weights, fit the mixture again late (mixture_fit.refit_steps), or offer "
                "fewer clusters.",
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
                "or fit the mixture again late (mixture_fit.refit_steps).",
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


def plot_aggregate(data: CheckData, checks: Sequence[Check]) -> "Figure":
    """Weights and use of the clusters; below, z of the prior and of the data along the prior's two widest axes."""
    facets = range(len(data.facets))
    figure, panels = make_panels(2, len(facets))
    for j, (above, below) in enumerate(panels.T):
        weights = data.facets[j].weights
        order = np.argsort(-weights)
        use = data.facets[j].use
        above.bar(range(len(order)), weights[order], color=SHADE, edgecolor=FAINT, label="weight")
        above.plot(range(len(order)), use[order], "o", color=COLOURS[0], markersize=4, label="use")
        above.set_ylim(0, 1.3 * float(max(weights.max(), use.max())))
        above.legend(frameon=False, fontsize=TEXT_SIZE, ncols=2, loc="upper right")
        describe(above, f"facet {j}", "share of items", "rank of the cluster by weight")
        prior, z = data.facets[j].prior_z, data.facets[j].z[0]
        clouds = ((prior, "prior", FAINT), (z, "data", COLOURS[0]))
        if prior.shape[-1] == 1:
            span = (float(min(prior.min(), z.min())), float(max(prior.max(), z.max())))
            for points, label, colour in clouds:
                draw_histogram(below, points[:, 0], span, label=label, colour=colour)
        else:
            centre = prior.mean(0)
            plane = np.linalg.svd(prior - centre, full_matrices=False)[2][:2].T
            for points, label, colour in clouds:
                flat = (points[:_CLOUD] - centre) @ plane
                below.plot(*flat.T, ".", color=colour, markersize=3, alpha=0.6, label=label)
        below.legend(frameon=False, fontsize=TEXT_SIZE, markerscale=3)
        describe(below, f"facet {j}: z of prior and data", "", "along the prior's widest axis")
    return finish(figure, panels)
