"""Whether a run that one interpreter trained gives the same assignments with others, and other releases of packages.

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
from kills import SETTINGS

_NUM_TRAINED, _NUM_NEW = 400, 2_000

# Runs in the other interpreter: the pair's own probabilities beside the command's table.
_ASSIGN = """
import json, platform, sys
import numpy as np, torch, pyarrow
from pyro_mfcvae.api.run import Run
from pyro_mfcvae.cli.app import main
torch.set_num_threads(1)
run, data, out = sys.argv[1:]
main(["assign", run, data, "--format", "parquet", "--out", out + ".parquet"])
pair = Run(run).pair
x = torch.from_numpy(np.load(data)["images"][:, None]).float() / 255
np.savez(out + ".npz", *[probs.numpy() for probs in pair.assign(x)])
print(json.dumps({"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__,
                  "pyarrow": pyarrow.__version__}))
"""


def two_shapes(num: int, seed: int) -> np.ndarray:
    """Grey images of 8 × 8: a bar that stands or lies, bright or dim, and noise."""
    generator = np.random.default_rng(seed)
    images = generator.integers(30, size=(num, 8, 8))
    for image, lies, bright in zip(
        images, generator.integers(2, size=num), generator.integers(2, size=num), strict=True
    ):
        (image.T if lies else image)[:, 3:5] += 110 + 90 * bright
    return images.astype(np.uint8)


def assign(python: str, run: Path, data: Path, out: Path) -> dict[str, Any]:
    """Assign items in another interpreter; its own release and those of its packages."""
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
    """How far two sets of assignments agree.

    Args:
        here: path without suffix of a table (``.parquet``) and of the probabilities (``.npz``).
        there: the same of the other.
    """
    import pyarrow.parquet as pq

    tables = [pq.read_table(path.with_suffix(".parquet")).to_pandas() for path in (here, there)]
    names = [name for name in tables[0] if name.startswith(("group", "cluster"))]
    same = np.logical_and.reduce([(tables[0][name] == tables[1][name]).to_numpy() for name in names])
    arrays = [np.load(path.with_suffix(".npz")) for path in (here, there)]
    return {
        "items": len(same),
        "same groups and clusters": int(same.sum()),
        "most difference of a probability": float(
            max(np.abs(arrays[0][key] - arrays[1][key]).max() for key in arrays[0])
        ),
    }


def measure_interpreters(folder: Path) -> dict[str, Any]:
    """Train here, and assign new items here and with every interpreter of MFCVAE_PYTHONS."""
    from pyro_mfcvae.cli.app import main

    pythons = [path for path in os.environ.get("MFCVAE_PYTHONS", "").split(":") if path]
    if not pythons:
        sys.exit("expected interpreters in the environment variable MFCVAE_PYTHONS, got none: name some")
    data, new, run = (folder / name for name in ("data.npz", "new.npz", "run"))
    np.savez(data, images=two_shapes(_NUM_TRAINED, 0))
    np.savez(new, images=two_shapes(_NUM_NEW, 1))
    settings = [*SETTINGS, "training.epochs=15", "schedule.fade_in_steps=100"]
    main(["fit", "shapes", "--data", str(data), "--out", str(run), "--device", "cpu", "--set", *settings])
    report = {"trained with": assign(sys.executable, run, new, folder / "here")}
    for number, python in enumerate(pythons):
        place = folder / f"there-{number}"
        releases = assign(python, run, new, place)
        report[f"python {releases['python']}, torch {releases['torch']}"] = releases | compare(folder / "here", place)
    return report
