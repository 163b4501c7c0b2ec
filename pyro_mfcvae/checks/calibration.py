"""Are the assignments calibrated? This is checked on items that are drawn from the model, whose clusters are known."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyro_mfcvae.checks.check import Check, Question, Threshold
from pyro_mfcvae.checks.figures import describe, draw_matrix, finish, make_panels
from pyro_mfcvae.draws.check_data import CheckData
from pyro_mfcvae.draws.p_values import bonferroni, two_sided
from pyro_mfcvae.plots import COLOURS, FAINT, TEXT_SIZE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CALIBRATION = Question(
    name="calibration of q(c|x)",
    asks="Are 80 % of the assignments with a probability of 80 % right?",
    statistic="the larger of two calibration errors, that of the most probable cluster and that of all clusters "
    "(classwise), minus the mean of this number if the true clusters are redrawn from q(c | x)",
    exact="Given x, the true cluster is a draw from q(c | x). Three tests under that distribution: of the sharpness, "
    "mean q(true c) - mean sum_c q(c)² (normal); of every cluster's frequency (normal); of ten bins of confidence "
    "(normal, or Poisson where few errors are expected). Bonferroni.",
    blind="Errors on the data themselves: this check uses items that the model draws. If these look unlike the data, "
    "read the replicated statistics first.",
    unit="error of a probability",
    threshold=Threshold(
        warn=0.02, bad=0.1, source="ours: probabilities are off by 2 and by 10 percentage points on average"
    ),
)
_NUM_REDRAWN = 20
_NORMAL_VARIANCE = 9.0  # A count is taken as normally distributed if its expected value is at least this.
_NUM_BINS = 10


class Reliability(NamedTuple):
    """Statistics of items that are sorted by a probability and divided into bins of equal size, (B,) each."""

    confidence: NDArray[np.float64]
    frequency: NDArray[np.float64]
    share: NDArray[np.float64]

    @property
    def error(self) -> float:
        """Expected calibration error, sum_b share_b |frequency_b - confidence_b| (Guo et al. 2017)."""
        return float(np.sum(self.share * np.abs(self.frequency - self.confidence)))


def reliability(confidence: NDArray[Any], hits: NDArray[Any], *, num_bins: int = _NUM_BINS) -> Reliability:
    """Frequencies of an event, compared with the probabilities that were predicted for it.

    Args:
        confidence: predicted probability of the event for every item, (N,).
        hits: whether the event happened for the item, (N,).
        num_bins: B; if there are fewer items, there are fewer bins.
    """
    bins = [part for part in np.array_split(np.argsort(confidence, kind="stable"), num_bins) if len(part)]
    return Reliability(
        np.array([confidence[part].mean() for part in bins]),
        np.array([hits[part].mean() for part in bins]),
        np.array([len(part) / len(confidence) for part in bins]),
    )


def calibration_errors(probs: NDArray[Any], truths: NDArray[Any]) -> NDArray[np.float64]:
    """Two expected calibration errors, (R, 2): that of the most probable cluster, and half of the sum of the errors of
    all clusters.

    The second is the classwise error (Kull et al. 2019). The first alone misses a q(c | x) that is overconfident for
    some clusters and underconfident for others.

    Args:
        probs: q(c | x), (N, K).
        truths: R versions of the true c, (R, N).
    """
    rows, top = np.arange(len(probs)), probs.argmax(-1)
    confidence = _Bins(probs.max(-1, keepdims=True))
    classwise = _Bins(probs)
    return np.array(
        [
            [
                confidence.error(rows[top == truth], np.zeros(int(np.sum(top == truth)), np.int64)),
                classwise.error(rows, truth) / 2,
            ]
            for truth in truths
        ]
    )


class _Bins:
    """The bin of every item in each column of ``probs`` (N, K); all bins hold the same number of items."""

    def __init__(self, probs: NDArray[Any]) -> None:
        num_items, self.width = probs.shape
        edges = np.linspace(0, num_items, _NUM_BINS + 1).astype(int)[1:-1]
        by_rank = np.searchsorted(edges, np.arange(num_items), side="right")[:, None]
        self.cells = np.empty(probs.shape, np.int64)
        np.put_along_axis(self.cells, np.argsort(probs, 0, kind="stable"), np.broadcast_to(by_rank, probs.shape), 0)
        self.cells = self.cells * self.width + np.arange(self.width)
        self.held = np.bincount(self.cells.ravel(), probs.ravel(), minlength=_NUM_BINS * self.width)

    def error(self, rows: NDArray[np.int64], columns: NDArray[Any]) -> float:
        """Sum over cells of |probability - hits| / N; ``rows`` and ``columns`` are the indices of the hits."""
        hits = np.bincount(self.cells[rows, columns], minlength=len(self.held))
        return float(np.abs(self.held - hits).sum() / len(self.cells))


def calibration_p_value(probs: NDArray[Any], truth: NDArray[Any]) -> float:
    """The p-value of `CALIBRATION` for true clusters (N,). Under an exact guide they are draws from ``probs`` (N,
    K).
    """
    from scipy.stats import poisson

    chosen = np.take_along_axis(probs, truth[:, None], 1)[:, 0]
    square, cube = (probs**2).sum(-1), (probs**3).sum(-1)
    variance = float(np.maximum(cube - square**2, 0).sum())
    sharpness = float((chosen - square).sum())
    p_sharpness = float(two_sided(sharpness / variance**0.5)) if variance > 1 else 1.0
    spread = (probs * (1 - probs)).sum(0)
    usable = spread >= _NORMAL_VARIANCE
    excess = (np.bincount(truth, minlength=probs.shape[1]) - probs.sum(0))[usable] / spread[usable] ** 0.5
    p_bins = []
    confidence, misses = probs.max(-1), probs.argmax(-1) != truth
    for part in np.array_split(np.argsort(confidence, kind="stable"), _NUM_BINS):
        expected, found = float((1 - confidence[part]).sum()), int(misses[part].sum())
        variance = float((confidence[part] * (1 - confidence[part])).sum())
        if variance >= _NORMAL_VARIANCE:
            p_bins.append(float(two_sided((found - expected) / variance**0.5)))
        else:
            tails = poisson.sf(found - 1, expected + 1e-3), poisson.cdf(found, expected + 1e-3)
            p_bins.append(min(1.0, 2 * float(min(tails))))
    return bonferroni([p_sharpness, bonferroni(two_sided(excess)), bonferroni(p_bins)])


def confusion(probs: NDArray[Any], truth: NDArray[Any]) -> NDArray[np.float64]:
    """Mean q(c' | x) over the items of each true c, (K, K); rows of clusters without items are NaN."""
    onehot = np.eye(probs.shape[-1])[truth]
    with np.errstate(invalid="ignore"):
        rates: NDArray[np.float64] = (onehot.T @ probs) / onehot.sum(0)[:, None]
    return rates


def check_calibration(data: CheckData) -> list[Check]:
    """One check per facet with two clusters or more."""
    checks, generator = [], np.random.default_rng(0)
    for j, facet in enumerate(data.facets):
        probs, truth = facet.prior_probs, facet.prior_c
        if probs.shape[1] < 2:
            continue
        probs = probs / probs.sum(-1, keepdims=True)
        cumulative = probs.cumsum(-1)
        redrawn = [(generator.random((len(probs), 1)) > cumulative[:, :-1]).sum(-1) for _ in range(_NUM_REDRAWN)]
        found, *by_chance = calibration_errors(probs, np.stack([truth, *redrawn]))
        errors = np.maximum(found - np.mean(by_chance, 0), 0)
        curve = reliability(probs.max(-1), probs.argmax(-1) == truth)
        rates = confusion(probs, truth)
        np.fill_diagonal(rates, 0.0)
        worst = np.argsort(-np.nan_to_num(rates), axis=None)[:5]
        pairs = [(int(a), int(b)) for a, b in zip(*np.unravel_index(worst, rates.shape), strict=True)]
        checks.append(
            Check(
                question=CALIBRATION,
                value=float(errors.max()),
                p_value=calibration_p_value(probs, truth),
                advice=_advise(errors, float(probs.max(-1).mean()), float(np.mean(probs.argmax(-1) == truth))),
                facet=j,
                details={
                    "accuracy": float(np.mean(probs.argmax(-1) == truth)),
                    "confidence": float(probs.max(-1).mean()),
                    "top_label_error": float(errors[0]),
                    "classwise_error": float(errors[1]),
                    "curve": {name: array.tolist() for name, array in curve._asdict().items()},
                    "most_confused": [{"true": a, "taken_for": b, "rate": float(rates[a, b])} for a, b in pairs],
                },
            )
        )
    return checks


def _advise(errors: NDArray[np.float64], confidence: float, accuracy: float) -> str:
    """The advice for two calibration errors, (2,).

    Args:
        errors: the result of `calibration_errors`.
        confidence: mean probability of the most probable cluster.
        accuracy: how often that cluster is the true one.
    """
    if errors[0] < errors[1] / 2:
        how = "too high for some clusters and too low for others"
    else:
        how = f"too {'high' if confidence > accuracy else 'low'} ({confidence:.0%} on average, {accuracy:.0%} right)"
    return (
        f"In items that the model draws, cluster probabilities are {how}. Use them to find the most probable cluster, "
        "not as chances."
    )


def plot_calibration(data: CheckData, checks: Sequence[Check]) -> "Figure":
    """Plot the reliability of the most probable cluster, and below it how often clusters are confused."""
    figure, panels = make_panels(2, len(checks))
    for (above, below), check in zip(panels.T, checks, strict=True):
        curve = {name: np.array(entry) for name, entry in check.details["curve"].items()}
        above.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=":")
        above.plot(curve["confidence"], curve["frequency"], "o-", color=COLOURS[0], markersize=5)
        above.set_aspect("equal")
        numbers = f"error {check.value:.3f} beyond chance"
        describe(above, f"facet {check.facet}", numbers, "probability of the most probable cluster")
        above.set_ylabel("fraction that is right", fontsize=TEXT_SIZE)
        facet = data.facets[check.facet or 0]
        rates = confusion(facet.prior_probs, facet.prior_c)
        draw_matrix(below, rates, f"facet {check.facet}: confusion", "assigned cluster", "true cluster")
    return finish(figure, panels)
