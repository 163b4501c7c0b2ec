"""Choose which linear directions belong to which facet: directions of the data before training, or of the joint z
during training.
"""

from pyro_mfcvae.subspaces.dims import choose_dims
from pyro_mfcvae.subspaces.linear_start import LinearFacets, find_linear_facets, start_linearly
from pyro_mfcvae.subspaces.repartition import Axes, choose_axes
from pyro_mfcvae.subspaces.search import Progress, most_items

__all__ = [
    "Axes",
    "LinearFacets",
    "Progress",
    "choose_axes",
    "choose_dims",
    "find_linear_facets",
    "most_items",
    "start_linearly",
]
