"""Posterior checks: draws, ArviZ data, a file for each kind of check, verdicts, and the comparison of runs."""

from pyro_mfcvae.checks.arviz_data import load_inference_data, save_inference_data, to_elpd, to_inference_data
from pyro_mfcvae.checks.check import Check
from pyro_mfcvae.checks.comparison import compare_evidence
from pyro_mfcvae.checks.criticism import criticise

__all__ = [
    "Check",
    "compare_evidence",
    "criticise",
    "load_inference_data",
    "save_inference_data",
    "to_elpd",
    "to_inference_data",
]
