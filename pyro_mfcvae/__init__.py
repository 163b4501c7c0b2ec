"""Multi-Facet Clustering Variational Autoencoders (Falck et al., NeurIPS 2021) in Pyro."""

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.facets import Facet
from pyro_mfcvae.importance import ImportanceWeightedELBO
from pyro_mfcvae.inference_data import to_inference_data
from pyro_mfcvae.initialization import initialize_data_dependent, initialize_glorot, initialize_mixtures
from pyro_mfcvae.mfcvae import MFCVAE
from pyro_mfcvae.objective import ELBOTerms, FacetELBO
from pyro_mfcvae.schedules import ProgressiveSchedule

__all__ = [
    "MFCVAE",
    "ELBOTerms",
    "Facet",
    "FacetELBO",
    "ImportanceWeightedELBO",
    "InputError",
    "ProgressiveSchedule",
    "initialize_data_dependent",
    "initialize_glorot",
    "initialize_mixtures",
    "to_inference_data",
]
