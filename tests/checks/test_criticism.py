import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from criticism import ASK, CELLS, FAULTS, markdown_exact, markdown_faults
from exact_mixture import exact_mixture_arrays, exact_mixture_data
from known_models import draw, make_pair

from pyro_mfcvae import to_inference_data
from pyro_mfcvae.checks.check import Check
from pyro_mfcvae.checks.criticism import KINDS, Criticism, criticise
from pyro_mfcvae.checks.guide import GAP
from pyro_mfcvae.checks.predictive import REPLICATED
from pyro_mfcvae.checks.ranks import WIDTH
from pyro_mfcvae.draws.arviz_data import load_inference_data, save_inference_data
from pyro_mfcvae.plots import save_figure

PANELS = {
    "information": 1,
    "predictions": 6,
    "guide": 4,
    "calibration": 4,
    "ranks": 2,
    "aggregate": 4,
    "stability": 2,
    "overfitting": 1,
}


@contextmanager
def float32() -> Iterator[None]:
    """Single precision, as in the benchmark."""
    torch.set_default_dtype(torch.float32)
    yield
    torch.set_default_dtype(torch.float64)


def flagged(**guide: float) -> set[str]:
    return {check.name for check in criticise(exact_mixture_data(**guide)).checks if check.verdict != "good"}  # type: ignore[arg-type]


@pytest.mark.parametrize("seed", [{}, pytest.param({"seed": 1}, marks=pytest.mark.slow)], ids=["0", "1"])
def test_the_exact_guide_passes_and_wrong_guides_fail(seed: dict[str, float]) -> None:
    """benchmarks/criticism.py measures the rates."""
    assert flagged(**seed) == set()
    assert "width of q(z|x)" in flagged(spread=0.5, **seed)
    assert "shift of q(z|x)" in flagged(shift=1.0, **seed)


@pytest.mark.parametrize("missing", [False, True])
def test_a_model_that_is_exact_passes_whether_pixels_are_missing_or_not(missing: bool) -> None:
    pair = make_pair(3, 2, missing=missing)
    data = to_inference_data(pair, draw(pair, 200), num_samples=32, num_simulated=500, pixels=False)
    assert {check.verdict for check in criticise(data).checks} == {"good"}


def test_a_collapsed_facet_is_named() -> None:
    pair = make_pair(3, 2, cut=(1,))
    data = to_inference_data(pair, draw(pair, 200), num_samples=32, num_simulated=500, pixels=False)
    criticism = criticise(data)
    bad = {(check.name, check.facet) for check in criticism.checks if check.verdict == "bad"}
    assert bad == {("items without the facet", 1), ("information in the clusters", 1)}
    assert criticism.sentences[1].startswith("facet 1: do not use it: it is empty")


@pytest.mark.slow
def test_every_verdict_can_be_made_again_from_the_file(tmp_path: Path) -> None:
    save_inference_data(exact_mixture_data(shift=1.0), tmp_path / "posterior.nc")
    again = criticise(load_inference_data(tmp_path / "posterior.nc"))
    assert again.to_json() == criticise(exact_mixture_data(shift=1.0)).to_json()


def test_rows_that_are_set_aside_are_counted_apart() -> None:
    unlike = Check(REPLICATED, 1.0, 0.0, "", details={"statistic": "contrast"})
    found = Criticism(exact_mixture_arrays(), ((unlike,), (Check(WIDTH, 9.0, 0.0, "", 0), Check(GAP, 0.0, 1.0, ""))))
    assert found.counts == {"good": 1, "warn": 0, "bad": 1, "set_aside": 1}


def test_the_json_has_the_printed_results() -> None:
    criticism = criticise(exact_mixture_data(), settings={"assignment": {"kind": "analytic"}})
    record = json.loads(criticism.to_json())
    assert record["sentences"] == list(criticism.sentences) and len(record["sentences"]) == 3
    assert record["counts"] == criticism.counts and record["suggestions"] == []
    assert criticism.counts == {"good": len(criticism.checks), "warn": 0, "bad": 0, "set_aside": 0}
    for entry, check in zip(record["checks"], criticism.checks, strict=True):
        assert {
            "asks",
            "statistic",
            "exact",
            "blind",
            "value",
            "unit",
            "advice",
            "details",
            "set_aside",
        } <= entry.keys()
        assert (entry["verdict"], entry["name"], entry["facet"]) == (check.verdict, check.name, check.facet)
        assert entry["threshold"]["source"]


