"""What the checks read: named arrays with shapes, taken once from ArviZ data.

N items, S draws of q(z, c | x) for each, P items simulated from the model; facet j has K clusters and D dimensions.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyro_mfcvae.draws.arviz_data import num_facets, values

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class FacetData:
    """The arrays of one facet.

    Attributes:
        z: draws of q(z | x), (S, N, D).
        probs: q(c | x), (N, K).
        weighted_probs: p(c | x) by importance weights, (N, K).
        log_weights: of this facet's draws beside the other facets' means, (S, M) for M of the items; None where the
            model has one facet.
        prior_z: z of the simulated items, (P, D).
        prior_c: their clusters, (P,).
        prior_probs: q(c | x) of the simulated items, (P, K).
        ranks: share of draws of q(z | x) that lie below the true z, (P, D).
        weights: pi, (K,).
        overlap: misclassification probabilities, (K, K).
    """

    z: Array
    probs: Array
    weighted_probs: Array
    log_weights: Array | None
    prior_z: Array
    prior_c: NDArray[np.int64]
    prior_probs: Array
    ranks: Array
    weights: Array
    overlap: Array

    @cached_property
    def clusters(self) -> NDArray[np.int64]:
        """The most probable cluster of every item, (N,)."""
        return self.probs.argmax(-1)

    @cached_property
    def use(self) -> Array:
        """Share of the items in every cluster, mean of q(c | x): (K,)."""
        return self.probs.mean(0)


@dataclass(frozen=True, eq=False)
class CheckData:
    """The arrays of a fitted pair.

    Attributes:
        facets: one `FacetData` per facet.
        log_weights: log p(x, z) - log q(z | x), (S, N).
        evidence: importance-weighted log p(x), (N,).
        elbo: per item, (N,).
        reference_evidence: of training items, (M,); None where none were given.
        simulated_evidence: of the simulated items that were weighed, (W,).
        observed: statistic → its value for every item, (N,).
        replicated: statistic → its value for every replication, (S, N).
        seed_agreement: ARI of every facet with its match in runs with other seeds, (J,); None where there are none.
    """

    facets: tuple[FacetData, ...]
    log_weights: Array
    evidence: Array
    elbo: Array
    reference_evidence: Array | None
    simulated_evidence: Array
    observed: Mapping[str, Array]
    replicated: Mapping[str, Array]
    seed_agreement: Array | None

    @classmethod
    def from_arviz(cls, data: Any) -> "CheckData":
        """Read what `to_inference_data` made, from memory or from NetCDF."""

        def read(group: str, name: str) -> Array:
            return values(data, group, name)

        def read_optional(group: str, name: str) -> Array | None:
            return read(group, name) if name in data[group] else None

        facets = tuple(
            FacetData(
                z=read("posterior", f"z_{j}"),
                probs=read("sample_stats", f"assignment_{j}"),
                weighted_probs=read("sample_stats", f"weighted_assignment_{j}"),
                log_weights=read_optional("sample_stats", f"log_weight_{j}"),
                prior_z=read("prior", f"z_{j}"),
                prior_c=read("prior", f"c_{j}").astype(np.int64),
                prior_probs=read("sample_stats_prior", f"assignment_{j}"),
                ranks=read("sample_stats_prior", f"rank_{j}"),
                weights=read("sample_stats_prior", f"weight_{j}"),
                overlap=read("sample_stats_prior", f"overlap_{j}"),
            )
            for j in range(num_facets(data))
        )
        simulated = read("sample_stats_prior", "log_evidence")
        statistics = sorted(set(map(str, data["observed_data"].data_vars)) - {"x"})
        return cls(
            facets=facets,
            log_weights=read("sample_stats", "log_weight"),
            evidence=read("log_likelihood", "x"),
            elbo=read("sample_stats", "elbo"),
            reference_evidence=read_optional("log_likelihood", "x_reference"),
            simulated_evidence=simulated[np.isfinite(simulated)],
            observed={name: read("observed_data", name) for name in statistics},
            replicated={name: read("posterior_predictive", name) for name in statistics},
            seed_agreement=read_optional("sample_stats", "seed_agreement"),
        )
