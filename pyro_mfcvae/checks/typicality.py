"""Are the items new to the model? Held-out evidence against that of training items, and of the model's own draws."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pyro_mfcvae.checks.check import Check, Threshold
from pyro_mfcvae.checks.figures import PANEL_SIZE, describe, draw_histogram, finish, make_panels
from pyro_mfcvae.draws.check_data import CheckData
from pyro_mfcvae.plots import COLOURS, INK, TEXT_SIZE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OVERFITTING = Threshold(
    warn=0.1, bad=0.5, source="ours, in standard deviations over items; chance by 2 standard errors"
)
OUTLIERS = Threshold(warn=0.05, bad=0.2, source="ours: 0.02 where both sets are alike")
TYPICAL = Threshold(
    warn=1.0,
    bad=3.0,
    source="ours, after the typical set of Nalisnick et al. 2019: standard deviations over the model's own items",
)


def typicality(evidence: NDArray[Any], reference: NDArray[Any]) -> NDArray[np.float64]:
    """Two-sided p-value of every item's evidence among the reference's, (N,): small for outliers either way.

    High evidence is no sign of belonging: plain images often have more of it than the data (Nalisnick et al. 2019).
    """
    below = np.searchsorted(np.sort(reference), evidence)
    rank = (below + 0.5) / (len(reference) + 1)
    return 2 * np.minimum(rank, 1 - rank)


def check_typicality(data: CheckData) -> list[Check]:
    """Overfitting and outliers, where training items were given; and whether the data are typical of the model."""
    evidence, own = data.evidence.astype(float), data.simulated_evidence.astype(float)
    checks = []
    if data.reference_evidence is not None:
        reference = data.reference_evidence.astype(float)
        gap = reference.mean() - evidence.mean()
        error = np.hypot(*(a.std(ddof=1) / np.sqrt(len(a)) for a in (evidence, reference)))
        p_values = typicality(evidence, reference)
        checks += [
            Check(
                name="overfitting",
                asks="Is the evidence of held-out items lower than that of training items?",
                value=float(max(gap, 0.0) / reference.std(ddof=1)),
                unit="standard deviations over items",
                threshold=OVERFITTING,
                is_noise=gap <= 2 * error,
                advice="Take more data, a smaller network, or fewer epochs.",
                details={"gap": float(gap), "standard_error": float(error)},
            ),
            Check(
                name="outliers",
                asks="How many items have an evidence that training items hardly ever have?",
                value=float(np.mean(p_values < 0.02)),
                unit="share with p < 0.02",
                threshold=OUTLIERS,
                advice="Look at the outlying items: their clusters mean nothing if they are of another kind.",
                details={"outlying_items": np.argsort(p_values, kind="stable")[:20].tolist()},
            ),
        ]
    if len(own) > 1:
        away = (evidence.mean() - own.mean()) / own.std(ddof=1)
        checks.append(
            Check(
                name="typical set",
                asks="Are the data what the model would draw?",
                value=float(abs(away)),
                unit="standard deviations of own items",
                threshold=TYPICAL,
                advice="The model draws items with far "
                f"{'less' if away > 0 else 'more'} evidence than the data's: the likelihood's noise is not the data's.",
                details={"evidence": float(evidence.mean()), "own_evidence": float(own.mean())},
            )
        )
    return checks


def plot_evidence(data: CheckData, checks: Sequence[Check]) -> "Figure":
    """log p(x) of the items, of training items, and of the model's own."""
    figure, panels = make_panels(1, 1, width=2 * PANEL_SIZE)
    sets = [(data.evidence, "these items", COLOURS[0])]
    if data.reference_evidence is not None:
        sets.append((data.reference_evidence, "training items", INK))
    sets.append((data.simulated_evidence, "drawn by the model", COLOURS[1]))
    span = (min(float(array.min()) for array, *_ in sets), max(float(array.max()) for array, *_ in sets))
    for array, label, colour in sets:
        draw_histogram(panels[0, 0], array, span, label=label, colour=colour)
    panels[0, 0].legend(frameon=False, fontsize=TEXT_SIZE)
    describe(panels[0, 0], "evidence", "", "log p(x), nats, one per item")
    return finish(figure, panels)
