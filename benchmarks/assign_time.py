"""Time and memory of assigning 60,000 items: ``python benchmarks/assign_time.py``.

The networks of the preset mnist with random weights (the time does not depend on them) assign the items of MNIST, and
the assignments are written to a Parquet file with thumbnails and to a csv file. Memory is the peak of the process
before and after.
"""

import resource
import tempfile
import time
from pathlib import Path

from pyro_mfcvae.config.build import build_pair
from pyro_mfcvae.config.text import load_preset
from pyro_mfcvae.data.datasets import load_dataset
from pyro_mfcvae.runs.assignments import Assigner, write_assignments
from pyro_mfcvae.runs.grouping import Grouping


def mebibytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    data = load_dataset("mnist")
    pair = build_pair(load_preset("mnist"), data.event_shape).eval()
    grouping = Grouping.from_trees(pair.groups())
    for format in ("parquet", "csv"):
        before, start = mebibytes(), time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"assignments.{format}"
            assigner = Assigner(pair, grouping, thumbnails=format == "parquet")
            num = write_assignments(assigner.rows(data.train, name="train"), path, format=format)
            size = path.stat().st_size / 1e6
        seconds = time.perf_counter() - start
        print(f"{format}: {num} items in {seconds:.1f} s, {size:.1f} MB; memory {before:.0f} -> {mebibytes():.0f} MiB")


if __name__ == "__main__":
    main()
