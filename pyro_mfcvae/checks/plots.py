"""A picture per kind of check, from ArviZ data and the checks that were made of it."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pyro_mfcvae.checks.arviz_data import num_facets, pareto_k, values
from pyro_mfcvae.checks.calibration import confusion
from pyro_mfcvae.checks.check import Check
from pyro_mfcvae.checks.guide_quality import K_HAT
from pyro_mfcvae.plots import COLOURS, FAINT, INK, SHADE, TEXT_SIZE, TITLE_SIZE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SIZE = 3.4  # of a panel, in inches
_POINTS = 1000  # of a cloud
_MOST_LINES = 12  # that a legend names


def plot_predictions(data: Any, checks: Sequence[Check]) -> "Figure":
    """Every statistic of data and replications; below, how far off every cluster is."""
    found = [check for check in checks if check.name.startswith("replicated ")]
    facets = range(num_facets(data))
    figure, panels = _panels(2, max(len(found), len(facets)))
    for axes, check in zip(panels[0], found, strict=False):
        name = check.name.removeprefix("replicated ")
        here, there = (values(data, group, name).ravel() for group in ("observed_data", "posterior_predictive"))
        low, high = np.quantile(np.concatenate([np.quantile(a, [0.002, 0.998]) for a in (here, there)]), [0, 1])
        for array, label, colour in ((here, "data", INK), (there, "replications", COLOURS[0])):
            _histogram(axes, array, (low, high), label=label, colour=colour)
        _describe(axes, name, f"p = {check.details['p_value']:.2f}", "value per item")
        axes.legend(frameon=False, fontsize=TEXT_SIZE)
    for j, axes in zip(facets, panels[1], strict=False):
        for index, check in enumerate(found):
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
        _describe(axes, f"facet {j}, by cluster", "standard deviations off", "cluster")
    lines = panels[1, 0].get_legend_handles_labels()  # below the panels: inside them it would lie on some cluster
    figure.legend(*lines, loc="outside lower center", ncols=min(len(found), 6), frameon=False, fontsize=TEXT_SIZE)
    return _finish(figure, panels)


def plot_guide(data: Any, checks: Sequence[Check]) -> "Figure":
    """k-hat of every item, what q(z | x) gives away of its evidence, and k-hat of single facets."""
    log_weights = values(data, "sample_stats", "log_weight").T
    alone = [check.facet for check in checks if check.name == "k-hat of q(z_j|x)"]
    figure, panels = _panels(2 if alone else 1, max(2, len(alone)))
    _k_hat(panels[0, 0], pareto_k(log_weights), "k-hat of q(z|x)")
    axes = panels[0, 1]
    gap = values(data, "log_likelihood", "x") - log_weights.mean(-1)
    _histogram(axes, gap, (min(gap.min(), 0.0), max(np.quantile(gap, 0.995), 0.1)), colour=COLOURS[0])
    _describe(axes, "evidence minus ELBO", f"mean {gap.mean():z.2f}", "nats, one per item")
    for j, axes in zip(alone, panels[-1], strict=False):
        _k_hat(
            axes, pareto_k(values(data, "sample_stats", f"log_weight_{j}").T), f"facet {j} alone: k-hat of q(z_{j}|x)"
        )
    return _finish(figure, panels)


def plot_calibration(data: Any, checks: Sequence[Check]) -> "Figure":
    """Reliability of the most probable cluster; below, what clusters are taken for one another."""
    found = [check for check in checks if check.name == "calibration of q(c|x)"]
    figure, panels = _panels(2, len(found))
    for (above, below), check in zip(panels.T, found, strict=True):
        curve = {name: np.array(entry) for name, entry in check.details["curve"].items()}
        above.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=":")
        above.plot(curve["confidence"], curve["frequency"], "o-", color=COLOURS[0], markersize=5)
        above.set_aspect("equal")
        numbers = f"error {check.value:.3f}, of the most probable {check.details['expected_calibration_error']:.3f}"
        _describe(above, f"facet {check.facet}", numbers, "probability of the most probable cluster")
        above.set_ylabel("how often it is right", fontsize=TEXT_SIZE)
        probs = values(data, "sample_stats_prior", f"assignment_{check.facet}")
        rates = confusion(probs, values(data, "prior", f"c_{check.facet}").astype(int))
        _matrix(below, rates, f"facet {check.facet}: mean q(c|x) by true cluster", "cluster c", "true cluster")
    return _finish(figure, panels)


def plot_ranks(data: Any, checks: Sequence[Check]) -> "Figure":
    """Distribution function of the ranks minus the uniform one, a line per coordinate, with the 95 % band of chance."""
    found = [check for check in checks if check.name == "ranks of the true z"]
    figure, panels = _panels(1, len(found))
    for axes, check in zip(panels[0], found, strict=True):
        ranks = np.sort(values(data, "sample_stats_prior", f"rank_{check.facet}"), 0)
        grid = (np.arange(len(ranks)) + 1) / len(ranks)
        band = 1.36 / np.sqrt(len(ranks))  # Kolmogorov's 95 % point
        axes.axhspan(-band, band, color=SHADE, zorder=0)
        for index, column in enumerate(ranks.T):
            style = ("-", "--", ":", "-.")[index // len(COLOURS) % 4]
            axes.plot(
                column, grid - column, style, linewidth=1.2, color=COLOURS[index % len(COLOURS)], label=str(index)
            )
        if ranks.shape[1] <= _MOST_LINES:
            axes.legend(
                edgecolor="none", fontsize=TEXT_SIZE - 2, ncols=4, title="coordinate", title_fontsize=TEXT_SIZE - 2
            )
        _describe(axes, f"facet {check.facet}", f"largest distance {check.value:.3f}", "rank of the true z in q(z|x)")
        axes.set_ylabel("excess over uniform (band: chance)", fontsize=TEXT_SIZE)
    return _finish(figure, panels)


def plot_aggregate(data: Any, checks: Sequence[Check]) -> "Figure":
    """Weights and use of the clusters; below, z of the prior and of the data along the prior's two widest axes."""
    facets = range(num_facets(data))
    figure, panels = _panels(2, len(facets))
    for j, (above, below) in enumerate(panels.T):
        weights = values(data, "sample_stats_prior", f"weight_{j}")
        order = np.argsort(-weights)
        use = values(data, "sample_stats", f"assignment_{j}").mean(0)
        above.bar(range(len(order)), weights[order], color=SHADE, edgecolor=FAINT, label="weight")
        above.plot(range(len(order)), use[order], "o", color=COLOURS[0], markersize=4, label="use")
        above.set_ylim(0, 1.3 * float(max(weights.max(), use.max())))
        above.legend(frameon=False, fontsize=TEXT_SIZE, ncols=2, loc="upper right")
        _describe(above, f"facet {j}", "share of items", "rank of the cluster by weight")
        prior, z = values(data, "prior", f"z_{j}"), values(data, "posterior", f"z_{j}")[0]
        clouds = ((prior, "prior", FAINT), (z, "data", COLOURS[0]))
        if prior.shape[-1] == 1:
            span = (float(min(prior.min(), z.min())), float(max(prior.max(), z.max())))
            for points, label, colour in clouds:
                _histogram(below, points[:, 0], span, label=label, colour=colour)
        else:
            centre = prior.mean(0)
            plane = np.linalg.svd(prior - centre, full_matrices=False)[2][:2].T
            for points, label, colour in clouds:
                flat = (points[:_POINTS] - centre) @ plane
                below.plot(*flat.T, ".", color=colour, markersize=3, alpha=0.6, label=label)
        below.legend(frameon=False, fontsize=TEXT_SIZE, markerscale=3)
        _describe(below, f"facet {j}: z of prior and data", "", "along the prior's widest axis")
    return _finish(figure, panels)


