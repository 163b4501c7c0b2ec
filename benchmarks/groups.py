"""Compare criteria for merging clusters into groups on fitted runs.

    python benchmarks/groups.py RUN …
    python benchmarks/groups.py

For every label, the script gives the number of groups that each criterion finds in the facet with the highest NMI, and
the ARI of these groups. Labels are used for scores only. A label counts if the clusters separate it with an accuracy of
0.9 or more, because otherwise no groups of these clusters can. Without runs, the script summarises the records of
benchmarks/auto.py, for the data on which the cut was chosen and for the other data.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from numpy.typing import NDArray
from provenance import provenance
from scipy.special import logsumexp

from pyro_mfcvae.atomic_io import write_json
from pyro_mfcvae.data.datasets import Dataset, load_dataset
from pyro_mfcvae.data.images import Split, as_float
from pyro_mfcvae.groups import MERGE_THRESHOLD, joint_mass, merge_clusters
from pyro_mfcvae.metrics import ari, score_facets
from pyro_mfcvae.models.mixtures import Mixture
from pyro_mfcvae.runs.folder import RunFolder

Array = NDArray[np.float64]
Partition = list[list[int]]
RESULTS = Path(__file__).parent / "results"
MOST_ITEMS = 2000
MIN_ACCURACY = 0.9  # a label counts if the clusters reach this accuracy

# The cut of our criterion was chosen on runs of these data sets, while looking at their labels.
CHOSEN_ON = {"stickfigures", "pairs", "shapes", "nrletters", "triples", "rooms-wall", "rooms-floor"}


def hard_mass(prior: Mixture, weights: Array) -> Array:
    """P(drawn from a, assigned to b) with every draw assigned to its most probable cluster."""
    with torch.no_grad():
        z = prior.components().sample((4000,))
        best = (prior.log_prob(z) + prior.log_weights()).argmax(-1).numpy()
    size = len(weights)
    rates = np.stack([np.bincount(best[:, k], minlength=size) for k in range(size)]) / len(best)
    return rates * weights[:, None]


def merge_moments(sizes: list[Any], means: list[Any], covariances: list[Any], a: int, b: int) -> None:
    """Replace two Gaussians by one with their common moments, in place."""
    total = sizes[a] + sizes[b]
    mean = (sizes[a] * means[a] + sizes[b] * means[b]) / total
    parts = [sizes[k] * (covariances[k] + np.outer(means[k] - mean, means[k] - mean)) for k in (a, b)]
    sizes[a], means[a], covariances[a] = total, mean, sum(parts) / total
    del sizes[b], means[b], covariances[b]


def bhattacharyya(sizes: list[Any], means: list[Any], covariances: list[Any], a: int, b: int) -> float:
    """exp(-distance) of two Gaussians (Hennig 2010, section 4.2; his cut is 0.1)."""
    pooled, apart = (covariances[a] + covariances[b]) / 2, means[a] - means[b]
    logdets = [np.linalg.slogdet(matrix)[1] for matrix in (pooled, covariances[a], covariances[b])]
    distance = apart @ np.linalg.solve(pooled, apart) / 8 + (logdets[0] - (logdets[1] + logdets[2]) / 2) / 2
    return float(np.exp(-distance))


def ridgeline(sizes: list[Any], means: list[Any], covariances: list[Any], a: int, b: int) -> float:
    """Smallest density between two Gaussians, divided by their lower peak, on the ridgeline (Ray and Lindsay 2005; cut
    0.2).
    """
    precisions = [np.linalg.inv(covariances[k]) for k in (a, b)]
    logs = []
    for share in np.linspace(0, 1, 41):
        p, q = (1 - share) * precisions[0], share * precisions[1]
        x = np.linalg.solve(p + q, p @ means[a] + q @ means[b])
        terms = []
        for k, precision in zip((a, b), precisions, strict=True):
            logdet = np.linalg.slogdet(precision)[1]
            terms.append(np.log(sizes[k]) + (logdet - (x - means[k]) @ precision @ (x - means[k])) / 2)
        logs.append(logsumexp(terms))
    low = int(np.argmin(logs))
    if low in (0, len(logs) - 1):
        return 1.0  # one peak
    return float(np.exp(logs[low] - min(max(logs[:low]), max(logs[low:]))))


def by_moments(overlap: Callable[..., float], cut: float, use: Array, means: Array, covariances: Array) -> Partition:
    """Merge the pair of Gaussians with the largest overlap, until this overlap falls below the cut."""
    sizes, centres, spreads = list(use), list(means), list(covariances)
    names = [[k] for k in range(len(use))]
    while len(names) > 1:
        pairs = [
            (overlap(sizes, centres, spreads, a, b), a, b) for a in range(len(names)) for b in range(a + 1, len(names))
        ]
        largest, a, b = max(pairs)
        if largest < cut:
            break
        merge_moments(sizes, centres, spreads, a, b)
        names[a] += names.pop(b)
    return names


def by_entropy(probs: Array) -> Partition:
    """Merge the clusters that lower the entropy of q(c|x) most; stop at the elbow of two lines (Baudry et al. 2010)."""

    def entropy(p: Array) -> Array:
        values: Array = -(p * np.log(np.maximum(p, 1e-30)))
        return values

    names = [[k] for k in range(probs.shape[1])]
    partitions, drops = [[list(name) for name in names]], []
    while len(names) > 1:
        own = entropy(probs).sum(0)
        gains = [
            (own[a] + own[b] - entropy(probs[:, a] + probs[:, b]).sum(), a, b)
            for a in range(len(names))
            for b in range(a + 1, len(names))
        ]
        drop, a, b = max(gains)
        drops.append(drop)
        merged = probs[:, a] + probs[:, b]
        probs = np.delete(probs, b, 1)
        probs[:, a] = merged
        names[a] += names.pop(b)
        partitions.append([list(name) for name in names])
    left = np.append(np.cumsum(drops[::-1])[::-1], 0.0)
    counts = np.arange(len(left), 0, -1)

    def misfit(elbow: int) -> float:
        lines = (slice(0, elbow + 1), slice(elbow, None))
        fits = [np.polyval(np.polyfit(counts[part], left[part], 1), counts[part]) - left[part] for part in lines]
        return float(sum((fit**2).sum() for fit in fits))

    return partitions[min(range(1, len(counts) - 1), key=misfit)] if len(counts) > 2 else partitions[0]


def members(mass: Array, cut: float, *, gaps: bool) -> Partition:
    """The groups of DEMP. Without gaps, merging stops when all later overlaps are below the cut."""
    tree = merge_clusters(mass, threshold=cut)
    stop = max((n + 1 for n, merge in enumerate(tree.merges) if merge.overlap >= cut), default=0)
    num_groups = tree.num_groups if gaps else len(tree.merges) + 1 - stop
    return [[int(k) for k in group] for group in tree.members(num_groups)]


def partitions(prior: Mixture, probs: Array) -> dict[str, Partition]:
    """The groups of every criterion, as lists of clusters in use; ``probs`` is q(c|x) of the training items, (N, K)."""
    size = probs.shape[1]
    use = np.bincount(probs.argmax(1), minlength=size) / len(probs)
    kept = np.flatnonzero(use >= 0.1 / size)
    inside = np.ix_(kept, kept)
    with torch.no_grad():
        components = prior.components()
        covariances = getattr(components, "covariance_matrix", None)
        if covariances is None:
            covariances = torch.diag_embed(components.variance)
        means, spreads = components.mean.double().numpy()[kept], covariances.double().numpy()[kept]
    shared = joint_mass(prior, weights=torch.from_numpy(use))[inside]
    masses = {
        "DEMP, 0.04 and gaps (ours)": (shared, MERGE_THRESHOLD, True),
        "DEMP, 0.04": (shared, MERGE_THRESHOLD, False),
        "DEMP, 0.025": (shared, 0.025, False),
        "DEMP, most probable": (hard_mass(prior, use)[inside], 0.025, False),
        "DEMP, q(c|x) of items": ((probs.T @ probs / len(probs))[inside], 0.035, False),
    }
    found = {name: members(mass, cut, gaps=gaps) for name, (mass, cut, gaps) in masses.items()}
    found["Bhattacharyya"] = by_moments(bhattacharyya, 0.1, use[kept], means, spreads)
    found["ridgeline"] = by_moments(ridgeline, 0.2, use[kept], means, spreads)
    found["entropy"] = by_entropy(probs[:, kept])
    return {name: [[int(kept[k]) for k in group] for group in groups] for name, groups in found.items()}


def label_of(groups: Partition, size: int) -> NDArray[np.int64]:
    """The group of every cluster, (K,); clusters that are not in use are in group 0."""
    labels = np.zeros(size, np.int64)
    for g, members in enumerate(groups):
        labels[members] = g
    return labels


def judge(path: Path, *, data: Dataset | None = None) -> list[dict[str, Any]]:
    """One row per label and criterion for a run; with None the data are read again."""
    run = RunFolder.open(path)
    pair, config = run.load_pair(), run.read_config()
    pair.eval()
    if data is None:
        data = load_dataset(config.data.source, seed=config.seed, size=config.data.size, fit=config.data.fit)

    def assign(split: Split) -> list[Array]:
        parts = [pair.assign(as_float(x)) for x in split.images[:MOST_ITEMS].split(500)]
        return [torch.cat(facet).double().numpy() for facet in zip(*parts, strict=True)]

    with torch.no_grad():
        train, test = assign(data.train), assign(data.test)
    labels = {name: values[:MOST_ITEMS].numpy() for name, values in data.test.labels.items()}
    clusters = np.stack([probs.argmax(1) for probs in test], 1)
    scores = score_facets(clusters, labels, num_clusters=[probs.shape[1] for probs in test])
    best = scores.best_facets()
    rows = []
    for name, j in best.items():
        for criterion, groups in partitions(pair.priors[j], train[j]).items():
            found = label_of(groups, train[j].shape[1])[clusters[:, j]]
            true = len(np.unique(labels[name][labels[name] >= 0]))
            rows.append(
                {
                    "run": path.name,
                    "label": name,
                    "accuracy": round(float(scores.accuracy[name][j]), 3),
                    "criterion": criterion,
                    "groups": len(groups),
                    "true": true,
                    "ari": round(ari(found, labels[name]), 3),
                }
            )
    return rows


def summarise(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """For every criterion, print how often the number of groups is right, and the mean ARI, over labels that the
    clusters separate.
    """
    summary, rows = {}, [row for row in rows if row["accuracy"] >= MIN_ACCURACY]
    for name in dict.fromkeys(row["criterion"] for row in rows):
        mine = [row for row in rows if row["criterion"] == name]
        right = sum(row["groups"] == row["true"] for row in mine)
        mean = round(float(np.mean([row["ari"] for row in mine])), 3)
        summary[name] = {"right": right, "of": len(mine), "mean_ari": mean}
        print(f"{name}: number right in {right} of {len(mine)}, mean ARI {mean}")
    return summary


def main(runs: Annotated[tuple[Path, ...], tyro.conf.Positional] = ()) -> None:
    """Compare the criteria on finished runs, or on the records of benchmarks/auto.py."""
    found: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
    for run in runs:
        found[False] += judge(run)
    for path in sorted(RESULTS.glob("auto-*.json")) if not runs else ():
        record = json.loads(path.read_text())
        for run_row in record["rows"]:
            named = {"run": f"{record['data']}-{run_row['seed']}"}
            for row in run_row.get("criteria", ()):
                if scores := run_row["clusters"].get(row["label"]):
                    found[record["data"] in CHOSEN_ON].append({**row, **named, "accuracy": scores["accuracy"]})
    summary = {}
    for seen, name in ((True, "data that the cut was chosen on"), (False, "other data")):
        if found[seen]:
            print(name)
            summary[name] = summarise(found[seen])
    write_json(RESULTS / "groups.json", {**provenance(), "summary": summary, "rows": found[True] + found[False]})


if __name__ == "__main__":
    tyro.cli(main)
