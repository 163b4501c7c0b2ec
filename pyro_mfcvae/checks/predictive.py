"""Does the model draw items like those it was shown? Posterior predictive checks on statistics of items."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pyro_mfcvae.checks.check import Check, Threshold
from pyro_mfcvae.checks.figures import describe, draw_histogram, finish, make_panels
from pyro_mfcvae.draws.check_data import CheckData
from pyro_mfcvae.plots import COLOURS, FAINT, INK, TEXT_SIZE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

THRESHOLD = Threshold(
    warn=0.1,
    bad=0.5,
    source="ours: a tenth and a half of the statistic's standard deviation over items; chance by a Bayesian p-value "
    "within 0.05 … 0.95 (Gelman, Meng and Stern 1996)",
)
_FEWEST = 20  # members for a p-value of a cluster


def bayesian_p_value(observed: NDArray[Any], replicated: NDArray[Any]) -> float:
    """P(mean of a replicated data set ≥ mean of the observed one), ties counted half.

    Args:
        observed: a statistic of every item, (N,).
        replicated: the same of its replications, (S, N).
    """
    there, here = replicated.mean(-1), observed.mean()
    return float(np.mean(there > here) + np.mean(there == here) / 2)


def check_predictions(data: CheckData) -> list[Check]:
    """One check per statistic, with p-values and shifts of every cluster of every facet among the details."""
    checks = []
    for name in data.observed:
        observed, replicated = data.observed[name].astype(float), data.replicated[name].astype(float)
        spread = float(observed.std()) or float(replicated.std()) or 1.0
        shift = float(replicated.mean() - observed.mean()) / spread
        p_value = bayesian_p_value(observed, replicated)
        by_cluster = []
        for j, facet in enumerate(data.facets):
            for k, size in zip(*np.unique(facet.clusters, return_counts=True), strict=True):
                if size >= _FEWEST:
                    members = facet.clusters == k
                    here, there = observed[members], replicated[:, members]
                    by_cluster.append(
                        {"facet": j, "cluster": int(k), "items": int(size), "p_value": bayesian_p_value(here, there)}
                        | {"shift": float(there.mean() - here.mean()) / spread}
                    )
        checks.append(
            Check(
                name=f"replicated {name}",
                asks=f"Do replicated items have the {name} of the data?",
                value=abs(shift),
                unit="standard deviations off",
                threshold=THRESHOLD,
                is_noise=0.05 <= p_value <= 0.95,
                advice=f"Replications have {'more' if shift > 0 else 'less'} of it. Change the likelihood: learn its "
                "scale, or take one for grey values. If single clusters are off, add dimensions.",
                details={"p_value": p_value, "shift": shift, "clusters": by_cluster},
            )
        )
    return checks


def plot_predictions(data: CheckData, checks: Sequence[Check]) -> "Figure":
    """Every statistic of data and replications; below, how far off every cluster is."""
    facets = range(len(data.facets))
    figure, panels = make_panels(2, max(len(checks), len(facets)))
    for axes, check in zip(panels[0], checks, strict=False):
        name = check.name.removeprefix("replicated ")
        here, there = (data.observed[name], data.replicated[name].ravel())
        low, high = np.quantile(np.concatenate([np.quantile(a, [0.002, 0.998]) for a in (here, there)]), [0, 1])
        for array, label, colour in ((here, "data", INK), (there, "replications", COLOURS[0])):
            draw_histogram(axes, array, (low, high), label=label, colour=colour)
        describe(axes, name, f"p = {check.details['p_value']:.2f}", "value per item")
        axes.legend(frameon=False, fontsize=TEXT_SIZE)
    for j, axes in zip(facets, panels[1], strict=False):
        for index, check in enumerate(checks):
            rows = [row for row in check.details["clusters"] if row["facet"] == j]
            axes.plot(
                [row["cluster"] for row in rows],
                [row["shift"] for row in rows],
                "o",
                markersize=4,
                color=COLOURS[index % len(COLOURS)],
                label=check.name.removeprefix("replicated "),
            )
        axes.axhline(0, color=FAINT, linewidth=1)
        axes.set_yscale("symlog", linthresh=1.0)
        axes.margins(y=0.1)
        describe(axes, f"facet {j}, by cluster", "standard deviations off", "cluster")
    lines = panels[1, 0].get_legend_handles_labels()  # below the panels: inside them it would lie on some cluster
    figure.legend(*lines, loc="outside lower center", ncols=min(len(checks), 6), frameon=False, fontsize=TEXT_SIZE)
    return finish(figure, panels)
