"""Should you believe this clustering? All checks of one fitted pair, from its ArviZ data alone."""

from collections.abc import Callable, Sequence
from typing import Any

from pyro_mfcvae.atomic_io import as_json
from pyro_mfcvae.checks.aggregate_posterior import check_aggregate
from pyro_mfcvae.checks.calibration import check_calibration
from pyro_mfcvae.checks.check import Check
from pyro_mfcvae.checks.guide_quality import check_guide
from pyro_mfcvae.checks.predictive import check_predictions
from pyro_mfcvae.checks.simulation_ranks import check_ranks
from pyro_mfcvae.checks.stability import check_stability
from pyro_mfcvae.checks.typicality import check_typicality

CHECKS: tuple[Callable[[Any], list[Check]], ...] = (
    check_predictions,
    check_guide,
    check_calibration,
    check_ranks,
    check_aggregate,
    check_stability,
    check_typicality,
)


def criticise(data: Any) -> list[Check]:
    """All checks on what `to_inference_data` made: the same verdicts from memory and from NetCDF, every time."""
    return [check for ask in CHECKS for check in ask(data)]


def to_json(checks: Sequence[Check]) -> str:
    """The checks as ``checks.json`` holds them."""
    return as_json([check.record() for check in checks])