def plot_stability(data: Any, checks: Sequence[Check]) -> "Figure":
    """Adjusted mutual information of the facets, and how far any two clusters overlap."""
    facets = range(num_facets(data))
    figure, panels = _panels(1, len(facets) + 1)
    for check in checks:
        if check.name == "redundancy of facets":
            _matrix(panels[0, -1], np.array(check.details["ami"]), "AMI of two facets", "facet", "facet")
    for j in facets:
        overlap = values(data, "sample_stats_prior", f"overlap_{j}")
        _matrix(panels[0, j], overlap + overlap.T, f"facet {j}: overlap of clusters", "cluster", "cluster")
    return _finish(figure, panels)


def plot_evidence(data: Any, checks: Sequence[Check]) -> "Figure":
    """log p(x) of the items, of training items, and of the model's own."""
    figure, panels = _panels(1, 1, width=2 * _SIZE)
    sets = [(values(data, "log_likelihood", "x"), "these items", COLOURS[0])]
    if "x_reference" in data["log_likelihood"]:
        sets.append((values(data, "log_likelihood", "x_reference"), "training items", INK))
    own = values(data, "sample_stats_prior", "log_evidence")
    sets.append((own[np.isfinite(own)], "drawn by the model", COLOURS[1]))
    span = (min(float(array.min()) for array, *_ in sets), max(float(array.max()) for array, *_ in sets))
    for array, label, colour in sets:
        _histogram(panels[0, 0], array, span, label=label, colour=colour)
    panels[0, 0].legend(frameon=False, fontsize=TEXT_SIZE)
    _describe(panels[0, 0], "evidence", "", "log p(x), nats, one per item")
    return _finish(figure, panels)


