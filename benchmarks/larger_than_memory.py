"""Train on an array that is larger than the memory of the process.

python benchmarks/larger_than_memory.py --gigabytes 2 --limit 1.8

The limit is RLIMIT_DATA. It includes all private memory of the process, but not the pages of mapped files, which the
system can reclaim. The script first checks that reading the whole file fails, so that the limit has an effect.
"""

import json
import re
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import tyro
from provenance import provenance
from reproduction import RESULTS

from pyro_mfcvae.atomic_io import write_text

SIDE = 32
SETTINGS = [
    "facets.num_clusters=[10]",
    "facets.latent_dim=[5]",
    "networks.kind=mlp",
    "networks.encoder_dims=[32]",
    "networks.decoder_dims=[32]",
    "networks.hidden_dim=32",
    "training.batch_size=4096",
    "training.epochs=1",
    "mixture_fit.warmup_steps=0",
    "mixture_fit.refit_steps=[]",
]


def write_images(path: Path, num_items: int) -> None:
    """Write images of random blocks of 8 × 8 pixels, in several parts."""
    rng = np.random.default_rng(0)
    images = np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=(num_items, SIDE, SIDE))
    for start in range(0, num_items, 100_000):
        part = images[start : start + 100_000]
        part[:] = rng.integers(256, size=(len(part), 4, 4), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
    images.flush()


def run_limited(command: list[str], limit: float, folder: Path) -> subprocess.CompletedProcess[str]:
    size = int(limit * 2**30)
    return subprocess.run(
        command,
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_DATA, (size, size)),
    )


def main(gigabytes: float = 2.0, limit: float = 1.8) -> None:
    """Write the array, check that reading it fails, and train on it.

    Args:
        gigabytes: Size of the array, in GiB.
        limit: Limit on the private memory of the process, in GiB.
    """
    num_items = int(gigabytes * 2**30) // SIDE**2
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_images(folder / "images.npy", num_items)
        whole = run_limited([sys.executable, "-c", "import numpy; numpy.load('images.npy')"], limit, folder)
        start = time.perf_counter()
        command = [
            sys.executable,
            "-m",
            "pyro_mfcvae",
            "fit",
            "--data",
            "images.npy",
            "--out",
            "run",
            "--device",
            "cpu",
        ]
        trained = run_limited([*command, "--set", *SETTINGS], limit, folder)
        seconds = time.perf_counter() - start
        if trained.returncode:
            sys.exit(trained.stderr)
        record = {
            **provenance(),
            "gibibytes": gigabytes,
            "limit_gibibytes": limit,
            "items": num_items,
            "reading it completely": re.split(r"[:\n]", whole.stderr.strip().splitlines()[-1])[0]
            if whole.returncode
            else "worked",
            "epochs": json.loads((folder / "run" / "summary.json").read_text())["epochs"],
            "training_seconds": json.loads((folder / "run" / "summary.json").read_text())["seconds"],
            "seconds": round(seconds, 1),
        }
    write_text(RESULTS / "larger_than_memory.json", json.dumps(record, indent=1) + "\n")
    print(json.dumps(record, indent=1))


if __name__ == "__main__":
    tyro.cli(main)
