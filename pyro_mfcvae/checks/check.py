"""What a check asks and what it finds: the question, the effect, the p-value, the verdict, and what to do."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

Verdict = Literal["good", "warn", "bad"]

WARN_LEVEL = 0.05
"""A check may warn where its p-value, times the number of checks in the table, is at most this."""

BAD_LEVEL = 0.02
"""The same for "bad"."""


@dataclass(frozen=True)
class Threshold:
    """The sizes from which on an effect matters; a larger effect is worse.

    Attributes:
        warn: an effect above it that chance does not explain makes the verdict "warn".
        bad: the same for "bad".
        source: the source of both numbers.
    """

    warn: float
    bad: float
    source: str


@dataclass(frozen=True)
class Question:
    """The parts of a check that are the same for every pair and facet.

    Attributes:
        name: in a few words.
        asks: the question.
        statistic: formula of the effect.
        exact: the distribution of the test statistic where model and guide are exact.
        blind: what the check cannot see.
        unit: of the effect.
        threshold: of the effect.
    """

    name: str
    asks: str
    statistic: str
    exact: str
    blind: str
    unit: str
    threshold: Threshold


@dataclass(frozen=True)
class Check:
    """A question put to a fitted pair.

    Attributes:
        question: what is asked.
        value: the effect.
        p_value: of an effect this large or larger if model and guide are exact; 0 if an exact pair has no such effect.
        advice: what to do where the verdict is not "good".
        facet: the facet that it is about; None for the whole.
        details: further numbers, as JSON takes them.
        num_checks: in the table, for which the p-value is corrected (Bonferroni).
    """

    question: Question
    value: float
    p_value: float
    advice: str
    facet: int | None = None
    details: dict[str, Any] = field(default_factory=dict)
    num_checks: int = 1

    @property
    def name(self) -> str:
        """The name of the question."""
        return self.question.name

    @property
    def table_p_value(self) -> float:
        """min(1, p times the number of checks)."""
        return min(1.0, self.p_value * self.num_checks)

    @property
    def verdict(self) -> Verdict:
        """ "bad" or "warn" where the effect is beyond its threshold and chance does not explain it; NaN is "bad"."""
        threshold = self.question.threshold
        if self.value != self.value:
            return "bad"
        if self.value > threshold.bad and self.table_p_value <= BAD_LEVEL:
            return "bad"
        if self.value > threshold.warn and self.table_p_value <= WARN_LEVEL:
            return "warn"
        return "good"

    def record(self) -> dict[str, Any]:
        """All fields, as values for JSON."""
        own = {key: value for key, value in asdict(self).items() if key not in ("question", "num_checks")}
        question = asdict(self.question)
        return {"verdict": self.verdict, **question, **own, "table_p_value": self.table_p_value}


def correct(checks: Sequence[Check]) -> tuple[Check, ...]:
    """The checks of one table, each with the table's size."""
    return tuple(replace(check, num_checks=len(checks)) for check in checks)
