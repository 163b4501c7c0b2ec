"""Is q(z | x) the posterior?

Simulation-based calibration: the true z of a drawn item is ranked among draws of q(z | x).
"""

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pyro_mfcvae.checks.check import Check, Question, Threshold
from pyro_mfcvae.checks.figures import describe, finish, make_panels
from pyro_mfcvae.draws.check_data import Array, CheckData, FacetData
from pyro_mfcvae.draws.p_values import bonferroni, groups_of, kolmogorov, mean_p_value, uniform_p_values
from pyro_mfcvae.plots import COLOURS, SHADE, TEXT_SIZE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_UNIFORM = "The rank of the true z among draws of q(z | x) is uniform, also among items that look alike to the guide. "
_DRAWN = "Items that the model does not draw: if drawn items look unlike the data, fix this first."
SHIFT = Question(
    name="shift of q(z|x)",
    asks="Is q(z | x) centred where the true z are?",
    statistic="largest mean over items of a coordinate of L⁻¹(z - m), m and L Lᵀ = mean and covariance of q(z | x); "
    "over all items, or over the items of a cluster or a confidence whose ranks are not uniform",
    exact=_UNIFORM + "Normal test of the mean rank; Bonferroni over coordinates, and over clusters.",
    blind=_DRAWN,
    unit="standard deviations of q(z|x)",
    threshold=Threshold(warn=0.125, bad=0.35, source="a normal q(z | x) with these shifts loses 0.008 and 0.06 nats"),
)
WIDTH = Question(
    name="width of q(z|x)",
    asks="Is q(z | x) as wide as the distribution of the true z?",
    statistic="standard deviation of a coordinate of L⁻¹(z - m), or its inverse, whichever is larger; over all items, "
    "or over the items of a cluster or a confidence whose ranks are not uniform",
    exact=_UNIFORM + "Normal test of the spread of the ranks and Kolmogorov's test, each also for the rank of log q(z "
    "| x), which depends on all coordinates together; Bonferroni over coordinates, and over clusters.",
    blind=_DRAWN,
    unit="factor",
    threshold=Threshold(
        warn=1.15, bad=1.4, source="a normal q(z | x) too narrow by these factors loses 0.02 and 0.09 nats"
    ),
)
CORRELATION = Question(
    name="correlation within q(z|x)",
    asks="Does q(z | x) represent how the coordinates of z depend on each other?",
    statistic="largest mean over items of the product of two coordinates of L⁻¹(z - m), over their root mean squares",
    exact="The mean is 0; Student's t, Bonferroni over pairs of coordinates.",
    blind=_DRAWN + " Dependence without correlation.",
    unit="correlation",
    threshold=Threshold(
        warn=0.15, bad=0.4, source="a normal q(z | x) without these correlations loses 0.01 and 0.09 nats"
    ),
)
BETWEEN = Question(
    name="correlation between facets",
    asks="Are the facets independent given x, as the guide assumes?",
    statistic=CORRELATION.statistic + "; one coordinate from each of two facets",
    exact=CORRELATION.exact,
    blind=CORRELATION.blind,
    unit="correlation",
    threshold=CORRELATION.threshold,
)
JOINT = Question(
    name="log p(x, z) of the true z",
    asks="Is the true z as probable as draws of q(z | x), given the data?",
    statistic="Kolmogorov's distance from uniform of the rank of log p(x, z) at the true z among 16 draws of q(z | x)",
    exact="The rank is uniform (Modrák et al. 2023: test quantities that depend on the data can show faults that "
    "ranks of z do not show). Normal tests of its mean and spread, and Kolmogorov's test.",
    blind=_DRAWN,
    unit="distance from uniform",
    threshold=Threshold(warn=0.07, bad=0.15, source="ours"),
)
_MOST_LINES = 12  # most entries of a legend


