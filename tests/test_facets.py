import dataclasses

import numpy as np
import pytest

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.facets import OBSERVED_SITE, PLATE, Facet, check_facets, cluster_site, latent_site


def test_site_names_are_the_documented_ones() -> None:
    assert [cluster_site(0), latent_site(12), OBSERVED_SITE, PLATE] == ["c_0", "z_12", "x", "data"]


def test_a_facet_is_a_value() -> None:
    facet = Facet(num_clusters=25, latent_dim=5)
    assert facet == Facet(num_clusters=25, latent_dim=5)
    assert facet != Facet(num_clusters=5, latent_dim=25)
    assert len({facet, Facet(num_clusters=25, latent_dim=5)}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        facet.num_clusters = 3  # type: ignore[misc]


@pytest.mark.parametrize("value", (0, -1, 2.0, "3"))
@pytest.mark.parametrize("name", ("num_clusters", "latent_dim"))
def test_sizes_are_whole_numbers_from_one(name: str, value: object) -> None:
    with pytest.raises(InputError, match=rf"expected {name} ≥ 1 for a facet, got {value!r}: pass a whole number"):
        Facet(**{"num_clusters": 1, "latent_dim": 1, name: value})


def test_integers_of_numpy_are_integers() -> None:
    facet = Facet(num_clusters=np.int64(3), latent_dim=np.int32(2))
    assert facet == Facet(num_clusters=3, latent_dim=2) and type(facet.num_clusters) is int


def test_there_is_at_least_one_facet() -> None:
    facet = Facet(num_clusters=2, latent_dim=1)
    assert check_facets([facet, facet]) == (facet, facet)
    with pytest.raises(InputError, match="at least one facet, got none"):
        check_facets([])
