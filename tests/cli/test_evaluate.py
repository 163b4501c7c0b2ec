import json
import re
from pathlib import Path

import pytest
from command_line import Run, check_scores, make_images, names, save_data

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
    Path("run/summary.json").unlink()  # as if it had been stopped before its scores
    assert mfcvae("evaluate", "run")[0] == 0


@pytest.mark.usefixtures("fitted")
def test_evaluate_finds_a_runs_data_from_anywhere_and_tells_when_they_have_changed(
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
def test_evaluate_takes_other_data(mfcvae: Run) -> None:
    save_data(Path("other.npz"), make_images(50))
    code, out, _ = mfcvae("evaluate", "run", "--data", "other.npz")
    assert code == 0
    assert out.startswith("50 items of other; ELBO ")
