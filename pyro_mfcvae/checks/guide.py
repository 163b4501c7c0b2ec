"""Is the guide good on the data? The importance weights p(x, z) / q(z | x) measure the quality of q(z | x)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pyro_mfcvae.checks.check import Check, Question, Threshold
from pyro_mfcvae.checks.figures import PANEL_SIZE, describe, draw_histogram
from pyro_mfcvae.draws.check_data import Array, CheckData, FacetData
from pyro_mfcvae.draws.p_values import ALL, MIN_MEMBERS, groups_of, positive_mean_p_value, worst_place
from pyro_mfcvae.draws.psis import K_HAT, false_flag_rate, is_untrusted, log_mean, pareto_k
from pyro_mfcvae.plots import COLOURS, SHADE, make_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_EXACT_WEIGHTS = "All weights of an item are equal, so the effect is 0. "
TAIL = Question(
    name="k-hat of q(z|x)",
    asks="Does q(z | x) cover the posterior p(z | x), tails included?",
    statistic="(f - f0) / (1 - f0); f = fraction of items with k-hat > 0.7 and an effective sample size below S/2, "
    "f0 = the expected fraction if every item's true k is 0.5",
    exact=_EXACT_WEIGHTS + "The p-value is binomial with f0; Bonferroni over clusters and over the less and the more "
    "confident half of the items of every facet.",
    blind="A mode of p(z | x) that q(z | x) never visits: the weights do not show it, but the width of q(z|x) does.",
    unit="fraction of items",
    threshold=Threshold(warn=0.05, bad=0.3, source="k-hat 0.7: Vehtari et al. 2024, section 3.2.4; fractions: ours"),
)
GAP = Question(
    name="nats lost by q(z|x)",
    asks="How much of log p(x) does q(z | x) lose?",
    statistic="mean over items of log mean w - mean log w, per latent dimension",
    exact=_EXACT_WEIGHTS + "The mean is 0 (Student's t).",
    blind="A mode that q(z | x) never visits, because the estimated evidence misses it as well.",
    unit="nats per item and dimension",
    threshold=Threshold(
        warn=0.05,
        bad=0.3,
        source="a normal q(z | x) loses 0.05 if its scale is off by a factor of 1.25, 0.125 if its mean is off by "
        "half a standard deviation, 0.32 if its scale is halved",
    ),
)
DISCREPANCY = Question(
    name="q(c|x) against p(c|x)",
    asks="Are the assignments of these items the ones that the model itself implies?",
    statistic="square root of the mean over items of sum_c (q(c|x) - a_c) (q(c|x) - b_c); a and b estimate p(c|x) by "
    "importance weights, each from one half of the draws, so that their errors are independent",
    exact="The product has mean 0; the p-value is Student's t of the mean over items.",
    blind="Items whose importance weights cannot be trusted are left out.",
    unit="distance of two probability vectors",
    threshold=Threshold(warn=0.1, bad=0.25, source="ours: the probabilities of two clusters are off by 0.07 and 0.18"),
)
RULE = Question(
    name="nats lost by the rule for q(c|x)",
    asks="Is q(c | x) the one that maximises the ELBO, for this q(z | x)?",
    statistic="mean over items of KL(q(c|x) || q*(c|x)), q* = the analytic rule",
    exact="0 for the analytic rule and for p(c|z); the p-value is Student's t of the mean over items.",
    blind="Calibration: a rule with a lower ELBO, such as VaDE's, may have better calibrated probabilities.",
    unit="nats per item",
    threshold=Threshold(
        warn=0.05, bad=np.inf, source="ours; never bad, since such a rule lowers the bound and changes no assignment"
    ),
)
_FEWEST = 30


def check_guide(data: CheckData) -> list[Check]:
    """The checks of k-hat and of the gap between evidence and ELBO, for all facets together and for each facet; and of
    q(c | x), for each facet.
    """
    num_dims = sum(facet.z.shape[-1] for facet in data.facets)
    places = [place for j, facet in enumerate(data.facets) for place in _places(facet, j)]
    means = {"evidence": float(data.evidence.mean()), "elbo": float(data.elbo.mean())}
    checks = [
        _check_tail(data.log_weights.T, places, None),
        _check_gap(data.log_weights.T, num_dims, None, means),
    ]
    for j, facet in enumerate(data.facets):
        if facet.log_weights is not None:
            checks += [
                _check_tail(facet.log_weights.T, [], j),
                _check_gap(facet.log_weights.T, facet.z.shape[-1], j, {}),
            ]
        trusted = ~data.untrusted
        if trusted.sum() >= _FEWEST and len(facet.weights) > 1:
            products = facet.discrepancy[trusted]
            checks.append(
                Check(
                    question=DISCREPANCY,
                    value=float(max(products.mean(), 0.0) ** 0.5),
                    p_value=positive_mean_p_value(products),
                    advice="The cluster probabilities of single items differ from those that the model implies. If "
                    f"probabilities matter, read weighted_assignment_{j} in posterior.nc.",
                    facet=j,
                    details={"items": int(trusted.sum())},
                )
            )
        if facet.rule_loss.any():
            checks.append(
                Check(
                    question=RULE,
                    value=float(facet.rule_loss.mean()),
                    p_value=positive_mean_p_value(facet.rule_loss),
                    advice="Another assignment rule gives a higher ELBO: use the analytic rule, which gives the "
                    "highest.",
                    facet=j,
                )
            )
    return checks


def _places(facet: FacetData, j: int) -> list[tuple[str, NDArray[np.bool_]]]:
    """Masks of the items of every cluster of facet j, and of the halves that it assigns with less and with more
    confidence.
    """
    confidence = facet.probs.max(-1)
    less = confidence < np.median(confidence)
    halves = [(f"the {word} confident half of facet {j}", mask) for word, mask in (("less", less), ("more", ~less))]
    clusters = [(f"cluster {k} of facet {j}", members) for k, (members,) in groups_of(facet.clusters)]
    return clusters + [(name, members) for name, members in halves if members.sum() >= MIN_MEMBERS]


def _check_tail(log_weights: Array, places: Sequence[tuple[str, NDArray[np.bool_]]], facet: int | None) -> Check:
    """The check of k-hat for weights (N, S): over all items, or over the place (name, mask of its items) where it is
    worst.
    """
    from scipy.stats import binom

    flagged, by_chance = is_untrusted(log_weights), false_flag_rate(log_weights.shape[1])

    def judge(members: NDArray[np.bool_]) -> tuple[float, float]:
        num, found = int(members.sum()), int(flagged[members].sum())
        p_value = float(binom.sf(found - 1, num, max(by_chance, 1e-3)))
        return max(0.0, (found / num - by_chance) / (1 - by_chance)), p_value

    found = {ALL: judge(np.ones(len(flagged), bool))} | {name: judge(members) for name, members in places}
    where, value, p_value = worst_place(found)
    return Check(
        question=TAIL,
        value=value,
        p_value=p_value,
        advice=f"For many items{'' if where == ALL else f' of {where}'}, the encoder is too sure of z, or puts z in "
        "the wrong place, so that their log p(x) comes out too low. Their clusters can still be right. Longer training "
        "can help.",
        facet=facet,
        details={
            "median_k_hat": float(np.median(pareto_k(log_weights))),
            "draws": log_weights.shape[1],
            "items": len(flagged),
            "flagged": float(flagged.mean()),
            "flagged_by_chance": by_chance,
            "where": where,
        },
    )


def _check_gap(log_weights: Array, num_dims: int, facet: int | None, details: dict[str, float]) -> Check:
    gap = log_mean(log_weights) - log_weights.mean(-1)
    return Check(
        question=GAP,
        value=max(float(gap.mean()), 0.0) / num_dims,
        p_value=positive_mean_p_value(gap),
        advice="The encoder's z are approximate, which makes the ELBO lower than log p(x). The clusters can still be "
        "right. Longer training can help.",
        facet=facet,
        details=details | {"nats": float(gap.mean()), "standard_error": float(gap.std(ddof=1) / len(gap) ** 0.5)},
    )


def plot_guide(data: CheckData, checks: Sequence[Check]) -> "Figure":
    """Plot k-hat of every item, the gap between its evidence and its ELBO, and k-hat of single facets."""
    alone = [(j, facet.log_weights) for j, facet in enumerate(data.facets) if facet.log_weights is not None]
    rows = 2 if alone else 1
    figure = make_figure(PANEL_SIZE * max(2, len(alone)), 0.9 * PANEL_SIZE * rows)
    parts = figure.subfigures(rows, 1, squeeze=False)[:, 0]
    left, right = parts[0].subplots(1, 2)
    _plot_k_hat(left, data.log_weights.T, "k-hat, all facets together")
    gap = log_mean(data.log_weights.T) - data.log_weights.mean(0)
    span = (min(float(gap.min()), 0.0), max(float(np.quantile(gap, 0.995)), 0.1))
    draw_histogram(right, gap, span, colour=COLOURS[0])
    describe(right, "what the encoder loses", f"mean {gap.mean():z.2f}", "log p(x) - ELBO of an item, nats")
    if alone:
        panels = parts[1].subplots(1, len(alone), squeeze=False)[0]
        for (j, weights), axes in zip(alone, panels, strict=True):
            _plot_k_hat(axes, weights.T, f"k-hat of facet {j} alone")
    return figure


def _plot_k_hat(axes: "Axes", log_weights: Array, title: str) -> None:
    k_hat = pareto_k(log_weights)
    finite = k_hat[np.isfinite(k_hat)]
    span = (min(-0.2, finite.min(initial=0.0)), max(1.2, finite.max(initial=0.0)))
    draw_histogram(axes, finite, span, colour=COLOURS[0])
    axes.set_xlim(*span)
    axes.axvspan(K_HAT, span[1], color=SHADE, zorder=0)
    axes.axvline(K_HAT, color=COLOURS[1], linewidth=1)
    describe(
        axes,
        title,
        f"{is_untrusted(log_weights).mean():.1%} of the items untrusted",
        "k-hat of an item (above 0.7: shaded)",
    )
