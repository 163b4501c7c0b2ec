"""Every command shows the groups as they were changed in the browser."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from command_line import Run
from starlette.testclient import TestClient

import pyro_mfcvae
from pyro_mfcvae.explore.app import build_app
from pyro_mfcvae.explore.desk import Desk
from pyro_mfcvae.explore.server import open_desk
from pyro_mfcvae.runs.folder import RunFolder


@pytest.fixture
def changed(fitted: Path, visit: Callable[..., TestClient]) -> Desk:
    """Facet 0 with one cluster split off, and the rest named; facet 1 cut into one group."""
    desk = open_desk(RunFolder.open(fitted))
    client = visit(build_app(desk))
    assert desk.grouping.num_groups[0] == 1
    unused = int(np.bincount(desk.items.clusters[:, 0], minlength=4).argmin())
    for path, fields in (
        ("/facet/0/group/0/split", {"clusters": [str(unused)]}),
        ("/facet/0/group/0/name", {"name": "round & red"}),
        ("/facet/1/cut", {"num_groups": "1"}),
    ):
        data = {"version": str(desk.version), **fields}
        assert client.post(path, data=data, headers={"origin": "http://localhost"}).status_code == 303
    assert desk.grouping.num_groups == (2, 1)
    return desk


def test_names_and_cuts_are_used_by_assign(mfcvae: Run, changed: Desk, tmp_path: Path) -> None:
    code, _, err = mfcvae("assign", str(changed.run.path), "--format", "csv", "--out", str(tmp_path / "rows.csv"))
    assert (code, err) == (0, "")
    rows = pd.read_csv(tmp_path / "rows.csv")
    assert rows["facet_0_group"].tolist() == changed.view(0).groups.tolist()
    named = rows[rows["facet_0_name"] == "round & red"]
    assert len(named) > 0
    assert set(named["facet_0_group"]) == {0}
    assert set(rows["facet_1_group"]) == {0}


def test_names_and_cuts_are_used_by_report(mfcvae: Run, changed: Desk, tmp_path: Path) -> None:
    code, _, err = mfcvae("report", str(changed.run.path), "--out", str(tmp_path / "page.html"))
    assert (code, err) == (0, "")
    assert "round &amp; red" in (tmp_path / "page.html").read_text()


def test_cuts_are_used_by_evaluate(mfcvae: Run, changed: Desk) -> None:
    code, out, err = mfcvae("evaluate", str(changed.run.path), "--json")
    assert (code, err) == (0, "")
    assert [facet["num_groups"] for facet in json.loads(out)["facets"]] == [2, 1]


def test_names_and_cuts_are_used_in_python(changed: Desk) -> None:
    """The run's file still has the groups of the fit."""
    run = pyro_mfcvae.Run(changed.run.path)
    assert "facet 0: 2 groups" in repr(run) and "facet 1: 1 group " in repr(run)
    table = run.assignments
    assert "round & red" in set(table["facet_0_name"])
    for j, view in enumerate(map(changed.view, (0, 1))):
        assert table[f"facet_{j}_group"].tolist() == view.groups.tolist()
        np.testing.assert_allclose(table[f"facet_{j}_probability"], view.confidence, atol=1e-5)


def test_a_full_disk_gives_an_error_page_and_changes_nothing(
    client: TestClient, desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: RunFolder, grouping: object) -> None:
        raise OSError(28, "No space left on device", str(self.groups_path))

    monkeypatch.setattr(RunFolder, "write_grouping", fail)
    answer = client.post("/facet/0/group/0/name", data={"name": "a", "version": "0"})
    assert answer.status_code == 507
    assert "groups.json: no space left on device" in answer.text
    assert desk.version == 0 and not desk.can_undo
