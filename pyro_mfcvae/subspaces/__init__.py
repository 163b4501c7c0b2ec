"""Choose which linear directions belong to which facet: of the data before training, or of the joint z during it."""

from pyro_mfcvae.subspaces.linear_start import LinearFacets, find_linear_facets, start_linearly
from pyro_mfcvae.subspaces.repartition import Axes, choose_axes

__all__ = ["Axes", "LinearFacets", "choose_axes", "find_linear_facets", "start_linearly"]
