"""Does the prior describe where z of the data lie?

These checks compare the prior with the aggregate posterior E_x[q(z, c | x)].
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pyro_mfcvae.checks.check import Check, Question, Threshold
from pyro_mfcvae.checks.figures import describe, draw_histogram, finish, make_panels
from pyro_mfcvae.draws.check_data import CheckData, FacetData
from pyro_mfcvae.draws.p_values import (
    ALL,
    beyond_p_value,
    bonferroni,
    groups_of,
    skewed_p_value,
    two_sided,
    worst_place,
)
from pyro_mfcvae.plots import COLOURS, FAINT, SHADE, TEXT_SIZE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_AVERAGE = "Averaged over the data, q(z, c | x) is p(z, c). "
_GUIDE = "Whether the model or the guide is at fault: the ranks of z test the guide alone."
USE = Question(
    name="use of clusters",
    asks="Are the clusters used as often as their weights say?",
    statistic="total variation distance between mean q(c | x) and pi, minus the mean of this distance if the clusters "
    "are drawn from pi",
    exact=_AVERAGE + "Pearson's X² of the use, against a gamma distribution with the mean and variance that clusters "
    "drawn from pi give.",
    blind=_GUIDE,
    unit="fraction of items",
    threshold=Threshold(
        warn=0.05, bad=0.2, source="ours: the fraction of items that would have to change their cluster"
    ),
)
DISTANCE = Question(
    name="aggregate posterior",
    asks="Do z of the data and z of the prior have the same distribution?",
    statistic="energy coefficient (2 E|X-Y| - E|X-X'| - E|Y-Y'|) / 2 E|X-Y| (Székely and Rizzo 2013)",
    exact=_AVERAGE + "199 permutations of the two samples (1,999 if p < 0.02), continued by a Pearson type III "
    "distribution.",
    blind=_GUIDE,
    unit="energy coefficient",
    threshold=Threshold(warn=0.015, bad=0.06, source="a normal shifted by 1/4 and 1/2 of its standard deviation"),
)
SHAPE = Question(
    name="shape of clusters",
    asks="Are the items of a cluster distributed as in the mixture?",
    statistic="largest |P(X > Y) - P(X < Y)| for a coordinate of z, or a product of two (of coordinates with mean 0 "
    "and variance 1), X of data and Y of the prior; over all items, or over the assigned cluster where it is largest "
    "and significant",
    exact=_AVERAGE + "Mann-Whitney tests; Bonferroni over coordinates, products and clusters.",
    blind=_GUIDE,
    unit="difference of probabilities",
    threshold=Threshold(warn=0.15, bad=0.3, source="a normal shifted by 1/4 and 1/2 of its standard deviation"),
)
HOLES = Question(
    name="holes of the prior",
    asks="How much of the prior lies where there are no data?",
    statistic="fraction of prior draws whose distance to the nearest posterior draw exceeds the 95 % quantile of that "
    "distance among held-out posterior draws, minus 5 %",
    exact=_AVERAGE + "The number of prior draws beyond that distance is beta-binomial.",
    blind="Regions with data and little prior: the check of the aggregate posterior sees these.",
    unit="fraction of prior draws",
    threshold=Threshold(warn=0.05, bad=0.2, source="ours"),
)
_POINTS = 500  # points of each distribution, for pairwise distances
_MOST_COORDINATES = 20  # most coordinates whose products are compared
_CLOUD = 1000  # points of a picture
# The second number is used if the first one gives a small p-value, because its exact size then matters.
_NUM_PERMUTATIONS = (199, 1999)
_SMALL = 0.02


def energy_coefficient(here: NDArray[Any], there: NDArray[Any], *, seed: int = 0) -> tuple[float, float]:
    """(2 E|X-Y| - E|X-X'| - E|Y-Y'|) / 2 E|X-Y| in [0, 1], which is 0 only for equal distributions, and its p-value.

    The points are (N, D) and (M, D). See Székely and Rizzo 2013; the p-value uses permutations, see `DISTANCE`.
    """
    from scipy.spatial.distance import cdist

    points = np.concatenate([here, there])
    distances = cdist(points, points)
    if not distances.any():
        return 0.0, 1.0
    generator = np.random.default_rng(seed)
    value = float(_energies_of(distances, np.arange(len(points))[:, None] < len(here))[0])
    p_value = 1.0
    for num_permutations in _NUM_PERMUTATIONS:
        # In each column, the `len(here)` points with the smallest random numbers are chosen.
        order = np.argsort(generator.random((len(points), num_permutations)), 0)
        p_value = skewed_p_value(value, _energies_of(distances, order < len(here)))
        if p_value > _SMALL:
            break
    return value, p_value


def _energies_of(distances: NDArray[Any], chosen: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The energy coefficients (B,) between the points that each column of ``chosen`` (P, B) selects and the other
    points.

    The means leave out the distance of a point to itself, so the result is unbiased: 0 on average for equal
    distributions.
    """
    num = int(chosen[:, 0].sum())
    others = len(chosen) - num
    sums = distances.sum(1)
    to_chosen = distances @ chosen
    inside = np.sum(chosen * to_chosen, 0)
    outside = np.sum(~chosen * (sums[:, None] - to_chosen), 0)
    across = (sums.sum() - inside - outside) / (2 * num * others)
    within = inside / (num * (num - 1)) + outside / (others * (others - 1))
    energies: NDArray[np.float64] = (2 * across - within) / (2 * across)
    return energies


