"""Does a run that one interpreter trained give the same assignments with other interpreters and other releases of
packages?

`reliability.py` runs this as its part `interpreters`. The environment variable MFCVAE_PYTHONS names the interpreters,
separated by colons; each must find this checkout.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

# A program for the other interpreter, which writes the table of the command and the probabilities of the pair.
_ASSIGN = """
import json, platform, sys
import numpy as np, torch, pyarrow
from pyro_mfcvae.api.run import Run
from pyro_mfcvae.cli.app import main
from pyro_mfcvae.data.datasets import load_dataset
torch.set_num_threads(1)
run, data, out = sys.argv[1:]
main(["assign", run, data, "--format", "parquet", "--out", out + ".parquet"])
pair = Run(run).pair
x = load_dataset(data).train.images.float() / 255
np.savez(out + ".npz", *[probs.numpy() for probs in pair.assign(x)])
print(json.dumps({"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__,
                  "pyarrow": pyarrow.__version__}))
"""


def assign(python: str, run: Path, data: Path, out: Path) -> dict[str, Any]:
    """Assign items in another interpreter; return its version and those of its packages."""
    env = os.environ | {"OMP_NUM_THREADS": "1", "MPLBACKEND": "agg"}
    done = subprocess.run(
        [python, "-W", "ignore", "-c", _ASSIGN, str(run), str(data), str(out)],
        env=env,
        check=True,
        capture_output=True,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def compare(here: Path, there: Path) -> dict[str, Any]:
    """The agreement of two sets of assignments.

    Args:
        here: path without suffix of a table (``.parquet``) and of the probabilities (``.npz``).
        there: the path for the other interpreter.
    """
    import pyarrow.parquet as pq

    tables = [pq.read_table(path.with_suffix(".parquet")).to_pandas() for path in (here, there)]
    names = [name for name in tables[0] if name.endswith(("_group", "_cluster"))]
    same = np.logical_and.reduce([(tables[0][name] == tables[1][name]).to_numpy() for name in names])
    arrays = [np.load(path.with_suffix(".npz")) for path in (here, there)]
    return {
        "items": len(same),
        "same groups and clusters": int(same.sum()),
        "most difference of a probability": float(
            max(np.abs(arrays[0][key] - arrays[1][key]).max() for key in arrays[0])
        ),
    }


def groups_in_use(place: Path) -> list[int]:
    """The number of groups with items, for each facet."""
    import pyarrow.parquet as pq

    frame = pq.read_table(place.with_suffix(".parquet")).to_pandas()
    return [int(frame[name].nunique()) for name in frame if name.endswith("_group") and "second" not in name]


def measure_interpreters(folder: Path) -> dict[str, Any]:
    """Train the demo here, and assign 2,000 of its items here and with every interpreter of MFCVAE_PYTHONS.

    MFCVAE_RUN may be the path of a run of the demo that this interpreter has trained before.
    """
    from pyro_mfcvae.cli.app import main
    from pyro_mfcvae.data.datasets import load_dataset

    pythons = [path for path in os.environ.get("MFCVAE_PYTHONS", "").split(":") if path]
    if not pythons:
        sys.exit("expected interpreters in the environment variable MFCVAE_PYTHONS, got none: set the variable")
    data, run = folder / "data.npz", Path(os.environ.get("MFCVAE_RUN", folder / "run"))
    if "MFCVAE_RUN" not in os.environ:
        main(["fit", "shapes", "--out", str(run), "--device", "cpu"])
    np.savez(data, images=load_dataset("shapes").train.images[:2_000].numpy())
    here = folder / "here"
    report = {"trained with": assign(sys.executable, run, data, here), "groups in use": groups_in_use(here)}
    for number, python in enumerate(pythons):
        place = folder / f"there-{number}"
        releases = assign(python, run, data, place)
        report[f"python {releases['python']}, torch {releases['torch']}"] = releases | compare(here, place)
    return report
