"""Is the guide good? What the importance weights p(x, z) / q(z | x) say of q(z | x), on the data themselves."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pyro_mfcvae.checks.check import Check, Threshold
from pyro_mfcvae.checks.figures import describe, draw_histogram, finish, make_panels
from pyro_mfcvae.draws.arviz_data import pareto_k
from pyro_mfcvae.draws.check_data import CheckData
from pyro_mfcvae.plots import COLOURS, SHADE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

K_HAT = 0.7
_FEWEST = 30  # items with trusted weights, for a comparison with them

SHARE = Threshold(warn=0.05, bad=0.3, source="k-hat 0.7: Vehtari et al. 2024, Yao et al. 2018; shares of items: ours")
GAP = Threshold(
    warn=0.05,
    bad=0.3,
    source="ours: a guide that is exact but for scales half as wide loses 0.32 nats per dimension",
)
DISTANCE = Threshold(warn=0.1, bad=0.25, source="ours: total variation; 64 draws alone make some hundredths of it")


def check_guide(data: CheckData) -> list[Check]:
    """k-hat of all facets together and of each alone, the gap between evidence and ELBO, q(c | x) against p(c | x)."""
    log_weights, evidence, elbo = data.log_weights.T, data.evidence, data.elbo
    k_hat = pareto_k(log_weights)
    num_dims = sum(facet.z.shape[-1] for facet in data.facets)
    gap = (evidence - log_weights.mean(-1)).astype(float)
    trusted = k_hat <= K_HAT  # a k-hat that could not be found is not
    checks = [
        Check(
            name="k-hat of the guide",
            asks="Does q(z | x) cover the posterior p(z | x), tails and all?",
            value=float(np.mean(~trusted)),
            unit="share of items with k-hat > 0.7",
            threshold=SHARE,
            advice="Of those items q(z | x) is too narrow or misplaced somewhere, their evidence cannot be trusted. "
            "Train longer, widen the encoder, or take a richer guide.",
            details={
                "median": float(np.median(k_hat)),
                "draws": log_weights.shape[1],
                # Below this k-hat so few draws suffice (Vehtari et al. 2024, equation 9).
                "k_hat_for_so_many_draws": min(1 - 1 / np.log10(log_weights.shape[1]), K_HAT),
            },
        ),
        Check(
            name="evidence above the ELBO",
            asks="How much of log p(x) does q(z | x) give away, the clusters summed out?",
            value=float(gap.mean()) / num_dims,
            unit="nats per item and latent dimension",
            threshold=GAP,
            advice="The ranks of the true z tell in which facet, and how: train longer, or take a richer guide.",
            details={
                "evidence": float(evidence.mean()),
                "evidence_standard_error": float(evidence.std(ddof=1) / np.sqrt(len(evidence))),
                "elbo": float(elbo.mean()),
                "given_away_by_the_rule": float(log_weights.mean() - elbo.mean()),  # q(c | x) in place of p(c | z)
                "gap": float(gap.mean()),
                "gap_standard_error": float(gap.std(ddof=1) / np.sqrt(len(gap))),
            },
        ),
    ]
    for j, facet in enumerate(data.facets):
        if facet.log_weights is not None:
            alone = pareto_k(facet.log_weights.T)
            checks.append(
                Check(
                    name="k-hat of q(z_j|x)",
                    asks="Does this facet's q(z_j | x) cover p(z_j | x, the other facets at their means)?",
                    value=float(np.mean(~(alone <= K_HAT))),
                    unit="share of items with k-hat > 0.7",
                    threshold=SHARE,
                    advice="Of those items this facet's q(z_j | x) is too narrow or misplaced: give it a richer "
                    "posterior or a wider encoder. Where all facets are good and k-hat of the guide is not, the facets "
                    "depend on each other a posteriori, or small faults of many dimensions add up.",
                    facet=j,
                    details={"median": float(np.median(alone)), "items": len(alone)},
                )
            )
    for j, facet in enumerate(data.facets) if trusted.sum() >= _FEWEST else ():
        here, there = facet.probs[trusted], facet.weighted_probs[trusted]
        checks.append(
            Check(
                name="q(c|x) against p(c|x)",
                asks="Are the assignments those that the model itself implies for these items?",
                value=float(np.abs(here - there).sum(-1).mean() / 2),
                unit="total variation",
                threshold=DISTANCE,
                advice="Read single assignments of this facet with care; another assignment rule may come closer.",
                facet=j,
                details={"items": int(trusted.sum())},
            )
        )
    return checks


def plot_guide(data: CheckData, checks: Sequence[Check]) -> "Figure":
    """k-hat of every item, what q(z | x) gives away of its evidence, and k-hat of single facets."""
    log_weights = data.log_weights.T
    alone = [(j, facet.log_weights) for j, facet in enumerate(data.facets) if facet.log_weights is not None]
    figure, panels = make_panels(2 if alone else 1, max(2, len(alone)))
    _plot_k_hat(panels[0, 0], pareto_k(log_weights), "k-hat of q(z|x)")
    axes = panels[0, 1]
    gap = data.evidence - log_weights.mean(-1)
    draw_histogram(axes, gap, (min(gap.min(), 0.0), max(np.quantile(gap, 0.995), 0.1)), colour=COLOURS[0])
    describe(axes, "evidence minus ELBO", f"mean {gap.mean():z.2f}", "nats, one per item")
    for (j, weights), axes in zip(alone, panels[-1], strict=False):
        _plot_k_hat(axes, pareto_k(weights.T), f"facet {j} alone: k-hat of q(z_{j}|x)")
    return finish(figure, panels)


def _plot_k_hat(axes: "Axes", k_hat: NDArray[Any], title: str) -> None:
    finite = k_hat[np.isfinite(k_hat)]
    draw_histogram(
        axes, finite, (min(-0.2, finite.min(initial=0.0)), max(1.2, finite.max(initial=0.0))), colour=COLOURS[0]
    )
    axes.axvspan(K_HAT, axes.get_xlim()[1], color=SHADE, zorder=0)
    axes.axvline(K_HAT, color=COLOURS[1], linewidth=1)
    describe(axes, title, f"{1 - np.mean(k_hat <= K_HAT):.1%} above 0.7 (shaded)", "k-hat, one per item")
