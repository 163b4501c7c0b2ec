"""Agreement of clusters with labels, facet by facet. Labels are used for scores only, never for training.

A negative label means unlabelled; all functions leave such items out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from pyro_mfcvae.errors import InputError


def majority_accuracy(
    clusters: ArrayLike, labels: ArrayLike, *, reference: tuple[ArrayLike, ArrayLike] | None = None
) -> float:
    """Share of items whose label is the majority label of their cluster (Falck et al. 2021, section 4), also called
    purity.

    It rises with the number of clusters, up to 1 with one item per cluster, so compare it only between equal numbers of
    clusters.

    Args:
        clusters: cluster of each item, (N,).
        labels: label of each item, (N,).
        reference: other clusters and labels, (M,) each, from which the majority labels are taken, for example those of
            the training items. Items in a cluster that is empty in the reference count as wrong.
    """
    clusters, labels = _labelled_pair(clusters, labels)
    known, majority = _majority_labels(*(_labelled_pair(*reference) if reference else (clusters, labels)))
    position = np.searchsorted(known, clusters).clip(max=len(known) - 1)
    return float(np.mean((known[position] == clusters) & (majority[position] == labels)))


def hungarian_accuracy(clusters: ArrayLike, labels: ArrayLike) -> float:
    """Share of items whose label matches their cluster, under the one-to-one matching with the highest share.

    With more clusters than labels, all items of unmatched clusters count as wrong.

    Args:
        clusters: cluster of each item, (N,).
        labels: label of each item, (N,).
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn.metrics.cluster import contingency_matrix

    clusters, labels = _labelled_pair(clusters, labels)
    counts = contingency_matrix(labels, clusters)
    return float(counts[linear_sum_assignment(counts, maximize=True)].sum() / counts.sum())


def nmi(clusters: ArrayLike, labels: ArrayLike) -> float:
    """Normalized mutual information, I(c; y) / ½ (H[c] + H[y]), in [0, 1].

    Args:
        clusters: cluster of each item, (N,).
        labels: label of each item, (N,).
    """
    from sklearn.metrics import normalized_mutual_info_score

    clusters, labels = _labelled_pair(clusters, labels)
    return float(normalized_mutual_info_score(labels, clusters))


def ari(clusters: ArrayLike, labels: ArrayLike) -> float:
    """Adjusted Rand index: agreement over pairs of items; 1 for equal partitions and 0 on average for random ones.

    Args:
        clusters: cluster of each item, (N,).
        labels: label of each item, (N,).
    """
    from sklearn.metrics import adjusted_rand_score

    clusters, labels = _labelled_pair(clusters, labels)
    return float(adjusted_rand_score(labels, clusters))


def clusters_in_use(probs_or_assignments: ArrayLike, num_clusters: int, *, min_share: float = 0.0) -> int:
    """Number of clusters with at least one item, and with at least ``min_share`` of all items.

    Args:
        probs_or_assignments: cluster of each item, (N,) integers, or q(c|x), (N, K), whose largest entry is the item's
            cluster.
        num_clusters: K, the number of clusters.
        min_share: share of all items, in [0, 1], below which a cluster is not in use.
    """
    values = np.asarray(probs_or_assignments)
    if values.ndim == 2 and values.shape[1] != num_clusters:
        raise InputError(
            f"expected probabilities with {num_clusters} columns, one per cluster, got the shape {values.shape}: "
            "pass the q(c|x) of the facet that num_clusters belongs to"
        )
    clusters = _integers("assignments", values.argmax(axis=1) if values.ndim == 2 else values, ndim=1)
    _check_range("assignments", clusters, num_clusters)
    counts = np.bincount(clusters, minlength=num_clusters)
    return int(np.sum((counts > 0) & (counts >= min_share * len(clusters))))


