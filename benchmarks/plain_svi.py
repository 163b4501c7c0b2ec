"""The plain Pyro loop of examples/plain_svi.py in full, with both losses.

python benchmarks/plain_svi.py --seeds 0 1 2
"""

import json
import runpy
import time
from pathlib import Path

import pyro
import tyro
from provenance import provenance
from pyro.infer import TraceEnum_ELBO
from reproduction import RESULTS, best

from pyro_mfcvae.atomic_io import write_text
from pyro_mfcvae.infer.objective import FacetELBO

# Loaded by path, because an import would find this script, which has the same name.
train = runpy.run_path(str(Path(__file__).parents[1] / "examples" / "plain_svi.py"))["train"]


def main(seeds: tuple[int, ...] = (0,)) -> None:
    """Train with every seed and loss."""
    pyro.enable_validation(False)
    runs = []
    for seed in seeds:
        for name, loss in (("FacetELBO", FacetELBO()), ("TraceEnum_ELBO", TraceEnum_ELBO(max_plate_nesting=1))):
            pyro.clear_param_store()
            start = time.perf_counter()
            labels = best(train(loss, seed=seed).scores)
            runs.append({"loss": name, "seed": seed, "labels": labels, "seconds": time.perf_counter() - start})
            print(f"{name} seed {seed}: {labels}", flush=True)
    write_text(RESULTS / "plain_svi.json", json.dumps({**provenance(), "runs": runs}, indent=1) + "\n")


if __name__ == "__main__":
    tyro.cli(main)
