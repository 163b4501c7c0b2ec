"""Inputs of models and guides: entries of Pyro's parameter store, and the user's data."""

from pyro_mfcvae.interop.inputs import Known
from pyro_mfcvae.interop.param_store import outside_store

__all__ = ["Known", "outside_store"]
