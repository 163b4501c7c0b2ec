"""Choose, before training, which linear directions of the data belong to which facet."""

from pyro_mfcvae.subspaces.dims import divide_dims
from pyro_mfcvae.subspaces.linear_start import LinearFacets, find_linear_facets, start_linearly
from pyro_mfcvae.subspaces.search import MOST_COMPARED, Progress, most_items

__all__ = [
    "MOST_COMPARED",
    "LinearFacets",
    "Progress",
    "divide_dims",
    "find_linear_facets",
    "most_items",
    "start_linearly",
]
