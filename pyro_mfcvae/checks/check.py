"""What a check asks and what it finds: the question, the effect, the p-value, the verdict, and what to do."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

Verdict = Literal["good", "warn", "bad"]

WARN_LEVEL = 0.05
"""A check can warn only if its p-value times the number of checks in the table is at most this."""

BAD_LEVEL = 0.02
"""The level for the verdict "bad", instead of "warn"."""


@dataclass(frozen=True)
class Threshold:
    """The sizes above which an effect matters; a larger effect is worse.

    Attributes:
        warn: a significant effect above this value makes the verdict "warn".
        bad: a significant effect above this value makes the verdict "bad".
        source: the source of both numbers.
    """

    warn: float
    bad: float
    source: str


@dataclass(frozen=True)
class Question:
    """The parts of a check that are the same for every pair and facet.

    Attributes:
        name: the name of the check in tables.
        asks: the question itself, as a sentence.
        statistic: formula of the effect.
        exact: the distribution of the test statistic if model and guide are exact.
        blind: what the check cannot see.
        unit: unit of the effect.
        threshold: sizes of the effect that matter.
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
    """The answer to a `Question` for a fitted pair.

    Attributes:
        question: the question.
        value: the effect.
        p_value: probability of an effect this large or larger if model and guide are exact; 0 if an exact pair never
            has such an effect.
        advice: what to do if the verdict is not "good".
        facet: the facet that the check is about; None for the whole model.
        details: further numbers and names, of types that JSON supports.
        num_checks: number of checks in the table; the p-value is multiplied by it (Bonferroni).
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
        """The corrected p-value: min(1, p times the number of checks)."""
        return min(1.0, self.p_value * self.num_checks)

    @property
    def verdict(self) -> Verdict:
        """ "bad" or "warn" if the effect is above its threshold and significant, otherwise "good"; NaN is "bad"."""
        threshold = self.question.threshold
        if self.value != self.value:
            return "bad"
        if self.value > threshold.bad and self.table_p_value <= BAD_LEVEL:
            return "bad"
        if self.value > threshold.warn and self.table_p_value <= WARN_LEVEL:
            return "warn"
        return "good"

    def record(self) -> dict[str, Any]:
        """All fields, as values that JSON supports."""
        own = {key: value for key, value in asdict(self).items() if key not in ("question", "num_checks")}
        question = asdict(self.question)
        return {"verdict": self.verdict, **question, **own, "table_p_value": self.table_p_value}


def correct(checks: Sequence[Check]) -> tuple[Check, ...]:
    """The same checks, each with the number of checks in their table."""
    return tuple(replace(check, num_checks=len(checks)) for check in checks)
