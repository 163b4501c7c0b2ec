"""Facets, and the names that their sample sites have in every Pyro trace."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass

from pyro_mfcvae.errors import InputError

OBSERVED_SITE = "x"
PLATE = "data"


def cluster_site(j: int) -> str:
    """Name of the site of facet ``j``'s cluster, ``c_j``."""
    return f"c_{j}"


def latent_site(j: int) -> str:
    """Name of the site of facet ``j``'s latent variable, ``z_j``."""
    return f"z_{j}"


def global_site(name: str, j: int) -> str:
    """Name of the site of a random parameter of facet ``j``'s prior, such as ``probs_j``."""
    return f"{name}_{j}"


@dataclass(frozen=True, kw_only=True)
class Facet:
    """One clustering of the data: a latent variable ``z_j`` in R^D whose prior is a mixture of ``K`` components.

    Facets are numbered from the shallowest rung of the ladder (0) to the deepest (J - 1).

    Args:
        num_clusters: K, the number of mixture components, at least 1.
        latent_dim: D, the dimension of ``z_j``, at least 1.
    """

    num_clusters: int
    latent_dim: int

    def __post_init__(self) -> None:
        for name in ("num_clusters", "latent_dim"):
            value = getattr(self, name)
            try:
                number = operator.index(value)
            except TypeError:
                number = 0
            if number < 1:
                raise InputError(f"expected {name} ≥ 1 for a facet, got {value!r}: pass a whole number, 1 or more")
            object.__setattr__(self, name, number)  # converts NumPy integers to Python integers


def check_facets(facets: Sequence[Facet]) -> tuple[Facet, ...]:
    """Return the facets as a tuple; there must be at least one."""
    if not facets:
        raise InputError("expected at least one facet, got none: pass e.g. [Facet(num_clusters=10, latent_dim=5)]")
    return tuple(facets)
