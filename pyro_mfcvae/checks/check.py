"""What a check says: the question, the number, the verdict, and what to do."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Verdict = Literal["good", "warn", "bad"]


@dataclass(frozen=True)
class Threshold:
    """Where a number, the larger the worse, stops being good.

    Attributes:
        look: above it the verdict is "warn".
        bad: above it, "bad".
        source: where both come from.
    """

    warn: float
    bad: float
    source: str

    def verdict(self, value: float) -> Verdict:
        """good ≤ ``look`` < look ≤ ``bad`` < bad; a number that is none is bad."""
        if value <= self.warn:
            return "good"
        return "warn" if value <= self.bad else "bad"


@dataclass(frozen=True)
class Check:
    """One question put to a fitted pair.

    Attributes:
        name: in a few words.
        asks: the question.
        value: its number, the larger the worse.
        unit: what the number counts.
        threshold: what makes a verdict of it.
        advice: what to do where it is not good.
        facet: the facet it is about; None for the whole.
        is_noise: the number is no larger than chance would make it for a faultless pair: the verdict is good whatever
            the thresholds.
        details: further numbers, as JSON takes them.
    """

    name: str
    asks: str
    value: float
    unit: str
    threshold: Threshold
    advice: str
    facet: int | None = None
    is_noise: bool = False
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def verdict(self) -> Verdict:
        """good, look or bad."""
        return "good" if self.is_noise else self.threshold.verdict(self.value)

    def record(self) -> dict[str, Any]:
        """Everything as JSON takes it."""
        return {"verdict": self.verdict, **asdict(self)}
