"""The estimator for scikit-learn."""

from pyro_mfcvae.estimator.clustering import MultiFacetClustering

__all__ = ["MultiFacetClustering"]
