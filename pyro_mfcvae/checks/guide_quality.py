"""Is the guide good? What the importance weights p(x, z) / q(z | x) say of q(z | x), on the data themselves."""

from typing import Any

import numpy as np

from pyro_mfcvae.checks.arviz_data import num_facets, pareto_k, values
from pyro_mfcvae.checks.check import Check, Threshold

K_HAT = 0.7
_FEWEST = 30  # items with trusted weights, for a comparison with them

SHARE = Threshold(warn=0.05, bad=0.3, source="k-hat 0.7: Vehtari et al. 2024, Yao et al. 2018; shares of items: ours")
GAP = Threshold(
    warn=0.05,
    bad=0.3,
    source="ours: a guide that is exact but for scales half as wide loses 0.32 nats per dimension",
)
DISTANCE = Threshold(warn=0.1, bad=0.25, source="ours: total variation; 64 draws alone make some hundredths of it")


def check_guide(data: Any) -> list[Check]:
    """k-hat of all facets together and of each alone, the gap between evidence and ELBO, q(c | x) against p(c | x)."""
    log_weights = values(data, "sample_stats", "log_weight").T
    evidence, elbo = values(data, "log_likelihood", "x"), values(data, "sample_stats", "elbo")
    k_hat = pareto_k(log_weights)
    facets = range(num_facets(data))
    num_dims = sum(data["posterior"].sizes[f"z_{j}_dim"] for j in facets)
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
    for j in facets:
        if f"log_weight_{j}" in data["sample_stats"]:
            alone = pareto_k(values(data, "sample_stats", f"log_weight_{j}").T)
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
    for j in facets if trusted.sum() >= _FEWEST else ():
        here, there = (
            values(data, "sample_stats", f"{name}_{j}")[trusted] for name in ("assignment", "weighted_assignment")
        )
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
