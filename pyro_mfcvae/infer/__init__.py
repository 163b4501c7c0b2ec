"""Inference for a pair: ELBOs, the compiled objective, the schedule, starting values, fits of mixtures, and planes for
pictures of z.
"""

from pyro_mfcvae.infer.importance import ImportanceWeightedELBO
from pyro_mfcvae.infer.initialization import initialize_data_dependent, initialize_glorot
from pyro_mfcvae.infer.mixture_fit import initialize_mixtures
from pyro_mfcvae.infer.objective import ELBOTerms, FacetELBO
from pyro_mfcvae.infer.schedule import ProgressiveSchedule

__all__ = [
    "ELBOTerms",
    "FacetELBO",
    "ImportanceWeightedELBO",
    "ProgressiveSchedule",
    "initialize_data_dependent",
    "initialize_glorot",
    "initialize_mixtures",
]