def check_ranks(data: CheckData) -> list[Check]:
    """The checks of shift, width and correlation for each facet, and of the correlation between facets and of log p(x,
    z) for the whole model.
    """
    checks = [_check_joint(data)]
    if len(data.facets) > 1:
        checks.append(_check_between(data))
    for j, facet in enumerate(data.facets):
        memberships = _memberships(facet)
        checks += [_check_shift(facet, memberships, j), _check_width(facet, memberships, j)]
        if facet.z.shape[-1] > 1:
            checks.append(_check_correlation(facet, j))
    return checks


def _memberships(facet: FacetData) -> list[tuple[str, NDArray[np.bool_]]]:
    """Masks of the items of each assigned cluster, and of the less and the more confident half. These sets depend only
    on x, so ranks are uniform in each.
    """
    confidence = facet.prior_probs.max(-1)
    middle = np.median(confidence)
    found = [(f"cluster {k}", members) for k, (members,) in groups_of(facet.prior_clusters)]
    found += [("less confident items", confidence < middle), ("more confident items", confidence >= middle)]
    return [(name, members) for name, members in found if members.sum() >= 30]


def _largest(
    facet: FacetData, memberships: list[tuple[str, NDArray[np.bool_]]], row: int, effects: Callable[[Array], Array]
) -> tuple[float, int, str, float]:
    """The effect, its coordinate, its place, and the p-value over all places;

    ``row`` 0 is the mean rank, 1 the spread.
    """
    overall = effects(facet.residuals)
    value, coordinate, where = float(overall.max()), int(overall.argmax()), "all items"
    tests = {name: uniform_p_values(facet.ranks[members])[row] for name, members in memberships}
    num_tests = sum(len(p) for p in tests.values())
    for name, members in memberships:
        certain = tests[name] * num_tests <= 0.05
        effect = np.where(certain, effects(facet.residuals[members]), 0.0)
        if effect.max() > value:
            value, coordinate, where = float(effect.max()), int(effect.argmax()), name
    return value, coordinate, where, bonferroni(p for values in tests.values() for p in values)


def _shift(residuals: Array) -> Array:
    """|mean| of every coordinate of residuals (n, D)."""
    shift: Array = np.abs(residuals.mean(0))
    return shift


def _width(residuals: Array) -> Array:
    """Standard deviation of every coordinate of residuals (n, D), or its inverse, whichever is larger."""
    spread = np.maximum(residuals.std(0), 1e-6)
    factor: Array = np.maximum(spread, 1 / spread)
    return factor


def _check_shift(facet: FacetData, memberships: list[tuple[str, NDArray[np.bool_]]], j: int) -> Check:
    value, coordinate, where, p_groups = _largest(facet, memberships, 0, _shift)
    p_all = bonferroni(uniform_p_values(facet.ranks)[0])
    return Check(
        question=SHIFT,
        value=value,
        p_value=bonferroni([p_all, p_groups]),
        advice=f"The encoder's z are shifted to one side (coordinate {coordinate}, {where}). Longer training or a "
        f"wider "
        "encoder can help.",
        facet=j,
        details={"coordinate": coordinate, "where": where, "mean": facet.residuals.mean(0).tolist()},
    )


def _check_width(facet: FacetData, memberships: list[tuple[str, NDArray[np.bool_]]], j: int) -> Check:
    value, coordinate, where, p_groups = _largest(facet, memberships, 1, _width)
    p_all = [bonferroni(uniform_p_values(facet.ranks)[1]), bonferroni(kolmogorov(r)[1] for r in facet.ranks.T)]
    p_density = [*uniform_p_values(facet.density_ranks), kolmogorov(facet.density_ranks)[1]]
    spread = facet.residuals.std(0)
    return Check(
        question=WIDTH,
        value=value,
        p_value=bonferroni([bonferroni(p_all), bonferroni(p_density), p_groups]),
        advice=f"The encoder is too {'sure' if spread[coordinate] > 1 else 'unsure'} of z: q(z|x) is too "
        f"{'narrow' if spread[coordinate] > 1 else 'wide'} (coordinate {coordinate}, {where}). Longer training "
        "can help.",
        facet=j,
        details={"coordinate": coordinate, "where": where, "standard_deviation": spread.tolist()},
    )