def hole_fraction(prior: NDArray[Any], posterior: NDArray[Any]) -> tuple[float, float]:
    """The fraction of `HOLES` for draws (P, D) and (N, D), before 5 % are subtracted, and its p-value."""
    from scipy.spatial import cKDTree

    first, second = posterior[::2], posterior[1::2]
    tree = cKDTree(first)
    usual, distances = np.sort(tree.query(second)[0]), tree.query(prior)[0]
    num_extreme = max(1, round(0.05 * len(second)))
    num_beyond = int(np.sum(distances > usual[-num_extreme]))
    return num_beyond / len(prior), beyond_p_value(num_beyond, len(prior), num_extreme, len(second))


def use_p_value(use: NDArray[Any], weights: NDArray[Any], num_items: int) -> float:
    """p-value of Pearson's X² for shares (K,) against weights (K,). Clusters with less than one expected item are
    pooled.
    """
    from scipy.stats import gamma

    order = np.argsort(weights)
    rare = np.cumsum(weights[order]) * num_items < 1
    keep, pooled = order[~rare], order[rare]
    use, weights = (np.append(a[keep], a[pooled].sum()) for a in (use, weights))
    use, weights = use[weights > 0], weights[weights > 0] / weights.sum()
    num = len(weights)
    if num < 2:
        return 1.0
    chi = float(num_items * np.sum((use - weights) ** 2 / weights))
    mean, variance = num - 1, 2 * (num - 1) + (np.sum(1 / weights) - num**2 - 2 * num + 2) / num_items
    return float(gamma.sf(chi, mean**2 / variance, scale=variance / mean))


def check_aggregate(data: CheckData) -> list[Check]:
    """The checks of the distance of z, the shape of clusters, the holes and the use of clusters, for each facet."""
    return [check for j, facet in enumerate(data.facets) for check in _check_facet(facet, j)]


