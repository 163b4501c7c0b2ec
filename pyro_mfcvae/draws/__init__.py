"""Draws of a fitted pair, for data and from the model, as ArviZ data and as the arrays that checks read."""

from pyro_mfcvae.draws.arviz_data import (
    attach_groups,
    attach_labels,
    load_inference_data,
    save_inference_data,
    to_elpd,
    to_inference_data,
)
from pyro_mfcvae.draws.check_data import CheckData, FacetData

__all__ = [
    "CheckData",
    "FacetData",
    "attach_groups",
    "attach_labels",
    "load_inference_data",
    "save_inference_data",
    "to_elpd",
    "to_inference_data",
]