def _check_correlation(facet: FacetData, j: int) -> Check:
    pairs = list(combinations(range(facet.residuals.shape[1]), 2))
    value, p_value, (a, b) = _correlate(facet.residuals, facet.residuals, pairs)
    return Check(
        question=CORRELATION,
        value=value,
        p_value=p_value,
        advice=f"Coordinates {a} and {b} of z depend on each other, which the encoder does not represent: a posterior "
        f"with full covariance or a flow can represent it.",
        facet=j,
        details={"coordinates": [a, b]},
    )


def _check_between(data: CheckData) -> Check:
    found = []
    for (i, first), (j, second) in combinations(enumerate(data.facets), 2):
        pairs = [(a, b) for a in range(first.residuals.shape[1]) for b in range(second.residuals.shape[1])]
        found.append((*_correlate(first.residuals, second.residuals, pairs)[:2], i, j))
    value, _, i, j = max(found)
    return Check(
        question=BETWEEN,
        value=value,
        p_value=bonferroni(p for _, p, *_ in found),
        advice=f"For a given item, z of facets {i} and {j} depend on each other, which the encoder does not "
        f"represent. No posterior with independent facets can: read z of single items with care.",
        details={"facets": [i, j]},
    )


def _correlate(here: Array, there: Array, pairs: list[tuple[int, int]]) -> tuple[float, float, tuple[int, int]]:
    first, second = ([pair[i] for pair in pairs] for i in (0, 1))
    products = here[:, first] * there[:, second]
    scales = (here[:, first] ** 2).mean(0) ** 0.5 * (there[:, second] ** 2).mean(0) ** 0.5
    correlation = np.abs(products.mean(0)) / np.maximum(scales, 1e-12)
    return float(correlation.max()), bonferroni(mean_p_value(products)), pairs[int(correlation.argmax())]


def _check_joint(data: CheckData) -> Check:
    ranks = data.joint_ranks
    distance, p_value = kolmogorov(ranks)
    return Check(
        question=JOINT,
        value=distance,
        p_value=bonferroni([p_value, *uniform_p_values(ranks)]),
        advice=f"The true z of an item is {'less' if ranks.mean() < 0.5 else 'more'} probable than the encoder's z: "
        "the rows for shift, width and correlation show why.",
        details={"mean_rank": float(ranks.mean())},
    )


def plot_ranks(data: CheckData, checks: Sequence[Check]) -> "Figure":
    """Plot the distribution function of the ranks minus the uniform one, a line per coordinate, with a 95 % band."""
    figure, panels = make_panels(1, len(data.facets))
    for j, (axes, facet) in enumerate(zip(panels[0], data.facets, strict=True)):
        ranks = np.sort(facet.ranks, 0)
        grid = (np.arange(len(ranks)) + 1) / len(ranks)
        band = 1.36 / np.sqrt(len(ranks))  # Kolmogorov's 95 % point
        axes.axhspan(-band, band, color=SHADE, zorder=0)
        for index, column in enumerate(ranks.T):
            style = ("-", "--", ":", "-.")[index // len(COLOURS) % 4]
            colour = COLOURS[index % len(COLOURS)]
            axes.plot(column, grid - column, style, linewidth=1.2, color=colour, label=str(index))
        axes.set_ylim(*(np.array([-1.0, 1.0]) * max(1.1 * np.abs(axes.get_ylim()).max(), 2 * band)))
        if ranks.shape[1] <= _MOST_LINES:
            axes.legend(
                frameon=False,
                fontsize=TEXT_SIZE - 2,
                ncols=6,
                title="coordinate",
                title_fontsize=TEXT_SIZE - 2,
                loc="upper center",
                bbox_to_anchor=(0.5, -0.2),
            )
        width = max(check.value for check in checks if check.facet == j and check.question is WIDTH)
        describe(axes, f"facet {j}", f"width off by a factor of {width:.2f}", "rank of the true z among the encoder's")
        axes.set_ylabel("excess over uniform (band: chance)", fontsize=TEXT_SIZE)
    return finish(figure, panels)