FIGURES: dict[str, Callable[[Any, Sequence[Check]], "Figure"]] = {
    "predictions": plot_predictions,
    "guide": plot_guide,
    "calibration": plot_calibration,
    "ranks": plot_ranks,
    "aggregate": plot_aggregate,
    "stability": plot_stability,
    "evidence": plot_evidence,
}


def _panels(rows: int, columns: int, *, width: float = _SIZE) -> tuple["Figure", NDArray[Any]]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width * columns, 0.9 * _SIZE * rows), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def _histogram(
    axes: "Axes", array: NDArray[Any], span: tuple[float, float], *, colour: str, label: str | None = None
) -> None:
    inside = array[(array >= span[0]) & (array <= span[1])]
    if inside.size:
        axes.hist(inside, bins=40, range=span, density=True, histtype="step", linewidth=1.6, color=colour, label=label)
    axes.set_yticks([])


def _k_hat(axes: "Axes", k_hat: NDArray[Any], title: str) -> None:
    finite = k_hat[np.isfinite(k_hat)]
    _histogram(axes, finite, (min(-0.2, finite.min(initial=0.0)), max(1.2, finite.max(initial=0.0))), colour=COLOURS[0])
    axes.axvspan(K_HAT, axes.get_xlim()[1], color=SHADE, zorder=0)
    axes.axvline(K_HAT, color=COLOURS[1], linewidth=1)
    _describe(axes, title, f"{1 - np.mean(k_hat <= K_HAT):.1%} above 0.7 (shaded)", "k-hat, one per item")


def _matrix(axes: "Axes", rates: NDArray[Any], title: str, across: str, down: str) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.imshow(rates, vmin=0, vmax=1, cmap="Blues")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    if len(rates) <= 5:
        for (row, column), rate in np.ndenumerate(rates):
            ink = "white" if rate > 0.6 else INK
            axes.text(column, row, f"{rate:.2f}", ha="center", va="center", fontsize=TEXT_SIZE, color=ink)
        axes.set_xticks(range(len(rates)))
        axes.set_yticks(range(len(rates)))
    _describe(axes, title, "", across)
    axes.set_ylabel(down, fontsize=TEXT_SIZE)


def _describe(axes: "Axes", title: str, numbers: str, across: str) -> None:
    from matplotlib.ticker import MaxNLocator

    text = f"{title}\n{numbers}" if numbers else title
    axes.set_title(text, loc="left", fontsize=TITLE_SIZE - 1, color=INK)
    axes.set_xlabel(across, fontsize=TEXT_SIZE)
    axes.tick_params(labelsize=TEXT_SIZE)
    if across.startswith("cluster"):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.spines[["top", "right"]].set_visible(False)


def _finish(figure: "Figure", panels: NDArray[Any]) -> "Figure":
    """Panels that nothing was drawn in go."""
    for axes in panels.flat:
        if not axes.has_data():
            axes.set_axis_off()
    return figure
