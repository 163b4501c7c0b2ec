import math

import pytest

from pyro_mfcvae.report.charts import draw_chart


def test_the_first_epoch_does_not_decide_the_range() -> None:
    chart = draw_chart("ELBO", range(1, 6), {"ELBO": [-1e6, -40.0, -30.0, -20.0, -10.0]})
    assert [text for _, text in chart.y_ticks] == ["-40", "-30", "-20", "-10"]
    heights = [float(point.split(",")[1]) for point in chart.lines[0].points.split()]
    assert heights == pytest.approx([160, 160, 110, 60, 10])  # the first value lies on the lower edge
    assert chart.summary == "ELBO over 5 epochs; at the end: ELBO -10.0"


def test_a_curve_starts_where_its_facet_joins() -> None:
    chart = draw_chart("KL", range(1, 5), {"facet 0": [math.nan, math.nan, 1.0, 2.0], "facet 1": [3.0, 3.0, 3.0, 3.0]})
    lines = {line.name: line for line in chart.lines}
    assert len(lines["facet 0"].points.split()) == 2
    assert (lines["facet 0"].colour, lines["facet 1"].colour) == (0, 1)


def test_names_that_would_overlap_are_moved_apart() -> None:
    chart = draw_chart("KL", [1, 2], {"a": [0.0, 5.0], "b": [10.0, 5.0]})
    assert chart.lines[1].end - chart.lines[0].end == 14


def test_fits_are_marked_where_they_are() -> None:
    chart = draw_chart("ELBO", [1, 2, 3], {"ELBO": [1.0, 2.0, 3.0]}, marks=[2.0, 9.0])
    assert chart.marks == ((chart.left + chart.right) / 2,)
    assert [text for _, text in chart.x_ticks] == ["1", "2", "3"]


@pytest.mark.parametrize("values", [[5.0], [5.0, 5.0], [math.nan, math.nan]])
def test_a_chart_needs_no_range(values: list[float]) -> None:
    chart = draw_chart("ELBO", range(len(values)), {"ELBO": values})
    assert all(math.isfinite(y) for y, _ in chart.y_ticks)
