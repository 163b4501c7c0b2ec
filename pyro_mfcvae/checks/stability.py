"""Would one find the same clusters again? Redundant facets, twin clusters, halves of the data, other seeds."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pyro_mfcvae.checks.check import Check, Threshold
from pyro_mfcvae.checks.figures import draw_matrix, finish, make_panels
from pyro_mfcvae.draws.check_data import CheckData
from pyro_mfcvae.metrics import ari, redundancy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REDUNDANCY = Threshold(warn=0.1, bad=0.3, source="ours")
TWINS = Threshold(
    warn=0.0, bad=0.5, source="ours: twins overlap by half or more; share of clusters in use that have one"
)
AGREEMENT = Threshold(warn=0.2, bad=0.5, source="ours: 1 - ARI")
_TWIN_OVERLAP = 0.5
_MOST_ITEMS = 2000  # for mixtures fitted to halves


def twins(overlap: NDArray[Any], use: NDArray[Any]) -> list[tuple[int, int, float]]:
    """Pairs of clusters in use that overlap by half or more, the closest first: suggestions to merge.

    Args:
        overlap: R, (K, K), as `posterior_draws.overlap` finds it.
        use: share of the items in each cluster, (K,); below a tenth of 1/K a cluster is not in use.
    """
    mutual = overlap + overlap.T
    used = np.flatnonzero(use >= 0.1 / len(use))
    pairs = [(int(a), int(b), float(mutual[a, b])) for a in used for b in used if a < b]
    return sorted((pair for pair in pairs if pair[2] >= _TWIN_OVERLAP), key=lambda pair: -pair[2])


def split_half_agreement(z: NDArray[Any], num_clusters: int, *, seed: int = 0) -> float:
    """ARI over all items of two mixtures of full Gaussians, each fitted to one half of ``z`` (N, D) from k-means.

    What a mixture finds in one half it should find in the other (prediction strength, Tibshirani and Walther 2005).
    """
    from sklearn.mixture import GaussianMixture

    order = np.random.default_rng(seed).permutation(len(z))[:_MOST_ITEMS]
    mixtures = (
        GaussianMixture(num_clusters, reg_covar=1e-3 * float(z.var(0).mean()) + 1e-9, random_state=seed).fit(z[half])
        for half in (order[::2], order[1::2])
    )
    return ari(*(mixture.predict(z) for mixture in mixtures))


def check_stability(data: CheckData) -> list[Check]:
    """Redundancy over all facets; per facet twins, split halves that have an item per cluster in use, and other seeds
    where a sweep was given.
    """
    import warnings

    from sklearn.exceptions import ConvergenceWarning

    table = redundancy(np.stack([facet.clusters for facet in data.facets], -1))
    checks = []
    if len(data.facets) > 1:
        checks.append(
            Check(
                name="redundancy of facets",
                asks="Do two facets sort by the same thing?",
                value=float((table - np.eye(len(data.facets))).max()),
                unit="largest AMI of two facets",
                threshold=REDUNDANCY,
                advice="Set networks.head_init_scale=0, or train the deeper facet for longer before the shallower one "
                "joins.",
                details={"ami": table.tolist()},
            )
        )
    for j, facet in enumerate(data.facets):
        use = facet.use
        in_use = int(np.sum(use >= 0.1 / len(use)))
        if in_use < 2:
            continue
        pairs = twins(facet.overlap, use)
        with_twin = {k for a, b, _ in pairs for k in (a, b)}
        checks.append(
            Check(
                name="twin clusters",
                asks="Are there clusters that are one cluster in truth?",
                value=len(with_twin) / in_use,
                unit="share of clusters with a twin",
                threshold=TWINS,
                advice="Read twins as one cluster: "
                + "; ".join(f"{a} and {b} ({overlap:.0%})" for a, b, overlap in pairs[:5])
                + ". Offer fewer clusters if there are many.",
                facet=j,
                details={"pairs": pairs, "in_use": in_use},
            )
        )
        z = facet.z.mean(0).astype(float)
        if min(len(z), _MOST_ITEMS) // 2 >= in_use:  # a mixture needs an item per component
            with warnings.catch_warnings():  # one that is still moving is a fit like another here
                warnings.simplefilter("ignore", ConvergenceWarning)
                agreement = split_half_agreement(z, in_use)
            checks.append(
                Check(
                    name="halves of the data",
                    asks="Do two halves of these items have the same clusters?",
                    value=1 - agreement,
                    unit="1 - ARI",
                    threshold=AGREEMENT,
                    advice="Which of several partitions is found is luck: offer fewer clusters, and trust what "
                    "different numbers of clusters have in common.",
                    facet=j,
                    details={"ari": agreement, "num_clusters": in_use},
                )
            )
        if data.seed_agreement is not None:
            across = float(data.seed_agreement[j])
            checks.append(
                Check(
                    name="other seeds",
                    asks="Do runs with other seeds find the same clusters?",
                    value=1 - across,
                    unit="1 - ARI",
                    threshold=AGREEMENT,
                    advice="See docs/stability.md; clusters beyond the number of values there are will differ anyway.",
                    facet=j,
                    details={"ari": across},
                )
            )
    return checks


def plot_stability(data: CheckData, checks: Sequence[Check]) -> "Figure":
    """Adjusted mutual information of the facets, and how far any two clusters overlap."""
    facets = range(len(data.facets))
    figure, panels = make_panels(1, len(facets) + 1)
    if len(facets) > 1:
        draw_matrix(panels[0, -1], np.array(checks[0].details["ami"]), "AMI of two facets", "facet", "facet")
    for j in facets:
        overlap = data.facets[j].overlap
        draw_matrix(panels[0, j], overlap + overlap.T, f"facet {j}: overlap of clusters", "cluster", "cluster")
    return finish(figure, panels)
