import json
from pathlib import Path

import pytest
from command_line import TINY, Run, names

pytestmark = pytest.mark.usefixtures("place")


@pytest.mark.parametrize("how", [(), ("--together",)])
def test_sweep_compares_seeds(mfcvae: Run, how: tuple[str, ...]) -> None:
    code, out, err = mfcvae("sweep", "--data", "data.npz", "--seeds", "2", "--device", "cpu", *how, "--set", *TINY)
    assert (code, err) == (0, "")
    folder = Path("runs/data-sweep-1")
    assert names(folder) == {"seed-0", "seed-1", "sweep.json"}
    best = json.loads((folder / "sweep.json").read_text())["best_seed"]
    lines = out.splitlines()
    assert lines[0].startswith("Training seeds 0 to 1. ") and lines[0].endswith("/seed-N/metrics.jsonl.")
    assert sorted(line.partition(":")[0] for line in lines[1:3]) == ["seed 0", "seed 1"]
    assert "ARI across seeds" in out
    assert f"By its ELBO one would pick seed {best}: runs/data-sweep-1/seed-{best}" in lines
    assert lines[-1] == "Everything of this sweep lies in runs/data-sweep-1."
    assert mfcvae("evaluate", str(folder / "seed-1"))[0] == 0