def _check_facet(facet: FacetData, j: int) -> list[Check]:
    generator = np.random.default_rng(j)
    weights, use = facet.weights / facet.weights.sum(), facet.use
    num_items = len(facet.probs)
    z, prior = facet.z[0], facet.prior_z
    some = [points[generator.permutation(len(points))[:_POINTS]] for points in (z, prior)]
    distance, p_distance = energy_coefficient(*some)
    holes, p_holes = hole_fraction(prior, z)
    checks = [
        Check(
            question=DISTANCE,
            value=max(distance, 0.0),
            p_value=p_distance,
            advice="The mixture does not lie where z of your items lie: new items of the facet can look unlike yours.",
            facet=j,
        ),
        _check_shape(facet, j),
        Check(
            question=HOLES,
            value=max(holes - 0.05, 0.0),
            p_value=p_holes,
            advice="Some z of the prior lie where there are no data, and items drawn from there can be unlike all of "
            "yours: draw with a temperature below 1.",
            facet=j,
        ),
    ]
    if len(weights) > 1:
        drawn = generator.multinomial(num_items, weights, size=200) / num_items
        by_chance = float(np.mean(np.abs(drawn - weights).sum(-1) / 2))
        away = float(np.abs(use - weights).sum() / 2)
        checks.append(
            Check(
                question=USE,
                value=max(away - by_chance, 0.0),
                p_value=use_p_value(use, weights, num_items),
                advice="The weights of the mixture differ from the shares of the clusters among your items: new items "
                "have the clusters in other proportions.",
                facet=j,
                details={"use": use.tolist(), "weights": weights.tolist(), "chance": by_chance},
            )
        )
    return checks


def _check_shape(facet: FacetData, j: int) -> Check:
    z, prior = facet.z[0], facet.prior_z
    compared = {ALL: compare_shapes(z, prior)}
    for k, (members, simulated) in groups_of(facet.clusters, facet.prior_clusters):
        compared[f"cluster {k}"] = compare_shapes(z[members], prior[simulated])
    where, value, p_value = worst_place({place: (delta, p) for place, (delta, p, _) in compared.items()})
    return Check(
        question=SHAPE,
        value=value,
        p_value=p_value,
        advice=f"The items of a cluster are not distributed as in the mixture (in {where}, the {compared[where][2]} "
        f"of z "
        "differs): one cluster may stand for two, or its covariance may be too simple. The assignment can still be "
        "right, but new items of the cluster can look unlike yours.",
        facet=j,
        details={"where": where, "clusters": {place: delta for place, (delta, *_) in compared.items() if place != ALL}},
    )


def compare_shapes(here: NDArray[Any], there: NDArray[Any]) -> tuple[float, float, str]:
    """The effect of `SHAPE` for draws (n, D) and (m, D), its p-value, and the name of the moment that differs most."""
    from scipy.stats import rankdata

    num, others = len(here), len(there)
    points = np.concatenate([here, there])
    widest = np.sort(np.argsort(-points.std(0), kind="stable")[:_MOST_COORDINATES])
    points = (points - points.mean(0))[:, widest] / np.maximum(points.std(0)[widest], 1e-12)
    first, second = np.triu_indices(points.shape[1])
    ranks = rankdata(np.concatenate([points, points[:, first] * points[:, second]], 1), axis=0)
    excess = ranks[:num].sum(0) / num - (num + others + 1) / 2  # the ranks' mean is (n + m + 1) / 2
    spread = ((num + others + 1) * others / (12 * num)) ** 0.5
    deltas = np.abs(excess) * 2 / others
    worst = int(deltas.argmax())
    names = [f"mean of coordinate {a}" for a in widest]
    names += [
        f"spread of coordinate {widest[a]}" if a == b else f"correlation of coordinates {widest[a]} and {widest[b]}"
        for a, b in zip(first, second, strict=True)
    ]
    return float(deltas[worst]), bonferroni(two_sided(excess / spread)), names[worst]


def plot_aggregate(data: CheckData, checks: Sequence[Check]) -> "Figure":
    """Plot weights and use of the clusters, and below them z of the prior and of the data along the prior's two widest
    axes.
    """
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
        describe(above, f"facet {j}", "share of items", "clusters, the largest weight first")
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
        describe(below, f"facet {j}: z of prior and data", "", "along the prior's widest axis")
    # The legend is below the panels, because inside a panel it would cover some z.
    handles = panels[1, 0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside lower center", ncols=2, frameon=False, fontsize=TEXT_SIZE, markerscale=3)
    return finish(figure, panels)