def test_checks_of_the_whole_come_first_and_then_those_of_the_facets() -> None:
    facets = [-1 if check.facet is None else check.facet for check in criticise(exact_mixture_data()).checks]
    assert facets == sorted(facets)


def test_numbers_that_json_cannot_represent_become_null() -> None:
    criticism = criticise(exact_mixture_data())
    criticism.checks[0].details["odd"] = [float("inf"), float("nan"), 1.0]
    assert json.loads(criticism.to_json())["checks"][0]["details"]["odd"] == [None, None, 1.0]


def test_there_is_a_row_per_item() -> None:
    criticism = criticise(exact_mixture_data())
    columns = criticism.items()
    assert {len(column) for column in columns.values()} == {200}
    assert columns["k_hat"].tolist() == [0.0] * 200 and columns["trusted"].all()
    np.testing.assert_allclose(columns["ess"], 64)
    np.testing.assert_array_equal(columns["group_0"], criticism.data.facets[0].groups[columns["cluster_0"]])
    assert {"evidence", "typicality", "confidence_1"} <= columns.keys()


def test_every_figure_fills_its_panels(tmp_path: Path) -> None:
    figures = criticise(exact_mixture_data()).figures()
    for kind in KINDS:
        assert " ".join(figures[kind.name].get_suptitle().split()) == kind.reading
    assert list(figures) == [kind.name for kind in KINDS]
    for name, figure in figures.items():
        drawn = [axes for axes in figure.axes if axes.has_data()]
        assert len(drawn) == PANELS[name], name
        assert all(axes.get_title(loc="left") for axes in drawn)
    save_figure(figures["ranks"], tmp_path / "figure.png")  # saving a figure takes a quarter of a second
    assert (tmp_path / "figure.png").stat().st_size > 5000


@pytest.mark.slow
@pytest.mark.parametrize("name", ["N = 200, K = 3, D = 2, missing = yes", "N = 200, K = 25, D = 2, missing = no"])
def test_false_alarms_are_rare(name: str) -> None:
    """A small version of `benchmarks/criticism.py exact`: in six tables no verdict is bad, and at most one is warn."""
    cell: dict[str, Any] = {}
    with float32():
        for seed in range(6):
            ASK["exact"](name, cell, seed)
    assert name in CELLS["exact"] and cell["any_bad"] == 0 and cell["any_warn"] <= 1


@pytest.mark.slow
def test_a_trained_model_with_its_posterior_on_a_grid_passes() -> None:
    cell: dict[str, Any] = {}
    with float32():
        ASK["exact"]("trained, N = 200", cell, 0)
    assert cell["any_bad"] == 0 and cell["any_warn"] == 0


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_faults_are_found_by_a_check_that_concerns_them(fault: str) -> None:
    """A small version of `benchmarks/criticism.py faults`."""
    cell: dict[str, Any] = {}
    with float32():
        ASK["faults"](f"{fault}; K = 3, D = 2", cell, 0)
    assert cell["found"] == 1


def test_the_tables_of_rates_are_made_from_the_json() -> None:
    exact = {
        "N = 200, K = 3, D = 2, missing = no": {"tables": 3, "any_bad": 0, "any_warn": 0},
        "trained, N = 200": {"tables": 1, "any_bad": 0, "any_warn": 1, "alarms": {"0": {"overfitting, None": "warn"}}},
    }
    one = {
        "N = 200, K = 3, D = 2, missing = no": {"tables": 5, "any_bad": 1, "any_warn": 0},
        "trained, N = 200": {"tables": 6, "any_bad": 1, "any_warn": 0},
    }
    assert markdown_exact({"3394408574 and before": {"cells": one}, "newer": {"cells": exact}})[2:] == [
        "| N = 200, K = 3, D = 2, missing = no | 3 | 0 | 0 | 5 | 1 | 0 | - |",
        "| trained, N = 200 | 7 | 1 | 1 | 0 | 0 | 0 | overfitting |",
        "| all | 10 | 1 (10.0 %) | 1 (10.0 %) | 5 | 1 (20.0 %) | 0 (0.0 %) | |",
    ]
    faults = {
        "VaDE's rule; K = 3, D = 2": {
            "tables": 2,
            "found": 2,
            "not_good": {"nats lost by the rule for q(c|x), facet 0": 2},
        }
    }
    row = next(row for row in markdown_faults({"newer": {"cells": faults}}) if row.startswith("| VaDE"))
    assert row == "| VaDE's rule | 2 of 2 | nats lost by the rule for q(c\\|x), facet 0 |"
