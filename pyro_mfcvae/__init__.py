"""Multi-Facet Clustering Variational Autoencoders (Falck et al., NeurIPS 2021) in Pyro."""

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.facets import Facet
from pyro_mfcvae.objective import ELBOTerms, FacetELBO

__all__ = ["ELBOTerms", "Facet", "FacetELBO", "InputError"]
