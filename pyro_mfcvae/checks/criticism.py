"""Should you believe this clustering?

This module makes all checks of a fitted pair from its ArviZ data, and draws the conclusions.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pyro_mfcvae.atomic_io import as_json
from pyro_mfcvae.checks.aggregate import check_aggregate, plot_aggregate
from pyro_mfcvae.checks.calibration import check_calibration, plot_calibration
from pyro_mfcvae.checks.check import Check, correct
from pyro_mfcvae.checks.figures import add_reading
from pyro_mfcvae.checks.guide import check_guide, plot_guide
from pyro_mfcvae.checks.information import check_information, plot_information
from pyro_mfcvae.checks.predictive import (
    check_overfitting,
    check_predictions,
    plot_overfitting,
    plot_predictions,
    typicality,
)
from pyro_mfcvae.checks.ranks import check_ranks, plot_ranks
from pyro_mfcvae.checks.sentences import (
    SET_ASIDE,
    Suggestion,
    describe_facet,
    describe_whole,
    is_set_aside,
    is_unlike,
    suggest,
)
from pyro_mfcvae.checks.stability import check_stability, plot_stability
from pyro_mfcvae.draws.check_data import CheckData
from pyro_mfcvae.draws.psis import effective_share, monte_carlo_error, pareto_k, smooth

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Kind:
    """A kind of check.

    Attributes:
        name: name of the kind and of its picture's file.
        reading: the question that the picture answers, and how to read the picture.
        check: function that makes the checks.
        plot: function that draws these checks.
    """

    name: str
    reading: str
    check: Callable[[CheckData], list[Check]]
    plot: "Callable[[CheckData, Sequence[Check]], Figure]"


KINDS = (
    Kind(
        "information",
        "How much information about an item is in each facet? A facet whose bars all lie below the dotted line (1 "
        "nat) is nearly empty.",
        check_information,
        plot_information,
    ),
    Kind(
        "predictions",
        "Do items that the model draws look like yours? If so, the two lines of a panel coincide. Dots far above the "
        "dotted line are clusters whose items look different.",
        check_predictions,
        plot_predictions,
    ),
    Kind(
        "guide",
        "Does the encoder find the z that the model implies? Items in the shaded range are doubtful; a perfect "
        "encoder loses nothing.",
        check_guide,
        plot_guide,
    ),
    Kind(
        "calibration",
        "Is a cluster with a probability of 80 % right in 80 % of the cases? Below the diagonal the facet is "
        "overconfident, above it underconfident. The lower row shows which clusters are mistaken for each other.",
        check_calibration,
        plot_calibration,
    ),
    Kind(
        "ranks",
        "Do the encoder's z agree with the true z of items that the model draws? If so, the lines stay within the "
        "grey band.",
        check_ranks,
        plot_ranks,
    ),
    Kind(
        "aggregate",
        "Does the mixture lie where z of your items lie? If so, dots are at the tops of the bars, and both clouds "
        "cover the same places.",
        check_aggregate,
        plot_aggregate,
    ),
    Kind(
        "stability",
        "Would another fit find the same groups? If so, the agreement of refits is near 1. Facets that divide the "
        "items in different ways have an overlap of 0.",
        check_stability,
        plot_stability,
    ),
    Kind(
        "overfitting",
        "Are these items as probable as the training items? If so, the two lines coincide.",
        check_overfitting,
        plot_overfitting,
    ),
)


@dataclass(frozen=True, eq=False)
class Criticism:
    """All checks of a fitted pair, and their summary.

    Attributes:
        data: the arrays that were checked.
        by_kind: the checks of every entry of `KINDS`; their p-values are corrected for the number of all checks.
        suggestions: the settings to change next; empty if the run's settings are not known.
    """

    data: CheckData
    by_kind: tuple[tuple[Check, ...], ...]
    suggestions: tuple[Suggestion, ...] = ()

    @property
    def checks(self) -> tuple[Check, ...]:
        """All checks: first those of the whole model, then those of facet 0, facet 1 and so on."""
        checks = [check for of_kind in self.by_kind for check in of_kind]
        return tuple(sorted(checks, key=lambda check: -1 if check.facet is None else check.facet))

    @property
    def sentences(self) -> tuple[str, ...]:
        """One sentence per facet, and one for the whole model."""
        facets = (describe_facet(self.data, self.checks, j) for j in range(len(self.data.facets)))
        return (*facets, describe_whole(self.checks))

    @property
    def counts(self) -> dict[str, int]:
        """The numbers of checks that are good, warn or bad, and of those that are set aside."""
        unlike = is_unlike(self.checks)
        verdicts = ["set_aside" if is_set_aside(c, unlike=unlike) else c.verdict for c in self.checks]
        return {name: verdicts.count(name) for name in ("good", "warn", "bad", "set_aside")}

    @property
    def monte_carlo_error(self) -> float:
        """Standard error of log p(x) of a typical item (the median), in nats, because the number of draws is finite."""
        return float(np.median(monte_carlo_error(smooth(self.data.log_weights.T)[0])))

    def to_json(self) -> str:
        """The content of ``checks.json``: sentences, suggestions and checks.

        A check is set aside if it is about items that the model draws and these are unlike the data.
        """
        unlike, records = is_unlike(self.checks), []
        for check in self.checks:
            aside = is_set_aside(check, unlike=unlike)
            advice = SET_ASIDE if aside else check.advice
            records.append(check.record() | {"set_aside": aside, "advice": advice})
        return as_json(
            {
                "sentences": list(self.sentences),
                "suggestions": [asdict(suggestion) for suggestion in self.suggestions],
                "counts": self.counts,
                "monte_carlo_error": self.monte_carlo_error,
                "checks": records,
            }
        )

    def items(self) -> dict[str, Any]:
        """A table with a row per item, as a dict of columns (N,).

        ``k_hat``, ``ess`` (effective number of draws), ``trusted``, ``evidence``, ``typicality`` (two-sided p-value
        among the training items, if there are any); per facet ``cluster_j``, ``group_j``, ``confidence_j``.
        """
        data = self.data
        columns: dict[str, Any] = {
            "k_hat": pareto_k(data.log_weights.T),
            "ess": effective_share(data.log_weights.T) * len(data.log_weights),
            "trusted": ~data.untrusted,
            "evidence": data.evidence,
        }
        if data.reference_evidence is not None:
            columns["typicality"] = typicality(data.evidence, data.reference_evidence)
        for j, facet in enumerate(data.facets):
            columns |= {
                f"cluster_{j}": facet.clusters,
                f"group_{j}": facet.groups[facet.clusters],
                f"confidence_{j}": facet.probs.max(-1),
            }
        return columns

    def figures(self) -> "dict[str, Figure]":
        """Pictures by name, one for each kind of check that was made."""
        found: dict[str, Figure] = {}
        for kind, checks in zip(KINDS, self.by_kind, strict=True):
            if checks:
                found[kind.name] = add_reading(kind.plot(self.data, checks), kind.reading)
        return found


def criticise(data: Any, *, settings: Mapping[str, Any] | None = None) -> Criticism:
    """Make all checks on the result of `to_inference_data`.

    The verdicts are reproducible, also from data that were saved as NetCDF and loaded again.

    Args:
        data: ArviZ data.
        settings: the run's settings, section → key → value. With None there are no suggestions.
    """
    view = CheckData.from_arviz(data)
    found = [kind.check(view) for kind in KINDS]
    corrected = iter(correct([check for of_kind in found for check in of_kind]))
    by_kind = tuple(tuple(next(corrected) for _ in of_kind) for of_kind in found)
    checks = [check for of_kind in by_kind for check in of_kind]
    suggestions = () if settings is None else tuple(suggest(view, checks, settings))
    return Criticism(view, by_kind, suggestions)
