"""Learning curves of a run, as a picture."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.plots import COLOURS, FAINT, INK, SHADE, TEXT_SIZE, TITLE_SIZE, make_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def plot_curves(records: Sequence[Mapping[str, Any]], *, fits: Sequence[float] = ()) -> "Figure":
    """Learning curves: the ELBO, each facet's KL, and alpha_j, which fades facet j in.

    A stage of training starts where another facet's alpha rises above 0; every other stage is shaded. The ELBO of the
    first epochs is far below that of all others, so these epochs do not affect the range of its axis.

    Args:
        records: one per epoch, as in ``metrics.jsonl``: ``epoch``, ``elbo``, ``reconstruction`` (nats per item),
            ``kl`` (nats per item, one entry per facet) and ``alpha`` (one entry per facet).
        fits: the times of the fits of mixtures, in epochs; each is drawn as a dotted line.
    """
    from matplotlib.ticker import MaxNLocator

    if not records:
        raise InputError("Expected the records of at least one epoch, but got none: train for an epoch first.")
    epochs = np.array([record["epoch"] for record in records])
    kl, alpha = (np.array([record[key] for record in records], dtype=float) for key in ("kl", "alpha"))
    kl[alpha == 0] = np.nan  # the KL of a facet has no meaning before the facet joins
    style = {"linewidth": 1.8, "marker": "o" if len(records) == 1 else ""}  # a single point is not visible as a line

    figure = make_figure(7.5, 7)
    panels = figure.subplots(3, 1, sharex=True, height_ratios=(3, 2, 1.4))
    bound, divergence, fading = panels
    for key, colour in (("elbo", INK), ("reconstruction", "#A0A0A0")):
        label = "ELBO" if key == "elbo" else key
        bound.plot(epochs, [record[key] for record in records], label=label, color=colour, **style)
    for j in range(kl.shape[1]):
        colour = COLOURS[j % len(COLOURS)]
        divergence.plot(epochs, kl[:, j], label=f"facet {j}", color=colour, **style)
        fading.plot(epochs, alpha[:, j], label=f"facet {j}", color=colour, **style)
    shown = np.array([[record["elbo"], record["reconstruction"]] for record in records[_num_skipped(len(records)) :]])
    low, high = float(shown.min()), float(shown.max())
    bound.set_ylim(low - 0.05 * (high - low) - 1e-3, high + 0.05 * (high - low) + 1e-3)
    fading.set_ylim(-0.05, 1.05)
    fading.set_xlabel("epoch", fontsize=TEXT_SIZE)
    fading.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
    fading.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    titles = (
        "ELBO (nats per item)" + (", dotted: a mixture is fitted" if fits else ""),
        "KL of each facet (nats per item)",
        "alpha: how far each facet is faded in",
    )
    for axes, title in zip(panels, titles, strict=True):
        _shade_stages(axes, epochs, (alpha > 0).sum(axis=1))
        for fit in fits:
            axes.axvline(fit, color=FAINT, linewidth=0.8, linestyle=":", zorder=1)
        axes.set_title(title, loc="left", fontsize=TITLE_SIZE, fontweight="bold", color=INK)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=TEXT_SIZE, colors=FAINT)
    for axes in (bound, divergence):  # the last panel has the colours of the panel above
        columns = len(axes.lines)
        axes.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=columns, frameon=False, fontsize=TEXT_SIZE)
    return figure


def _shade_stages(axes: "Axes", epochs: NDArray[Any], num_active: NDArray[Any]) -> None:
    """Shade every second stage: the epochs with the same number of facets faded in, and half an epoch on each side."""
    starts = np.flatnonzero(np.diff(num_active, prepend=-1))
    ends = np.append(starts[1:], len(epochs))
    for start, end in list(zip(starts, ends, strict=True))[1::2]:
        axes.axvspan(epochs[start] - 0.5, epochs[end - 1] + 0.5, color=SHADE, zorder=0, linewidth=0)


def _num_skipped(num_epochs: int) -> int:
    """The number of first epochs that do not affect the range of an axis: a twentieth of all, at least one."""
    return min(max(1, -(-num_epochs // 20)), num_epochs - 1)
