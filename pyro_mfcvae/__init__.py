"""Multi-Facet Clustering Variational Autoencoders (Falck et al., NeurIPS 2021) in Pyro.

Each name is imported when it is first used, so ``import pyro_mfcvae`` alone loads no other module of the package.
"""

from typing import TYPE_CHECKING

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.lazy import lazy_names

if TYPE_CHECKING:
    from pyro_mfcvae.api.run import Run, fit, load
    from pyro_mfcvae.draws.arviz_data import to_inference_data
    from pyro_mfcvae.estimator import MultiFacetClustering
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
    "MultiFacetClustering",
    "ProgressiveSchedule",
    "Run",
    "fit",
    "initialize_data_dependent",
    "initialize_glorot",
    "initialize_mixtures",
    "load",
    "to_inference_data",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "pyro_mfcvae.api.run": ["Run", "fit", "load"],
        "pyro_mfcvae.draws.arviz_data": ["to_inference_data"],
        "pyro_mfcvae.estimator": ["MultiFacetClustering"],
        "pyro_mfcvae.facets": ["Facet"],
        "pyro_mfcvae.groups": ["MergeTree"],
        "pyro_mfcvae.infer.importance": ["ImportanceWeightedELBO"],
        "pyro_mfcvae.infer.initialization": ["initialize_data_dependent", "initialize_glorot"],
        "pyro_mfcvae.infer.mixture_fit": ["initialize_mixtures"],
        "pyro_mfcvae.infer.objective": ["ELBOTerms", "FacetELBO"],
        "pyro_mfcvae.infer.schedule": ["ProgressiveSchedule"],
        "pyro_mfcvae.mfcvae": ["MFCVAE"],
    },
    modules=["config", "data", "guides", "models"],
)
