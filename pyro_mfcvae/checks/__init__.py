"""Posterior checks: a file for each kind of check with its number and its picture, verdicts, and comparison of runs."""

from pyro_mfcvae.checks.check import Check, Question, Threshold
from pyro_mfcvae.checks.comparison import compare_evidence
from pyro_mfcvae.checks.criticism import Criticism, criticise
from pyro_mfcvae.checks.sentences import Suggestion

__all__ = ["Check", "Criticism", "Question", "Suggestion", "Threshold", "compare_evidence", "criticise"]
