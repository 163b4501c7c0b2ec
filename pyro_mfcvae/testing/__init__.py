"""Checks of the contracts of parts, for use in tests. Each check raises an AssertionError that names the broken
contract.

The checks work on copies, with their own seed, and in float64 if nothing else is mentioned. The part and the random
state are not changed. A check that compares means of draws allows 5 standard errors, so for each compared number a
correct part fails with about one seed in a million. Seeds are fixed, so a part fails always or never.
"""

from pyro_mfcvae.testing.contracts import check_assignment, check_likelihood, check_pair, check_prior

__all__ = ["check_assignment", "check_likelihood", "check_pair", "check_prior"]
