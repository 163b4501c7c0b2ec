import sys
from typing import Any

import numpy as np
import pytest

from pyro_mfcvae.errors import InputError
from pyro_mfcvae.train.curves import plot_curves


def record(epoch: int, alpha: float) -> dict[str, Any]:
    return {"epoch": epoch, "elbo": -9.0 + epoch, "reconstruction": -5.0, "kl": [alpha, 3.0], "alpha": [alpha, 1.0]}


def test_curves_show_the_recorded_values() -> None:
    figure = plot_curves([record(0, 0.0), record(1, 0.0), record(2, 0.5), record(3, 1.0)])
    bound, kl, alpha = ([np.asarray(line.get_ydata()).tolist() for line in axes.lines] for axes in figure.axes)
    assert bound == [[-9, -8, -7, -6], [-5, -5, -5, -5]]
    np.testing.assert_equal(kl, [[np.nan, np.nan, 0.5, 1], [3, 3, 3, 3]])  # nothing before a facet joins
    assert alpha == [[0, 0, 0.5, 1], [1, 1, 1, 1]]


def test_the_second_stage_is_shaded_from_its_first_epoch_to_the_last() -> None:
    figure = plot_curves([record(0, 0.0), record(1, 0.0), record(2, 0.5), record(3, 1.0)])
    for axes in figure.axes:
        (band,) = axes.patches
        assert band.get_extents().transformed(axes.transData.inverted()).intervalx == pytest.approx([1.5, 3.5])


def test_one_epoch_is_drawn_as_points() -> None:
    figure = plot_curves([record(0, 1.0)])
    assert {line.get_marker() for axes in figure.axes for line in axes.lines} == {"o"}
    assert not any(axes.patches for axes in figure.axes)


def test_no_epoch_is_an_error() -> None:
    with pytest.raises(InputError, match="at least one epoch, but got none"):
        plot_curves([])


def test_figures_stay_out_of_pyplot() -> None:
    plot_curves([record(0, 1.0)])
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or not pyplot.get_fignums()


def test_the_first_epoch_does_not_decide_the_range_of_the_elbo() -> None:
    records = [record(0, 1.0) | {"elbo": -1e6}, record(1, 1.0), record(2, 1.0)]  # then -8 and -7
    low, high = plot_curves(records).axes[0].get_ylim()
    assert (low, high) == pytest.approx((-8.15, -4.85), abs=0.01)


def test_fits_are_marked() -> None:
    figure = plot_curves([record(0, 1.0), record(1, 1.0)], fits=[0.5])
    for axes in figure.axes:
        assert [line.get_xdata()[0] for line in axes.lines if line.get_linestyle() == ":"] == [0.5]
    assert figure.axes[0].get_title(loc="left") == "ELBO (nats per item), dotted: a mixture is fitted"
