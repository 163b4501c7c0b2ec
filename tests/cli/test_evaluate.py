import json
import re
from pathlib import Path

import numpy as np
import pytest
from command_line import Run, check_scores, make_images, names, save_data

from pyro_mfcvae.groups import merge_clusters
from pyro_mfcvae.runs.folder import RunFolder
from pyro_mfcvae.runs.grouping import Grouping

pytestmark = pytest.mark.usefixtures("place")


@pytest.mark.usefixtures("fitted")
def test_evaluate_scores_a_run_on_its_own_data(mfcvae: Run) -> None:
    before = names(Path("run"))
    code, out, err = mfcvae("evaluate", "run")
    assert (code, err) == (0, "")
    assert re.match(r"80 items of data; ELBO -\d+\.\d\d nats per item\n", out)
    summary = json.loads(Path("run/summary.json").read_text())
    check_scores(out, summary)
    assert names(Path("run")) == before
    Path("run/summary.json").unlink()  # as if the run had been stopped before it was scored
    assert mfcvae("evaluate", "run")[0] == 0


@pytest.mark.usefixtures("fitted")
def test_evaluate_finds_a_runs_data_from_every_folder_and_reports_changes(
    mfcvae: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run = str(Path("run").resolve())
    save_data(Path("data.npz"), make_images(90))
    monkeypatch.chdir(tmp_path.parent)
    code, out, err = mfcvae("evaluate", run)
    assert (code, err) == (0, "")
    assert re.match(
        r"These data differ from those that the run was trained on \(fingerprint \w+, now \w+\)\.\n90 items", out
    )


@pytest.mark.usefixtures("fitted")
def test_evaluate_scores_other_data(mfcvae: Run) -> None:
    save_data(Path("other.npz"), make_images(50))
    code, out, _ = mfcvae("evaluate", "run", "--data", "other.npz")
    assert code == 0
    assert out.startswith("50 items of other; ELBO ")


@pytest.mark.usefixtures("fitted")
def test_groups_can_be_listed_and_named_and_their_number_can_be_changed(mfcvae: Run) -> None:
    apart = [merge_clusters(np.diag([4.0, 3.0, 2.0, 1.0])), merge_clusters(np.diag([3.0, 2.0, 1.0]))]
    RunFolder(Path("run")).write_grouping(Grouping.from_trees(apart))
    code, out, err = mfcvae("groups", "run", "--json")
    assert (code, err) == (0, "")
    before = json.loads(out)
    expected = [("", 0.4, [0], 0.0), ("", 0.3, [1], 0.0), ("", 0.2, [2], 0.0), ("", 0.1, [3], 0.0)]
    assert [
        (g["name"], round(g["share"], 9), g["clusters"], g["next_overlap"]) for g in before["facets"][0]
    ] == expected
    changes = "--num-groups", "0=2", "--num-groups", "1=1", "--name", "0.1=cats and dogs"
    code, out, err = mfcvae("groups", "run", *changes)
    assert (code, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert lines[0] == ["facet", "group", "name", "items", "merges", "at", "overlap", "clusters"]
    assert len(lines) == 4
    assert lines[2][:4] == ["1", "cats", "and", "dogs"]
    assert lines[3][:2] == ["1", "0"] and "–" in lines[3]
    records = json.loads(mfcvae("evaluate", "run", "--json")[1])
    assert [facet["num_groups"] for facet in records["facets"]] == [2, 1]
    assert records["group_redundancy"] == [[1, 0], [0, 1]]
    assert json.loads(mfcvae("groups", "run", "--reset", "--json")[1])["facets"][1] == before["facets"][1]


@pytest.mark.usefixtures("fitted")
@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--num-groups", "0:2", "expected a number of groups such as 0=3 (facet 0, number of groups 3), got '0:2': "),
        ("--num-groups", "7=2", "expected a facet from 0 to 1, got 7: "),
        ("--num-groups", "0=99", "expected a number of groups between 1 and "),
        ("--name", f"0.{'9' * 5_000}=cats", "expected a name such as 0.2=cats (facet 0, group 2), got '0.9999"),
        ("--name", "0=cats", "expected a name such as 0.2=cats (facet 0, group 2), got '0=cats': "),
        ("--name", "0.99=cats", "expected a group from 0 to "),
    ],
)
def test_groups_that_do_not_exist_are_refused_and_nothing_changes(
    mfcvae: Run, option: str, value: str, message: str
) -> None:
    before = Path("run/groups.json").read_bytes()
    code, out, err = mfcvae("groups", "run", option, value)
    assert (code, out) == (2, "")
    assert err.startswith(f"mfcvae: {message}")
    assert Path("run/groups.json").read_bytes() == before