def redundancy(assignments: ArrayLike) -> NDArray[np.float64]:
    """Adjusted mutual information of the clusters of any two facets, (J, J): symmetric, 1 on the diagonal.

    (I(a; b) - E[I]) / (½ (H[a] + H[b]) - E[I]), where E[I] is the expectation of I for random clusters of the same
    sizes (Vinh, Epps and Bailey 2010). It is 0 on average for independent facets, whatever their numbers of clusters.
    It is 0 for a facet that puts all items into one cluster, because such a facet has no information.

    Args:
        assignments: cluster of each item in each facet, (N, J).
    """
    from sklearn.metrics import adjusted_mutual_info_score

    columns = _integers("assignments", assignments, ndim=2).T
    scores = np.array([[adjusted_mutual_info_score(a, b) for b in columns] for a in columns])
    divides = np.ptp(columns, axis=1) > 0
    return np.where(np.outer(divides, divides) | np.eye(len(columns), dtype=bool), scores, 0.0)


@dataclass(frozen=True, eq=False)
class FacetScores:
    """The agreement of every facet with every label set. Entry j of an array is about facet j.

    Args:
        num_clusters: K_j of each facet.
        accuracy: label set → majority accuracy per facet, (J,).
        hungarian: label set → Hungarian accuracy per facet, (J,).
        nmi: label set → normalized mutual information per facet, (J,).
        ari: label set → adjusted Rand index per facet, (J,).
        clusters_in_use: number of clusters with at least one item, labelled or not, per facet, (J,).
        redundancy: adjusted mutual information between facets, (J, J).
    """

    num_clusters: tuple[int, ...]
    accuracy: dict[str, NDArray[np.float64]]
    hungarian: dict[str, NDArray[np.float64]]
    nmi: dict[str, NDArray[np.float64]]
    ari: dict[str, NDArray[np.float64]]
    clusters_in_use: NDArray[np.int64]
    redundancy: NDArray[np.float64]

    def best_facets(self) -> dict[str, int]:
        """For each label set the facet that agrees with it best, by NMI.

        If there are at least as many facets as label sets, this is the one-to-one matching with the highest total NMI,
        so no facet occurs twice. With fewer facets, each label set gets the facet with its highest NMI.
        """
        from scipy.optimize import linear_sum_assignment

        if not self.nmi:
            return {}
        table = np.stack(list(self.nmi.values()))
        one_to_one = table.shape[0] <= table.shape[1]
        best = linear_sum_assignment(table, maximize=True)[1] if one_to_one else table.argmax(axis=1)
        return {label: int(facet) for label, facet in zip(self.nmi, best, strict=True)}

    def __repr__(self) -> str:
        """A table: a row per facet and label."""
        return text_table(self.rows())

    def _repr_html_(self) -> str:
        return html_table(self.rows())

    def rows(self) -> list[tuple[str, ...]]:
        """The cells of the table, with the header first: a row per facet and label."""
        rows: list[tuple[str, ...]] = [("facet", "clusters in use", "label", "accuracy", "NMI", "ARI")]
        for j, record in enumerate(self.facet_records()):
            use = f"{record['clusters_in_use']} of {record['num_clusters']}"
            for label in self.accuracy or ("",):
                scores = [f"{record[name][label]:z.3f}" for name in ("accuracy", "nmi", "ari")] if label else [""] * 3
                rows.append((str(j), use, label, *scores))
        return rows

    def facet_records(self) -> list[dict[str, Any]]:
        """One record of Python numbers per facet: the entry ``facets`` of ``summary.json``."""
        tables = {"accuracy": self.accuracy, "hungarian": self.hungarian, "nmi": self.nmi, "ari": self.ari}
        return [
            {"num_clusters": size, "clusters_in_use": int(self.clusters_in_use[j])}
            | {score: {label: float(values[j]) for label, values in table.items()} for score, table in tables.items()}
            for j, size in enumerate(self.num_clusters)
        ]


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """A table of cells, whose first row is the header, as lines of text with aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in padded)


def html_table(rows: Sequence[Sequence[str]]) -> str:
    """A table of cells, whose first row is the header, as HTML."""
    tags = ("th", *("td",) * (len(rows) - 1))
    cells = ("".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in row) for tag, row in zip(tags, rows, strict=True))
    return f"<table>{''.join(f'<tr>{row}</tr>' for row in cells)}</table>"


def score_facets(
    assignments: ArrayLike, labels: Mapping[str, ArrayLike], *, num_clusters: Sequence[int]
) -> FacetScores:
    """Score every facet's clusters against every label set.

    Args:
        assignments: cluster of each item in each facet, (N, J) integers.
        labels: name of a label set → label of each item, (N,) integers; negative if an item has none.
        num_clusters: K_j of each facet.

    Raises:
        InputError: shapes disagree, a value is not an integer, a cluster is out of range, or all items of a label set
            are unlabelled.
    """
    items = _integers("assignments", assignments, ndim=2)
    if items.shape[1] != len(num_clusters):
        raise InputError(
            f"expected num_clusters for {items.shape[1]} facets, one per column of assignments, "
            f"got {len(num_clusters)}: give one number of clusters per facet"
        )
    for j, size in enumerate(num_clusters):
        _check_range(f"assignments of facet {j}", items[:, j], size)
    pairs = {
        name: [_labelled_pair(column, values, name=f"label set {name!r}") for column in items.T]
        for name, values in labels.items()
    }
    return FacetScores(
        num_clusters=tuple(num_clusters),
        accuracy={name: np.array([majority_accuracy(*pair) for pair in facets]) for name, facets in pairs.items()},
        hungarian={name: np.array([hungarian_accuracy(*pair) for pair in facets]) for name, facets in pairs.items()},
        nmi={name: np.array([nmi(*pair) for pair in facets]) for name, facets in pairs.items()},
        ari={name: np.array([ari(*pair) for pair in facets]) for name, facets in pairs.items()},
        clusters_in_use=np.array([clusters_in_use(c, size) for c, size in zip(items.T, num_clusters, strict=True)]),
        redundancy=redundancy(items),
    )


def _majority_labels(clusters: NDArray[np.int64], labels: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any]]:
    """The clusters that occur, in order, and the most frequent label in each, (K,) both. Of equally frequent labels the
    smallest is taken.
    """
    from sklearn.metrics.cluster import contingency_matrix

    counts = contingency_matrix(labels, clusters)
    return np.unique(clusters), np.unique(labels)[counts.argmax(axis=0)]


def _labelled_pair(
    clusters: ArrayLike, labels: ArrayLike, *, name: str = "labels"
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The clusters and the labels of the items that have a label."""
    clusters, labels = _integers("clusters", clusters, ndim=1), _integers(name, labels, ndim=1)
    if len(clusters) != len(labels):
        raise InputError(
            f"expected one entry of {name} per item, {len(clusters)} in all, got {len(labels)}: "
            "score clusters and labels of the same items"
        )
    labelled = labels >= 0
    if not labelled.any():
        raise InputError(
            f"expected at least one item with a label (0 or more) in {name}, but all {len(labels)} are unlabelled: "
            "leave this label set out"
        )
    return clusters[labelled], labels[labelled]


def _integers(name: str, values: ArrayLike, *, ndim: int) -> NDArray[np.int64]:
    array = np.asarray(values)
    if array.dtype.kind not in "iu" or array.ndim != ndim:
        raise InputError(
            f"expected {name} as integers with {ndim} dimension{'s' * (ndim > 1)}, "
            f"got {array.dtype} of shape {array.shape}: convert or reshape them first"
        )
    return array.astype(np.int64)


def _check_range(name: str, clusters: NDArray[np.int64], num_clusters: int) -> None:
    outside = clusters[(clusters < 0) | (clusters >= num_clusters)]
    if outside.size:
        raise InputError(
            f"expected {name} from 0 to {num_clusters - 1}, got {outside[0]}: "
            "check num_clusters, and that clusters count from 0"
        )
