"""Contracts of the parts, to call in a test suite: each check raises an AssertionError that says which one is broken.

The checks work on copies, in float64 unless they say otherwise, with a seed of their own; the part and the random state
stay as they are. Where a check compares means of draws it allows 5 standard errors, so a correct part fails for about
one seed in a million per number compared; seeds are fixed, so it fails always or never.
"""

from pyro_mfcvae.testing.contracts import check_assignment, check_likelihood, check_pair, check_prior

__all__ = ["check_assignment", "check_likelihood", "check_pair", "check_prior"]
