"""Should you believe this clustering? All checks of one fitted pair, from its ArviZ data alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pyro_mfcvae.atomic_io import as_json
from pyro_mfcvae.checks.aggregate import check_aggregate, plot_aggregate
from pyro_mfcvae.checks.calibration import check_calibration, plot_calibration
from pyro_mfcvae.checks.check import Check
from pyro_mfcvae.checks.guide import check_guide, plot_guide
from pyro_mfcvae.checks.predictive import check_predictions, plot_predictions
from pyro_mfcvae.checks.ranks import check_ranks, plot_ranks
from pyro_mfcvae.checks.stability import check_stability, plot_stability
from pyro_mfcvae.checks.typicality import check_typicality, plot_evidence
from pyro_mfcvae.draws.check_data import CheckData

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Kind:
    """A kind of check.

    Attributes:
        name: of its picture's file.
        check: makes the checks.
        plot: draws these checks.
    """

    name: str
    check: Callable[[CheckData], list[Check]]
    plot: "Callable[[CheckData, Sequence[Check]], Figure]"


KINDS = (
    Kind("predictions", check_predictions, plot_predictions),
    Kind("guide", check_guide, plot_guide),
    Kind("calibration", check_calibration, plot_calibration),
    Kind("ranks", check_ranks, plot_ranks),
    Kind("aggregate", check_aggregate, plot_aggregate),
    Kind("stability", check_stability, plot_stability),
    Kind("evidence", check_typicality, plot_evidence),
)


@dataclass(frozen=True, eq=False)
class Criticism:
    """All checks of a fitted pair.

    Attributes:
        data: what was checked.
        by_kind: the checks of every entry of `KINDS`.
    """

    data: CheckData
    by_kind: tuple[tuple[Check, ...], ...]

    @property
    def checks(self) -> tuple[Check, ...]:
        """All checks."""
        return tuple(check for checks in self.by_kind for check in checks)

    def to_json(self) -> str:
        """The checks as ``checks.json`` holds them."""
        return as_json([check.record() for check in self.checks])

    def figures(self) -> "dict[str, Figure]":
        """Name → picture, one for each kind of check."""
        return {
            kind.name: kind.plot(self.data, checks) for kind, checks in zip(KINDS, self.by_kind, strict=True) if checks
        }


def criticise(data: Any) -> Criticism:
    """All checks on what `to_inference_data` made: the same verdicts from memory and from NetCDF, every time."""
    view = CheckData.from_arviz(data)
    return Criticism(view, tuple(tuple(kind.check(view)) for kind in KINDS))
