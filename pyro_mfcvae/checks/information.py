"""Does a facet hold information about the items?

These checks measure information, active units, and the likelihood that is lost without the facet.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pyro_mfcvae.checks.check import Check, Question, Threshold
from pyro_mfcvae.checks.figures import describe, finish, make_panels
from pyro_mfcvae.draws.check_data import Array, CheckData, FacetData
from pyro_mfcvae.plots import COLOURS, FAINT, TEXT_SIZE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_NO_NULL = "The p-value tests an effect at the threshold (Student's t): it is small if the facet is certainly empty. "
LOSS = Question(
    name="items without the facet",
    asks="Does the decoder use this facet?",
    statistic="exp(-mean over items of (log p(x | z) - log p(x | z with z_j from the prior))), at most 1",
    exact=_NO_NULL + "An exact pair has an effect only if its facet is empty.",
    blind="Whether the facet describes more than noise.",
    unit="fraction of the likelihood that is left",
    threshold=Threshold(
        warn=0.7,
        bad=0.9,
        source="ours: without the facet the likelihood loses less than 0.36 nats per item (warn), less than 0.1 (bad)",
    ),
)
CLUSTERS = Question(
    name="information in the clusters",
    asks="Do the clusters separate the items?",
    statistic="exp(-I), I = H(mean q(c|x)) - mean H(q(c|x)) = I(x; c), the mutual information",
    exact=_NO_NULL + "An exact pair has an effect only if one cluster holds nearly all items.",
    blind="Whether the clusters mean anything to you.",
    unit="1 / clusters separated",
    threshold=Threshold(warn=0.9, bad=0.9, source="ours: the information of 1.1 equally large clusters"),
)
_ACTIVE = 0.01  # smallest variance of the posterior mean of an active unit (Burda, Grosse and Salakhutdinov 2016)


def check_information(data: CheckData) -> list[Check]:
    """Two checks per facet: the likelihood lost without the facet, and the information in its clusters."""
    checks = []
    for j, facet in enumerate(data.facets):
        details = describe_information(facet)
        loss = facet.loss_without
        checks.append(
            Check(
                question=LOSS,
                value=float(np.exp(-max(loss.mean(), 0.0))),
                p_value=_below_p_value(loss, -np.log(LOSS.threshold.warn)),
                advice="The facet has collapsed: the decoder draws the same items for every z of it. Do not interpret "
                "its clusters.",
                facet=j,
                details=details,
            )
        )
        if facet.probs.shape[1] > 1:
            pointwise = _pointwise_information(facet.probs)
            checks.append(
                Check(
                    question=CLUSTERS,
                    value=float(np.exp(-max(pointwise.mean(), 0.0))),
                    p_value=_below_p_value(pointwise, -np.log(CLUSTERS.threshold.warn)),
                    advice="Nearly all items are in one cluster, or every item is in all clusters with the same "
                    "probability: the facet does not divide the items.",
                    facet=j,
                )
            )
    return checks


def describe_information(facet: FacetData) -> dict[str, float]:
    """Information in nats per item, and the number of active units.

    ``information_z`` is ½ sum_d log(Var(z_d) / E[Var(z_d | x)]), which is I(x; z) if z and z | x are normal with
    independent coordinates.
    """
    total, within = facet.z.reshape(-1, facet.z.shape[-1]).var(0), facet.z.var(0).mean(0)
    ratio = np.maximum(total, 1e-12) / np.maximum(within, 1e-12)
    return {
        "information_c": float(_pointwise_information(facet.probs).mean()),
        "information_z": float(0.5 * np.log(np.maximum(ratio, 1.0)).sum()),
        "active_units": float(np.sum(facet.z.mean(0).var(0) > _ACTIVE)),
        "kl": float(facet.kl.mean()),
        "loss_without": float(facet.loss_without.mean()),
    }


def _pointwise_information(probs: Array) -> Array:
    """KL(q(c | x) || mean q(c | x)) of every item, (N,), whose mean is I(x; c)."""
    probs = np.maximum(probs, 1e-300)
    information: Array = (probs * (np.log(probs) - np.log(probs.mean(0)))).sum(-1)
    return information


def _below_p_value(values: Array, limit: float) -> float:
    """p-value of the hypothesis that the mean of values (n,) is at least ``limit``, by Student's t."""
    from scipy.special import stdtr

    error = max(float(values.std(ddof=1)) / len(values) ** 0.5, 1e-12)
    return float(stdtr(len(values) - 1, (values.mean() - limit) / error))


def plot_information(data: CheckData, checks: Sequence[Check]) -> "Figure":
    """Plot KL, information, and the likelihood lost without the facet, in nats per item, for each facet."""
    figure, panels = make_panels(1, 1, width=7.0)
    axes = panels[0, 0]
    rows = [check.details for check in checks if check.question is LOSS]
    names = {
        "kl": "KL of z",
        "information_z": "information in z",
        "information_c": "in the clusters",
        "loss_without": "lost without the facet",
    }
    for index, (name, label) in enumerate(names.items()):
        places = np.arange(len(rows)) + (index - 1.5) * 0.2
        axes.bar(places, [max(row[name], 0.0) for row in rows], width=0.18, color=COLOURS[index], label=label)
    axes.axhline(1.0, color=FAINT, linewidth=1, linestyle=":")
    axes.set_yscale("symlog", linthresh=1.0)
    axes.set_xticks(range(len(rows)), [f"facet {j}" for j in range(len(rows))])
    describe(axes, "information per facet", "", "")
    axes.set_ylabel("nats per item", fontsize=TEXT_SIZE)
    figure.legend(loc="outside lower center", ncols=4, frameon=False, fontsize=TEXT_SIZE)
    return finish(figure, panels)
