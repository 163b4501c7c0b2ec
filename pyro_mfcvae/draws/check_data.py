"""The data of the checks: named arrays with shapes, read once from ArviZ data.

There are N items with S draws of q(z, c | x) each, and P items simulated from the model. Facet j has K clusters and D
dimensions.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pyro_mfcvae.draws.arviz_data import num_facets, values
from pyro_mfcvae.draws.psis import is_untrusted
from pyro_mfcvae.errors import InputError

Array = NDArray[np.float64]

_FEWEST = 20  # With fewer items, or fewer simulated items, checks would have no power.


@dataclass(frozen=True, eq=False)
class FacetData:
    """The arrays of one facet.

    Attributes:
        z: draws of q(z | x), (S, N, D).
        probs: q(c | x), (N, K).
        weighted_probs: p(c | x) by importance weights, (N, K).
        discrepancy: estimate of sum_c (q(c | x) - p(c | x))² from two independent halves of the draws, (N,).
        rule_loss: the ELBO with the best q(c | x) minus the ELBO with the assignment rule, in nats, (N,).
        drawn_clusters: the most probable cluster given the first draw of z, (N,).
        kl: E_q[log q(z | x) - log p(z)], (N,).
        loss_without: log p(x | z) minus log p(x | z with z_j drawn from the prior), (N,).
        log_weights: log weights of this facet's draws, with the other facets at their means, (S, M) for M of the items;
            None if the model has one facet.
        weights: pi, (K,).
        groups: the group of every cluster, (K,).
        suggested_groups: the group of every cluster that the model suggests, (K,); None if these groups are in use.
        prior_z: z of the simulated items, (P, D).
        prior_c: clusters of the simulated items, (P,).
        prior_probs: q(c | x) of the simulated items, (P, K).
        ranks: ranks of the true z among draws of q(z | x), (P, D), uniform on (0, 1) if q(z | x) is exact.
        residuals: the true z minus the mean of q(z | x), whitened by its covariance, (P, D).
        density_ranks: ranks of log q(z | x) at the true z, (P,).
    """

    z: Array
    probs: Array
    weighted_probs: Array
    discrepancy: Array
    rule_loss: Array
    drawn_clusters: NDArray[np.int64]
    kl: Array
    loss_without: Array
    log_weights: Array | None
    weights: Array
    groups: NDArray[np.int64]
    suggested_groups: NDArray[np.int64] | None
    prior_z: Array
    prior_c: NDArray[np.int64]
    prior_probs: Array
    ranks: Array
    residuals: Array
    density_ranks: Array

    @cached_property
    def clusters(self) -> NDArray[np.int64]:
        """The most probable cluster of every item, (N,)."""
        return self.probs.argmax(-1)

    @cached_property
    def prior_clusters(self) -> NDArray[np.int64]:
        """The most probable cluster of every simulated item, (P,)."""
        return self.prior_probs.argmax(-1)

    @cached_property
    def use(self) -> Array:
        """Mean of q(c | x) over the items: (K,)."""
        return self.probs.mean(0)

    @cached_property
    def num_in_use(self) -> int:
        """Number of clusters whose share of the items is at least a tenth of 1/K."""
        return int(np.sum(self.use >= 0.1 / len(self.use)))

    @cached_property
    def num_groups(self) -> int:
        """Number of groups that have at least one item."""
        return len(np.unique(self.groups[self.clusters]))

    @cached_property
    def num_suggested(self) -> int:
        """Number of groups with at least one item that the model suggests."""
        groups = self.groups if self.suggested_groups is None else self.suggested_groups
        return len(np.unique(groups[self.clusters]))


@dataclass(frozen=True, eq=False)
class CheckData:
    """The arrays of a fitted pair.

    Attributes:
        facets: one `FacetData` per facet.
        log_weights: log p(x, z) - log q(z | x), (S, N).
        evidence: importance-weighted log p(x), (N,).
        elbo: ELBO of every item, (N,).
        bound: importance-weighted log p(x) from 16 draws, as for the simulated items, (N,).
        held_out: log p(half of an item | the other half), nats per element, (N,).
        reference_evidence: log p(x) of training items, (M,); None if there are no training items.
        simulated_bound: `bound` of the simulated items, (P,).
        simulated_held_out: `held_out` of the simulated items, (P,).
        joint_ranks: ranks of log p(x, z) at the true z among draws of q(z | x), (P,).
        observed: statistic → its value for every item, (N,).
        replicated: statistic → its value for every replication, (S, N).
        seed_agreement: ARI of every facet with its match in runs with other seeds, (J,); None without such runs.
    """

    facets: tuple[FacetData, ...]
    log_weights: Array
    evidence: Array
    elbo: Array
    bound: Array
    held_out: Array
    reference_evidence: Array | None
    simulated_bound: Array
    simulated_held_out: Array
    joint_ranks: Array
    observed: Mapping[str, Array]
    replicated: Mapping[str, Array]
    seed_agreement: Array | None

    @cached_property
    def untrusted(self) -> NDArray[np.bool_]:
        """Whether the importance weights of each item cannot be trusted, (N,), see `psis.is_untrusted`."""
        return is_untrusted(self.log_weights.T)

    @property
    def num_items(self) -> int:
        """N."""
        return len(self.evidence)

    @classmethod
    def from_arviz(cls, data: Any) -> "CheckData":
        """Read ArviZ data of `to_inference_data`, from memory or from NetCDF."""

        def read(group: str, name: str) -> Array:
            array = values(data, group, name)
            return array.astype(float) if array.dtype.kind == "f" else array

        def read_optional(group: str, name: str) -> Array | None:
            return read(group, name) if name in data[group] else None

        statistics = sorted(set(map(str, data["observed_data"].data_vars)) - {"x"})
        return cls(
            facets=tuple(_read_facet(read, read_optional, j) for j in range(num_facets(data))),
            log_weights=read("sample_stats", "log_weight"),
            evidence=read("log_likelihood", "x").mean(0),
            elbo=read("constant_data", "elbo"),
            bound=read("constant_data", "bound"),
            held_out=read("constant_data", "held_out"),
            reference_evidence=read_optional("constant_data", "reference_evidence"),
            simulated_bound=read("sample_stats_prior", "bound"),
            simulated_held_out=read("sample_stats_prior", "held_out"),
            joint_ranks=read("sample_stats_prior", "joint_rank"),
            observed={name: read("observed_data", name) for name in statistics},
            replicated={name: read("posterior_predictive", name) for name in statistics},
            seed_agreement=read_optional("constant_data", "seed_agreement"),
        ).check_size()

    def check_size(self) -> "CheckData":
        """Return the data; raise an error if there are too few items for the checks."""
        for count, name in ((self.num_items, "items"), (len(self.joint_ranks), "simulated items")):
            if count < _FEWEST:
                raise InputError(f"expected {_FEWEST} or more {name} to check, got {count}: draw more")
        return self


_OF_ITEMS = {"probs": "assignment", "weighted_probs": "weighted_assignment", "drawn_clusters": "drawn_cluster"}
_OF_CLUSTERS = {"weights": "weight", "groups": "group"}
_SAME_NAMES = {name: name for name in ("discrepancy", "rule_loss", "kl", "loss_without")}
_OF_SIMULATED = {
    "prior_probs": "assignment",
    "ranks": "rank",
    "residuals": "residual",
    "density_ranks": "density_rank",
}


def _read_facet(
    read: Callable[[str, str], Array], read_optional: Callable[[str, str], Array | None], j: int
) -> FacetData:
    known = _OF_ITEMS | _OF_CLUSTERS | _SAME_NAMES
    arrays: dict[str, Any] = {field: read("constant_data", f"{name}_{j}") for field, name in known.items()}
    arrays |= {field: read("sample_stats_prior", f"{name}_{j}") for field, name in _OF_SIMULATED.items()}
    arrays["suggested_groups"] = read_optional("constant_data", f"suggested_group_{j}")
    return FacetData(
        z=read("posterior", f"z_{j}"),
        log_weights=read_optional("sample_stats", f"log_weight_{j}"),
        prior_z=read("prior", f"z_{j}"),
        prior_c=read("prior", f"c_{j}").astype(np.int64),
        **arrays,
    )
