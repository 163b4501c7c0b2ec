"""Evaluation of a fitted pair on a data set: assignments of the items, the ELBO and scores."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyro
import torch
from numpy.typing import NDArray

from pyro_mfcvae.data.images import Split, as_float, check_complete
from pyro_mfcvae.infer.asking import repeatable
from pyro_mfcvae.metrics import FacetScores, html_table, score_facets, text_table
from pyro_mfcvae.mfcvae import MFCVAE
from pyro_mfcvae.runs.grouping import Grouping


@dataclass(frozen=True, repr=False)
class Evaluation:
    """Clusters and groups of N items along J facets.

    Attributes:
        assignments: most probable cluster, (N, J).
        confidence: probability q(c_j | x) of this cluster, (N, J).
        elbo: ELBO of the split divided by N, in nats, with the KL of the priors' random parameters. Every facet's KL
            has weight 1, whatever its weight in training. The value is the same at every call.
        scores: agreement of the clusters with the labels.
        grouping: the groups of clusters.
        groups: most probable group, (N, J).
        group_confidence: probability of this group, the sum of q(c_j | x) over its clusters, (N, J).
        group_scores: agreement of the groups with the labels.
    """

    assignments: NDArray[np.int64]
    confidence: NDArray[np.float64]
    elbo: float
    scores: FacetScores
    grouping: Grouping
    groups: NDArray[np.int64]
    group_confidence: NDArray[np.float64]
    group_scores: FacetScores

    def __repr__(self) -> str:
        """The ELBO, and below it a table of the groups with a row per facet and label."""
        return f"{self._headline()}\n{text_table(self._rows())}"

    def _repr_html_(self) -> str:
        return f"<div>{self._headline()}{html_table(self._rows())}</div>"

    def _headline(self) -> str:
        return f"Evaluation of {len(self.assignments):,} items, ELBO {self.elbo:.2f} nats per item"

    def _rows(self) -> list[tuple[str, ...]]:
        head, *rows = self.group_scores.rows()
        return [
            (head[0], "groups", *head[2:]),
            *((j, str(self.grouping.num_groups[int(j)]), *rest) for j, _, *rest in rows),
        ]

    def facet_records(self) -> list[dict[str, Any]]:
        """One record of Python numbers per facet, the entry ``facets`` of ``summary.json``."""
        return [
            clusters
            | {"num_groups": groups["num_clusters"]}
            | {"groups": {name: groups[name] for name in ("accuracy", "hungarian", "nmi", "ari")}}
            for clusters, groups in zip(self.scores.facet_records(), self.group_scores.facet_records(), strict=True)
        ]

    def redundancy_record(self) -> dict[str, Any]:
        """Adjusted mutual information between facets, of clusters and of groups, as lists (J, J)."""
        return {
            "redundancy": self.scores.redundancy.tolist(),
            "group_redundancy": self.group_scores.redundancy.tolist(),
        }


@torch.no_grad()
def evaluate(pair: MFCVAE, split: Split, *, grouping: Grouping | None = None, batch_size: int = 1024) -> Evaluation:
    """Assign every item of a split, batch by batch on the pair's device, and score clusters and groups against labels.

    Args:
        pair: model and guide.
        split: the items.
        grouping: the groups of clusters; None means the groups that the model suggests.
        batch_size: number of items in a batch.
    """
    if not pair.model.missing:
        check_complete(split.images)
    device = pair.model.alpha.device
    clusters: list[list[NDArray[Any]]] = []
    groups: list[list[NDArray[Any]]] = []
    elbo, kl_globals = 0.0, 0.0
    with repeatable(device):
        grouping = grouping or Grouping.from_trees(pair.groups())
        for images in split.images.split(batch_size):
            x = as_float(images).to(device)
            probs = [q.cpu().double().numpy() for q in pair.assign(x)]
            clusters.append(_find_best(probs))
            groups.append(_find_best([grouping.probs(j, q) for j, q in enumerate(probs)]))
            terms = pair.elbo_terms(x)
            elbo += (terms.reconstruction - terms.kl.sum(-1)).sum().item()
            kl_globals += terms.kl_globals.item() * len(x) / len(split)
    labels = {name: label.numpy() for name, label in split.labels.items()}
    assignments, confidence = map(np.concatenate, zip(*clusters, strict=True))
    of_groups, group_confidence = map(np.concatenate, zip(*groups, strict=True))
    return Evaluation(
        assignments=assignments,
        confidence=confidence,
        elbo=(elbo - kl_globals) / len(split),
        scores=score_facets(assignments, labels, num_clusters=[f.num_clusters for f in pair.model.facets]),
        grouping=grouping,
        groups=of_groups,
        group_confidence=group_confidence,
        group_scores=score_facets(of_groups, labels, num_clusters=grouping.num_groups),
    )


def find_groups(pair: MFCVAE, split: Split, *, num_items: int = 10_000) -> Grouping:
    """The groups that the model suggests. The sizes of the clusters come from a limited number of evenly spread items.

    Pyro's and torch's random states are not changed.
    """
    chosen = torch.linspace(0, len(split) - 1, min(len(split), num_items), dtype=torch.float64).long()
    pair.eval()
    device = pair.model.alpha.device
    devices = [device] if device.type == "cuda" else []
    with pyro.get_param_store().scope(), torch.random.fork_rng(devices=devices):
        torch.manual_seed(0)
        x = as_float(split.images[chosen]).to(device)
        return Grouping.from_trees(pair.groups(x))


def _find_best(probs: list[NDArray[np.float64]]) -> list[NDArray[Any]]:
    """The most probable column of every facet's probabilities, and its probability, (N, J) each."""
    best = np.stack([q.argmax(1) for q in probs], 1)
    return [best, np.stack([q[np.arange(len(q)), best[:, j]] for j, q in enumerate(probs)], 1)]


@dataclass(frozen=True)
class Scores:
    """A facet's scores for each label."""

    accuracy: dict[str, float]
    nmi: dict[str, float]
    ari: dict[str, float]

    def __post_init__(self) -> None:
        if not self.accuracy.keys() == self.nmi.keys() == self.ari.keys():
            raise ValueError("the three scores have different labels")


@dataclass(frozen=True)
class FacetSummary:
    """A facet in a ``summary.json``."""

    num_clusters: int
    clusters_in_use: int
    num_groups: int
    groups: Scores


@dataclass(frozen=True)
class Summary:
    """The fields that every ``summary.json`` has."""

    data: str
    seed: int
    facets: list[FacetSummary]
    elbo: float
    epochs: int
    seconds: float
    device: str
