"""Inputs of models and guides from outside: entries of Pyro's parameter store, and a user's data."""

from pyro_mfcvae.interop.inputs import Known
from pyro_mfcvae.interop.param_store import outside_store

__all__ = ["Known", "outside_store"]
