"""What a fitted pair says of a data set, item by item and in sum."""

from dataclasses import dataclass

import numpy as np
import pyro
import torch
from numpy.typing import NDArray
from torch import Tensor

from pyro_mfcvae.data.images import Split, as_float, check_complete
from pyro_mfcvae.metrics import FacetScores, score_facets
from pyro_mfcvae.mfcvae import MFCVAE


@dataclass(frozen=True)
class Evaluation:
    """Clusters of N items along J facets.

    Attributes:
        assignments: most probable cluster, (N, J).
        confidence: its probability q(c_j | x), (N, J).
        elbo: mean ELBO per item, in nats; every facet's KL counts in full, whatever weight it trained with.
        scores: agreement with the labels.
    """

    assignments: NDArray[np.int64]
    confidence: NDArray[np.float64]
    elbo: float
    scores: FacetScores


@torch.no_grad()
def evaluate(pair: MFCVAE, split: Split, *, batch_size: int = 1024) -> Evaluation:
    """Assign every item of a split, batch by batch on the pair's device, and score the clusters against its labels."""
    if not pair.model.missing:
        check_complete(split.images)
    device = pair.model.alpha.device
    pair.eval()
    assignments, confidence, elbo = [], [], 0.0
    with pyro.get_param_store().scope():  # whatever Pyro notes of the parameters in its global store goes no further
        for images in split.images.split(batch_size):
            x = as_float(images).to(device)
            best = [probs.max(-1) for probs in pair.assign(x)]
            assignments.append(_stack([b.indices for b in best]))
            confidence.append(_stack([b.values for b in best]))
            terms = pair.elbo_terms(x)
            elbo += (terms.reconstruction - terms.kl.sum(-1)).sum().item()
    clusters = torch.cat(assignments).numpy()
    return Evaluation(
        assignments=clusters,
        confidence=torch.cat(confidence).double().numpy(),
        elbo=elbo / len(split),
        scores=score_facets(
            clusters,
            {name: label.numpy() for name, label in split.labels.items()},
            num_clusters=[f.num_clusters for f in pair.model.facets],
        ),
    )


def _stack(columns: list[Tensor]) -> Tensor:
    return torch.stack(columns, -1).cpu()
