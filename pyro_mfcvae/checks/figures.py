"""Panels of the checks' pictures."""

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pyro_mfcvae.plots import FAINT, INK, TEXT_SIZE, TITLE_SIZE, make_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANEL_SIZE = 3.4  # inches
_LETTERS_PER_INCH = 14  # the text below titles has this many


def make_panels(rows: int, columns: int, *, width: float = PANEL_SIZE) -> tuple["Figure", NDArray[Any]]:
    """A figure and its panels, (rows, columns)."""
    figure = make_figure(width * columns, 0.9 * PANEL_SIZE * rows)
    return figure, figure.subplots(rows, columns, squeeze=False)


def draw_histogram(
    axes: "Axes", array: NDArray[Any], span: tuple[float, float], *, colour: str, label: str | None = None
) -> None:
    """Draw the density of an array within a span as a stepped line."""
    from matplotlib.ticker import MaxNLocator

    inside = array[(array >= span[0]) & (array <= span[1])]
    if inside.size:
        axes.hist(inside, bins=40, range=span, density=True, histtype="step", linewidth=1.6, color=colour, label=label)
    axes.set_yticks([])
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))


def draw_matrix(axes: "Axes", rates: NDArray[Any], title: str, across: str, down: str) -> None:
    """Draw a matrix of rates in [0, 1] as shades of grey, and if it is small also as numbers."""
    from matplotlib.ticker import MaxNLocator

    axes.imshow(rates, vmin=0, vmax=1, cmap="Blues")
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    if len(rates) <= 5:
        for (row, column), rate in np.ndenumerate(rates):
            ink = "white" if rate > 0.6 else INK
            axes.text(column, row, f"{rate:z.2f}", ha="center", va="center", fontsize=TEXT_SIZE, color=ink)
        axes.set_xticks(range(len(rates)))
        axes.set_yticks(range(len(rates)))
    describe(axes, title, "", across)
    axes.set_ylabel(down, fontsize=TEXT_SIZE)


def describe(axes: "Axes", title: str, numbers: str, across: str) -> None:
    """Add the title, a line of numbers below it, and the name of the horizontal axis."""
    from matplotlib.ticker import MaxNLocator

    text = f"{title}\n{numbers}" if numbers else title
    axes.set_title(text, loc="left", fontsize=TITLE_SIZE - 1, color=INK)
    axes.set_xlabel(across, fontsize=TEXT_SIZE)
    axes.tick_params(labelsize=TEXT_SIZE)
    if across.startswith("cluster"):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.spines[["top", "right"]].set_visible(False)


def add_reading(figure: "Figure", reading: str) -> "Figure":
    """Write a sentence or two above the panels: the question that they answer, and how to read them."""
    from textwrap import fill

    text = fill(reading, int(_LETTERS_PER_INCH * figure.get_figwidth()))
    figure.suptitle(text, x=0.01, ha="left", fontsize=TEXT_SIZE, color=FAINT)
    figure.set_figheight(figure.get_figheight() + 0.2 * (text.count("\n") + 1))
    return figure


def finish(figure: "Figure", panels: NDArray[Any]) -> "Figure":
    """Remove the panels in which nothing was drawn."""
    for axes in panels.flat:
        if not axes.has_data():
            axes.set_axis_off()
    return figure
