from typing import Any

import numpy as np
import pytest

from pyro_mfcvae.cli import terminal
from pyro_mfcvae.groups import merge_clusters
from pyro_mfcvae.metrics import score_facets
from pyro_mfcvae.runs.evaluation import Evaluation
from pyro_mfcvae.runs.grouping import Grouping
from pyro_mfcvae.runs.sweep import Sweep


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal.console, "width", 200)


def run(*columns: list[int], labels: dict[str, Any] | None = None) -> Evaluation:
    """Clusters of two facets: those of facet 1 are one group."""
    clusters, labels = np.array(columns).T, {"side": np.array([0, 0, 1, 1])} if labels is None else labels
    scores = score_facets(clusters, labels, num_clusters=[2, 2])
    grouping = Grouping.from_trees([merge_clusters(np.eye(2)), merge_clusters(np.ones((2, 2)))])
    groups = grouping.of_clusters(clusters)
    of_groups = score_facets(groups, labels, num_clusters=grouping.num_groups)
    certain = np.ones(clusters.shape)
    return Evaluation(clusters, certain, -1.0, scores, grouping, groups, certain, of_groups)


def test_lines_are_printed_unchanged(capsys: pytest.CaptureFixture[str]) -> None:
    text = "[bold]path/" + 300 * "x"
    terminal.say(text)
    assert capsys.readouterr().out == text + "\n"


def test_scores_are_a_row_per_facet_and_label(capsys: pytest.CaptureFixture[str]) -> None:
    labels = {"side": np.array([0, 0, 1, 1]), "speed [m/s]": np.array([0, 0, 0, 1])}
    terminal.print_scores(run([0, 0, 1, 1], [0, 1, 1, 1], labels=labels))
    _, head, *rows, _, shared = capsys.readouterr().out.splitlines()
    assert head.split("  ")[0] == "facet"
    assert [" ".join(row.split()) for row in rows] == [
        "0 2 2 of 2 side 1.000 1.00 1.00 1.000 1.00 1.00",
        "speed [m/s] 0.750 0.34 0.00 0.750 0.34 0.00",
        "1 1 2 of 2 side 0.500 0.00 0.00 0.750 0.34 0.00",
        "speed [m/s] 0.750 0.00 0.00 0.750 0.15 -0.33",
    ]
    assert shared == "Information that groups share (0: none, 1: the same groups): facets 0 and 1: 0.00"


def test_without_labels_numbers_of_groups_are_left(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.print_scores(run([0, 0, 1, 1], [0, 0, 0, 0], labels={}))
    _, _, *rows, _, _ = capsys.readouterr().out.splitlines()
    assert [" ".join(row.split()) for row in rows] == ["0 2 2 of 2", "1 1 1 of 2"]


def test_a_sweep_is_shown_as_means_and_deviations(capsys: pytest.CaptureFixture[str]) -> None:
    runs = (run([0, 0, 1, 1], [0, 1, 0, 1]), run([1, 1, 0, 0], [0, 0, 0, 1]))
    agreement = np.array([[[1.0, 1.0], [1.0, 0.25]], [[1.0, 0.25], [1.0, 1.0]]])
    terminal.print_sweep(Sweep((0, 1), runs, agreement))
    _, head, *rows, _, shared = capsys.readouterr().out.splitlines()
    assert head.split("  ")[:3] == ["facet", "ARI across seeds: groups", "clusters"]
    exact = ["1.000", "±", "0.000"]
    assert rows[0].split() == ["0", "1.00", "1.00", "2", *exact[:2], "0.000,", *exact[:2], "0.000,", *exact]
    assert rows[1].split()[:7] == ["1", "1.00", "0.25", "1", "0.500", "±", "0.000,"]
    assert shared == (
        "Information that groups share, mean of the seeds (0: none, 1: the same groups): facets 0 and 1: 0.00"
    )


def test_a_sweep_shows_its_seeds_and_their_agreement() -> None:
    runs = (run([0, 0, 1, 1], [0, 1, 0, 1]), run([0, 1, 0, 1], [0, 0, 1, 1]))
    shown = repr(Sweep((0, 1), runs, np.array([[[1, 1], [0.5, 0.25]], [[0.5, 0.25], [1, 1]]]))).splitlines()
    assert shown[0] == "Sweep, best seed 0"
    assert shown[2] == "  seed 1: ELBO -1.00 nats per item, groups (2, 1)"
    assert shown[3] == "  ARI of groups across seeds: facet 0 -0.50, facet 1 1.00"
