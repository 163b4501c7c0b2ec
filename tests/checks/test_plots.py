from pathlib import Path

import pytest
from exact_mixture import exact_mixture_data

from pyro_mfcvae.checks.criticism import criticise
from pyro_mfcvae.checks.plots import FIGURES
from pyro_mfcvae.plots import save_figure

PANELS = {"predictions": 4, "guide": 4, "calibration": 4, "ranks": 2, "aggregate": 4, "stability": 3, "evidence": 1}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_fills_its_panels(name: str, tmp_path: Path) -> None:
    data = exact_mixture_data(shift=1.0)
    figure = FIGURES[name](data, criticise(data))
    drawn = [axes for axes in figure.axes if axes.has_data()]
    assert len(drawn) == PANELS[name]
    assert all(axes.get_title(loc="left") and axes.get_xlabel() for axes in drawn)
    save_figure(figure, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 5000
