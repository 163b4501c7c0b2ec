"""Are the assignments calibrated? On items drawn from the model, whose clusters are known."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyro_mfcvae.checks.check import Check, Threshold
from pyro_mfcvae.checks.figures import describe, draw_matrix, finish, make_panels
from pyro_mfcvae.draws.check_data import CheckData
from pyro_mfcvae.plots import COLOURS, FAINT, TEXT_SIZE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

THRESHOLD = Threshold(warn=0.05, bad=0.15, source="ours; chance by 50 draws of c from q(c | x) itself, 5 % level")

_NUM_CHANCES = 50


class Reliability(NamedTuple):
    """Items sorted by a probability into bins of equal numbers, (B,) each."""

    confidence: NDArray[np.float64]
    frequency: NDArray[np.float64]
    share: NDArray[np.float64]

    @property
    def error(self) -> float:
        """Expected calibration error, sum_b share_b |frequency_b - confidence_b| (Guo et al. 2017)."""
        return float(np.sum(self.share * np.abs(self.frequency - self.confidence)))


def reliability(confidence: NDArray[Any], hits: NDArray[Any], *, num_bins: int = 10) -> Reliability:
    """How often something happens, against how probable it is held.

    Args:
        confidence: of every item, (N,).
        hits: whether it is so, (N,).
        num_bins: B; fewer where there are fewer items.
    """
    bins = [part for part in np.array_split(np.argsort(confidence, kind="stable"), num_bins) if len(part)]
    return Reliability(
        np.array([confidence[part].mean() for part in bins]),
        np.array([hits[part].mean() for part in bins]),
        np.array([len(part) / len(confidence) for part in bins]),
    )


def calibration_error(probs: NDArray[Any], truth: NDArray[Any]) -> float:
    """½ sum_c of the expected calibration errors of q(c | x) for every c (classwise: Kull et al. 2019), in [0, 1].

    That of the most probable cluster alone would miss a q(c | x) that prefers some clusters to others: it may be too
    sure of those and too modest of these, and right on average.

    Args:
        probs: q(c | x), (N, K).
        truth: the true c, (N,).
    """
    return sum(reliability(column, truth == c).error for c, column in enumerate(probs.T)) / 2


def confusion(probs: NDArray[Any], truth: NDArray[Any]) -> NDArray[np.float64]:
    """Mean q(c' | x) over the items of each true c, (K, K); rows of clusters without items are NaN."""
    num_clusters = probs.shape[-1]
    onehot = np.eye(num_clusters)[truth]
    with np.errstate(invalid="ignore"):
        rates: NDArray[np.float64] = (onehot.T @ probs) / onehot.sum(0)[:, None]
    return rates


def check_calibration(data: CheckData) -> list[Check]:
    """Expected calibration error per facet."""
    checks, generator = [], np.random.default_rng(0)
    for j, facet in enumerate(data.facets):
        probs, truth = facet.prior_probs.astype(float), facet.prior_c
        confidence, hits = probs.max(-1), probs.argmax(-1) == truth
        error, curve = calibration_error(probs, truth), reliability(confidence, hits)
        cumulative = probs.cumsum(-1) / probs.sum(-1, keepdims=True)
        by_chance = [
            calibration_error(probs, (generator.random((len(probs), 1)) > cumulative).sum(-1))
            for _ in range(_NUM_CHANCES)
        ]
        chance = float(np.quantile(by_chance, 0.95))
        rates = confusion(probs, truth)
        np.fill_diagonal(rates, 0.0)
        worst = np.argsort(-np.nan_to_num(rates), axis=None)[:5]
        pairs = [(int(a), int(b)) for a, b in zip(*np.unravel_index(worst, rates.shape), strict=True)]
        signed = float(confidence.mean() - hits.mean())
        checks.append(
            Check(
                name="calibration of q(c|x)",
                asks="Of the assignments held with 80 %, are 80 % right?",
                value=error,
                unit="classwise calibration error",
                threshold=THRESHOLD,
                is_noise=error <= chance,
                advice=f"The facet is {'over' if signed > 0 else 'under'}confident on items that the model draws: do "
                "not read its probabilities as such. If replicated items look unlike the data, mend that first: the "
                "encoder has never seen such items.",
                facet=j,
                details={
                    "accuracy": float(hits.mean()),
                    "confidence": float(confidence.mean()),
                    "expected_calibration_error": curve.error,
                    "chance": chance,
                    "curve": {name: array.tolist() for name, array in curve._asdict().items()},
                    "most_confused": [{"true": a, "taken_for": b, "rate": float(rates[a, b])} for a, b in pairs],
                },
            )
        )
    return checks


def plot_calibration(data: CheckData, checks: Sequence[Check]) -> "Figure":
    """Reliability of the most probable cluster; below, what clusters are taken for one another."""
    figure, panels = make_panels(2, len(checks))
    for (above, below), check in zip(panels.T, checks, strict=True):
        curve = {name: np.array(entry) for name, entry in check.details["curve"].items()}
        above.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=":")
        above.plot(curve["confidence"], curve["frequency"], "o-", color=COLOURS[0], markersize=5)
        above.set_aspect("equal")
        numbers = f"error {check.value:.3f}, of the most probable {check.details['expected_calibration_error']:.3f}"
        describe(above, f"facet {check.facet}", numbers, "probability of the most probable cluster")
        above.set_ylabel("how often it is right", fontsize=TEXT_SIZE)
        facet = data.facets[check.facet or 0]
        rates = confusion(facet.prior_probs, facet.prior_c)
        draw_matrix(below, rates, f"facet {check.facet}: mean q(c|x) by true cluster", "cluster c", "true cluster")
    return finish(figure, panels)
