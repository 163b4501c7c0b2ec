"""Should you believe this clustering? All checks of one fitted pair, from its ArviZ data alone."""

import json
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from pyro_mfcvae.aggregate_posterior import check_aggregate
from pyro_mfcvae.calibration import check_calibration
from pyro_mfcvae.cluster_stability import check_stability
from pyro_mfcvae.guide_quality import check_guide
from pyro_mfcvae.predictive_checks import check_predictions
from pyro_mfcvae.simulation_ranks import check_ranks
from pyro_mfcvae.typicality import check_typicality
from pyro_mfcvae.verdicts import Check

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
    """The checks as text that `json.loads` reads; numbers that JSON has not become null."""
    return json.dumps(_plain([check.record() for check in checks]), indent=2, allow_nan=False) + "\n"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
