"""Contracts of the parts, for use in tests: each check raises an AssertionError that names the broken contract.

The checks work on copies, in float64 unless they say otherwise, with a seed of their own; the part and the random state
are not changed. A check that compares means of draws allows 5 standard errors, so a correct part fails for about one
seed in a million per number compared. Seeds are fixed, so a part fails always or never.
"""

from pyro_mfcvae.testing.contracts import check_assignment, check_likelihood, check_pair, check_prior

__all__ = ["check_assignment", "check_likelihood", "check_pair", "check_prior"]
