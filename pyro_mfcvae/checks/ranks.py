"""Variational simulation-based calibration of z: where the true z of drawn items lies within q(z | x)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pyro_mfcvae.checks.check import Check, Threshold
from pyro_mfcvae.checks.figures import describe, finish, make_panels
from pyro_mfcvae.draws.check_data import CheckData
from pyro_mfcvae.plots import COLOURS, SHADE, TEXT_SIZE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MOST_LINES = 12  # that a legend names
THRESHOLD = Threshold(
    warn=0.05,
    bad=0.1,
    source="ours: q(z | x) shifted by 1/8 and 1/4 of its standard deviation makes 0.05 and 0.1, a halved scale 0.16; "
    "chance by the Kolmogorov-Smirnov test, all coordinates together at the 5 % level",
)


def rank_distance(ranks: NDArray[Any]) -> tuple[float, float]:
    """Largest distance of the ranks' distribution function from the uniform one, and its p-value, for (P,) ranks."""
    from scipy.stats import kstest

    result = kstest(ranks, "uniform")
    return float(result.statistic), float(result.pvalue)


def asymmetry(ranks: NDArray[Any]) -> float:
    """p-value of the ranks against their mirror image (Yao et al. 2018): small where q(z | x) is biased."""
    from scipy.stats import ks_2samp

    return float(ks_2samp(ranks, 1 - ranks).pvalue)


def check_ranks(data: CheckData) -> list[Check]:
    """The worst coordinate of every facet."""
    checks = []
    for j, facet in enumerate(data.facets):
        ranks = facet.ranks.astype(float)
        distances, p_values = np.array([rank_distance(column) for column in ranks.T]).T
        worst = int(distances.argmax())
        # Of ranks that are uniform 1: more where they crowd at both ends, since q is too narrow.
        width = float(12 * np.mean((ranks[:, worst] - 0.5) ** 2))
        mean_rank = float(ranks[:, worst].mean())
        checks.append(
            Check(
                name="ranks of the true z",
                asks="Is the true z anywhere within q(z | x), as often as it should be?",
                value=float(distances.max()),
                unit="largest distance from uniform",
                threshold=THRESHOLD,
                is_noise=p_values.min() * len(p_values) > 0.05,
                advice=f"In coordinate {worst} q(z | x) is too {'narrow' if width > 1 else 'wide'}, or off to one side "
                f"(mean rank {mean_rank:.2f}). If replicated items look unlike the data, mend that first; otherwise "
                "take a richer guide or a wider encoder.",
                facet=j,
                details={
                    "coordinate": worst,
                    "distances": distances.tolist(),
                    "p_values": p_values.tolist(),
                    "asymmetry_p_values": [asymmetry(column) for column in ranks.T],
                    "width": width,
                    "mean_rank": mean_rank,
                },
            )
        )
    return checks


def plot_ranks(data: CheckData, checks: Sequence[Check]) -> "Figure":
    """Distribution function of the ranks minus the uniform one, a line per coordinate, with the 95 % band of chance."""
    figure, panels = make_panels(1, len(checks))
    for axes, check in zip(panels[0], checks, strict=True):
        ranks = np.sort(data.facets[check.facet or 0].ranks, 0)
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
        describe(axes, f"facet {check.facet}", f"largest distance {check.value:.3f}", "rank of the true z in q(z|x)")
        axes.set_ylabel("excess over uniform (band: chance)", fontsize=TEXT_SIZE)
    return finish(figure, panels)
