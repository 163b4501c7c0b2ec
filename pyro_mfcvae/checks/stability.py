"""Would another fit find the same clusters? Checks of redundant facets, refits to resampled items, and other seeds."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pyro_mfcvae.checks.check import Check, Question, Threshold
from pyro_mfcvae.checks.figures import describe, draw_matrix, finish, make_panels
from pyro_mfcvae.draws.check_data import Array, CheckData, FacetData
from pyro_mfcvae.draws.p_values import bonferroni, two_sided
from pyro_mfcvae.metrics import ari, redundancy
from pyro_mfcvae.plots import COLOURS, FAINT, TEXT_SIZE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REDUNDANCY = Question(
    name="redundancy of facets",
    asks="Do two facets divide the items in the same way?",
    statistic="largest adjusted mutual information of the assignments of two facets",
    exact="Facets are independent. 49 permutations of one facet's assignments, continued by a Pearson type III "
    "distribution; Bonferroni over pairs.",
    blind="Whether two facets depend on each other within clusters.",
    unit="AMI",
    threshold=Threshold(warn=0.1, bad=0.3, source="ours"),
)
REFITS = Question(
    name="refits to resampled items",
    asks="Does the model keep its groups if the items are resampled?",
    statistic="1 - mean ARI between the groups of the items and those after 5 steps of EM, from the model's own "
    "clusters, on resampled items (bootstrap)",
    exact="Refits to the items and to items that the model draws are equally stable: a normal test of the difference, "
    "whose spread is that of the refits.",
    blind="Solutions that EM does not reach from the model's solution; other seeds show these.",
    unit="1 - ARI",
    threshold=Threshold(warn=0.2, bad=0.5, source="ours"),
)
SEEDS = Question(
    name="other seeds",
    asks="Do runs with other seeds find the same clusters?",
    statistic="1 - mean ARI of the facet with its match in the other runs of the sweep",
    exact="No distribution is known, so the threshold alone decides.",
    blind="Faults that all seeds share.",
    unit="1 - ARI",
    threshold=REFITS.threshold,
)
_NUM_REFITS = 6
_NUM_STEPS = 5
_NUM_PERMUTATIONS = 49
_MOST_ITEMS = 2000  # most items in a refit


def refit(z: Array, probs: Array, groups: NDArray[np.int64], generator: np.random.Generator) -> float:
    """ARI of the groups before and after EM on a bootstrap sample of the items.

    EM starts from the responsibilities ``probs``. So the model's own clusters are refitted, as Gaussians with full
    covariances.

    Args:
        z: one draw of every item, (N, D).
        probs: q(c | x), (N, K).
        groups: the group of every cluster, (K,).
        generator: random generator of the bootstrap.
    """
    counts = generator.multinomial(len(z), np.full(len(z), 1 / len(z))).astype(float)
    z = z - z.mean(0)
    squares = (z[:, :, None] * z[:, None, :]).reshape(len(z), -1)
    responsibilities = probs
    for _ in range(_NUM_STEPS):
        responsibilities = _step(z, squares, responsibilities, counts)
    return ari(groups[probs.argmax(-1)], groups[responsibilities.argmax(-1)])


def _step(z: Array, squares: Array, responsibilities: Array, counts: Array) -> Array:
    """One step of EM with weighted items: new responsibilities (N, K).

    Args:
        z: with mean 0, (N, D).
        squares: z zᵀ of every item, (N, D²), so that densities are computed by one matrix product.
        responsibilities: the present ones, (N, K).
        counts: the items' weights, (N,).
    """
    dim = z.shape[1]
    ridge = 1e-3 * z.var(0).mean() + 1e-12
    weighted = responsibilities * counts[:, None]
    mass = weighted.sum(0) + 1e-9
    loc = weighted.T @ z / mass[:, None]
    second = (weighted.T @ squares / mass[:, None]).reshape(-1, dim, dim)
    # The pooled covariance counts like D + 1 items of each cluster, so a cluster with few items is well defined.
    covariance = second - loc[:, :, None] * loc[:, None, :]
    pooled = np.tensordot(mass, covariance, 1) / mass.sum()
    covariance = (mass[:, None, None] * covariance + (dim + 1) * pooled) / (mass + dim + 1)[:, None, None]
    covariance = covariance + ridge * np.eye(dim)
    precision = np.linalg.inv(covariance)
    linear = (precision @ loc[..., None])[..., 0]
    constant = np.log(mass) - 0.5 * (np.linalg.slogdet(covariance)[1] + (linear * loc).sum(-1))
    log_joint = z @ linear.T - 0.5 * squares @ precision.reshape(len(loc), -1).T + constant
    # With denormal numbers the products of the next step would be ten times slower.
    joint = np.exp(np.maximum(log_joint - log_joint.max(-1, keepdims=True), -500.0))
    updated: Array = joint / joint.sum(-1, keepdims=True)
    return updated


def check_stability(data: CheckData) -> list[Check]:
    """The check of redundancy over all facets; and for each facet the check of refits, and if a sweep was given, of
    other seeds.
    """
    checks = [_check_redundancy(data)] if len(data.facets) > 1 else []
    for j, facet in enumerate(data.facets):
        if facet.num_groups > 1:
            checks.append(_check_refits(facet, j))
        if data.seed_agreement is not None:
            agreement = float(data.seed_agreement[j])
            checks.append(
                Check(
                    question=SEEDS,
                    value=1 - agreement,
                    p_value=0.0,
                    advice="The seed decides which of several partitions is found: trust only what the seeds have in "
                    "common.",
                    facet=j,
                    details={"ari": agreement},
                )
            )
    return checks


def _check_redundancy(data: CheckData) -> Check:
    from pyro_mfcvae.draws.p_values import skewed_p_value

    clusters = np.stack([facet.clusters for facet in data.facets], -1)
    table = redundancy(clusters) - np.eye(len(data.facets))
    generator = np.random.default_rng(0)
    p_values = []
    for i, j in zip(*np.triu_indices(len(data.facets), 1), strict=True):
        information = [_mutual_information(clusters[:, i], clusters[:, j])]
        information += [
            _mutual_information(clusters[:, i], generator.permutation(clusters[:, j])) for _ in range(_NUM_PERMUTATIONS)
        ]
        p_values.append(skewed_p_value(information[0], np.array(information[1:])))
    return Check(
        question=REDUNDANCY,
        value=float(table.max()),
        p_value=bonferroni(p_values),
        advice="Two facets divide the items in the same way, at least in part: start the shallower one later, or with "
        "networks.options.head_init_scale=0.",
        details={"ami": (table + np.eye(len(data.facets))).tolist()},
    )


def _mutual_information(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    width = int(b.max()) + 1
    counts = np.bincount(a * width + b, minlength=(int(a.max()) + 1) * width).reshape(-1, width) / len(a)
    expected = counts.sum(1, keepdims=True) * counts.sum(0)
    some = counts > 0
    return float((counts[some] * np.log(counts[some] / expected[some])).sum())


def _check_refits(facet: FacetData, j: int) -> Check:
    generator = np.random.default_rng(j)
    num = min(len(facet.probs), len(facet.prior_z), _MOST_ITEMS)
    here, there = [], []
    for _ in range(_NUM_REFITS):
        some = generator.permutation(len(facet.probs))[:num]
        here.append(refit(facet.z[0][some], facet.probs[some], facet.groups, generator))
        some = generator.permutation(len(facet.prior_z))[:num]
        there.append(refit(facet.prior_z[some], facet.prior_probs[some], facet.groups, generator))
    spread = max(float(np.hypot(np.std(here), np.std(there)) / 2**0.5), 0.01)
    # The data are one sample of many, so the variance of one more refit is added.
    z = (np.mean(there) - np.mean(here)) / (spread * (2 + 2 / _NUM_REFITS) ** 0.5)
    return Check(
        question=REFITS,
        value=float(1 - np.mean(here)),
        p_value=float(two_sided(max(z, 0.0))),
        advice="Which groups this facet finds depends on which items it saw: take fewer clusters.",
        facet=j,
        details={"ari": here, "ari_of_simulated_items": there},
    )


def plot_stability(data: CheckData, checks: Sequence[Check]) -> "Figure":
    """Plot the ARI of refits to data and to simulated items, and the mutual information of facets."""
    refits = [check for check in checks if check.question is REFITS]
    redundant = [check for check in checks if check.question is REDUNDANCY]
    figure, panels = make_panels(1, max(1, bool(refits) + len(redundant)))
    if refits:
        axes = panels[0, 0]
        for place, check in enumerate(refits):  # a facet with a single group has no refits
            for offset, name, colour, marker in (
                (-0.1, "ari", COLOURS[0], "o"),
                (0.1, "ari_of_simulated_items", FAINT, "^"),
            ):
                found = check.details[name]
                label = {"ari": "your items", "ari_of_simulated_items": "drawn items"}[name] if place == 0 else None
                places = np.full(len(found), place + offset)
                axes.plot(places, found, marker, color=colour, markersize=5, alpha=0.7, label=label)
        axes.set_ylim(-0.05, 1.3)
        axes.set_yticks(np.linspace(0, 1, 6))
        axes.set_xlim(-0.5, len(refits) - 0.5)
        axes.set_xticks(range(len(refits)), [f"facet {check.facet}" for check in refits])
        axes.legend(frameon=False, fontsize=TEXT_SIZE, ncols=2, loc="upper center")
        describe(axes, "refits to resampled items", "", "")
        axes.set_ylabel("agreement with the model's groups (ARI)", fontsize=TEXT_SIZE)
    for check in redundant:
        draw_matrix(panels[0, -1], np.array(check.details["ami"]), "overlap of facets (AMI)", "facet", "facet")
    return finish(figure, panels)
