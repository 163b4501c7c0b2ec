"""Multi-Facet Clustering Variational Autoencoders (Falck et al., NeurIPS 2021) in Pyro."""

from pyro_mfcvae.draws.arviz_data import to_inference_data
from pyro_mfcvae.errors import InputError
from pyro_mfcvae.facets import Facet
from pyro_mfcvae.groups import MergeTree
from pyro_mfcvae.infer.importance import ImportanceWeightedELBO
from pyro_mfcvae.infer.initialization import initialize_data_dependent, initialize_glorot
from pyro_mfcvae.infer.mixture_fit import initialize_mixtures
from pyro_mfcvae.infer.objective import ELBOTerms, FacetELBO
from pyro_mfcvae.infer.schedule import ProgressiveSchedule
from pyro_mfcvae.mfcvae import MFCVAE

__all__ = [
    "MFCVAE",
    "ELBOTerms",
    "Facet",
    "FacetELBO",
    "ImportanceWeightedELBO",
    "InputError",
    "MergeTree",
    "ProgressiveSchedule",
    "initialize_data_dependent",
    "initialize_glorot",
    "initialize_mixtures",
    "to_inference_data",
]
