"""Are the assignments calibrated? On items drawn from the model, whose clusters are known."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pyro_mfcvae.inference_data import num_facets, values
from pyro_mfcvae.verdicts import Check, Threshold

THRESHOLD = Threshold(
    look=0.05, bad=0.15, source="ours; chance by 200 draws of c from q(c | x) itself, at the 5 % level"
)


class Reliability(NamedTuple):
    """Items sorted by their confidence max_c q(c | x) into bins of equal numbers, (B,) each."""

    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    share: NDArray[np.float64]

    @property
    def error(self) -> float:
        """Expected calibration error, sum_b share_b |accuracy_b - confidence_b| (Guo et al. 2017)."""
        return float(np.sum(self.share * np.abs(self.accuracy - self.confidence)))


def reliability(confidence: NDArray[Any], hits: NDArray[Any], *, num_bins: int = 10) -> Reliability:
    """How often the most probable cluster is the true one, against how probable it is held.

    Args:
        confidence: max_c q(c | x) of every item, (N,).
        hits: whether that c is the true one, (N,).
        num_bins: B; fewer where there are fewer items.
    """
    bins = [part for part in np.array_split(np.argsort(confidence, kind="stable"), num_bins) if len(part)]
    return Reliability(
        np.array([confidence[part].mean() for part in bins]),
        np.array([hits[part].mean() for part in bins]),
        np.array([len(part) / len(confidence) for part in bins]),
    )


def confusion(probs: NDArray[Any], truth: NDArray[Any]) -> NDArray[np.float64]:
    """Mean q(c' | x) over the items of each true c, (K, K); rows of clusters without items are NaN."""
    num_clusters = probs.shape[-1]
    onehot = np.eye(num_clusters)[truth]
    with np.errstate(invalid="ignore"):
        rates: NDArray[np.float64] = (onehot.T @ probs) / onehot.sum(0)[:, None]
    return rates


def check_calibration(data: Any) -> list[Check]:
    """Expected calibration error per facet."""
    checks, generator = [], np.random.default_rng(0)
    for j in range(num_facets(data)):
        probs = values(data, "sample_stats_prior", f"assignment_{j}").astype(float)
        truth = values(data, "prior", f"c_{j}").astype(int)
        confidence, hits = probs.max(-1), probs.argmax(-1) == truth
        curve = reliability(confidence, hits)
        by_chance = [reliability(confidence, generator.random(len(confidence)) < confidence).error for _ in range(200)]
        rates = confusion(probs, truth)
        np.fill_diagonal(rates, 0.0)
        worst = np.argsort(-np.nan_to_num(rates), axis=None)[:5]
        pairs = [(int(a), int(b)) for a, b in zip(*np.unravel_index(worst, rates.shape), strict=True)]
        signed = float(confidence.mean() - hits.mean())
        checks.append(
            Check(
                name="calibration of q(c|x)",
                asks="Of the assignments held with 80 %, are 80 % right?",
                value=curve.error,
                unit="expected calibration error",
                threshold=THRESHOLD,
                is_noise=curve.error <= np.quantile(by_chance, 0.95),
                advice=f"The facet is {'over' if signed > 0 else 'under'}confident on items that the model draws: do "
                "not read its probabilities as such. If replicated items look unlike the data, mend that first: the "
                "encoder has never seen such items.",
                facet=j,
                details={
                    "accuracy": float(hits.mean()),
                    "confidence": float(confidence.mean()),
                    "chance": float(np.quantile(by_chance, 0.95)),
                    "curve": {name: array.tolist() for name, array in curve._asdict().items()},
                    "most_confused": [{"true": a, "taken_for": b, "rate": float(rates[a, b])} for a, b in pairs],
                },
            )
        )
    return checks
