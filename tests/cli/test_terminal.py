import numpy as np
import pytest

from pyro_mfcvae.cli import terminal
from pyro_mfcvae.metrics import score_facets
from pyro_mfcvae.runs.evaluation import Evaluation
from pyro_mfcvae.runs.sweep import Sweep


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal.console, "width", 200)


def run(*columns: list[int]) -> Evaluation:
    clusters = np.array(columns).T
    scores = score_facets(clusters, {"side": np.array([0, 0, 1, 1])}, num_clusters=[2, 2])
    return Evaluation(clusters, np.ones(clusters.shape), -1.0, scores)


def test_lines_are_printed_as_they_stand(capsys: pytest.CaptureFixture[str]) -> None:
    text = "[bold]path/" + 300 * "x"
    terminal.say(text)
    assert capsys.readouterr().out == text + "\n"


def test_scores_are_a_row_per_facet(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.print_scores(run([0, 0, 1, 1], [0, 0, 0, 0]).scores)
    _, head, *rows = capsys.readouterr().out.splitlines()
    assert head.split("  ")[0] == "facet"
    assert [row.split() for row in rows] == [
        ["0", "2", "of", "2", "1.000", "(1.00,", "1.00)"],
        ["1", "1", "of", "2", "0.500", "(0.00,", "0.00)"],
    ]


def test_a_sweep_is_means_and_deviations(capsys: pytest.CaptureFixture[str]) -> None:
    runs = (run([0, 0, 1, 1], [0, 1, 0, 1]), run([1, 1, 0, 0], [0, 0, 0, 1]))
    agreement = np.array([[[1.0, 1.0], [1.0, 0.25]], [[1.0, 0.25], [1.0, 1.0]]])
    terminal.print_sweep(Sweep((0, 1), runs, agreement))
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[2:]]
    assert rows[0] == ["0", "1.00", *["1.000", "±", "0.000,", "1.000", "±", "0.000"]]
    assert rows[1][:5] == ["1", "0.25", "0.625", "±", "0.177,"]
