"""Posterior checks: a file for each kind of check with its number and its picture, verdicts, and comparison of runs."""

from pyro_mfcvae.checks.check import Check
from pyro_mfcvae.checks.comparison import compare_evidence
from pyro_mfcvae.checks.criticism import criticise

__all__ = ["Check", "compare_evidence", "criticise"]
