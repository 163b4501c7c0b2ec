"""Which of several runs describes the same items best? The runs are compared by importance-weighted evidence, item by
item.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pyro_mfcvae.draws.psis import is_untrusted, log_mean, monte_carlo_error, smooth
from pyro_mfcvae.errors import InputError
from pyro_mfcvae.plots import COLOURS, FAINT, INK, TEXT_SIZE, make_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Comparison:
    """The evidence of one run, compared with that of the best run.

    Attributes:
        name: name of the run.
        rank: rank by evidence; 1 is the highest.
        evidence: mean of log p(x) per item, in nats, from Pareto-smoothed weights.
        standard_error: standard error of this mean, because the items are a sample.
        monte_carlo_error: standard error of this mean, because the number of draws per item is finite.
        difference: evidence of the best run minus this one's, per item.
        difference_standard_error: standard error of the paired difference; items that are hard for all runs do not
            increase it.
        unreliable: fraction of items whose weights cannot be trusted; the evidence of these items is too low by an
            unknown amount.
    """

    name: str
    rank: int
    evidence: float
    standard_error: float
    monte_carlo_error: float
    difference: float
    difference_standard_error: float
    unreliable: float

    def record(self) -> dict[str, Any]:
        """All fields, as values that JSON supports."""
        return asdict(self)


def smoothed_evidence(log_weights: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """log p(x) of every item, (N,), from Pareto-smoothed weights (N, S), and its `monte_carlo_error`, (N,)."""
    smoothed = smooth(log_weights)[0]
    return log_mean(smoothed), monte_carlo_error(smoothed)


def compare_evidence(log_weights: Mapping[str, NDArray[Any]]) -> list[Comparison]:
    """Rank runs from the highest evidence to the lowest, as ``arviz.compare`` ranks models by their ELPD.

    The networks' weights are fixed, so log p(x) of held-out items is their log predictive density, and no leave-one-out
    correction is needed.

    Args:
        log_weights: log p(x, z) - log q(z | x) at S draws of z, (S, N), by run; all runs have the same N items.

    Raises:
        InputError: there are fewer than two runs, the runs have different items, or weights are not finite.
    """
    if len(log_weights) < 2:
        raise InputError(f"expected two runs or more to compare, got {len(log_weights)}: add one")
    num_items = {array.shape[1] for array in log_weights.values()}
    if len(num_items) > 1:
        raise InputError(
            f"expected the same items for all runs, got {sorted(num_items)} items: use the same items for all runs"
        )
    for name, array in log_weights.items():
        if infinite := int((~np.isfinite(array)).any(0).sum()):
            raise InputError(
                f"expected finite weights, got other values for {infinite} of {array.shape[1]} items of {name}: these "
                f"items "
                f"are impossible under that run's likelihood, or the run diverged; leave the run out"
            )
    found = {name: smoothed_evidence(array.T) for name, array in log_weights.items()}
    order = sorted(found, key=lambda name: -found[name][0].mean())
    best = found[order[0]][0]
    return [
        Comparison(
            name=name,
            rank=rank,
            evidence=float(found[name][0].mean()),
            standard_error=_standard_error(found[name][0]),
            monte_carlo_error=float(np.sqrt(np.sum(found[name][1] ** 2)) / len(best)),
            difference=float((best - found[name][0]).mean()),
            difference_standard_error=_standard_error(best - found[name][0]),
            unreliable=float(is_untrusted(log_weights[name].T).mean()),
        )
        for rank, name in enumerate(order, 1)
    ]


def plot_comparison(rows: list[Comparison]) -> "Figure":
    """Plot the evidence per item with one standard error; the hollow mark below it has the standard error of the
    difference.
    """
    figure = make_figure(7, 1.2 + 0.5 * len(rows))
    axes = figure.subplots()
    for row in rows:
        axes.errorbar(row.evidence, row.rank, xerr=row.standard_error, fmt="o", color=COLOURS[0], capsize=3)
        if row.rank > 1:
            axes.errorbar(
                row.evidence,
                row.rank - 0.25,
                xerr=row.difference_standard_error,
                fmt="^",
                color=FAINT,
                markerfacecolor="white",
                capsize=3,
            )
    axes.axvline(rows[0].evidence, color=FAINT, linestyle=":", linewidth=1)
    axes.set_yticks([row.rank for row in rows], [row.name for row in rows], fontsize=TEXT_SIZE, color=INK)
    axes.set_ylim(len(rows) + 0.5, 0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel(
        "log p(x) per item, nats (dot: with its standard error; triangle: with that of the difference to the best)",
        fontsize=TEXT_SIZE,
    )
    return figure


def _standard_error(values: NDArray[Any]) -> float:
    return float(values.std(ddof=1) / np.sqrt(len(values)))
