"""Are the items like those that the model draws, and like those that it was trained on?

These checks compare statistics and evidence.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pyro_mfcvae.checks.check import Check, Question, Threshold
from pyro_mfcvae.checks.figures import PANEL_SIZE, describe, draw_histogram, finish, make_panels
from pyro_mfcvae.draws.check_data import Array, CheckData
from pyro_mfcvae.draws.p_values import (
    ALL,
    MIN_MEMBERS,
    beyond_p_value,
    groups_of,
    paired_distance,
    two_sample,
    worst_place,
)
from pyro_mfcvae.plots import COLOURS, FAINT, INK, TEXT_SIZE, make_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure, SubFigure

_DISTANCES = Threshold(warn=0.1, bad=0.3, source="a normal shifted by 1/4 and 3/4 of its standard deviation")
_MOST_COLUMNS = 3  # columns of panels
_PLACES = "over all items, or over the cluster where it is largest and significant"
REPLICATED = Question(
    name="replicated statistic",
    asks="Does the statistic have the same distribution in the data and in items that the model draws from z of the "
    "data?",
    statistic="largest distance, at 19 quantiles, between the distribution functions of the statistic for the items "
    "and for one replication of each item; " + _PLACES + " (clusters by the drawn z)",
    exact="An item and its replication are independent draws from p(x | z), so they are exchangeable: sign tests, "
    "Bonferroni over quantiles and clusters.",
    blind="Differences that no statistic measures, and values of z that no data have: the check of the aggregate "
    "posterior sees these.",
    unit="distance of distributions",
    threshold=_DISTANCES,
)
TYPICAL = Question(
    name="evidence of the data",
    asks="Are the data as probable as items that the model draws?",
    statistic="largest distance between two distribution functions of log p(x), of the items and of the simulated "
    "items; log p(x) is estimated by importance weights with 16 draws; " + _PLACES,
    exact="Items and simulated items have the same distribution, whatever the guide: the two-sample "
    "Kolmogorov-Smirnov test, Bonferroni over clusters.",
    blind="Which pixels are wrong; the replicated statistics show more.",
    unit="distance of distributions",
    threshold=_DISTANCES,
)
HELD_OUT = Question(
    name="held-out half of an item",
    asks="Does half of an item predict the other half as well as it does for the model's own items?",
    statistic=TYPICAL.statistic.replace("log p(x)", "log p(x_B | x_A) per element, for random halves A and B"),
    exact=TYPICAL.exact,
    blind=TYPICAL.blind,
    unit="distance of distributions",
    threshold=_DISTANCES,
)

# The first advice is for items that are more probable than items that the model draws, the second for less probable
# ones.
_ADVICE = {
    TYPICAL.name: (
        "Your items are more probable than items that the model draws. The model may add noise that yours do not have.",
        "Your items are less probable than items that the model draws: they have something that it does not describe.",
    ),
    HELD_OUT.name: (
        "One half of an item predicts the other half better in your items than in items that the model draws. The "
        "model may add noise that yours do not have.",
        "One half of an item predicts the other half worse in your items than in items that the model draws: yours "
        "have details that it does not describe.",
    ),
}

OVERFITTING = Question(
    name="overfitting",
    asks="Is the evidence of held-out items lower than that of training items?",
    statistic="mean log p(x) of training items minus that of these items, over its standard deviation over items",
    exact="The mean difference is 0; Welch's t, one-sided.",
    blind="Whether held-out items are of another kind; the check of outliers shows this.",
    unit="standard deviations over items",
    threshold=Threshold(warn=0.1, bad=0.5, source="ours"),
)
OUTLIERS = Question(
    name="outliers",
    asks="How many items have an evidence that training items hardly ever have?",
    statistic="fraction of items whose log p(x) is below the lowest 1 % or above the highest 1 % of training items "
    "(at least one item at either end), minus the fraction that is expected",
    exact="The number of items beyond an end is beta-binomial; Bonferroni over the two ends.",
    blind="Items of another kind with the evidence of training items (Nalisnick et al. 2019).",
    unit="fraction of items",
    threshold=Threshold(warn=0.03, bad=0.15, source="ours"),
)


_MEANINGS = {
    "edge_energy": " (the difference of neighbouring pixels)",
    "stroke_width": " (the width of light strokes)",
}


def check_predictions(data: CheckData) -> list[Check]:
    """One check per statistic, one of the evidence, and one of held-out halves.

    Their details contain the distance in every cluster.
    """
    checks = []
    for name, observed in data.observed.items():
        replicated = data.replicated[name][0]
        found = {ALL: paired_distance(observed, replicated)}
        for j, facet in enumerate(data.facets):
            for k, (members,) in groups_of(facet.drawn_clusters):
                place = f"cluster {k} of facet {j}"
                found[place] = paired_distance(observed[members], replicated[members])
        shift = float(data.replicated[name].mean() - observed.mean())
        what = f"{_compare_sizes(replicated, observed)} {name.replace('_', ' ')}{_MEANINGS.get(name, '')}"
        checks.append(
            _judge(
                replace(REPLICATED, name=f"replicated {name}"),
                found,
                f"Items that the model draws have a {what} than yours, so they look unlike yours. The clusters of your "
                "items can still be right.",
                {"statistic": name, "shift": shift, "p_value": _bayesian_p_value(observed, data.replicated[name])},
            )
        )
    for question, here, there in (
        (TYPICAL, data.bound, data.simulated_bound),
        (HELD_OUT, data.held_out, data.simulated_held_out),
    ):
        found = {ALL: two_sample(here, there)}
        for j, facet in enumerate(data.facets):
            for k, (members, simulated) in groups_of(facet.clusters, facet.prior_clusters):
                found[f"cluster {k} of facet {j}"] = two_sample(here[members], there[simulated])
        means = {"data": float(here.mean()), "simulated": float(there.mean())}
        checks.append(_judge(question, found, _ADVICE[question.name][int(here.mean() < there.mean())], means))
    return checks


def _compare_sizes(replicated: Array, observed: Array) -> str:
    """Words that say how a statistic of replications (N,) differs from that of the items."""
    above = float(np.mean(replicated > observed))
    return "higher" if above > 0.6 else "lower" if above < 0.4 else "more varied or less varied"


def _bayesian_p_value(observed: Array, replicated: Array) -> float:
    """P(mean of a replicated data set ≥ mean of the observed data), where ties count half (Gelman, Meng and Stern
    1996).
    """
    there, here = replicated.mean(-1), observed.mean()
    return float(np.mean(there > here) + np.mean(there == here) / 2)


def _judge(question: Question, found: dict[str, tuple[float, float]], advice: str, details: dict[str, Any]) -> Check:
    """The check of a distance over all items, or over the cluster where it is largest and significant."""
    where, value, p_value = worst_place(found)
    clusters = {place: distance for place, (distance, _) in found.items() if place != ALL}
    return Check(
        question=question,
        value=value,
        p_value=p_value,
        advice=advice if where == ALL else f"{advice} The difference is largest for {where}.",
        details=details | {"where": where, "clusters": clusters},
    )


def typicality(evidence: NDArray[Any], reference: NDArray[Any]) -> NDArray[np.float64]:
    """Two-sided p-value of every item's evidence among the reference items, (N,). It is small if the evidence is
    unusually low or high.

    An item with a high evidence need not be like the data: simple images often have a higher evidence (Nalisnick et al.
    2019). Ties count half.
    """
    ordered = np.sort(reference)
    below = (np.searchsorted(ordered, evidence, "left") + np.searchsorted(ordered, evidence, "right")) / 2
    rank = (below + 0.5) / (len(reference) + 1)
    return 2 * np.minimum(rank, 1 - rank)


def check_overfitting(data: CheckData) -> list[Check]:
    """The checks of overfitting and outliers; an empty list if there are no training items."""
    if data.reference_evidence is None:
        return []
    evidence, reference = data.evidence, data.reference_evidence
    return [_check_gap(evidence, reference), _check_outliers(evidence, reference)]


def _check_gap(evidence: Array, reference: Array) -> Check:
    from scipy.stats import ttest_ind

    gap = float(reference.mean() - evidence.mean())
    return Check(
        question=OVERFITTING,
        value=max(gap, 0.0) / max(float(reference.std(ddof=1)), 1e-12),
        p_value=float(ttest_ind(reference, evidence, equal_var=False, alternative="greater").pvalue),
        advice="The model describes its training items better than these items: take more data, a smaller network, or "
        "fewer "
        "epochs.",
        details={"gap": gap},
    )


def _check_outliers(evidence: Array, reference: Array) -> Check:
    ordered = np.sort(reference)
    num_extreme = max(1, round(0.01 * len(ordered)))
    beyond = [int(np.sum(evidence < ordered[num_extreme - 1])), int(np.sum(evidence > ordered[-num_extreme]))]
    p_values = [beyond_p_value(num, len(evidence), num_extreme, len(ordered)) for num in beyond]
    expected = 2 * num_extreme / (len(ordered) + 1)
    order = np.argsort(typicality(evidence, reference), kind="stable")
    return Check(
        question=OUTLIERS,
        value=max(sum(beyond) / len(evidence) - expected, 0.0),
        p_value=min(1.0, 2 * min(p_values)),
        advice="Some items are unlike the training items: look at them in items.parquet, because clusters of items of "
        "another kind have no meaning.",
        details={"outlying_items": order[:20].tolist(), "below": beyond[0], "above": beyond[1]},
    )


def plot_predictions(data: CheckData, checks: Sequence[Check]) -> "Figure":
    """Plot every statistic and the evidence for data and replications, and below them the distance in every cluster."""
    rows = [[checks[i] for i in row] for row in np.array_split(range(len(checks)), -(-len(checks) // _MOST_COLUMNS))]
    figure = make_figure(PANEL_SIZE * len(rows[0]), 0.9 * PANEL_SIZE * (len(rows) + 1))
    heights = [1.0] * len(rows) + [1.1]
    *parts, below = figure.subfigures(len(heights), 1, squeeze=False, height_ratios=heights)[:, 0]
    for row, part in zip(rows, parts, strict=True):
        _plot_distributions(data, row, part)
    _plot_clusters(data, checks, below)
    return figure


def _plot_distributions(data: CheckData, checks: Sequence[Check], figure: "SubFigure") -> None:
    for axes, check in zip(figure.subplots(1, len(checks), squeeze=False)[0], checks, strict=True):
        if "statistic" in check.details:
            name = check.details["statistic"]
            sets = (data.observed[name], "your items", INK), (data.replicated[name].ravel(), "drawn again", COLOURS[0])
            across = "value of an item"
        else:
            is_bound = check.question is TYPICAL
            name = "evidence" if is_bound else "held-out half of an item"
            here, there = (data.bound, data.simulated_bound) if is_bound else (data.held_out, data.simulated_held_out)
            sets = (here, "your items", INK), (there, "drawn items", COLOURS[1])
            across = "log p(x) of an item, nats" if is_bound else "log p(second half | first half), nats per element"
        ends = np.concatenate([np.quantile(array, [0.002, 0.998]) for array, *_ in sets])
        for array, label, colour in sets:
            draw_histogram(axes, array, (float(ends.min()), float(ends.max())), label=label, colour=colour)
        describe(axes, name.replace("_", " "), f"distance {check.value:.2f}, {check.details['where']}", across)
        axes.margins(y=0.3)
        axes.legend(frameon=False, fontsize=TEXT_SIZE, loc="upper right")


def _plot_clusters(data: CheckData, checks: Sequence[Check], figure: "SubFigure") -> None:
    panels = figure.subplots(1, len(data.facets), squeeze=False)[0]
    for j, axes in enumerate(panels):
        for index, check in enumerate(checks):
            rows = [(place, d) for place, d in check.details["clusters"].items() if place.endswith(f"facet {j}")]
            clusters, distances = [int(place.split()[1]) for place, _ in rows], [d for _, d in rows]
            label = check.details.get("statistic", check.name).replace("_", " ")
            # Dots of one cluster are placed side by side, so that equal distances do not cover each other.
            places = np.array(clusters) + 0.12 * (index - (len(checks) - 1) / 2)
            axes.plot(places, distances, "o", markersize=4, color=COLOURS[index % len(COLOURS)], label=label)
        axes.axhline(_DISTANCES.warn, color=FAINT, linewidth=1, linestyle=":")
        axes.set_ylim(0, 1.05)
        describe(axes, f"facet {j}, by cluster", "", f"cluster, of {MIN_MEMBERS} items or more")
    panels[0].set_ylabel("distance of distributions", fontsize=TEXT_SIZE)
    # The legend is below the panels, because inside a panel it would cover some clusters.
    lines = panels[0].get_legend_handles_labels()
    figure.legend(*lines, loc="outside lower center", ncols=min(len(checks), 6), frameon=False, fontsize=TEXT_SIZE)


def plot_overfitting(data: CheckData, checks: Sequence[Check]) -> "Figure":
    """Plot log p(x) of the items and of training items."""
    figure, panels = make_panels(1, 1, width=2 * PANEL_SIZE)
    sets = [(data.evidence, "these items", COLOURS[0])]
    if data.reference_evidence is not None:
        sets.append((data.reference_evidence, "training items", INK))
    span = (min(float(array.min()) for array, *_ in sets), max(float(array.max()) for array, *_ in sets))
    for array, label, colour in sets:
        draw_histogram(panels[0, 0], array, span, label=label, colour=colour)
    panels[0, 0].margins(y=0.3)
    panels[0, 0].legend(frameon=False, fontsize=TEXT_SIZE)
    describe(panels[0, 0], "evidence of these items and of training items", "", "log p(x), nats, one per item")
    return finish(figure, panels)
