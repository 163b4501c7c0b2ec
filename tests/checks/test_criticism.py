import json
from pathlib import Path

import pytest
from exact_mixture import exact_mixture_data

from pyro_mfcvae.checks.criticism import KINDS, criticise
from pyro_mfcvae.draws.arviz_data import load_inference_data, save_inference_data
from pyro_mfcvae.plots import save_figure

KNOWN = ("k-hat of the guide", "calibration of q(c|x)", "ranks of the true z")


def flagged(**guide: float) -> set[str]:
    return {check.name for check in criticise(exact_mixture_data(**guide)).checks if check.verdict != "good"}  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", range(2))
def test_the_exact_guide_is_believed_and_guides_that_are_off_are_not(seed: int) -> None:
    """With 20 seeds (benchmarks/criticism.py): see the failure rates there."""
    # Two halves of 200 overlapping items do have different clusters.
    assert flagged(seed=seed) <= {"halves of the data"}
    assert set(KNOWN) <= flagged(spread=0.5, seed=seed)
    assert set(KNOWN) <= flagged(shift=1.0, seed=seed)


def test_every_verdict_can_be_had_from_the_file(tmp_path: Path) -> None:
    save_inference_data(exact_mixture_data(shift=1.0), tmp_path / "posterior.nc")
    again = criticise(load_inference_data(tmp_path / "posterior.nc"))
    assert again.to_json() == criticise(exact_mixture_data(shift=1.0)).to_json()


def test_the_json_holds_what_a_person_is_told() -> None:
    criticism = criticise(exact_mixture_data())
    checks, records = criticism.checks, json.loads(criticism.to_json())
    assert len(records) == len(checks)
    for record, check in zip(records, checks, strict=True):
        assert {"asks", "value", "unit", "verdict", "advice", "details", "facet", "name"} <= record.keys()
        assert (record["verdict"], record["name"]) == (check.verdict, check.name)
        assert record["threshold"]["source"]


def test_numbers_that_json_has_not_become_null() -> None:
    criticism = criticise(exact_mixture_data())
    criticism.checks[0].details["odd"] = [float("inf"), float("nan"), 1.0]
    assert json.loads(criticism.to_json())[0]["details"]["odd"] == [None, None, 1.0]


PANELS = {"predictions": 4, "guide": 4, "calibration": 4, "ranks": 2, "aggregate": 4, "stability": 3, "evidence": 1}


def test_every_figure_fills_its_panels(tmp_path: Path) -> None:
    figures = criticise(exact_mixture_data(shift=1.0)).figures()
    assert list(figures) == [kind.name for kind in KINDS]
    for name, figure in figures.items():
        drawn = [axes for axes in figure.axes if axes.has_data()]
        assert len(drawn) == PANELS[name]
        assert all(axes.get_title(loc="left") and axes.get_xlabel() for axes in drawn)
        save_figure(figure, tmp_path / "figure.png")
        assert (tmp_path / "figure.png").stat().st_size > 5000
