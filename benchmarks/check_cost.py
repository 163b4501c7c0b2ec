"""Time and memory of `mfcvae check` on existing runs.

    mfcvae fit shapes --out runs/shapes
    python benchmarks/check_cost.py runs/shapes --items 2000
    python benchmarks/check_cost.py runs/shapes --items 20000

The command runs in a separate process, whose resources the system measures. If there are not enough test images, more
are drawn for `shapes`, and training images are added for other data sets.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import tyro
from provenance import provenance
from reproduction import RESULTS

from pyro_mfcvae.atomic_io import write_text
from pyro_mfcvae.data.datasets import load_dataset
from pyro_mfcvae.data.shapes import draw_shapes
from pyro_mfcvae.runs.folder import RunFolder


def write_more(path: Path, source: str, seed: int, num_items: int) -> None:
    """Write the data set with the given number of test items."""
    if source == "shapes":
        images, labels = draw_shapes(num_items, seed=2**31)  # no run has used this seed for its images
    else:
        data = load_dataset(source, seed=seed)
        images = torch.cat([data.test.images, data.train.images])[:num_items]
        labels = {}
    arrays = {name: array.numpy() for name, array in ({"images": images} | labels).items()}
    np.savez(
        path, **{name: array[:100] for name, array in arrays.items()}, **{f"test_{n}": a for n, a in arrays.items()}
    )


def main(run: Annotated[Path, tyro.conf.Positional], /, items: int = 2000, threads: int = 1) -> None:
    """Measure one check, and add it to results/check_cost.json.

    Args:
        run: The run's folder.
        items: Number of test items to check.
        threads: Number of threads; on 2 idle cores, 2 threads take two thirds of the time of one.
    """
    config = RunFolder.open(run).read_config()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pyro_mfcvae", "check", str(run), "--items", str(items)]
        if len(load_dataset(config.data.source, seed=config.seed).test) < items:
            write_more(Path(folder) / "more.npz", config.data.source, config.seed, items)
            command += ["--data", str(Path(folder) / "more.npz")]
        start = time.perf_counter()
        subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": str(threads)})
        seconds = time.perf_counter() - start
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    path = RESULTS / "check_cost.json"
    results = json.loads(path.read_text()) if path.is_file() else {}
    results[f"{config.data.source}, {items} items, {threads} threads"] = {
        **provenance(),
        "seconds": round(seconds, 1),
        "processor_seconds": round(used.ru_utime + used.ru_stime, 1),
        "peak_gibibytes": round(used.ru_maxrss / 2**20, 2),
        "netcdf_mebibytes": round((run / "checks" / "posterior.nc").stat().st_size / 2**20, 1),
    }
    write_text(path, json.dumps(results, indent=1) + "\n")
    print(json.dumps(results, indent=1))


if __name__ == "__main__":
    tyro.cli(main)
