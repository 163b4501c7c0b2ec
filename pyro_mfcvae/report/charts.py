"""Learning curves as SVG drawings in the colours of the page."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

_WIDTH, _HEIGHT = 640, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 92, 10, 30

# Number of first epochs that do not affect the range of an axis, because their values are often far below all others.
_SKIPPED = 0.05


@dataclass(frozen=True)
class Line:
    """A curve of a chart: its points in the drawing, and the position of its name at its end."""

    name: str
    points: str
    end: float
    colour: int


@dataclass(frozen=True)
class Chart:
    """A chart in a drawing of 640 × 190.

    Attributes:
        title: text above the chart.
        lines: the curves.
        marks: the fits of mixtures, in pixels from the left.
        y_ticks: height in pixels and value of every tick.
        x_ticks: distance from the left in pixels and value of every tick.
        summary: a description for readers who cannot see the chart.
    """

    title: str
    lines: tuple[Line, ...]
    marks: tuple[float, ...]
    y_ticks: tuple[tuple[float, str], ...]
    x_ticks: tuple[tuple[float, str], ...]
    summary: str
    width: int = _WIDTH
    height: int = _HEIGHT
    left: int = _LEFT
    right: int = _WIDTH - _RIGHT
    bottom: int = _HEIGHT - _BOTTOM


def draw_chart(
    title: str, epochs: Sequence[int], curves: Mapping[str, Sequence[float]], *, marks: Sequence[float] = ()
) -> Chart:
    """Draw curves over epochs. Values that are not finite interrupt a curve, and the first epochs do not affect the
    range.

    Args:
        title: title of the chart.
        epochs: (E,).
        curves: name → value at every epoch, (E,).
        marks: epochs at which a mixture was fitted.
    """
    x = np.asarray(epochs, dtype=float)
    values = {name: np.asarray(curve, dtype=float) for name, curve in curves.items()}
    first = min(max(1, math.ceil(_SKIPPED * len(x))), len(x) - 1)
    shown = np.concatenate([curve[first:] for curve in values.values()])
    shown = shown[np.isfinite(shown)]
    low, high = (float(shown.min()), float(shown.max())) if shown.size else (0.0, 1.0)
    if high - low < 1e-9 * max(abs(low), abs(high), 1.0):
        low, high = low - 0.5, high + 0.5
    left, right, bottom = _LEFT, _WIDTH - _RIGHT, _HEIGHT - _BOTTOM

    def across(epoch: float) -> float:
        return left + (right - left) * (epoch - x[0]) / max(x[-1] - x[0], 1)

    def up(value: float) -> float:
        return bottom - (bottom - _TOP) * (min(max(value, low), high) - low) / (high - low)

    lines = []
    for number, (name, curve) in enumerate(values.items()):
        there = [(across(e), up(v)) for e, v in zip(x, curve, strict=True) if math.isfinite(v)]
        if there:
            points = " ".join(f"{a:.1f},{b:.1f}" for a, b in there)
            lines.append(Line(name, points, there[-1][1], number))
    ends = ", ".join(f"{name} {curve[-1]:.1f}" for name, curve in values.items())
    return Chart(
        title=title,
        lines=tuple(_spread(lines)),
        marks=tuple(across(mark) for mark in marks if x[0] <= mark <= x[-1]),
        y_ticks=tuple((up(tick), f"{tick:,.10g}") for tick in _ticks(low, high)),
        x_ticks=tuple((across(tick), f"{tick:.0f}") for tick in _ticks(x[0], x[-1], whole=True)),
        summary=f"{title} over {len(x)} epochs; at the end: {ends}",
    )


def _spread(lines: Sequence[Line]) -> list[Line]:
    """Vertical positions for the names of curves. Names of curves that end close to each other are placed one below
    the other.
    """
    placed: list[Line] = []
    for line in sorted(lines, key=lambda line: line.end):
        end = max(line.end, placed[-1].end + 14) if placed else line.end
        placed.append(Line(line.name, line.points, end, line.colour))
    return placed


def _ticks(low: float, high: float, *, num: int = 4, whole: bool = False) -> list[float]:
    """Round numbers between two numbers."""
    if high <= low:
        return [low]
    step = 10 ** math.floor(math.log10((high - low) / num))
    step *= next((factor for factor in (1, 2, 5) if (high - low) / (factor * step) <= num + 1), 10)
    step = max(step, 1) if whole else step
    return [round(n * step, 10) for n in range(math.ceil(low / step), math.floor(high / step) + 1)]
