"""Posterior checks (one file per kind of check, with its number and its picture), their verdicts, and the comparison of
runs.
"""

from pyro_mfcvae.checks.check import Check, Question, Threshold
from pyro_mfcvae.checks.comparison import compare_evidence
from pyro_mfcvae.checks.criticism import Criticism, criticise
from pyro_mfcvae.checks.sentences import Suggestion

__all__ = ["Check", "Criticism", "Question", "Suggestion", "Threshold", "compare_evidence", "criticise"]
